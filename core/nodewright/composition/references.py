"""Settings by which a store names another store of the profile (``setting(..., store=CONTRACT)``).

A store that is named stands *behind* the one that names it: it is opened first, given to it under its slot, and used by
nothing else. Pure, and knows nothing of TOML: it is given the tables of slots and says problems by slot and setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from nodewright.config.names import listed, nearest
from nodewright.config.structure import config_fields, key_of
from nodewright.plugins.specs import ComponentSpec

STORES = "stores."


@frozen
class Reference:
    """``slot`` of ``contract`` is named by ``setting`` of the store in ``by``."""

    by: str
    setting: str
    slot: str
    contract: str


def reference_settings(config: type[Any]) -> dict[str, tuple[str, bool]]:
    """Contract by setting, and whether a profile has to give it."""
    return {
        key_of(field): (field.metadata["store"], field.default is not None)
        for field in config_fields(config)
        if field.metadata.get("store") is not None
    }


def references(slot: str, spec: ComponentSpec, table: Mapping[str, Any]) -> tuple[Reference, ...]:
    """Of what can be read; a setting that is missing or no string is told where settings are checked."""
    found = []
    for setting, (contract, _) in reference_settings(spec.config).items():
        name = table.get(setting)
        if isinstance(name, str):
            found.append(Reference(slot, setting, STORES + name, contract))
    return tuple(found)


def wraps(spec: ComponentSpec) -> bool:
    """Whether it is of no use without another store."""
    return any(required for _, required in reference_settings(spec.config).values())


def unnamed(reference: Reference, slots: Iterable[str], could: list[str]) -> str:
    """There is no such store: what to write instead. ``could`` are components that provide what is needed."""
    name = reference.slot.removeprefix(STORES)
    if not name:
        return "must name a store of this profile, such as NAME of [stores.NAME]"
    known = [slot.removeprefix(STORES) for slot in slots if slot.startswith(STORES) and slot != reference.by]
    short = name.rpartition(".")[2]
    near = short if short in known else nearest(name, known)
    if near is not None:
        return f"there is no store {name!r}; did you mean {near!r}?"
    start = f"there is no store {name!r}: "
    if not could:
        return start + f"and no installed plugin provides a {reference.contract} store (see  nodewright plugins)"
    others = f"  ({listed(could)} could provide a {reference.contract} store)" if len(could) > 1 else ""
    return start + f'write  [{reference.slot}]  and under it  use = "{could[0]}"{others}'


def circles(named: Mapping[str, tuple[Reference, ...]]) -> list[tuple[Reference, list[str]]]:
    """Of each circle, the reference of its first store and the way round, that store at both ends. Each circle once,
    found at its first store in the order of ``named``."""
    found: list[tuple[Reference, list[str]]] = []
    seen: set[str] = set()
    for start, own in named.items():
        if start in seen:
            continue
        for first in own:
            way = _way(first.slot, start, named)
            if way is not None:
                found.append((first, [start, *way]))
                seen.update(way)
                break
    return found


def _way(slot: str, end: str, named: Mapping[str, tuple[Reference, ...]]) -> list[str] | None:
    """The shortest way along references from ``slot`` to ``end``, both included."""
    before: dict[str, str] = {}
    queue = [slot]
    for at in queue:
        if at == end:
            way = [at]
            while at != slot:
                at = before[at]
                way.append(at)
            return way[::-1]
        for reference in named.get(at, ()):
            if reference.slot not in before and reference.slot != slot:
                before[reference.slot] = at
                queue.append(reference.slot)
    return None
