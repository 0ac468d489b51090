"""Quorum Store: transactions leave the pool in batches, which a quorum stores and signs before any block orders them.

Channels: ``jolteon.batch`` (``B`` batch, from its author; ``S`` digest ‖ place u32 ‖ signature, to its author; ``Q`` proof
of store, from its author); bodies of kind ``jolteon.batch`` by digest.

Invariants
- A batch is signed once it is durable here, is what its digest says, and holds nothing that can never be valid.
- A transaction leaves the pool for one open batch at a time; it is given back when that batch can be ordered no more
  (expired, or of an ended epoch), so that the pool settles it or it is batched again.
- What a quorum signed is fetched from its signers in turn until it is here; one that signed and does not have it is named.
- Bounded: of each author ``MAX_AUTHOR_BYTES`` that no block ordered yet, decoded bodies CACHE_BYTES.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from nodewright.errors import BodyTooLarge, NotHere, StoreError, TransportError
from nodewright.interfaces.common import BlockRef, Bundle, BundleRef
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import BundleInvalid, Execution, Limits
from nodewright.interfaces.pool import TransactionPool
from nodewright.interfaces.service import EventLog
from nodewright.interfaces.transport import Message, Transport
from nodewright.storage.rows import sound
from nodewright_jolteon.batches import Batch, Open, Proofs, Rate
from nodewright_jolteon.codec import Malformed, u32, whole
from nodewright_jolteon.config import JolteonConfig
from nodewright_jolteon.formats import MAX_BATCH_BYTES, BatchInfo, Block, Proof
from nodewright_jolteon.genesis import MICROSECONDS, Parameters
from nodewright_jolteon.identities import Identities
from nodewright_jolteon.keys import Signer
from nodewright_jolteon.sending import Sender
from nodewright_jolteon.signatures import Signatures
from nodewright_jolteon.store import ChainStore
from nodewright_jolteon.validators import Epoch

KIND = "jolteon.batch"
MAX_AUTHOR_BYTES = 256 * 1024 * 1024
CACHE_BYTES = 64 * 1024 * 1024
TAKEN_AT_ONCE = 4096
SAVED_AT_ONCE = 64
ROOM_IN_A_BATCH = 256  # bytes of a batch beside its transactions, and then some
CLOCK_SECONDS = 30  # that the clocks of two validators may differ by
RESEND_SECONDS = 1.0
RETRY_SECONDS = 0.2
MAX_RETRY_SECONDS = 2.0
RESENT_AT_ONCE = 64
MALFORMED_POINTS = 20
WITHHELD_POINTS = 5
Known = tuple[bytes, tuple[bytes, ...], int]  # ids in a row, bodies, bytes of the batch


class QuorumStore:
    """``place``: this validator's in the epoch, None for a node that signs nothing."""

    def __init__(
        self,
        config: JolteonConfig,
        parameters: Parameters,
        store: ChainStore,
        execution: Execution,
        pool: TransactionPool,
        events: EventLog,
        environment: Environment,
        signatures: Signatures,
        transport: Transport | None,
        identities: Identities,
        signer: Signer | None,
        sender: Sender,
    ) -> None:
        self._sender = sender
        self._config = config
        self._parameters = parameters
        self._store = store
        self._execution = execution
        self._pool = pool
        self._events = events
        self._environment = environment
        self._signatures = signatures
        self._transport = transport
        self._identities = identities
        self._signer = signer
        self.epoch: Epoch
        self.place: int | None = None
        self.time = 0  # of the last committed block, microseconds
        self.proofs = Proofs()
        self.changed: Callable[[], None] = lambda: None
        self.settling: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self._open: dict[bytes, Open] = {}
        self._number = 0
        self._rate = Rate(config.min_rate, config.max_rate, config.backlog, 2000)
        self._of_author: dict[int, int] = {}
        self._sizes: dict[bytes, tuple[int, int, int]] = {}  # digest: author, bytes, expiration; not ordered yet
        self._cache: OrderedDict[bytes, Known] = OrderedDict()
        self._cached = 0
        self._taking: set[bytes] = set()  # batches of others that are being checked and written
        self._saving: list[tuple[Batch, trio.Event]] = []
        self._save_wanted = trio.Event()
        self._began = trio.Event()
        self._channel = None
        if transport is not None:
            self._channel = transport.channel("jolteon.batch", 1024, "oldest", MAX_BATCH_BYTES + 8192)
            transport.provide(KIND, self)

    # --- epochs and blocks ---

    async def begin(self, epoch: Epoch, place: int | None) -> None:
        """Of another epoch: what was open is given back."""
        self.epoch, self.place = epoch, place
        self.proofs = Proofs()
        self._of_author, self._sizes = {}, {}
        gone, self._open = list(self._open.values()), {}
        self._give_back(gone)
        self._began.set()
        self._began = trio.Event()
        self.changed()

    def _give_back(self, gone: Iterable[Open]) -> None:
        for one in gone:
            self._pool.give_back(one.ids)

    def committed(self, block: Block) -> None:
        self.time = block.time
        infos = [proof.info for proof in block.proofs]
        expired = self.proofs.committed(infos, block.time)
        for info in (*infos, *expired):
            self._open.pop(info.digest, None) if info in infos else None
            self._forget_size(info.digest)
        late = [one for one in self._open.values() if one.batch.info.expiration <= block.time]
        self._expire(late)

    def _expire(self, late: Sequence[Open]) -> None:
        for one in late:
            self._open.pop(one.batch.info.digest, None)
            self._forget_size(one.batch.info.digest)
        self._give_back(late)

    def _forget_size(self, digest: bytes) -> None:
        known = self._sizes.pop(digest, None)
        if known is not None:
            self._of_author[known[0]] -= known[1]

    # --- reading ---

    async def size(self, id: bytes) -> int | None:
        raw = await self._store.batch(id)
        return None if raw is None else len(raw)

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        raw = await self._store.batch(id)
        return b"" if raw is None else raw[offset : offset + length]

    async def bundles(self, block: Block) -> list[Bundle]:
        """The batches that it orders, fetched where they are not here."""
        found: list[Bundle | None] = [None] * len(block.proofs)

        async def one(index: int, proof: Proof) -> None:
            found[index] = await self._bundle(proof)

        missing = [index for index, proof in enumerate(block.proofs) if proof.info.digest not in self._cache]
        async with trio.open_nursery() as nursery:
            for index in missing:
                nursery.start_soon(one, index, block.proofs[index])
        for index, proof in enumerate(block.proofs):
            if found[index] is None:
                await one(index, proof)
        return [bundle for bundle in found if bundle is not None]

    async def _bundle(self, proof: Proof) -> Bundle:
        here = await self.stored(proof.info.digest)
        return here if here is not None else await self._keep(await self._fetch(proof))

    async def stored(self, digest: bytes) -> Bundle | None:
        """A batch that is here, whoever made it."""
        if digest in self._cache:
            self._cache.move_to_end(digest)
            return _bundle_of(digest, self._cache[digest])
        batch = await self._here(digest)
        return None if batch is None else await self._keep(batch)

    async def _here(self, digest: bytes) -> Batch | None:
        raw = await self._store.batch(digest)
        return None if raw is None else sound("stores.chain", "a batch", Batch.decode, raw)

    async def _keep(self, batch: Batch) -> Bundle:
        """Decoded, in memory. What cannot be parsed is left out, on every node alike."""
        ids = await self._execution.identify(batch.bodies)
        bodies = batch.bodies
        if not all(ids):
            bodies = tuple(body for id, body in zip(ids, bodies, strict=True) if id is not None)
        known = b"".join(id for id in ids if id is not None), bodies, batch.info.size
        self._remember(batch.info, known)
        return _bundle_of(batch.info.digest, known)

    def _remember(self, info: BatchInfo, known: Known) -> None:
        if info.digest not in self._cache:
            self._cache[info.digest] = known
            self._cached += info.size
            while self._cached > CACHE_BYTES and len(self._cache) > 1:
                self._cached -= self._cache.popitem(last=False)[1][2]

    async def _fetch(self, proof: Proof) -> Batch:
        """Until it is here and durable: from who signed for it, round after round."""
        info, pause = proof.info, RETRY_SECONDS
        blamed: set[bytes] = set()
        while True:
            signers = [
                self.epoch.validators.key(place) for place, _ in proof.signatures if place < len(self.epoch.validators)
            ]
            peers = [peer for peer in map(self._identities.peer, signers) if peer is not None]
            self._environment.random.shuffle(peers)
            others = [peer.id for peer in self._transport.peers() if peer.id not in peers] if self._transport else []
            for peer in (*peers, *others):
                batch = await self._from(peer, info, peer in peers and peer not in blamed)
                if batch is not None:
                    await self.save(batch)
                    return batch
                blamed.add(peer)
            here = await self._here(info.digest)  # its author's message may have come meanwhile
            if here is not None:
                return here
            await self._environment.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_SECONDS)

    async def _from(self, peer: bytes, info: BatchInfo, signed: bool) -> Batch | None:
        assert self._transport is not None
        pieces: list[bytes] = []
        try:
            timeout = self._config.request_timeout_seconds
            async for piece in self._transport.fetch(peer, KIND, info.digest, info.size, timeout_seconds=timeout):
                pieces.append(piece)
            batch = Batch.decode(b"".join(pieces))
            if batch.info == info:
                return batch
            self._transport.penalise(peer, MALFORMED_POINTS, "a batch that is not the one asked for")
        except NotHere:
            if signed:
                text = f"it signed for batch {info.digest.hex()[:16]} and does not have it"
                self._environment.logger.warning("a batch is withheld", peer=peer.hex()[:16], batch=info.digest.hex()[:16])
                self._transport.penalise(peer, WITHHELD_POINTS, text)
        except (Malformed, BodyTooLarge):
            self._transport.penalise(peer, MALFORMED_POINTS, "a batch that is not the one asked for")
        except TransportError:
            pass
        return None

    # --- running ---

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._save)
            nursery.start_soon(self._tidy)
            if self._signer is not None:
                nursery.start_soon(self._make)
            if self._channel is not None:
                nursery.start_soon(self._resend)
                for _ in range(4):
                    nursery.start_soon(self._receive)

    async def save(self, batch: Batch) -> None:
        """Durable on return; many share one sync."""
        done = trio.Event()
        self._saving.append((batch, done))
        self._save_wanted.set()
        await done.wait()

    async def _save(self) -> None:
        while True:
            await self._save_wanted.wait()
            part, self._saving = self._saving[:SAVED_AT_ONCE], self._saving[SAVED_AT_ONCE:]
            if not self._saving:
                self._save_wanted = trio.Event()
            await self._store.put_batches([batch for batch, _ in part])
            for _, done in part:
                done.set()

    async def _tidy(self) -> None:
        while True:
            await self._environment.sleep(max(self._parameters.expiry_seconds / 4, 1.0))
            # Only what no node may order any more: blocks' times rise, and the last committed one is behind.
            until = self.time - CLOCK_SECONDS * MICROSECONDS
            await self._store.drop_expired(max(until, 0), self.ordered_digests())
            for digest in [digest for digest, (_, _, expiration) in self._sizes.items() if expiration <= self.time]:
                self._forget_size(digest)
            now = int(self._environment.now() * MICROSECONDS)
            limit = CLOCK_SECONDS * MICROSECONDS
            if self._signer is not None:  # without blocks nothing expires by their time
                self._expire(
                    [one for one in self._open.values() if one.proof is None and one.batch.info.expiration + limit <= now]
                )

    ordered_digests: Callable[[], Iterable[bytes]] = staticmethod(lambda: ())

    # --- making batches ---

    async def _make(self) -> None:
        environment = self._environment
        while True:
            if self.place is None:
                await self._began.wait()
                continue
            count = min(self._rate.allowed(environment.monotonic(), self.proofs.backlog), TAKEN_AT_ONCE)
            if count < 1:
                await environment.sleep(self._config.batch_seconds)
                continue
            candidates = await self._pool.take(count)
            if self.place is None:
                self._pool.give_back([candidate.id for candidate in candidates])
                continue
            limits = Limits(len(candidates), MAX_BATCH_BYTES * 4)
            selection = await self._execution.select(self.head(), candidates, limits)
            self._rate.used(len(selection.chosen))
            await self._seal_all([candidate.id for candidate in selection.chosen])
            await self._reject(dict(selection.rejected))
            await environment.sleep(self._config.batch_seconds)
            if selection.deferred:
                self._pool.give_back([candidate.id for candidate in selection.deferred])

    head: Callable[[], BlockRef]

    async def _reject(self, reasons: dict[bytes, str]) -> None:
        """What the execution let go of without a block: one that is on its way through a block is settled by it."""
        if not reasons:
            return
        await self.settling()
        statuses = await self._pool.status(list(reasons))
        left = [
            id for id, status in zip(reasons, statuses, strict=True) if status is not None and status.status == "pending"
        ]
        places = await self._store.places(left)
        lost = {id: reasons[id] for id, place in zip(left, places, strict=True) if place is None}
        if lost:
            await self._pool.settle(rejected=lost)

    async def _seal_all(self, ids: Sequence[bytes]) -> None:
        most, room = self._parameters.max_batch_transactions, self._parameters.max_batch_bytes - ROOM_IN_A_BATCH
        lots: list[tuple[list[bytes], list[bytes]]] = []
        size = room + 1
        too_large: dict[bytes, str] = {}
        for id, body in zip(ids, self._pool.bodies(ids), strict=True):
            if body is None:
                continue
            if len(body) > MAX_BATCH_BYTES - ROOM_IN_A_BATCH:
                too_large[id] = f"too-large: a batch takes no transaction of {len(body)} bytes"
                continue
            if size + len(body) + 5 > room or len(lots[-1][0]) == most:
                lots.append(([], []))
                size = 0
            lots[-1][0].append(id)
            lots[-1][1].append(body)
            size += len(body) + 5
        if too_large:
            await self._pool.settle(rejected=too_large)
        if lots:
            await self.seal(lots)

    async def seal(self, lots: Sequence[tuple[Sequence[bytes], Sequence[bytes]]]) -> list[Batch]:
        """Make a batch of each lot (ids, bodies), durable here, and ask everybody to sign it."""
        epoch, place, signer = self.epoch, self.place, self._signer
        assert place is not None and signer is not None
        now = int(self._environment.now() * MICROSECONDS)
        batches: list[Batch] = []
        for ids, bodies in lots:
            self._number = max(self._number + 1, now)
            expiration = now + self._parameters.expiry_seconds * MICROSECONDS
            batch = Batch.make(place, self._number, epoch.number, expiration, bodies)
            self._open[batch.info.digest] = Open(batch, tuple(ids), self._environment.monotonic())
            self._remember(batch.info, (b"".join(ids), tuple(bodies), batch.info.size))
            batches.append(batch)
        async with trio.open_nursery() as nursery:
            for batch in batches:
                nursery.start_soon(self.save, batch)
        for batch in batches:
            info = batch.info
            self._events.publish("bundle_sealed", {"bundle": info.digest.hex(), "count": info.count, "bytes": info.size})
            if self._channel is not None:
                self._sender.tell_all(self._channel, b"B" + batch.raw)
            if epoch is self.epoch:
                await self._signed(info.digest, place, signer.sign(info.message))
        return batches

    async def _signed(self, digest: bytes, place: int, signature: bytes) -> None:
        one = self._open.get(digest)
        proof = one.sign(place, signature, self.epoch.validators) if one is not None else None
        if proof is None:
            return
        self._events.publish("bundle_accepted", {"bundle": digest.hex()})
        if self._channel is not None:
            self._sender.tell_all(self._channel, b"Q" + proof.encode())
        if self.proofs.add(proof, self.time):
            self.changed()

    async def _resend(self) -> None:
        """Messages get lost: a batch is sent again until it is proved, its proof until it is ordered."""
        assert self._channel is not None
        while True:
            await self._environment.sleep(RESEND_SECONDS)
            before = self._environment.monotonic() - RESEND_SECONDS
            for one in [one for one in self._open.values() if one.made <= before][:RESENT_AT_ONCE]:
                if one.proof is not None:
                    self._sender.tell_all(self._channel, b"Q" + one.proof.encode())
                else:
                    self._sender.tell_all(self._channel, b"B" + one.batch.raw)

    # --- hearing of batches ---

    async def _receive(self) -> None:
        assert self._channel is not None and self._transport is not None
        while True:
            message = await self._channel.receive()
            try:
                await self._on_message(message)
            except Malformed as error:
                self._transport.penalise(message.peer, MALFORMED_POINTS, f"batches: {error}")

    async def _on_message(self, message: Message) -> None:
        kind, body = message.payload[:1], message.payload[1:]
        if kind == b"B":
            await self._on_batch(message.peer, body)
        elif kind == b"S":
            await self._on_signature(*whole(body, lambda data: (data.hash(), data.u32(), data.take(64))))
        elif kind == b"Q":
            await self._on_proof(whole(body, Proof.decode))
        else:
            raise Malformed("a message of no known kind")

    async def _on_batch(self, peer: bytes, raw: bytes) -> None:
        batch = Batch.decode(raw)
        info, validators = batch.info, self.epoch.validators
        if info.epoch != self.epoch.number or info.author >= len(validators):
            return  # one of the two is not up to date
        if self._identities.peer(validators.key(info.author)) != peer:
            return  # not its author's node, or not known to be: it is sent again
        now, most = int(self._environment.now() * MICROSECONDS), self._parameters
        latest = now + (most.expiry_seconds + CLOCK_SECONDS) * MICROSECONDS
        if not max(now, self.time) < info.expiration <= latest:
            return
        if info.count > most.max_batch_transactions or (info.size > most.max_batch_bytes and info.count > 1):
            raise Malformed("a batch of more than the network allows")
        if info.digest in self._taking:
            return  # it came again meanwhile: it is signed once it is durable
        if info.digest not in self._sizes and not self.proofs.was_ordered(info.digest):
            if self._of_author.get(info.author, 0) + info.size > MAX_AUTHOR_BYTES:
                return
            self._taking.add(info.digest)
            try:
                await self._take(batch)
            finally:
                self._taking.discard(info.digest)
        if self.place is not None and self._signer is not None and info.epoch == self.epoch.number:
            assert self._channel is not None
            signature = u32(self.place) + self._signer.sign(info.message)
            self._sender.tell(self._channel, peer, b"S" + info.digest + signature)

    async def _take(self, batch: Batch) -> None:
        """Another's batch: checked, and durable on return. Raises Malformed."""
        info = batch.info
        ids = await self._execution.identify(batch.bodies)
        if not all(ids):
            raise Malformed("a batch of what are no transactions")
        known = b"".join(id for id in ids if id is not None), batch.bodies, info.size
        verdict = await self._execution.validate_bundle(_bundle_of(info.digest, known), self.head())
        if isinstance(verdict, BundleInvalid):
            raise Malformed(f"transaction {verdict.index} of a batch: {verdict.message}")
        # Bodies are here, so what an incomplete one misses are parents, which may be ordered later.
        self._remember(info, known)
        self._sizes[info.digest] = info.author, info.size, info.expiration
        self._of_author[info.author] = self._of_author.get(info.author, 0) + info.size
        try:
            await self.save(batch)
        except StoreError:
            self._forget_size(info.digest)
            raise

    async def _on_signature(self, digest: bytes, place: int, signature: bytes) -> None:
        one, epoch = self._open.get(digest), self.epoch
        if one is None or one.proof is not None or place in one.signatures or place >= len(epoch.validators):
            return
        if not await self._signatures.good([(epoch.validators.key(place), one.batch.info.message, signature)]):
            raise Malformed("a batch's signature is wrong")
        if epoch is self.epoch:
            await self._signed(digest, place, signature)

    async def _on_proof(self, proof: Proof) -> None:
        epoch, info = self.epoch, proof.info
        if info.epoch != epoch.number or info.digest in self.proofs.waiting or self.proofs.was_ordered(info.digest):
            return
        if not await self._signatures.good(proof.signed(epoch.validators)):
            raise Malformed("a proof of store is not signed by a quorum")
        if epoch is self.epoch and self.proofs.add(proof, self.time):
            self.changed()


def _bundle_of(digest: bytes, known: Known) -> Bundle:
    ids, bodies, size = known
    return Bundle(BundleRef(digest, len(bodies), size), ids, bodies)
