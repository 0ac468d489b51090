"""Executed blocks above the applied one, as an execution keeps them in memory: who stands on whom. No state lives here.

``versions`` maps a block's id to what is kept of it. ``parent`` is None for the block that the store shows, where that is
among them. Forks are allowed, cycles are not. Nothing is changed but what ``drop`` is handed.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol, TypeVar

from nodewright.interfaces.common import BlockRef


class Executed(Protocol):
    @property
    def parent(self) -> BlockRef | None: ...


V = TypeVar("V", bound=Executed)


def descendants(versions: Mapping[bytes, V], ancestor: bytes) -> dict[bytes, V]:
    """Those that stand on a block, itself not among them, in the order of ``versions``."""
    children: dict[bytes, list[bytes]] = {}
    for id, version in versions.items():
        if version.parent is not None:
            children.setdefault(version.parent.id, []).append(id)
    found: set[bytes] = set()
    todo = [ancestor]
    while todo:
        above = children.pop(todo.pop(), [])
        found.update(above)
        todo += above
    return {id: version for id, version in versions.items() if id in found}


def drop(versions: MutableMapping[bytes, Any], block: bytes) -> None:
    """Without this block and those that stand on it; nothing where it is not here."""
    if block in versions:
        for id in [block, *descendants(versions, block)]:
            del versions[id]


def lineage(versions: Mapping[bytes, V], version: V) -> list[V]:
    """This one and those below it, down to the one without a parent. Raises KeyError where one is not here."""
    line = [version]
    while version.parent is not None:
        version = versions[version.parent.id]
        line.append(version)
    return line
