"""Parts of a chunk on their way: each validator owns one, each part comes with its path to the root in the chunk's header.

Part i of a chunk belongs to validator i of the genesis. A body is rebuilt from any ``erasure.counts`` of them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from attrs import frozen

from nodewright_near.borsh import U32, Blob, Option, Vector, struct
from nodewright_near.chunks import MAX_CHUNK_BYTES
from nodewright_near.headers import CHUNK_HEADER, ChunkHeader
from nodewright_near.merkle import MERKLE_PATH, Left, MerkleStep, climb, merklize
from nodewright_nightshade import erasure
from nodewright_nightshade.chunking import part_leaf, parts_of

# A body up to this size comes to everybody whole: to gather its parts would cost more than it.
SMALL_BODY: Final = 16 * 1024
MAX_PARTS_BYTES: Final = MAX_CHUNK_BYTES + 1024 * 1024


@struct
@frozen
class Part:
    index: U32
    path: Annotated[tuple[MerkleStep, ...], MERKLE_PATH]
    data: Annotated[bytes, Blob(MAX_CHUNK_BYTES)]


@struct
@frozen
class Parts:
    """A chunk's header, and parts of its body; none for somebody who owns none. A small ``body`` comes whole instead."""

    header: Annotated[ChunkHeader, CHUNK_HEADER]
    parts: Annotated[tuple[Part, ...], Vector(Part, erasure.MAX_PARTS)]
    body: Annotated[bytes | None, Option(Blob(SMALL_BODY))] = None


def cut(body: bytes, producers: int) -> list[Part]:
    parts = parts_of(body, producers)
    _, paths = merklize([part_leaf(part) for part in parts])
    return [Part(index, path, part) for index, (part, path) in enumerate(zip(parts, paths, strict=True))]


def proves(header: ChunkHeader, part: Part, producers: int) -> bool:
    """Whether this is the part of that number of the body that the header commits to."""
    data, total = erasure.counts(producers)
    if part.index >= total or len(part.data) != erasure.part_size(header.inner.encoded_length, data):
        return False
    at, width, sides = part.index, total, []
    while width > 1:
        if at ^ 1 < width:
            sides.append(at & 1 == 1)
        at, width = at >> 1, (width + 1) >> 1
    if [isinstance(step.direction, Left) for step in part.path] != sides:
        return False
    return climb(part_leaf(part.data), part.path) == header.inner.encoded_merkle_root


def rebuild(header: ChunkHeader, parts: Mapping[int, Part], producers: int) -> bytes:
    """From parts that were proved. Raises ValueError where they are too few."""
    data, total = erasure.counts(producers)
    return erasure.rebuild({at: part.data for at, part in parts.items()}, data, total, header.inner.encoded_length)


def pushed(header: ChunkHeader, parts: Sequence[Part], producers: int, place: int | None) -> Parts:
    """What the producer of a chunk that is not small sends to the validator at ``place``, or to who is none (None)."""
    _, total = erasure.counts(producers)
    return Parts(header, (parts[place],) if place is not None and place < total else ())
