"""Where a store keeps its files, by a convention that plugins share: a setting ``path``, relative to the slot's own folder
in the data directory, which an empty one means. A store without that setting keeps no files, or only in its own folder."""

from __future__ import annotations

import os
from pathlib import Path

from nodewright.composition.plan import Plan, PlannedComponent

PATH = "path"


def folder_of(component: PlannedComponent, data_dir: Path) -> Path:
    """Of any component; nothing is looked up on the disk."""
    own = data_dir.joinpath(*component.slot.split("."))
    path = getattr(component.config, PATH, None)
    return Path(os.path.normpath(own / path)) if isinstance(path, str) else own


def shared_folders(plan: Plan) -> list[str]:
    """A sentence for each store whose folder is another's, too. The data directory is not known yet: what a path makes of
    it in the end is up to the leases, when the stores are opened."""
    problems = []
    seen: dict[Path, str] = {}
    for component in sorted(plan.of_kind("storage"), key=lambda one: bool(getattr(one.config, PATH, None))):
        if not isinstance(getattr(component.config, PATH, None), str):
            continue
        other = seen.setdefault(folder_of(component, Path(os.sep, "data-dir")), component.slot)
        if other != component.slot:
            key = f"{component.slot}.{PATH}"
            written = plan.effective[key]
            problems.append(
                f"{written.origin}: {key}: {written.value!r} is the folder of {other}, too: give each store one of its own"
            )
    return problems
