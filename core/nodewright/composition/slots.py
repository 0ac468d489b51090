"""Slots: where in a profile a component stands, which kind it must be, and when it opens relative to the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from nodewright.config.layer import slot_paths, slot_use
from nodewright.config.names import suggestion
from nodewright.config.origin import KeyPath
from nodewright.config.profile import Profile
from nodewright.plugins.checks import RESERVED_KEYS

SLOT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")  # it names folders and environment variables too
TOP_TEXTS = ("profile", "family")

# In opening order; requirements may demand more.
KIND_OF = {
    "stores": "storage",
    "verifier": "verifier",
    "execution": "execution",
    "transport": "transport",
    "consensus": "consensus",
    "services": "service",
}
RANK = {kind: rank for rank, kind in enumerate(KIND_OF.values())}
CONTRACTS_BY_KIND = frozenset(KIND_OF.values()) - {"storage"}  # a spec of these kinds provides the kind by being one


@frozen
class SlotTable:
    """One slot as the profile has it. ``use`` is the component's name as written, ``table`` its own settings."""

    slot: str
    path: KeyPath
    kind: str
    use: str
    table: Mapping[str, Any]


def kind_of(slot: str) -> str | None:
    return KIND_OF.get(slot.partition(".")[0])


def read_slots(profile: Profile, problems: list[str]) -> list[SlotTable]:
    """The slots that are switched on, in the order of writing. Appends a sentence for each that cannot be read."""
    slots = []
    for top in ("stores", "services"):
        value = profile.value(top)
        if value is not None and not isinstance(value, Mapping):
            problems.append(f"{profile.origin(top)}: {top} must hold tables such as [{top}.NAME]")
    for path in slot_paths(profile.layer.values):
        slot = ".".join(path)
        table = profile.value(*path)
        if not SLOT_NAME.match(path[-1]):
            said = f"{slot!r} is no slot: its name is 1 to 64 of  a-z 0-9 _ -  and starts with a letter or digit"
            problems.append(f"{profile.origin(*path)}: {said}")
            continue
        if not isinstance(table, Mapping):
            problems.append(f'{profile.origin(*path)}: {slot} must be a table: write  [{slot}]  and under it  use = "NAME"')
            continue
        enabled = table.get("enabled", True)
        if not isinstance(enabled, bool):
            problems.append(f"{profile.origin(*path, 'enabled')}: {slot}.enabled must be true or false")
            continue
        if not enabled:
            continue
        use = slot_use(path, table)
        if not isinstance(use, str) or not use:
            hint = suggestion("use", [key for key in table if isinstance(table[key], str)]) if use is None else ""
            near = hint if "did you mean" in hint else ""
            problems.append(f"{profile.origin(*path, 'use')}: {slot}.use is missing: name the component, a string{near}")
            continue
        settings = {key: value for key, value in table.items() if key not in RESERVED_KEYS}
        slots.append(SlotTable(slot, path, KIND_OF[path[0]], use, settings))
    return slots
