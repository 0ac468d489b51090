"""What peers have that this node lacks: blocks that may still be ordered, and pages of committed ones with their proof.

Channel ``jolteon.request``:
  ``S`` → epoch u64 ‖ height u64 and id of the head ‖ for a validator its key and its signature over the node's key;
  ``T`` ‖ height u64 → option of timeout certificate ‖ highest certificate ‖ the blocks above that height, lower ones first;
  ``B`` ‖ height u64 → the blocks above that height, each with its certificate of the ledger where there is one, to one that
  has one; or nothing.

Invariants
- Each peer is followed by a task of its own: what one withholds or delays costs the others nothing.
- A page counts as a whole: its blocks are a chain from the committed head, the last one and any other that comes with a
  certificate is signed by a quorum of this node's epoch. (An execution with a single head needs one for each block.) The
  next page is asked for when that one is committed: nothing is fetched twice after a crash.
- Answers are bounded in bytes; a peer has ``MAX_ASKED`` questions answered at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise

import trio
from attrs import define, field

from nodewright.errors import PeerGone, RequestTimeout
from nodewright.interfaces.transport import Message, PeerUp, Transport
from nodewright_jolteon.chain import Chain
from nodewright_jolteon.codec import Malformed, Reader, blob, option, u64, vector
from nodewright_jolteon.config import JolteonConfig
from nodewright_jolteon.formats import MAX_BLOCK_BYTES, Block, LedgerCertificate, QuorumCertificate, TimeoutCertificate
from nodewright_jolteon.identities import Identities
from nodewright_jolteon.keys import Signer, identity
from nodewright_jolteon.orderer import Orderer
from nodewright_jolteon.signatures import Signatures

PAGE = 64
MAX_PAGE = 256
PAGE_BYTES = 3 * 1024 * 1024
MAX_REPLY_BYTES = 2 * MAX_BLOCK_BYTES + 65536
MAX_ASKED = 4
MALFORMED_POINTS = 20
STATUS_SECONDS = 5.0
PAUSE_SECONDS = 0.3
STUCK_SECONDS = 30.0
FAR = 8  # blocks behind a peer, from which pages are asked for at once

Take = Callable[[Block, bytes], Awaitable[None]]


@define(eq=False)
class Peer:
    id: bytes
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    wake: trio.Event = field(factory=trio.Event)
    height: int = 0
    epoch: int = 0
    lacks: bool = True  # blocks above the committed ones are to be asked for
    asked: int = 0


class Sync:
    def __init__(
        self,
        config: JolteonConfig,
        chain: Chain,
        orderer: Orderer,
        transport: Transport,
        signatures: Signatures,
        identities: Identities,
        signer: Signer | None,
        take: Take,
    ) -> None:
        self._chain = chain
        self._orderer = orderer
        self._transport = transport
        self._signatures = signatures
        self._identities = identities
        self._take = take
        self._timeout = config.request_timeout_seconds
        self._channel = transport.channel("jolteon.request", 64, "block", MAX_REPLY_BYTES)
        self._peers: dict[bytes, Peer] = {}
        self._paging = trio.Lock()
        self._shown = b""
        if signer is not None:
            shown = signer.sign(identity(chain.genesis.block.id, transport.node_id))
            self._shown = signer.public + shown

    @property
    def peers_ahead(self) -> int:
        return sum(peer.height > self._chain.head().height + 2 for peer in self._peers.values())

    @property
    def behind(self) -> bool:
        return any(peer.height > self._chain.head().height + FAR for peer in self._peers.values())

    def lacking(self, peer: bytes) -> None:
        """This peer has blocks that are missing here."""
        known = self._peers.get(peer)
        if known is not None:
            known.lacks = True
            known.wake.set()

    # --- asking ---

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer)
            async for event in self._transport.events():
                old = self._peers.pop(event.peer.id, None)
                if old is not None:
                    old.scope.cancel()
                self._identities.gone(event.peer.id)
                if isinstance(event, PeerUp):
                    peer = self._peers[event.peer.id] = Peer(event.peer.id)
                    nursery.start_soon(self._follow, peer)

    async def _follow(self, peer: Peer) -> None:
        chain = self._chain
        with peer.scope:
            height = -1
            while True:
                peer.wake = trio.Event()
                try:
                    if await self._status(peer):
                        stuck = peer.height > chain.head().height == height
                        while self._is_far(peer) or stuck:
                            stuck = False
                            if not await self._page(peer) or not await self._status(peer):
                                break
                        height = chain.head().height
                        if peer.lacks:
                            peer.lacks = False
                            await self._tree(peer)
                except Malformed as error:
                    self._transport.penalise(peer.id, MALFORMED_POINTS, f"an answer: {error}")
                await chain.environment.sleep(PAUSE_SECONDS)
                with trio.move_on_after(STATUS_SECONDS):
                    await peer.wake.wait()

    def _is_far(self, peer: Peer) -> bool:
        chain = self._chain
        ahead = peer.height - chain.head().height
        return ahead > FAR or (ahead > 0 and peer.epoch > chain.epoch.number)

    async def _ask(self, peer: Peer, payload: bytes) -> bytes | None:
        try:
            return await self._channel.request(peer.id, payload, self._timeout)
        except (PeerGone, RequestTimeout):
            return None

    async def _status(self, peer: Peer) -> bool:
        reply = await self._ask(peer, b"S")
        if reply is None:
            return False
        data = Reader(reply)
        peer.epoch, peer.height = data.u64(), data.u64()
        data.hash()
        shown = data.rest()
        if shown and self._identities.key(peer.id) != shown[:32]:
            message = identity(self._chain.genesis.block.id, peer.id)
            if len(shown) != 96 or not await self._signatures.good([(shown[:32], message, shown[32:])]):
                raise Malformed("it does not hold the validator's key that it shows")
            if self._peers.get(peer.id) is peer:
                self._identities.shown(peer.id, shown[:32])
        return True

    async def _tree(self, peer: Peer) -> None:
        rules = self._orderer.rules
        reply = await self._ask(peer, b"T" + u64(rules.root.height))
        if reply is None:
            return
        data = Reader(reply)
        epoch = data.u64()
        timeout = data.option(lambda: TimeoutCertificate.decode(data))
        high = QuorumCertificate.decode(data)
        blocks = [Block.decode(raw) for raw in data.vector(lambda: data.blob(MAX_BLOCK_BYTES), MAX_PAGE)]
        data.finish()
        for block in blocks:
            await self._take(block, peer.id)
        if epoch != self._orderer.rules.epoch.number:
            return
        validators = self._orderer.rules.epoch.validators
        signed = high.signed(validators)
        if high.epoch != epoch or (high.round == 0 and high.block != self._orderer.rules.epoch.start):
            raise Malformed("a certificate of another epoch")
        if timeout is not None:
            if timeout.epoch != epoch:
                raise Malformed("a certificate of another epoch")
            signed += timeout.signed(validators)
        if not await self._signatures.good(signed):
            raise Malformed("a certificate that no quorum signed")
        await self._orderer.submit(partial(self._orderer.on_certificates, epoch, high, timeout))

    async def _page(self, peer: Peer) -> bool:
        """One page of committed blocks; whether it brought this node further."""
        chain = self._chain
        async with self._paging:
            head, epoch = chain.head(), chain.epoch
            if peer.height <= head.height:
                return True
            reply = await self._ask(peer, b"B" + u64(head.height))
            if not reply:
                if reply is not None:
                    peer.height = min(peer.height, head.height)  # it has nothing to show for more
                return False
            data = Reader(reply)

            def one() -> tuple[Block, LedgerCertificate | None]:
                return Block.decode(data.blob(MAX_BLOCK_BYTES)), data.option(lambda: LedgerCertificate.decode(data))

            page = data.vector(one, MAX_PAGE)
            data.finish()
            certificate = page[-1][1] if page else None
            if certificate is None:
                raise Malformed("a page that nothing proves")
            blocks = [block for block, _ in page]
            certificates = [found for _, found in page if found is not None]
            if chain.epoch is not epoch or chain.head().height >= certificate.info.block.height:
                return True
            linked = all(above.parent == below.ref for below, above in pairwise(blocks))
            proved = all(found is None or found.info.block == block.ref for block, found in page)
            if blocks[0].parent != head or not linked or not proved:
                raise Malformed("a page that is no chain from where it was asked for")
            if any(found.info.epoch != epoch.number for found in certificates) or any(
                block.epoch != epoch.number for block in blocks
            ):
                raise Malformed("a page of another epoch")
            signed = [signature for found in certificates for signature in found.signed(epoch.validators)]
            if not await self._signatures.good(signed):
                raise Malformed("a page that no quorum committed")
            await self._orderer.submit(partial(self._orderer.on_ledger, blocks, certificates))
            while chain.head().height < certificate.info.block.height:
                with trio.move_on_after(STUCK_SECONDS) as scope:
                    await chain.moved()
                if scope.cancelled_caught:
                    return False
            return True

    # --- answering ---

    async def _answer(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                message = await self._channel.receive()
                peer = self._peers.get(message.peer)
                if peer is not None and peer.asked < MAX_ASKED:
                    peer.asked += 1
                    nursery.start_soon(self._one, peer, message)

    async def _one(self, peer: Peer, message: Message) -> None:
        try:
            reply = await self._reply(message.payload)
            if message.reply is not None:
                await message.reply(reply)
        except Malformed as error:
            self._transport.penalise(peer.id, MALFORMED_POINTS, f"a request: {error}")
        except PeerGone:
            pass
        finally:
            peer.asked -= 1

    async def _reply(self, payload: bytes) -> bytes:
        kind, body = payload[:1], payload[1:]
        if kind == b"S" and not body:
            head = self._chain.head()
            return u64(self._chain.epoch.number) + u64(head.height) + head.id + self._shown
        if kind in (b"T", b"B") and len(body) == 8:
            height = int.from_bytes(body, "little")
            return await (self._reply_tree(height) if kind == b"T" else self._reply_page(height))
        raise Malformed("of no known form")

    async def _reply_tree(self, height: int) -> bytes:
        rules, chain = self._orderer.rules, self._chain
        safety = rules.safety
        found: list[Block] = []
        size = 0

        def add(block: Block) -> bool:
            nonlocal size
            if block.height > height and len(found) < MAX_PAGE and size + len(block.raw) <= MAX_BLOCK_BYTES:
                found.append(block)
                size += len(block.raw)
                return True
            return block.height <= height

        committed = range(max(height + 1, chain.head().height - PAGE), chain.head().height + 1)
        for id in await chain.store.ids_at(committed) if committed else ():
            block = await chain.store.block(id) if id is not None else None
            if block is not None and block.epoch == rules.epoch.number and not add(block):
                break
        rest = [*(run.block for run in chain.ordered), *sorted(rules.blocks.values(), key=lambda one: one.height)]
        for block in rest:
            if not add(block):
                break
        timeout = option(safety.timeout, TimeoutCertificate.encode)
        blocks = vector(found, lambda one: blob(one.raw))
        return u64(rules.epoch.number) + timeout + safety.certificate.encode() + blocks

    async def _reply_page(self, height: int) -> bytes:
        chain = self._chain
        heights = range(height + 1, min(height + MAX_PAGE, chain.head().height) + 1)
        if not heights:
            return b""
        found: list[tuple[Block, LedgerCertificate | None]] = []
        best = size = 0
        certificates = await chain.store.certificates(heights)
        for id, certificate in zip(await chain.store.ids_at(heights), certificates, strict=True):
            block = await chain.store.block(id) if id is not None else None
            proof = option(certificate, LedgerCertificate.encode)
            size += len(proof) + (len(block.raw) if block is not None else 0)
            if block is None or size > (PAGE_BYTES if best else MAX_REPLY_BYTES - 65536):
                break
            found.append((block, certificate))
            if certificate is not None:
                best = len(found)
                if best >= PAGE or certificate.info.next is not None:
                    break
        if not best:
            return b""
        return vector(found[:best], lambda one: blob(one[0].raw) + option(one[1], LedgerCertificate.encode))
