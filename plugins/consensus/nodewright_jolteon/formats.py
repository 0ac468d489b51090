"""What validators sign and send about order and outcome: votes, timeouts, certificates, blocks, the ledger. Bytes alone.

Certificates are lists of Ed25519 signatures behind a bitmap of who signed; whoever checks one hands ``signed`` of it to a
batch verifier. (Upstream aggregates BLS12-381 signatures into one.) A block's id covers all but its author's signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from attrs import field, frozen

from nodewright.interfaces.common import BlockRef
from nodewright_jolteon.codec import (
    SIGNATURE_BYTES,
    Malformed,
    Reader,
    blob,
    digest,
    option,
    ref,
    u32,
    u64,
    vector,
)
from nodewright_jolteon.validators import MAX_VALIDATORS, Epoch, ValidatorSet

MAX_PROOFS: Final = 512
MAX_BLOCK_BYTES: Final = 4 * 1024 * 1024 - 1024
MAX_COMMITMENT_BYTES: Final = 1024
MAX_BATCH_COUNT: Final = 1 << 20
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024 - 4096

Signatures = tuple[tuple[int, bytes], ...]  # (place of the validator, signature), places rising
Signed = tuple[bytes, bytes, bytes]  # key, message, signature


def encode_signatures(signatures: Signatures) -> bytes:
    bits = 0
    for place, _ in signatures:
        bits |= 1 << place
    return blob(bits.to_bytes((bits.bit_length() + 7) // 8, "little")) + b"".join(one for _, one in signatures)


def decode_signatures(data: Reader) -> Signatures:
    raw = data.blob(MAX_VALIDATORS // 8)
    if raw and not raw[-1]:
        raise Malformed("a bitmap has more bytes than it needs")
    bits = int.from_bytes(raw, "little")
    return tuple((place, data.take(SIGNATURE_BYTES)) for place in range(bits.bit_length()) if bits >> place & 1)


def by_quorum(validators: ValidatorSet, message: bytes, signatures: Signatures) -> list[Signed]:
    """What has to be checked for a quorum to have signed. Raises Malformed if that would not be one."""
    if signatures and signatures[-1][0] >= len(validators):
        raise Malformed("a certificate names a validator that there is not")
    if validators.power_of(place for place, _ in signatures) < validators.quorum_power:
        raise Malformed("a certificate is not signed by a quorum")
    return [(validators.key(place), message, signature) for place, signature in signatures]


def vote_message(epoch: int, round: int, block: BlockRef) -> bytes:
    return digest("vote", u64(epoch), u64(round), ref(block))


def timeout_message(epoch: int, round: int, known: int) -> bytes:
    return digest("timeout", u64(epoch), u64(round), u64(known))


@frozen
class QuorumCertificate:
    """A quorum voted for a block in a round. Round 0 is the block that the epoch starts from, which nobody signs again."""

    epoch: int
    round: int
    block: BlockRef
    signatures: Signatures = ()

    def encode(self) -> bytes:
        return u64(self.epoch) + u64(self.round) + ref(self.block) + encode_signatures(self.signatures)

    @classmethod
    def decode(cls, data: Reader) -> QuorumCertificate:
        return cls(data.u64(), data.u64(), data.ref(), decode_signatures(data))

    def signed(self, validators: ValidatorSet) -> list[Signed]:
        """Raises Malformed."""
        if self.round == 0 and not self.signatures:
            return []
        return by_quorum(validators, vote_message(self.epoch, self.round, self.block), self.signatures)


@frozen
class TimeoutCertificate:
    """A quorum gave up on a round. ``votes``: place, round of the highest certificate that it knew, signature."""

    epoch: int
    round: int
    votes: tuple[tuple[int, int, bytes], ...]

    @property
    def highest(self) -> int:
        return max((known for _, known, _ in self.votes), default=0)

    def encode(self) -> bytes:
        votes = vector(self.votes, lambda vote: u32(vote[0]) + u64(vote[1]) + vote[2])
        return u64(self.epoch) + u64(self.round) + votes

    @classmethod
    def decode(cls, data: Reader) -> TimeoutCertificate:
        epoch, round = data.u64(), data.u64()
        return cls(epoch, round, data.vector(lambda: (data.u32(), data.u64(), data.take(SIGNATURE_BYTES)), MAX_VALIDATORS))

    def signed(self, validators: ValidatorSet) -> list[Signed]:
        """Raises Malformed."""
        places = [place for place, _, _ in self.votes]
        if any(place >= len(validators) for place in places) or len(set(places)) < len(places):
            raise Malformed("a timeout certificate names a validator that there is not, or one twice")
        if validators.power_of(places) < validators.quorum_power:
            raise Malformed("a timeout certificate is not signed by a quorum")
        return [
            (validators.key(place), timeout_message(self.epoch, self.round, known), signature)
            for place, known, signature in self.votes
        ]


@frozen
class BatchInfo:
    """What is signed of a batch: ``expiration`` in microseconds; ``author`` and everything else is in the digest too."""

    author: int
    number: int
    epoch: int
    expiration: int
    digest: bytes
    count: int
    size: int

    def encode(self) -> bytes:
        numbers = u32(self.author) + u64(self.number) + u64(self.epoch) + u64(self.expiration)
        return numbers + self.digest + u32(self.count) + u32(self.size)

    @classmethod
    def decode(cls, data: Reader) -> BatchInfo:
        found = cls(data.u32(), data.u64(), data.u64(), data.u64(), data.hash(), data.u32(), data.u32())
        if not 0 < found.count <= MAX_BATCH_COUNT or not 0 < found.size <= MAX_BATCH_BYTES:
            raise Malformed("a batch of no possible size")
        return found

    @property
    def message(self) -> bytes:
        return digest("stored", self.encode())


@frozen
class Proof:
    """Proof of store: a quorum holds this batch."""

    info: BatchInfo
    signatures: Signatures

    def encode(self) -> bytes:
        return self.info.encode() + encode_signatures(self.signatures)

    @classmethod
    def decode(cls, data: Reader) -> Proof:
        return cls(BatchInfo.decode(data), decode_signatures(data))

    def signed(self, validators: ValidatorSet) -> list[Signed]:
        """Raises Malformed."""
        if self.info.author >= len(validators):
            raise Malformed("a batch of a validator that there is not")
        return by_quorum(validators, self.info.message, self.signatures)


@frozen
class Block:
    """``certificate`` is for its parent, ``timeout`` says why rounds were skipped, if they were. ``time``: microseconds."""

    ref: BlockRef
    epoch: int
    round: int
    author: int
    time: int
    certificate: QuorumCertificate
    timeout: TimeoutCertificate | None
    proofs: tuple[Proof, ...]
    signature: bytes
    raw: bytes = field(repr=False, eq=False)

    @property
    def id(self) -> bytes:
        return self.ref.id

    @property
    def height(self) -> int:
        return self.ref.height

    @property
    def parent(self) -> BlockRef:
        return self.certificate.block

    @property
    def transactions(self) -> int:
        return sum(proof.info.count for proof in self.proofs)

    @property
    def voters(self) -> tuple[int, ...]:
        """Who voted for its parent."""
        return tuple(place for place, _ in self.certificate.signatures)

    @staticmethod
    def body(
        epoch: int,
        round: int,
        author: int,
        time: int,
        certificate: QuorumCertificate,
        timeout: TimeoutCertificate | None,
        proofs: Iterable[Proof],
    ) -> bytes:
        """All that the id covers; ``block_id`` of it is what the author signs."""
        numbers = u64(epoch) + u64(round) + u32(author) + u64(time)
        certificates = certificate.encode() + option(timeout, TimeoutCertificate.encode)
        return numbers + certificates + vector(tuple(proofs), Proof.encode)

    @classmethod
    def decode(cls, raw: bytes) -> Block:
        """Raises Malformed."""
        if not SIGNATURE_BYTES < len(raw) <= MAX_BLOCK_BYTES:
            raise Malformed("a block of no possible size")
        body, signature = raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:]
        data = Reader(body)
        epoch, round, author, time = data.u64(), data.u64(), data.u32(), data.u64()
        certificate = QuorumCertificate.decode(data)
        timeout = data.option(lambda: TimeoutCertificate.decode(data))
        proofs = data.vector(lambda: Proof.decode(data), MAX_PROOFS)
        data.finish()
        here = BlockRef(certificate.block.height + 1, block_id(body))
        return cls(here, epoch, round, author, time, certificate, timeout, proofs, signature, raw)

    def check_shape(self, epoch: Epoch) -> None:
        """What holds of every block whoever looks at it. Raises Malformed."""
        certificate, timeout = self.certificate, self.timeout
        if self.author >= len(epoch.validators) or certificate.epoch != self.epoch:
            raise Malformed("its author or its certificate is not of its epoch")
        if certificate.round == 0 and (certificate.block != epoch.start or certificate.signatures):
            raise Malformed("its epoch does not start there")
        if timeout is not None and (timeout.epoch != self.epoch or self.round != timeout.round + 1):
            raise Malformed("its timeout certificate is not of the round before")
        if timeout is None and self.round != certificate.round + 1:
            raise Malformed("it skips rounds and does not say why")
        if timeout is not None and certificate.round < timeout.highest:
            raise Malformed("a quorum knew of a higher certificate than its own")
        if self.round <= certificate.round:
            raise Malformed("its round is not above its parent's")
        digests = {proof.info.digest for proof in self.proofs}
        if len(digests) < len(self.proofs):
            raise Malformed("it orders a batch twice")
        if any(proof.info.epoch != self.epoch or proof.info.expiration <= self.time for proof in self.proofs):
            raise Malformed("it orders a batch that has expired, or of another epoch")

    def signed(self, validators: ValidatorSet) -> list[Signed]:
        """Of the block and of all that it carries. Raises Malformed."""
        found: list[Signed] = [(validators.key(self.author), self.id, self.signature)]
        found += self.certificate.signed(validators)
        if self.timeout is not None:
            found += self.timeout.signed(validators)
        for proof in self.proofs:
            found += proof.signed(validators)
        return found


def block_id(body: bytes) -> bytes:
    return digest("block", body)


@frozen
class Vote:
    epoch: int
    round: int
    block: BlockRef
    voter: int
    signature: bytes

    def encode(self) -> bytes:
        return u64(self.epoch) + u64(self.round) + ref(self.block) + u32(self.voter) + self.signature

    @classmethod
    def decode(cls, data: Reader) -> Vote:
        return cls(data.u64(), data.u64(), data.ref(), data.u32(), data.take(SIGNATURE_BYTES))

    @property
    def message(self) -> bytes:
        return vote_message(self.epoch, self.round, self.block)


@frozen
class Timeout:
    """One validator gives up on a round. ``reason``: why it is in that round, where its certificate does not say it."""

    round: int
    certificate: QuorumCertificate
    reason: TimeoutCertificate | None
    voter: int
    signature: bytes

    @property
    def epoch(self) -> int:
        return self.certificate.epoch

    @property
    def message(self) -> bytes:
        return timeout_message(self.epoch, self.round, self.certificate.round)

    def encode(self) -> bytes:
        reason = option(self.reason, TimeoutCertificate.encode)
        return u64(self.round) + self.certificate.encode() + reason + u32(self.voter) + self.signature

    @classmethod
    def decode(cls, data: Reader) -> Timeout:
        round, certificate = data.u64(), QuorumCertificate.decode(data)
        reason = data.option(lambda: TimeoutCertificate.decode(data))
        return cls(round, certificate, reason, data.u32(), data.take(SIGNATURE_BYTES))

    def check_shape(self) -> None:
        """Raises Malformed."""
        opened = self.certificate.round if self.reason is None else self.reason.round
        if self.round != opened + 1 or (self.reason is not None and self.reason.epoch != self.epoch):
            raise Malformed("a timeout of a round that its certificates do not open")


@frozen
class LedgerInfo:
    """What a quorum agrees on after running a block: ``root`` covers the outcomes of all blocks up to this one,
    ``commitment`` is the execution's own for its state. ``next`` is set where the block ends its epoch."""

    epoch: int
    round: int
    block: BlockRef
    time: int
    root: bytes
    commitment: bytes
    next: ValidatorSet | None = None

    def encode(self) -> bytes:
        numbers = u64(self.epoch) + u64(self.round) + ref(self.block) + u64(self.time)
        return numbers + self.root + blob(self.commitment) + option(self.next, ValidatorSet.encode)

    @classmethod
    def decode(cls, data: Reader) -> LedgerInfo:
        epoch, round, block, time = data.u64(), data.u64(), data.ref(), data.u64()
        root, commitment = data.hash(), data.blob(MAX_COMMITMENT_BYTES)
        return cls(epoch, round, block, time, root, commitment, data.option(lambda: ValidatorSet.decode(data)))

    @property
    def message(self) -> bytes:
        return digest("ledger", self.encode())


@frozen
class LedgerVote:
    info: LedgerInfo
    voter: int
    signature: bytes

    def encode(self) -> bytes:
        return self.info.encode() + u32(self.voter) + self.signature

    @classmethod
    def decode(cls, data: Reader) -> LedgerVote:
        return cls(LedgerInfo.decode(data), data.u32(), data.take(SIGNATURE_BYTES))


@frozen
class LedgerCertificate:
    """A quorum ran the block and came to the same: it is committed, with all below it."""

    info: LedgerInfo
    signatures: Signatures

    def encode(self) -> bytes:
        return self.info.encode() + encode_signatures(self.signatures)

    @classmethod
    def decode(cls, data: Reader) -> LedgerCertificate:
        return cls(LedgerInfo.decode(data), decode_signatures(data))

    def signed(self, validators: ValidatorSet) -> list[Signed]:
        """Raises Malformed."""
        return by_quorum(validators, self.info.message, self.signatures)


def gathered(signatures: Mapping[int, bytes]) -> Signatures:
    return tuple(sorted(signatures.items()))
