"""What validators say to each other about order and outcome, heard, checked and handed on.

Channels: ``jolteon.block`` (blocks, from their authors); ``jolteon.vote``: ``V`` vote, to the leader of the next round;
``T`` timeout, ``L`` vote on the ledger, to all; ``C`` certificate of the ledger, to who still votes below it; ``W``: this
node is further than you. Batches: ``quorum``; what others have: ``sync``; transactions of nodes that are no validators:
``forward``.

Invariants
- A message counts only after its shape and every signature in it are checked, by the validators of its epoch; who sends one
  that is wrong is penalised, by name.
- Nothing is sent in answer to one peer more than once in ``ANSWER_SECONDS``; certificates, 50 times a second.
- What is meant for one validator whose node is not known is said to all.
"""

from __future__ import annotations

from functools import partial

import trio

from nodewright.interfaces.transport import Message, Transport
from nodewright_jolteon.chain import Chain
from nodewright_jolteon.codec import Malformed, whole
from nodewright_jolteon.config import JolteonConfig
from nodewright_jolteon.formats import (
    MAX_BLOCK_BYTES,
    Block,
    LedgerCertificate,
    LedgerVote,
    Timeout,
    Vote,
)
from nodewright_jolteon.forward import Forward
from nodewright_jolteon.identities import Identities
from nodewright_jolteon.keys import Signer
from nodewright_jolteon.orderer import Orderer
from nodewright_jolteon.sending import Sender
from nodewright_jolteon.signatures import Signatures
from nodewright_jolteon.sync import Sync

MALFORMED_POINTS = 20
MAX_VOTE_BYTES = 256 * 1024
ANSWER_SECONDS = 0.5
CERTIFICATE_SECONDS = 0.02
MAX_SEEN = 1024


