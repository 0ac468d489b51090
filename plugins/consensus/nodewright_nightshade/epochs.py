"""Epochs by their id: who produces and who checks. Pure.

Today every epoch has the validators of the genesis file (stakes that transactions propose are recorded in blocks and not
yet followed); who is drawn for what changes with each epoch's seed, which is the hash of its id.
"""

from __future__ import annotations

from hashlib import sha256

from attrs import define, field

from nodewright_nightshade.mandates import Mandates
from nodewright_nightshade.sampling import Epoch, Validator, assign_chunk_producers

REMEMBERED = 64
MANDATES_PER_SHARD = 68


@define
class Epochs:
    validators: tuple[Validator, ...]
    shards: int
    mandates_per_shard: int = MANDATES_PER_SHARD
    _epochs: dict[bytes, Epoch] = field(factory=dict)
    _assignments: dict[tuple[bytes, int], list[dict[int, int]]] = field(factory=dict)
    _mandates: Mandates = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._mandates = Mandates.of([one.stake for one in self.validators], self.shards, self.mandates_per_shard)

    def of(self, id: bytes) -> Epoch:
        found = self._epochs.get(id)
        if found is None:
            members = assign_chunk_producers(self.validators, self.shards)
            found = Epoch(id, sha256(id).digest(), self.validators, members)
            if len(self._epochs) >= REMEMBERED:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[id] = found
        return found

    def assignment(self, id: bytes, height: int, shard: int) -> dict[int, int]:
        """The validators of a chunk, by their place in the epoch, with the stake each speaks for."""
        found = self._assignments.get((id, height))
        if found is None:
            found = self._mandates.assign(self.of(id).seed, height, self.shards)
            if len(self._assignments) >= REMEMBERED:
                self._assignments.pop(next(iter(self._assignments)))
            self._assignments[id, height] = found
        return found[shard]

    def place(self, account: str) -> int | None:
        return next((at for at, one in enumerate(self.validators) if one.account == account), None)
