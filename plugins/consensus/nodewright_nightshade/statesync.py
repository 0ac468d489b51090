"""The state of shards from others: for a node that is far behind, and for one that is to make chunks of another shard.

The epoch after the next is named by the last block of an epoch: that block is where the state of every shard is handed
over. Who keeps a shard shares its state as of that block until two more epochs have ended (``StateParts``). What the state
is, the shard's next chunk says, on the final chain; every part is proved against that. Body ``near_state`` by block hash ‖
shard u16 ‖ part u32.

A node that is ``state_sync_epochs`` behind takes blocks without the bodies of their chunks (``Chain.light``): signatures,
approvals and endorsements are checked, epochs counted, nothing is run. Near the head it fetches the state of its shards,
then the bodies above the block where that stands, runs them, and goes on as any other.

Invariants:
- a shard is tracked only once its state is that of the head, run here from a state that was proved;
- what is under way is noted in the store before it begins, so that a start goes on with it;
- who gives a part that is none is at fault, and the part is asked of another; the next attempt asks for what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio
from attrs import frozen

from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.execution import StateParts, StateTarget
from nodewright.interfaces.transport import Transport
from nodewright.transport.fetch import whole_body
from nodewright_near.borsh import encode
from nodewright_nightshade.blocks import extra_of
from nodewright_nightshade.chain import Chain, Held, placed
from nodewright_nightshade.delivery import Delivery, Unavailable
from nodewright_nightshade.running import run_of_outcome

BODY_STATE = "near_state"
AT_ONCE = 4
RETRY_SECONDS = 2.0
CUT = 4  # parts cut last that stay here: one is read in pieces


@frozen
class Handing:
    """Where a shard's state is fetched: the target, and whether it is here already, further on."""

    target: StateTarget
    here: bool


