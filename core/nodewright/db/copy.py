"""A stopped node moved to other stores: every store through its contract, the other files of its data folder as they are.

The source is not changed. Until all has arrived the destination's folder is marked unfinished, and no node runs on it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from attrs import field, frozen

from nodewright.composition.plan import Plan
from nodewright.db.files import files, is_private, key_files, read_pieces, write_file
from nodewright.db.progress import Progress, silent
from nodewright.db.stopped import StoppedNode, fresh_folder, open_stores, write_record
from nodewright.db.transfer import Moved, copy_store, same_slots
from nodewright.environment import NodeEnvironment
from nodewright.errors import FormatMismatch


@frozen
class Copied:
    """``left_out`` are private files (see ``files``) that were not carried."""

    moved: list[Moved] = field(factory=list)
    files: list[str] = field(factory=list)
    left_out: list[str] = field(factory=list)


async def copy_node(
    source: StoppedNode,
    plan: Plan,
    folder: Path,
    with_keys: bool = False,
    progress: Progress = silent,
    tell: Callable[[Moved], None] = lambda moved: None,
) -> Copied:
    """Into the stores of ``plan`` with the data folder ``folder``, both empty. Raises StoreError, StoreCorrupt."""
    if (plan.family, plan.network.id) != (source.record.family, source.record.network):
        raise FormatMismatch(
            f"{plan.profile} is a profile of the family {plan.family!r} and the network {plan.network.id!r}, the data is "
            f"of {source.record.family!r} and {source.record.network!r}: name a profile of the same family and network"
        )
    environment = NodeEnvironment(plan.node.name, folder, source.environment.logger)
    copied = Copied()
    with fresh_folder(folder, environment, source.record, "copy"):
        async with AsyncExitStack() as stack:
            pairs = same_slots(source, await open_stores(plan, environment, stack))
            for one, other in pairs:
                async for moved in copy_store(one, other, progress):
                    copied.moved.append(moved)
                    tell(moved)
        carry_files(source.plan, source.folder, folder, with_keys, copied)
        write_record(folder, source.record)
    return copied


def carry_files(plan: Plan, source: Path, target: Path, with_keys: bool, copied: Copied) -> None:
    named = key_files(plan)
    for path in files(source):
        if is_private(path, named) and not with_keys:
            copied.left_out.append(str(path))
            continue
        write_file(target / path, (source / path).stat().st_mode, read_pieces(source / path))
        copied.files.append(str(path))
