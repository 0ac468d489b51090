"""One connected node, from its greeting to its end: who it is, what it says, and to whom of us that goes.

Invariants: nothing is answered before both have introduced themselves; a message that needs an answer is answered by a push
that never waits; what waits (blocks, transactions) makes this peer's reading wait, and nobody else's.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from nodewright import __version__
from nodewright.interfaces.execution import HEAD
from nodewright_bitcoin.encoding import sha256d
from nodewright_bsv_p2p import messages
from nodewright_bsv_p2p.connection import Connection, Gone
from nodewright_bsv_p2p.follow import Follower
from nodewright_bsv_p2p.framing import WireError
from nodewright_bsv_p2p.messages import BLOCK, OLDEST_VERSION, TX, GetHeaders, Item, ProtoConf, Reject, Version
from nodewright_bsv_p2p.relay import Relay
from nodewright_bsv_p2p.serve import Server
from nodewright_bsv_p2p.shared import Shared

AGENT = f"/Nodewright:{__version__}/"
MIB = 1024 * 1024
EARLY = frozenset({"version", "verack"})
MAX_TOLD_PENDING = 20_000
HEADERS_TOLD = 8
MAX_PASSED_OVER_BYTES = 4 * MIB


class Peer:
    def __init__(self, shared: Shared, number: int, address: str, inbound: bool, stream: trio.abc.Stream) -> None:
        self.number = number
        self.address = address
        self.inbound = inbound
        self.score = 0
        self.version = Version()
        self.scope = trio.CancelScope()
        self.ended = ""
        self.ready = False
        self._shared = shared
        self._wants_headers = False
        self._heard = trio.Event()
        self._connection = Connection(
            stream, shared.magic, self._limit, shared.config.send_seconds, shared.config.stall_seconds
        )
        self.follower = Follower(shared, self)
        self.relay = Relay(shared, self)
        self.server = Server(shared, self)

    @property
    def bytes_in(self) -> int:
        return self._connection.bytes_in

    def _limit(self, command: str) -> tuple[int, bool]:
        config, follower = self._shared.config, self.follower
        if command == "tx":
            return config.max_tx_mib * MIB, config.relay
        if command == "block":
            # One that comes too late is not worth the memory, one that nobody asked for not even the wait.
            late = follower.is_late
            return config.max_block_mib * MIB if late or follower.waits_for_blocks else MIB, not late
        limit = messages.LIMITS.get(command)
        return (MAX_PASSED_OVER_BYTES, False) if limit is None else (limit, True)

    def send(self, command: str, payload: bytes = b"") -> None:
        """Never waits. A peer that does not read is let go."""
        try:
            self._connection.push(command, payload)
        except Gone as error:
            self.end(str(error))

    async def send_large(self, command: str, payload: bytes) -> None:
        await self._connection.push_large(command, payload)

    def end(self, reason: str) -> None:
        self.ended = self.ended or reason
        self.scope.cancel()

    # --- life ---

    async def run(self) -> None:
        """Until it goes, is cut off, or cancelled; ``ended`` says why."""
        with self.scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    with trio.move_on_after(self._shared.config.handshake_seconds) as limit:
                        await self._introduce()
                    if limit.cancelled_caught:
                        self.end("it did not introduce itself")
                    self.ready = True
                    await self._greet()
                    nursery.start_soon(self.follower.run)
                    nursery.start_soon(self.server.run)
                    nursery.start_soon(self.relay.run)
                    nursery.start_soon(self._keep_alive)
                    await self._read()
            except* Gone as error:
                self.ended = self.ended or str(error.exceptions[0])
            except* WireError as error:
                self._wrong(error)
        self.ready = False

    def _wrong(self, error: BaseExceptionGroup[WireError]) -> None:
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        assert isinstance(first, WireError)
        self._shared.blame(self, first.points, str(first))
        self.ended = self.ended or str(first)

    async def _write(self) -> None:
        await self._connection.write()

    async def _introduce(self) -> None:
        if not self.inbound:
            self._hello()
        heard: set[str] = set()
        while heard != EARLY:
            command, payload = await self._connection.read()
            if command == "version" and command not in heard:
                self.version = Version.decode(payload)
                if self.version.nonce == self._shared.nonce:
                    raise Gone("it is this node itself")
                if self.version.version < OLDEST_VERSION:
                    raise Gone(f"its protocol {self.version.version} is older than {OLDEST_VERSION}")
                if self.inbound:
                    self._hello()
                self.send("verack")
            elif command not in EARLY or command in heard or (command == "verack" and "version" not in heard):
                raise WireError(f"{command} before it introduced itself", 20)
            heard.add(command)

    def _hello(self) -> None:
        node, environment = self._shared.node, self._shared.environment
        version = Version(
            time=int(environment.now()),
            nonce=self._shared.nonce,
            agent=AGENT,
            height=node.consensus.head().height,
            relay=self._shared.config.relay,
        )
        self.send("version", version.encode())

    async def _greet(self) -> None:
        self.send("protoconf", ProtoConf(max(messages.LIMITS["inv"], messages.LEAST_MAX_PAYLOAD)).encode())
        self.send("sendheaders")
        policy = await self._shared.node.execution.query(HEAD, "policy")
        self.send("feefilter", messages.encode_nonce(policy["fee_per_kilobyte"]))

    async def _keep_alive(self) -> None:
        """A ping where it is silent; its end where that is not answered."""
        half = self._shared.config.idle_seconds / 2
        while True:
            for _ in range(2):
                self._heard = trio.Event()
                with trio.move_on_after(half) as waited:
                    await self._heard.wait()
                if not waited.cancelled_caught:
                    break
                self.send("ping", messages.encode_nonce(self._shared.environment.random.getrandbits(64)))
            else:
                self.end(f"not a word in {self._shared.config.idle_seconds:g} s")

    # --- what it says ---

    async def _read(self) -> None:
        while True:
            command, payload = await self._connection.read()
            self._heard.set()
            try:
                await self._said(command, payload)
            except WireError as error:
                self._shared.blame(self, error.points, str(error))

    async def _said(self, command: str, payload: bytes) -> None:
        if command == "headers":
            self.follower.on_headers(messages.decode_headers(payload))
        elif command == "block":
            await self.follower.on_block(payload)
        elif command == "tx":
            await self.relay.on_transaction(payload)
        elif command == "inv":
            await self._announced(messages.decode_inventory(payload))
        elif command == "getdata":
            self.server.on_get_data(messages.decode_inventory(payload))
        elif command == "notfound":
            items = messages.decode_inventory(payload)
            await self.follower.on_missing([item.hash for item in items if item.kind == BLOCK])
        elif command == "getheaders":
            await self.server.on_get_headers(GetHeaders.decode(payload))
        elif command == "getblocks":
            await self.server.on_get_blocks(GetHeaders.decode(payload))
        elif command == "ping":
            self.send("pong", payload)
        elif command == "sendheaders":
            self._wants_headers = True
        elif command == "protoconf":
            ProtoConf.decode(payload)
        elif command == "mempool":
            self.announce([one.id for one in self._shared.node.pool.pending(MAX_TOLD_PENDING)])
        elif command == "reject":
            self._rejected(Reject.decode(payload))
        elif command in EARLY:
            raise WireError(f"{command} again", 10)

    async def _announced(self, items: Sequence[Item]) -> None:
        blocks = [item.hash for item in items if item.kind == BLOCK]
        if blocks:
            await self.follower.on_announced(blocks)
        # While this node is behind, most transactions spend what it does not know yet.
        transactions = [item.hash for item in items if item.kind == TX]
        if transactions and self._shared.config.relay and not self.follower.fetching:
            await self.relay.on_announced(transactions)

    def _rejected(self, reject: Reject) -> None:
        self._shared.environment.logger.info(
            "peer rejects", peer=self.address, what=reject.command, code=reject.code, reason=reject.reason,
            hash=reject.hash[::-1].hex(),
        )  # fmt: skip

    # --- what we say ---

    def announce(self, ids: Sequence[bytes]) -> None:
        if self.ready and self.version.relay and self._shared.config.relay:
            self.relay.announce(ids)

    def announce_tip(self, headers: Sequence[bytes]) -> None:
        """``headers`` are the last few of the best chain, the tip's at the end."""
        if not self.ready or not headers:
            return
        tip = sha256d(headers[-1])
        if tip == self.follower.known_tip:
            return
        at = next((i for i, header in enumerate(headers) if header[4:36] == self.follower.known_tip), None)
        self.follower.known_tip = tip
        if self._wants_headers and at is not None:
            self.send("headers", messages.encode_headers(headers[at:]))
        else:
            self.send("inv", messages.encode_inventory([Item(BLOCK, tip)]))
