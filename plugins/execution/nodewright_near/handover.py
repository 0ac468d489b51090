"""The state of shards handed over: parts of what is held for others, and parts of others taken in.

Table ``near_sync``: shard u16 → ``Incoming``, a state on its way in; ``d`` ‖ shard u16 → nothing, a shard that this node
has let go although its settings name it.

Invariants
- A part's rows and nodes are written only after they were proved against the target's root, in one durable batch with the
  note that this part is here: whatever the instant of a crash, what is noted is there.
- Rows of a shard are there without the marker of an applied block only while its state comes in; a new target begins by
  deleting them, and the marker is written once no part is missing.
- What is shared is a snapshot of the store: commits beside it change nothing of it. The two shared last are held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Final

from attrs import define, evolve, field, frozen

from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.execution import StateTarget
from nodewright.interfaces.storage import KeyValueReader, KeyValueStore, WriteBatch
from nodewright_near.behind import BEHIND, mark_key
from nodewright_near.borsh import U32, U64, Malformed, Vector, decode, encode, struct
from nodewright_near.chunks import ChunkExtra
from nodewright_near.primitives import Hash
from nodewright_near.shardstore import META, NODES, ROWS, Applied, node_key, row_key, row_value, value_of_row
from nodewright_near.stateparts import MAX_PART_BYTES, Walk, check, write
from nodewright_near.trie import Missing

SYNC: Final = "near_sync"
HELD: Final = 2
MAX_PARTS: Final = 1 << 20


@struct
@frozen
class Incoming:
    """``count`` is 0 until a part has said how many there are."""

    height: U64
    block: Hash
    extra: ChunkExtra
    count: U32
    here: Annotated[tuple[int, ...], Vector(U32, MAX_PARTS)]

    def wanted(self) -> list[int]:
        here = set(self.here)
        return [at for at in range(self.count or 1) if at not in here]


class BadTarget(ValueError):
    """A target whose detail is not what its commitment says."""


def extra_of(target: StateTarget) -> ChunkExtra:
    """Raises BadTarget."""
    try:
        extra: ChunkExtra = decode(ChunkExtra, target.detail)
    except Malformed as error:
        raise BadTarget(f"the state of shard {target.shard} at {target.block} has no such detail") from error
    if extra.commitment() != target.commitment:
        raise BadTarget(f"the state of shard {target.shard} at {target.block} is not what its commitment says")
    return extra


@define
class Shared:
    """A snapshot and, by shard, the block and root that it shows."""

    blocks: dict[int, tuple[BlockRef, bytes]]
    reader: KeyValueReader
    stack: AsyncExitStack


class _Nodes:
    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def node(self, path: bytes, digest: bytes) -> bytes:
        raw = self.rows.get(path)
        if raw is None:
            raise Missing([(path, digest)])
        return raw


@define
class Handover:
    store: KeyValueStore
    _shared: list[Shared] = field(factory=list)

    # --- out ---

    async def share(self, blocks: Mapping[int, BlockRef]) -> bool:
        """Hold the state of these shards after these applied blocks. False, and nothing changed, where the store has no
        snapshots or is not at these blocks."""
        if "snapshot" not in getattr(self.store, "capabilities", ()):
            return False
        stack = AsyncExitStack()
        reader = await stack.enter_async_context(self.store.snapshot())
        shards = sorted(blocks)
        markers = await reader.get_many(META, [shard.to_bytes(2, "big") for shard in shards])
        found = {}
        for shard, raw in zip(shards, markers, strict=True):
            if raw is not None:
                marker: Applied = decode(Applied, raw)
                if marker.block == blocks[shard].id:
                    found[shard] = (blocks[shard], marker.extra.state_root)
        if len(found) < len(blocks):
            await stack.aclose()
            return False
        self._shared.append(Shared(found, reader, stack))
        while len(self._shared) > HELD:
            await self._shared.pop(0).stack.aclose()
        return True

    async def aclose(self) -> None:
        while self._shared:
            await self._shared.pop().stack.aclose()

    async def part(self, block: BlockRef, shard: int, index: int) -> bytes | None:
        shared = next((one for one in reversed(self._shared) if one.blocks.get(shard, (None,))[0] == block), None)
        if shared is None:
            return None
        walk, nodes = Walk(shared.blocks[shard][1], index), _Nodes()
        while True:
            try:
                walk.run(nodes)
                break
            except Missing as missing:
                wanted = [path for path, _ in missing.wanted]
                rows = await shared.reader.get_many(NODES, [node_key(shard, path) for path in wanted])
                nodes.rows = {path: raw for path, raw in zip(wanted, rows, strict=True) if raw is not None}
                if len(nodes.rows) < len(wanted):
                    return None
        if index >= walk.count:
            return None
        keys = [one.key for one in walk.members if one.value is not None]
        rows = await shared.reader.get_many(ROWS, [row_key(shard, key) for key in keys])
        values = [value_of_row(key, row) for key, row in zip(keys, rows, strict=True) if row is not None]
        part = write(walk, values)
        return part if len(part) <= MAX_PART_BYTES and len(values) == len(keys) else None

    # --- in ---

    async def _incoming(self, target: StateTarget) -> Incoming | None:
        (raw,) = await self.store.get_many(SYNC, [target.shard.to_bytes(2, "big")])
        found: Incoming | None = None if raw is None else decode(Incoming, raw)
        return found if found is not None and found.block == target.block.id and found.extra == extra_of(target) else None

    async def missing(self, target: StateTarget) -> Sequence[int]:
        incoming = await self._incoming(target)
        if incoming is None:
            await self.clear(target.shard)
            incoming = Incoming(target.block.height, target.block.id, extra_of(target), 0, ())
            batch = WriteBatch()
            batch.put(SYNC, target.shard.to_bytes(2, "big"), encode(incoming))
            await self.store.commit(batch)
        return incoming.wanted()

    async def take(self, target: StateTarget, index: int, raw: bytes) -> bool:
        incoming = await self._incoming(target)
        if incoming is None or index not in incoming.wanted():
            return incoming is not None and index in incoming.here
        checked = check(incoming.extra.state_root, index, raw)
        if checked is None:
            return False
        shard, batch = target.shard, WriteBatch()
        batch.put_many(ROWS, [(row_key(shard, key), row_value(key, value)) for key, value in checked.rows])
        batch.put_many(NODES, [(node_key(shard, path), node) for path, node in checked.nodes])
        noted = evolve(incoming, count=checked.count, here=(*incoming.here, index))
        batch.put(SYNC, shard.to_bytes(2, "big"), encode(noted))
        await self.store.commit(batch)
        return True

    async def finish(self, target: StateTarget) -> None:
        """The marker of the applied block. Raises BadTarget where parts are missing."""
        incoming = await self._incoming(target)
        if incoming is None or incoming.wanted():
            raise BadTarget(f"parts of the state of shard {target.shard} are missing")
        shard, batch = target.shard.to_bytes(2, "big"), WriteBatch()
        batch.put(META, shard, encode(Applied(target.block.height, target.block.id, incoming.extra)))
        batch.delete(SYNC, shard)
        batch.delete(SYNC, b"d" + shard)
        await self.store.commit(batch)

    async def clear(self, shard: int) -> None:
        """No state of the shard is here any more; the marker goes first."""
        key, batch = shard.to_bytes(2, "big"), WriteBatch()
        batch.delete(META, key)
        batch.delete(META, mark_key(shard))
        batch.delete(SYNC, key)
        batch.put(SYNC, b"d" + key, b"")
        await self.store.commit(batch)
        end = (shard + 1).to_bytes(2, "big") if shard < 0xFFFF else b"\xff" * 3
        for table in (BEHIND, ROWS, NODES):
            await self.store.delete_range(table, key, end)

    async def kept(self, named: Sequence[int], shards: int) -> list[int]:
        """The shards kept here: those named by the settings and not let go, and those whose state came in."""
        every = [shard.to_bytes(2, "big") for shard in range(shards)]
        gone = await self.store.get_many(SYNC, [b"d" + shard for shard in every])
        markers = await self.store.get_many(META, every)
        return [shard for shard in range(shards) if markers[shard] is not None or (shard in named and gone[shard] is None)]
