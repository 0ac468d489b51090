"""Epochs along the chain: which one a block is in, who approves it, what it counts and fixes, and what a run gives back."""

from __future__ import annotations

from attrs import define

from nodewright.errors import ConfigurationError, StoreError
from nodewright_near.chunks import Locked
from nodewright_near.genesis import shard_of
from nodewright_near.parameters import VERSIONS
from nodewright_nightshade import blocks, selection
from nodewright_nightshade.blocks import Block, Info
from nodewright_nightshade.epochs import Approvers, Epochs
from nodewright_nightshade.genesis import Genesis
from nodewright_nightshade.sampling import Epoch
from nodewright_nightshade.selection import EpochSet, Tally
from nodewright_nightshade.store import ChainStore


@define
class ChainEpochs:
    genesis: Genesis
    epochs: Epochs
    store: ChainStore

    async def epoch_set(self, id: bytes) -> EpochSet:
        """Raises StoreError for one that is not known."""
        known = self.epochs.sets.get(id)
        if known is None:
            known = await self.store.epoch(id)
            if known is None:
                raise StoreError(f"the epoch {id.hex()} is not known to this node")
            self.epochs.add(known)
        return known

    async def epoch(self, id: bytes) -> Epoch:
        return self.epochs.add(await self.epoch_set(id))

    def chunk_epoch(self, parent: Info) -> bytes:
        """The epoch by which a block on this parent, and the chunks on it, are made and checked."""
        return blocks.epoch_after(parent, self.genesis.network)

    def approvers(self, parent: Info) -> Approvers:
        """Of blocks on an accepted block."""
        then = parent.next_epoch_id if blocks.needs_next(parent, self.genesis.network) else None
        return self.epochs.approvers(self.chunk_epoch(parent), then)

    def check_version(self, epoch: EpochSet) -> None:
        if epoch.version not in VERSIONS:
            raise ConfigurationError(
                f"the network runs protocol {epoch.version} from epoch {epoch.number} on and this release knows "
                f"{', '.join(map(str, sorted(VERSIONS)))}: upgrade nodewright and start the node again"
            )

    def count(self, block: Block, info: Info, parent: Info, tally: Tally | None) -> Tally:
        """``tally``: what was counted up to the parent."""
        epoch, rest = self.epochs.of(info.epoch_id), block.header.inner_rest
        begun = tally if info.epoch_id == parent.epoch_id else Tally.of(len(epoch.validators))
        assert begun is not None  # the parent was accepted since the start, or its tally brought back
        mask, proposals = rest.chunk_mask, rest.prev_validator_proposals
        return begun.add(epoch, parent.height, info.height, mask, proposals, rest.latest_protocol_version)

    def fixed(self, info: Info, tally: Tally, ending: EpochSet, coming: EpochSet) -> list[EpochSet]:
        """The epoch that a block fixes, where it is the last of its own."""
        if not blocks.ends_epoch(info, self.genesis.network):
            return []
        made = selection.following(ending, coming, tally, info.hash, self.genesis.seats)
        self.epochs.add(made)
        return [made]

    async def locks(self, info: Info, parent: Info, shard: int) -> tuple[Locked, ...]:
        """What accounts of a shard have to leave at stake, where its run in a block is its first in the epoch; also what
        they had to in epochs in which it never ran."""
        ran = parent.ran[shard]
        if ran.height >= info.epoch_start:
            return ()
        last = await self.store.info(ran.block)
        if last is None:
            raise StoreError(f"block {ran.ref} is not stored")
        now, after = await self.epoch_set(info.epoch_id), await self.epoch_set(info.next_epoch_id)
        passed: list[dict[str, int]] = []
        while now.id != last.epoch_id and now.id != now.before:
            before = await self.epoch_set(now.before)
            passed.append(selection.locks([before, now, after]))
            now, after = before, now
        found: dict[str, int] = {}
        for one in reversed(passed):
            found.update(one)
        boundaries = self.genesis.boundaries
        return tuple(Locked(name, found[name]) for name in sorted(found) if shard_of(name, boundaries) == shard)
