"""Quorum Store, the pure part: batches as bytes, collecting signatures, which proofs a block orders, how much is let in.

Invariants
- A digest covers author, epoch, number, expiration and every transaction: what a quorum signed is one body.
- A proof is chosen for a block only if no block below it orders the batch, and only until it expires. A batch that a
  committed block ordered is remembered until it expires; blocks take nothing expired; so it is ordered once.
- Memory is bounded: of each author ``MAX_PROOFS_OF_AUTHOR`` proofs wait.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from attrs import define, field, frozen

from nodewright_jolteon.codec import Malformed, Reader, blob, digest, u32, u64, vector
from nodewright_jolteon.formats import MAX_BATCH_BYTES, MAX_BATCH_COUNT, BatchInfo, Proof, gathered
from nodewright_jolteon.validators import ValidatorSet

MAX_PROOFS_OF_AUTHOR: Final = 8192
AGAIN: Final = 0xFFFF_FFFF  # in place of an author: transactions that are ordered again, by every node alike


@frozen
class Batch:
    """``raw`` is what is stored, sent and hashed."""

    info: BatchInfo
    bodies: tuple[bytes, ...] = field(repr=False)
    raw: bytes = field(repr=False)

    @classmethod
    def make(cls, author: int, number: int, epoch: int, expiration: int, bodies: Sequence[bytes]) -> Batch:
        raw = u32(author) + u64(number) + u64(epoch) + u64(expiration) + vector(bodies, blob)
        info = BatchInfo(author, number, epoch, expiration, digest("batch", raw), len(bodies), len(raw))
        return cls(info, tuple(bodies), raw)

    @classmethod
    def decode(cls, raw: bytes) -> Batch:
        """Raises Malformed."""
        data = Reader(raw)
        author, number, epoch, expiration = data.u32(), data.u64(), data.u64(), data.u64()
        bodies = data.vector(lambda: data.blob(MAX_BATCH_BYTES), MAX_BATCH_COUNT)
        data.finish()
        if not bodies:
            raise Malformed("an empty batch")
        return cls(BatchInfo(author, number, epoch, expiration, digest("batch", raw), len(bodies), len(raw)), bodies, raw)


@define
class Open:
    """A batch of this node's that waits for its quorum. ``ids`` are its transactions'."""

    batch: Batch
    ids: tuple[bytes, ...]
    made: float
    signatures: dict[int, bytes] = field(factory=dict)
    proof: Proof | None = None

    def sign(self, place: int, signature: bytes, validators: ValidatorSet) -> Proof | None:
        """An authentic signature; the proof when this one completes it."""
        if self.proof is not None:
            return None
        self.signatures[place] = signature
        if validators.power_of(self.signatures) < validators.quorum_power:
            return None
        self.proof = Proof(self.batch.info, gathered(self.signatures))
        return self.proof


@define
class Proofs:
    """Proofs that wait for their block."""

    waiting: dict[bytes, Proof] = field(factory=dict)
    backlog: int = 0  # transactions in them
    _of_author: dict[int, int] = field(factory=dict)
    _committed: dict[bytes, int] = field(factory=dict)  # digest to expiration

    def add(self, proof: Proof, time: int) -> bool:
        """Whether it is news. ``time``: microseconds, of the last committed block."""
        info = proof.info
        if info.digest in self.waiting or info.digest in self._committed or info.expiration <= time:
            return False
        if self._of_author.get(info.author, 0) >= MAX_PROOFS_OF_AUTHOR:
            return False
        self.waiting[info.digest] = proof
        self.backlog += info.count
        self._of_author[info.author] = self._of_author.get(info.author, 0) + 1
        return True

    def was_ordered(self, digest: bytes) -> bool:
        """In a committed block."""
        return digest in self._committed

    def any_for(self, taken: Collection[bytes]) -> bool:
        return any(digest not in taken for digest in self.waiting)

    def choose(self, taken: Collection[bytes], time: int, epoch: int, count: int, size: int, most: int) -> list[Proof]:
        """For a block of this time on top of blocks that order ``taken``: at most so many transactions, bytes and proofs,
        oldest first, each author's in their order."""
        chosen: list[Proof] = []
        for proof in sorted(self.waiting.values(), key=_by_age):
            info = proof.info
            if info.digest in taken or info.expiration <= time or info.epoch != epoch:
                continue
            if len(chosen) == most or (chosen and (info.count > count or info.size > size)):
                break
            chosen.append(proof)
            count -= info.count
            size -= info.size
        return chosen

    def committed(self, infos: Iterable[BatchInfo], time: int) -> list[BatchInfo]:
        """A block of this time is committed and ordered these; returns those that expired without a block."""
        for info in infos:
            self._committed[info.digest] = info.expiration
            self._drop(info.digest)
        self._committed = {key: until for key, until in self._committed.items() if until > time}
        expired = [proof.info for proof in self.waiting.values() if proof.info.expiration <= time]
        for info in expired:
            self._drop(info.digest)
        return expired

    def _drop(self, digest: bytes) -> None:
        proof = self.waiting.pop(digest, None)
        if proof is not None:
            self.backlog -= proof.info.count
            self._of_author[proof.info.author] -= 1


def _by_age(proof: Proof) -> tuple[int, int, int]:
    return proof.info.expiration, proof.info.number, proof.info.author


@define
class Rate:
    """How many transactions a second this node lets into batches: halved each second while more than ``backlog`` wait for
    their block, ``step`` more each second after that."""

    least: int
    most: int
    backlog: int
    step: int
    value: float = field(init=False)
    _left: float = field(init=False)
    _second: float = field(init=False, default=0.0)
    _at: float | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.value = self._left = float(self.most)

    def allowed(self, now: float, waiting: int) -> int:
        """At this moment, in seconds that only rise; ``waiting`` transactions are in proofs without a block."""
        if self._at is None:
            self._at = self._second = now
        while now - self._second >= 1.0:
            self._second += 1.0
            if waiting > self.backlog:
                self.value = max(self.least, self.value / 2)
            else:
                self.value = min(self.most, self.value + self.step)
            if now - self._second > 60.0:
                self._second = now  # nothing was asked for long
        self._left = min(self.value, self._left + (now - self._at) * self.value)
        self._at = now
        return int(self._left)

    def used(self, count: int) -> None:
        self._left -= count
