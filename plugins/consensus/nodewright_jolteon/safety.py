"""What this validator has signed: a local file, synced before anything is sent, outside snapshot, copy and restore.

Invariants: what it says only rises. A vote, a timeout, a proposal or a vote on the ledger leaves only after the file says
so; for a height of the ledger one outcome is signed, ever. Where the chain store holds blocks and there is no file (a copy,
a restore), nothing is signed until the operator says that no other node signs with this key (control ``allow_voting``). A
chain that is of an earlier epoch than the file follows until it is there.
"""

from __future__ import annotations

import trio
from attrs import define, field

from nodewright.interfaces.environment import Environment
from nodewright.storage.synced import SignedFile
from nodewright_jolteon import rules as order
from nodewright_jolteon.codec import Malformed, Reader, digest, option, ref, u64, vector
from nodewright_jolteon.formats import LedgerInfo, QuorumCertificate, TimeoutCertificate
from nodewright_jolteon.validators import Epoch

FILE = "safety"
KEPT_HEIGHTS = 256
SUM_BYTES = 32


@define
class SafetyFile:
    environment: Environment
    rules: order.Safety | None = None
    height: int = 0  # highest of the ledger that was signed
    outcomes: dict[int, bytes] = field(factory=dict)  # of the last heights signed: the message
    file: SignedFile = field(init=False, repr=False, eq=False)
    _turn: trio.Lock = field(factory=trio.Lock, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        self.file = SignedFile(self.environment, self.environment.data_dir / FILE, self._encode)

    @property
    def may_sign(self) -> bool:
        return self.file.may_sign

    @classmethod
    async def open(cls, environment: Environment, chain_is_empty: bool) -> SafetyFile:
        """Raises StoreCorrupt, StoreError."""
        safety = cls(environment)
        await safety.file.load(safety._decode, chain_is_empty)
        return safety

    def _encode(self) -> bytes:
        outcomes = vector(list(self.outcomes.items()), lambda item: u64(item[0]) + item[1])
        body = option(self.rules, _encode) + u64(self.height) + outcomes
        return body + digest("safety", body)

    def _decode(self, raw: bytes) -> None:
        body, check = raw[:-SUM_BYTES], raw[-SUM_BYTES:]
        if digest("safety", body) != check:
            raise Malformed("its sum is wrong")
        data = Reader(body)
        self.rules = data.option(lambda: _read(data))
        self.height = data.u64()
        self.outcomes = dict(data.vector(lambda: (data.u64(), data.hash()), KEPT_HEIGHTS))
        data.finish()

    def of(self, epoch: Epoch) -> tuple[order.Safety, bool]:
        """What was signed in this epoch, and whether anything may be."""
        said = self.rules
        if said is None or said.epoch < epoch.number:
            return order.Safety.of(epoch), self.may_sign
        if said.epoch > epoch.number:
            return order.Safety.of(epoch), False
        return said, self.may_sign

    async def persist(self, said: order.Safety) -> None:
        self.rules = said
        await self.file.save()

    async def sign_outcome(self, info: LedgerInfo) -> bool:
        """Whether this outcome may be signed; then no other of its height ever may."""
        height, message = info.block.height, info.message
        async with self._turn:  # asked twice, the second answer waits for the first one's sync
            known = self.outcomes.get(height)
            if not self.may_sign or (known is None and height <= self.height) or known not in (None, message):
                return False
            if known is None:
                self.height = height
                self.outcomes[height] = message
                while len(self.outcomes) > KEPT_HEIGHTS:
                    self.outcomes.pop(next(iter(self.outcomes)))
                await self.file.save()
            return True


def _encode(said: order.Safety) -> bytes:
    numbers = u64(said.voted) + u64(said.one_chain) + u64(said.proposed)
    return said.certificate.encode() + option(said.timeout, TimeoutCertificate.encode) + numbers + option(said.vote, ref)


def _read(data: Reader) -> order.Safety:
    certificate = QuorumCertificate.decode(data)
    timeout = data.option(lambda: TimeoutCertificate.decode(data))
    voted, one_chain, proposed = data.u64(), data.u64(), data.u64()
    return order.Safety(certificate, timeout, voted, one_chain, proposed, data.option(data.ref))