class StateSync:
    """``wanted``: the shards that this node is to keep. ``behind``: whether others are ahead. ``blame`` (peer, reason)."""

    def __init__(
        self,
        chain: Chain,
        execution: StateParts,
        transport: Transport,
        timeout_seconds: float,
        delivery: Delivery,
        wanted: Callable[[], Collection[int]],
        behind: Callable[[], bool],
        blame: Callable[[bytes, str], None],
    ) -> None:
        self.chain = chain
        self.execution = execution
        self.transport = transport
        self.parts_taken = 0
        self._timeout = timeout_seconds
        self._delivery = delivery
        self._wanted = wanted
        self._behind = behind
        self._blame = blame
        self._cut: dict[bytes, bytes] = {}
        self._named: dict[BlockRef, bytes] = {}  # block of a target → the one by which it is asked for
        transport.provide(BODY_STATE, self)
        chain.epoch_ended.append(self._share)

    # --- for others ---

    async def _share(self, held: Held) -> None:
        """A block that ends its epoch is final, and the state here is that after it."""
        if self.chain.tracked:
            ran = {shard: held.info.ran[shard].ref for shard in sorted(self.chain.tracked)}
            await self.execution.share_state(ran)

    async def _part(self, id: bytes) -> bytes | None:
        if len(id) != 38:
            return None
        if id not in self._cut:
            held = await self.chain.find(id[:32])
            shard, index = int.from_bytes(id[32:34], "little"), int.from_bytes(id[34:], "little")
            if held is None or shard >= len(held.info.ran):
                return None
            part = await self.execution.state_part(held.info.ran[shard].ref, shard, index)
            if part is None:
                return None
            self._cut[id] = part
            while len(self._cut) > CUT:
                self._cut.pop(next(iter(self._cut)))
        return self._cut[id]

    async def size(self, id: bytes) -> int | None:
        part = await self._part(id)
        return None if part is None else len(part)

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        return (await self._part(id) or b"")[offset : offset + length]

    # --- for this node ---

    async def begin(self) -> None:
        """This node is far behind: blocks alone from now on."""
        chain = self.chain
        async with chain.lock:
            if not chain.light:
                chain.environment.logger.info("far behind: fetching blocks, then state", head=chain.head.info.height)
                await chain.store.put_light(True)
                chain.light, chain.tracked = True, frozenset()

    async def run(self) -> None:
        while True:
            try:
                await self._step()
            except Unavailable as error:
                self.chain.environment.logger.debug("not had", reason=str(error))
            with trio.move_on_after(RETRY_SECONDS):
                await self.chain.moved()

    async def _step(self) -> None:
        chain = self.chain
        wanted = set(self._wanted())
        lacking = wanted - chain.tracked
        if lacking or chain.light:
            if chain.light and self._behind():
                return
            await self._adopt(lacking)
        for shard in sorted(chain.tracked - wanted):
            async with chain.lock:
                chain.tracked -= {shard}
                chain.runs = {key: run for key, run in chain.runs.items() if key[1] != shard}
                await self.execution.drop_state(shard)
            chain.environment.logger.info("the state of a shard is let go", shard=shard)

    async def _adopt(self, shards: set[int]) -> None:
        """Have the state of these shards and keep it from now on. Raises Unavailable."""
        chain = self.chain
        await chain.store.put_adopting(shards)
        for shard in sorted(shards):
            await self._install(shard)
        while not await self._join(shards):
            pass

    # --- parts ---

    async def _install(self, shard: int) -> None:
        found = await self._handings(shard)
        if not found:
            raise Unavailable(f"what the state of shard {shard} was when an epoch ended")
        if any(handing.here for handing in found):
            return
        for handing in found:
            if await self._fetch(handing.target):
                await self.execution.install_state(handing.target)
                return
        raise Unavailable(f"parts of the state of shard {shard}")

    async def _handings(self, shard: int) -> list[Handing]:
        """The last two blocks that ended an epoch and after which the final chain says what the shard's state was."""
        chain = self.chain
        found = []
        for id in (chain.final.info.next_epoch_id, chain.final.info.epoch_id):
            held = await chain.find(id)
            if held is None or await chain.store.final_hash(held.info.height) != id:
                continue
            ran = held.info.ran[shard].ref
            applied = await chain.execution.applied(shard)
            here = (
                applied is not None
                and applied.height >= ran.height
                and await chain.store.final_hash(applied.height) == applied.id
            )
            for height in range(held.info.height + 1, chain.final.info.height + 1):
                later = await chain.at(height)
                if later is not None and later.block.is_new(shard):
                    extra = extra_of(later.block.body.chunks[shard].inner)
                    target = StateTarget(ran, shard, extra.commitment(), encode(extra))
                    found.append((Handing(target, here), id))
                    break
        self._named = {handing.target.block: id for handing, id in found}
        return [handing for handing, _ in found]

    async def _fetch(self, target: StateTarget) -> bool:
        """Whether all parts are here now."""
        while wanted := list(await self.execution.missing_parts(target)):
            before = self.parts_taken
            async with trio.open_nursery() as nursery:
                for index in wanted[:AT_ONCE]:
                    nursery.start_soon(self._take, target, index)
            if self.parts_taken == before:
                return False
        return True

    async def _take(self, target: StateTarget, index: int) -> None:
        named = self._named[target.block]
        id = named + target.shard.to_bytes(2, "little") + index.to_bytes(4, "little")
        peers = [one.id for one in self.transport.peers()]
        self.chain.environment.random.shuffle(peers)
        for peer in peers:
            part = await whole_body(self.transport, peer, BODY_STATE, id, self.execution.max_part_bytes, self._timeout)
            if part is None:
                continue
            if await self.execution.take_part(target, index, part):
                self.parts_taken += 1
                return
            self._blame(peer, f"part {index} of the state of shard {target.shard} that is none")

    # --- from there to the head ---

    async def _join(self, shards: Collection[int]) -> bool:
        """Run what is above the states of these shards; whether they are tracked now. Raises Unavailable."""
        chain = self.chain
        for shard in sorted(shards):
            await self._to_final(shard)
        above = [one for one in chain.held.values() if one.info.height > chain.final.info.height]
        above.sort(key=lambda one: one.info.height)
        for held in above:
            for shard in shards:
                await self._bodies(held, shard)
        async with chain.lock:
            now = {one.info.hash for one in chain.held.values() if one.info.height > chain.final.info.height}
            if now - {one.info.hash for one in above}:
                return False
            for shard in sorted(shards):
                if await chain.execution.applied(shard) != chain.final.info.ran[shard].ref:
                    return False
            for held in above:
                if held.info.hash in now:
                    for shard in sorted(shards):
                        if held.block.is_new(shard):
                            await self._run(held, shard)
                    if not held.placed:
                        held.placed = placed(await chain.available(held.block, {}))
            chain.tracked |= set(shards)
            if chain.store.whole is not None:
                chain.store.keep_whole(chain.tracked, chain.genesis.boundaries)
            await chain.store.put_adopting(())
            if chain.light:
                await chain.store.put_light(False)
                chain.light = False
        if shards:
            height = chain.head.info.height
            chain.environment.logger.info("the state of shards is here", shards=sorted(shards), head=height)
        return True

    async def _to_final(self, shard: int) -> None:
        chain = self.chain
        while True:
            applied = await chain.execution.applied(shard)
            due = chain.final.info.ran[shard]
            if applied is None:
                raise Unavailable(f"the state of shard {shard}")
            if applied.height >= due.height:
                return
            for height in range(applied.height + 1, due.height + 1):
                held = await chain.at(height)
                if held is not None and held.block.is_new(shard):
                    await self._bodies(held, shard)
                    await self._run(held, shard)
                    lost = await chain.execution.commit(BlockRef(height, held.info.hash), shard)
                    await chain.pool.settle({}, {}, lost or {})

    async def _run(self, held: Held, shard: int) -> None:
        run = run_of_outcome(await self.chain.run_again(held.info.ref, shard), self.chain.genesis.network.shards)
        await self.chain.store.put_run(held.info.hash, shard, run)
        self.chain.runs[held.info.hash, shard] = run

    async def _bodies(self, held: Held, shard: int) -> None:
        """Those of all chunks that a run of the shard in a block depends on are in the store. Raises Unavailable."""
        if not held.block.is_new(shard):
            return
        chain = self.chain
        parent = await chain.parent(held.info)
        if parent is None:
            raise Unavailable(f"the parent of block {held.info.ref}")
        lacking = []
        for one in (await chain.path_since(held, parent, shard))[1:]:
            for number, header in enumerate(one.block.body.chunks):
                if one.block.is_new(number) and await chain.store.chunk(header.hash()) is None:
                    lacking.append(header)
        found = []
        for header in lacking:
            peers = [one.id for one in self.transport.peers()]
            if not peers:
                raise Unavailable("anybody to ask")
            found.append(await self._delivery.gather(header, chain.environment.random.choice(peers)))
        if found:
            await chain.store.put_chunks(found)


def far_behind(chain: Chain, height: int, epochs: int) -> bool:
    """Whether a peer's head is so many epochs above this node's; 0: never."""
    return bool(epochs) and height - chain.head.info.height > epochs * chain.genesis.network.epoch_length
