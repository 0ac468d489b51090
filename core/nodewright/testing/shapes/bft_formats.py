"""What validators of the two-chain protocol sign and send: votes, timeouts, certificates, blocks. Bytes in and out only.

A block's id covers everything but its author's signature. ``payload`` belongs to the shell: certified bundles or chunks.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from nodewright.interfaces import BlockRef
from nodewright.testing.shapes.codec import MAX_BLOB, Reader, blob, digest, ref, u8, u32, u64, vector
from nodewright.testing.shapes.keys import Key, verify

MAX_VALIDATORS = 128


@frozen
class Validators:
    """Keys in their fixed order. Up to ``faults`` of them may lie; ``quorum`` are enough to certify."""

    keys: tuple[bytes, ...]

    @property
    def faults(self) -> int:
        return (len(self.keys) - 1) // 3

    @property
    def quorum(self) -> int:
        return len(self.keys) - self.faults

    def leader(self, round: int) -> int:
        return round % len(self.keys)

    def index(self, key: bytes) -> int | None:
        return self.keys.index(key) if key in self.keys else None

    def signed(self, message: bytes, signatures: Sequence[tuple[int, bytes]], needed: int) -> bool:
        """Whether ``needed`` different validators signed."""
        signers = dict.fromkeys(index for index, _ in signatures)
        return (
            len(signers) == len(signatures) >= needed
            and all(index < len(self.keys) for index in signers)
            and all(verify(self.keys[index], message, signature) for index, signature in signatures)
        )


@frozen
class Certificate:
    """A quorum voted for a block and what executing it gives (empty where votes do not cover it). Round 0 is genesis."""

    round: int
    block: BlockRef
    commitment: bytes = b""
    signatures: tuple[tuple[int, bytes], ...] = ()

    def message(self) -> bytes:
        return vote_message(self.round, self.block, self.commitment)

    def encode(self) -> bytes:
        return u64(self.round) + ref(self.block) + blob(self.commitment) + signatures(self.signatures)

    @classmethod
    def decode(cls, data: Reader) -> Certificate:
        return cls(data.u64(), data.ref(), data.blob(1024), read_signatures(data))


@frozen
class TimeoutCertificate:
    """A quorum gave up on ``round``; each says the round of the highest certificate it knew."""

    round: int
    votes: tuple[tuple[int, int, bytes], ...] = ()

    @property
    def highest(self) -> int:
        return max((known for _, known, _ in self.votes), default=0)

    def valid(self, validators: Validators) -> bool:
        return len({index for index, _, _ in self.votes}) == len(self.votes) >= validators.quorum and all(
            validators.signed(timeout_message(self.round, known), [(index, signature)], 1)
            for index, known, signature in self.votes
        )

    def encode(self) -> bytes:
        return u64(self.round) + vector(self.votes, lambda vote: u32(vote[0]) + u64(vote[1]) + vote[2])

    @classmethod
    def decode(cls, data: Reader) -> TimeoutCertificate:
        return cls(data.u64(), data.vector(lambda: (data.u32(), data.u64(), data.take(64)), MAX_VALIDATORS))


@frozen
class BftBlock:
    """``certificate`` is for the parent. ``timeout`` says why rounds were skipped, if they were."""

    ref: BlockRef
    round: int
    author: int
    time: int
    certificate: Certificate
    timeout: TimeoutCertificate | None
    payload: bytes
    signature: bytes = b""

    @property
    def id(self) -> bytes:
        return self.ref.id

    @property
    def parent(self) -> BlockRef:
        return self.certificate.block

    def encode(self) -> bytes:
        return blob(self._signed()) + self.signature

    def _signed(self) -> bytes:
        return _body(self.round, self.author, self.time, self.certificate, self.timeout, self.payload)

    def valid(self, validators: Validators) -> bool:
        """Signatures and shape; whether it may be voted for is ``bft_rules``'s business."""
        parent = self.certificate
        return (
            self.author == validators.leader(self.round)
            and verify(validators.keys[self.author], self.id, self.signature)
            and self.round > parent.round
            and (parent.round == 0 or validators.signed(parent.message(), parent.signatures, validators.quorum))
            and (self.timeout is None or self.timeout.valid(validators))
        )

    @classmethod
    def decode(cls, raw: bytes) -> BftBlock:
        """Raises Malformed."""
        outer = Reader(raw)
        body, signature = outer.blob(), outer.take(64)
        outer.finish()
        data = Reader(body)
        round, author, time = data.u64(), data.u32(), data.u64()
        certificate = Certificate.decode(data)
        timeout = TimeoutCertificate.decode(data) if data.flag() else None
        payload = data.blob(MAX_BLOB)
        data.finish()
        height = certificate.block.height + 1
        return cls(BlockRef(height, _id(body)), round, author, time, certificate, timeout, payload, signature)

    @classmethod
    def make(
        cls,
        key: Key,
        round: int,
        author: int,
        time: int,
        certificate: Certificate,
        timeout: TimeoutCertificate | None,
        payload: bytes,
    ) -> BftBlock:
        id = _id(_body(round, author, time, certificate, timeout, payload))
        block = BlockRef(certificate.block.height + 1, id)
        return cls(block, round, author, time, certificate, timeout, payload, key.sign(id))


def _body(
    round: int, author: int, time: int, certificate: Certificate, timeout: TimeoutCertificate | None, payload: bytes
) -> bytes:
    skipped = u8(1) + timeout.encode() if timeout is not None else u8(0)
    return u64(round) + u32(author) + u64(time) + certificate.encode() + skipped + blob(payload)


def _id(body: bytes) -> bytes:
    return digest(b"bft block", body)


def vote_message(round: int, block: BlockRef, commitment: bytes) -> bytes:
    return digest(b"vote", u64(round), ref(block), commitment)


def timeout_message(round: int, highest: int) -> bytes:
    return digest(b"timeout", u64(round), u64(highest))


def signatures(pairs: Sequence[tuple[int, bytes]]) -> bytes:
    return vector(pairs, lambda pair: u32(pair[0]) + pair[1])


def read_signatures(data: Reader) -> tuple[tuple[int, bytes], ...]:
    return data.vector(lambda: (data.u32(), data.take(64)), MAX_VALIDATORS)