class Network:
    """Implements ``orderer.Outward``."""

    def __init__(
        self,
        config: JolteonConfig,
        chain: Chain,
        orderer: Orderer,
        transport: Transport,
        signatures: Signatures,
        identities: Identities,
        signer: Signer | None,
        sender: Sender,
    ) -> None:
        self._chain = chain
        self._sender = sender
        self._orderer = orderer
        self._transport = transport
        self._signatures = signatures
        self._identities = identities
        self._blocks = transport.channel("jolteon.block", 64, "oldest", MAX_BLOCK_BYTES + 1024)
        self._votes = transport.channel("jolteon.vote", 4096, "oldest", MAX_VOTE_BYTES)
        self._answered: dict[tuple[bytes, float], float] = {}
        self.sync = Sync(config, chain, orderer, transport, signatures, identities, signer, self.take_block)
        self.forward = Forward(config, chain, orderer, transport, identities)
        orderer.outward = self
        chain.say = self._say_outcome

    # --- saying ---

    async def broadcast_block(self, block: Block) -> None:
        self._sender.tell_all(self._blocks, block.raw)
        await trio.lowlevel.checkpoint()

    async def send_vote(self, vote: Vote, to: int) -> None:
        payload = b"V" + vote.encode()
        peer = self._identities.peer(self._orderer.rules.epoch.validators.key(to))
        if peer is not None:
            self._sender.tell(self._votes, peer, payload)
        else:
            self._sender.tell_all(self._votes, payload)
        await trio.lowlevel.checkpoint()

    async def broadcast_timeout(self, timeout: Timeout) -> None:
        self._sender.tell_all(self._votes, b"T" + timeout.encode())
        await trio.lowlevel.checkpoint()

    async def _say_outcome(self, vote: bytes) -> None:
        self._sender.tell_all(self._votes, b"L" + vote)
        await trio.lowlevel.checkpoint()

    def ask(self, peer: bytes) -> None:
        self.sync.lacking(peer)

    def blame(self, peer: bytes | None, points: int, reason: str) -> None:
        if peer is not None:
            self._transport.penalise(peer, points, reason)

    def accuse(self, key: bytes, points: int, reason: str) -> None:
        self.blame(self._identities.peer(key), points, reason)

    # --- hearing ---

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sender.run)
            nursery.start_soon(self.sync.run)
            nursery.start_soon(self.forward.run)
            nursery.start_soon(self._hear_blocks)
            for _ in range(2):
                nursery.start_soon(self._hear_votes)

    async def _hear_blocks(self) -> None:
        while True:
            message = await self._blocks.receive()
            try:
                await self.take_block(Block.decode(message.payload), message.peer)
            except Malformed as error:
                self.blame(message.peer, MALFORMED_POINTS, f"a block: {error}")

    async def take_block(self, block: Block, peer: bytes) -> None:
        """One that a peer sent. Raises Malformed."""
        rules = self._orderer.rules
        epoch = rules.epoch
        if block.epoch != epoch.number:
            await self._elsewhere(peer, block.epoch)
            return
        if block.id in rules.blocks or block.height <= rules.root.height:
            return
        block.check_shape(epoch)
        if not await self._signatures.good(block.signed(epoch.validators)):
            raise Malformed("its validators did not sign it")
        await self._orderer.submit(partial(self._orderer.on_block, block, peer))

    async def _elsewhere(self, peer: bytes, epoch: int) -> None:
        """A peer is in another epoch: one of the two has something to learn from the other."""
        if epoch > self._chain.epoch.number:
            self.sync.lacking(peer)
        elif self._may_answer(peer):
            self._sender.tell(self._votes, peer, b"W")

    def _may_answer(self, peer: bytes, seconds: float = ANSWER_SECONDS) -> bool:
        """Certificates and the rest have turns of their own."""
        now, turn = self._chain.environment.monotonic(), (peer, seconds)
        if now - self._answered.get(turn, -seconds) < seconds:
            return False
        if len(self._answered) >= MAX_SEEN:
            self._answered.clear()
        self._answered[turn] = now
        return True

    async def _hear_votes(self) -> None:
        while True:
            message = await self._votes.receive()
            try:
                await self._on_vote(message)
            except Malformed as error:
                self.blame(message.peer, MALFORMED_POINTS, f"a vote: {error}")

    async def _on_vote(self, message: Message) -> None:
        kind, body = message.payload[:1], message.payload[1:]
        if kind == b"V":
            await self._take_vote(message.peer, whole(body, Vote.decode))
        elif kind == b"T":
            await self._take_timeout(message.peer, whole(body, Timeout.decode))
        elif kind == b"L":
            await self._take_outcome(message.peer, whole(body, LedgerVote.decode))
        elif kind == b"C":
            await self._take_certificate(message.peer, whole(body, LedgerCertificate.decode))
        elif message.payload == b"W":
            self.sync.lacking(message.peer)
        else:
            raise Malformed("a message of no known kind")

    def _key(self, place: int) -> bytes:
        validators = self._orderer.rules.epoch.validators
        if place >= len(validators):
            raise Malformed("of a validator that there is not")
        return validators.key(place)

    async def _take_vote(self, peer: bytes, vote: Vote) -> None:
        rules = self._orderer.rules
        if vote.epoch != rules.epoch.number:
            await self._elsewhere(peer, vote.epoch)
        elif vote.round >= rules.round:
            if not await self._signatures.good([(self._key(vote.voter), vote.message, vote.signature)]):
                raise Malformed("it is not signed")
            await self._orderer.submit(partial(self._orderer.on_vote, vote))

    async def _take_timeout(self, peer: bytes, timeout: Timeout) -> None:
        rules = self._orderer.rules
        if timeout.epoch != rules.epoch.number:
            await self._elsewhere(peer, timeout.epoch)
            return
        if timeout.round < rules.round:
            if self._may_answer(peer):
                self._sender.tell(self._votes, peer, b"W")
            return
        timeout.check_shape()
        signed = [(self._key(timeout.voter), timeout.message, timeout.signature)]
        signed += timeout.certificate.signed(rules.epoch.validators)
        if timeout.certificate.round == 0 and timeout.certificate.block != rules.epoch.start:
            raise Malformed("its epoch starts elsewhere")
        if timeout.reason is not None:
            signed += timeout.reason.signed(rules.epoch.validators)
        if not await self._signatures.good(signed):
            raise Malformed("it is not signed")
        await self._orderer.submit(partial(self._orderer.on_timeout, timeout))
        certified = timeout.certificate.block
        if certified.height > rules.root.height and certified.id not in rules.blocks:
            self.sync.lacking(peer)

    async def _take_outcome(self, peer: bytes, vote: LedgerVote) -> None:
        chain, height = self._chain, vote.info.block.height
        if vote.info.epoch != chain.epoch.number:
            await self._elsewhere(peer, vote.info.epoch)
            return
        if height <= chain.head().height:
            if self._may_answer(peer, CERTIFICATE_SECONDS):
                (certificate,) = await chain.store.certificates([height])
                answer = b"C" + certificate.encode() if certificate is not None else b"W"
                self._sender.tell(self._votes, peer, answer)
            return
        if vote.voter >= len(chain.epoch.validators):
            raise Malformed("of a validator that there is not")
        key = chain.epoch.validators.key(vote.voter)
        if not await self._signatures.good([(key, vote.info.message, vote.signature)]):
            raise Malformed("it is not signed")
        if vote.info.epoch == chain.epoch.number and not chain.voted(vote):
            name = key.hex()[:16]
            chain.environment.logger.warning("a validator signs two outcomes of a block", validator=name, height=height)

    async def _take_certificate(self, peer: bytes, certificate: LedgerCertificate) -> None:
        chain = self._chain
        if certificate.info.epoch != chain.epoch.number or certificate.info.block.height <= chain.head().height:
            return
        if not await self._signatures.good(certificate.signed(chain.epoch.validators)):
            raise Malformed("a certificate of the ledger that no quorum signed")
        if certificate.info.epoch == chain.epoch.number:
            chain.certified(certificate)
            if certificate.info.block.height > chain.head().height + chain.lag:
                self.sync.lacking(peer)
