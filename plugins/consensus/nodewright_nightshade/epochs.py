"""Epochs by their id: who produces, who approves and who checks. What is drawn follows from the id alone.

Those that the chain's head may need are here; older ones are in the store (``Chain.epoch``).
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define, field, frozen

from nodewright.errors import StoreError
from nodewright_near.headers import bp_hash
from nodewright_nightshade.mandates import Mandates
from nodewright_nightshade.sampling import Epoch
from nodewright_nightshade.selection import EpochSet

REMEMBERED = 64
MANDATES_PER_SHARD = 68


@frozen
class Approver:
    """``now`` and ``then``: its stake in the epoch of the block that is to be approved, and in the one after."""

    account: str
    key: bytes
    now: int
    then: int


@frozen
class Approvers:
    """Who approves blocks on a parent, in the order in which a block names their approvals: the validators of its epoch,
    and near the end of an epoch those of the next one too. A block needs more than two thirds of the stake of each."""

    all: tuple[Approver, ...]
    by_account: dict[str, Approver]
    now: int
    then: int

    @classmethod
    def of(cls, now: Epoch, then: Epoch | None) -> Approvers:
        stakes = {one.account: one.stake for one in then.validators} if then is not None else {}
        all = [Approver(one.account, one.key, one.stake, stakes.get(one.account, 0)) for one in now.validators]
        known = {one.account for one in all}
        if then is not None:
            all += [Approver(one.account, one.key, 0, one.stake) for one in then.validators if one.account not in known]
        return cls(tuple(all), {one.account: one for one in all}, now.total_stake, then.total_stake if then else 0)

    def enough(self, accounts: Iterable[str]) -> bool:
        now = then = 0
        for account in accounts:
            one = self.by_account.get(account)
            if one is not None:
                now += one.now
                then += one.then
        return self.are_enough(now, then)

    def are_enough(self, now: int, then: int) -> bool:
        return 3 * now > 2 * self.now and (not self.then or 3 * then > 2 * self.then)


@define
class Epochs:
    shards: int
    mandates_per_shard: int = MANDATES_PER_SHARD
    sets: dict[bytes, EpochSet] = field(factory=dict)
    _epochs: dict[bytes, Epoch] = field(factory=dict)
    _mandates: dict[bytes, Mandates] = field(factory=dict)
    _assignments: dict[tuple[bytes, int], list[dict[int, int]]] = field(factory=dict)
    _approvers: dict[tuple[bytes, bytes | None], Approvers] = field(factory=dict)
    _hashes: dict[bytes, bytes] = field(factory=dict)

    def add(self, one: EpochSet) -> Epoch:
        found = self._epochs.get(one.id)
        if found is None:
            while len(self._epochs) >= REMEMBERED:
                old = next(iter(self._epochs))
                for known in (self.sets, self._epochs, self._mandates, self._hashes):
                    known.pop(old, None)
            found = Epoch.of(one.id, one.validators, one.members)
            self._hashes[one.id] = bp_hash(one.validators)
            self.sets[one.id], self._epochs[one.id] = one, found
            stakes = [validator.stake for validator in found.validators]
            self._mandates[one.id] = Mandates.of(stakes, self.shards, self.mandates_per_shard)
        return found

    def producers_hash(self, id: bytes) -> bytes:
        """What a block says of the epoch after its own."""
        return self._hashes[id]

    def of(self, id: bytes) -> Epoch:
        """Raises StoreError for one that is not here."""
        found = self._epochs.get(id)
        if found is None:
            raise StoreError(f"the epoch {id.hex()} is not known to this node")
        return found

    def assignment(self, id: bytes, height: int, shard: int) -> dict[int, int]:
        """The validators of a chunk, by their place in the epoch, with the stake each speaks for."""
        found = self._assignments.get((id, height))
        if found is None:
            found = self._mandates[id].assign(self.of(id).seed, height, self.shards)
            if len(self._assignments) >= REMEMBERED:
                self._assignments.pop(next(iter(self._assignments)))
            self._assignments[id, height] = found
        return found[shard]

    def approvers(self, now: bytes, then: bytes | None) -> Approvers:
        found = self._approvers.get((now, then))
        if found is None:
            found = Approvers.of(self.of(now), self.of(then) if then is not None else None)
            if len(self._approvers) >= REMEMBERED:
                self._approvers.pop(next(iter(self._approvers)))
            self._approvers[now, then] = found
        return found
