"""The parts of a data folder: which held something when the node was last ready, and what it means where one is gone.

Each component has a folder (``composition.folders``), the core has ``events`` and ``pool``. What held anything at all when
the node became ready is named in ``network.json``, and is looked for at the next start, before anything is opened or made
anew: a part that was removed or left behind in a move would otherwise begin again as an empty one, without a word.

Invariants
- Bodies of blocks are in no other store: where they are gone and another store is not, the node does not start, and its
  folder is left as it is.
- Of any other part that is gone the log says once what is lost with it; the node starts, and what can be derived from the
  other parts is derived.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from nodewright.composition.folders import folder_of
from nodewright.composition.plan import Plan
from nodewright.errors import StoreCorrupt
from nodewright.plugins.specs import BLOB
from nodewright.storage.lease import FILE_NAME as LEASE_FILE

EVENTS = "events"
POOL = "pool"

STORE_GONE = "it is made again from the other stores or by peers, as far as they have it"
MEANINGS = {
    EVENTS: "earlier events are lost, and numbers begin again: readers that kept a number have to begin anew",
    POOL: "transactions that were pending are lost here, and the final statuses of others",
    "transport": "if the node's key was in it, this node has another identity from now on: tell peers that name its old "
    "key, or stop the node and put the folder back",
}
OTHER_GONE = "what this component kept in it is lost"


def parts_of(plan: Plan, data_dir: Path) -> dict[str, Path]:
    """The folder of every part by its name, whether it is there or not."""
    core = {name: data_dir / name for name in (EVENTS, POOL)}
    return core | {component.slot: folder_of(component, data_dir) for component in plan.components}


def held_parts(plan: Plan, data_dir: Path) -> list[str]:
    """The names of those in which there is something."""
    return sorted(name for name, folder in parts_of(plan, data_dir).items() if _holds(name, folder))


def check_parts(plan: Plan, data_dir: Path, recorded: Collection[str], logger: Any) -> None:
    """``recorded`` are the parts that held something. Raises StoreCorrupt; writes nothing."""
    folders = parts_of(plan, data_dir)
    gone = [name for name in folders if name in recorded and not _holds(name, folders[name])]
    stores = [component.slot for component in plan.of_kind("storage") if component.slot in recorded]
    if any(store not in gone for store in stores):
        for name in gone:
            if name in stores and _has_bodies(plan, name):
                raise StoreCorrupt(
                    f"{name}: {folders[name]} is gone or empty, and with it the bodies of blocks and transactions that the "
                    f"other stores of this node name: put it back from a copy, or begin anew in another --data-dir"
                )
    for name in gone:
        meaning = STORE_GONE if name in stores else MEANINGS.get(name, OTHER_GONE)
        logger.warning("a part of the data directory is gone", part=name, folder=str(folders[name]), meaning=meaning)


def _has_bodies(plan: Plan, slot: str) -> bool:
    return any(component.requires[slot] == BLOB for component in plan.dependents(slot))


def _holds(name: str, folder: Path) -> bool:
    """The event log's folder may be empty: it counts where it is there."""
    try:
        with os.scandir(folder) as entries:
            return name == EVENTS or any(entry.name != LEASE_FILE for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # whoever opens it says what is wrong
