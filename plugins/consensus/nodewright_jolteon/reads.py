"""What services read of the committed chain, in the core's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodewright.interfaces.common import BlockRecord, BlockRef, BundleRef, Location
from nodewright_jolteon.chain import Chain
from nodewright_jolteon.formats import Block, LedgerCertificate
from nodewright_jolteon.genesis import MICROSECONDS
from nodewright_jolteon.running import PROLOGUE
from nodewright_jolteon.store import Done
from nodewright_jolteon.validators import Epoch


class Reads:
    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._store = chain.store
        self._epochs: dict[int, Epoch] = {}

    async def _epoch(self, number: int) -> Epoch | None:
        epoch = self._epochs.get(number) or await self._store.epoch(number)
        if epoch is not None:
            if len(self._epochs) > 64:
                self._epochs.clear()
            self._epochs[number] = epoch
        return epoch

    async def block(self, id: bytes) -> BlockRecord | None:
        genesis = self._chain.genesis
        done = await self._store.done(id)
        if id == genesis.block.id and done is not None:
            return BlockRecord(
                genesis.block,
                bytes(32),
                genesis.time // MICROSECONDS,
                b"",
                b"",
                detail=self._detail(done) | {"epoch": 0, "time_usecs": genesis.time},
            )
        block = await self._store.block(id)
        if block is None:
            return None
        if done is None:
            bundles = tuple(BundleRef(one.info.digest, one.info.count, one.info.size) for one in block.proofs)
            return self._record(block, bundles, {"committed": False}, await self._epoch(block.epoch))
        return self._record(block, done.bundles, self._detail(done), await self._epoch(block.epoch), done)

    @staticmethod
    def _record(
        block: Block, bundles: Sequence[BundleRef], detail: dict[str, Any], epoch: Epoch | None, done: Done | None = None
    ) -> BlockRecord:
        author = epoch.validators.members[block.author] if epoch is not None else None
        return BlockRecord(
            block.ref,
            block.parent.id,
            block.time // MICROSECONDS,
            block.raw,
            block.raw,
            tuple(bundles),
            done.prologue if done is not None else b"",
            done.prologue_id if done is not None else b"",
            done.kept if done is not None else block.transactions,
            len(block.raw) + sum(one.size for one in bundles),
            detail
            | {
                "epoch": block.epoch,
                "round": block.round,
                "time_usecs": block.time,
                "proposer": author.account.hex() if author is not None else "",
                "proposer_key": author.key.hex() if author is not None else "",
                "voters": list(block.voters),
            },
        )

    @staticmethod
    def _detail(done: Done) -> dict[str, Any]:
        return {
            "committed": True,
            "root": done.info.root.hex(),
            "commitment": done.info.commitment.hex(),
            "rejected": len(done.rejected),
            "retried": len(done.retried),
            "failed_proposers": list(done.record.failed),
            "epoch_end": done.info.next is not None,
        }

    async def block_at(self, height: int) -> BlockRecord | None:
        id = await self._store.id_at(height) if height >= 0 else None
        return await self.block(id) if id is not None else None

    async def locate(self, ids: Sequence[bytes]) -> list[Location | None]:
        places = await self._store.places(ids)
        heights = sorted({place.height for place in places if place is not None})
        blocks = dict(zip(heights, await self._store.ids_at(heights), strict=True)) if heights else {}
        bundles: dict[int, tuple[BundleRef, ...]] = {}
        found: list[Location | None] = []
        for place in places:
            id = blocks.get(place.height) if place is not None else None
            if place is None or id is None:
                found.append(None)
                continue
            here = BlockRef(place.height, id)
            if place.bundle == PROLOGUE:
                found.append(Location(id, 0, here))
                continue
            if place.height not in bundles:
                done = await self._store.done(id)
                bundles[place.height] = done.bundles if done is not None else ()
            found.append(Location(bundles[place.height][place.bundle].id, place.index, here))
        return found

    async def transactions(self, ids: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for location in await self.locate(ids):
            if location is None or location.block is None:
                found.append(None)
            elif location.bundle == location.block.id:
                done = await self._store.done(location.bundle)
                found.append(done.prologue if done is not None else None)
            else:
                bundle = await self._chain.quorum.stored(location.bundle)
                found.append(bundle.bodies[location.index] if bundle is not None and bundle.bodies is not None else None)
        return found

    async def executed(self, id: bytes | None = None, height: int | None = None) -> dict[str, Any] | None:
        """What a committed block did: ids ``kept`` in the order they ran (without the prologue), ``rejected`` with the
        reason, ``retried``."""
        if id is None:
            id = await self._store.id_at(height or 0)
        done = await self._store.done(id) if id is not None else None
        if done is None:
            return None
        refused = {*done.rejected, *done.retried}
        ids: dict[bytes, None] = {}
        for reference in done.bundles:
            bundle = await self._chain.quorum.stored(reference.id)
            if bundle is not None:
                ids.update((bundle.id_at(index), None) for index in range(len(bundle)))
        candidates = [one for one in ids if one not in refused]
        places = await self._store.places(candidates)
        kept = [
            one
            for one, place in zip(candidates, places, strict=True)
            if place is not None and place.height == done.info.block.height
        ]
        return {"kept": kept, "rejected": dict(done.rejected), "retried": list(done.retried)}

    async def ledger_proof(self, height: int | None = None) -> dict[str, Any] | None:
        """The lowest certificate of the ledger at or above a height (the head's where none is given): what was signed, by
        whom, and the blocks' ids from the height up to the one signed."""
        head = self._chain.head().height
        certificate: LedgerCertificate | None = await self._store.certificate_from(
            head if height is None else max(height, 1)
        )
        if certificate is None:
            return None
        info = certificate.info
        epoch = await self._epoch(info.epoch)
        first = info.block.height if height is None else max(height, 1)
        members = epoch.validators.members if epoch is not None else ()
        return {
            "epoch": info.epoch,
            "round": info.round,
            "height": info.block.height,
            "hash": info.block.id.hex(),
            "time_usecs": info.time,
            "root": info.root.hex(),
            "commitment": info.commitment.hex(),
            "next_validators": [member.key.hex() for member in info.next.members] if info.next is not None else None,
            "message": info.message.hex(),
            "signed": info.encode().hex(),
            "signatures": {members[place].key.hex(): one.hex() for place, one in certificate.signatures},
            "blocks": [id.hex() for id in await self._store.ids_at(range(first, info.block.height + 1)) if id is not None],
        }
