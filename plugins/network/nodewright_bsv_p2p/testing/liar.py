"""A peer on the wire that shows a heavy chain and has no true body for it. Blocking sockets in a thread, for tests.

``withhold`` answers nothing when it is asked for blocks; ``garbage`` sends bytes that are no transactions; ``other`` sends
the transactions of another block; ``drip`` begins a block and sends a byte now and then; ``silent`` never says
a word.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

from nodewright_bitcoin.block import BlockHeader, has_proof_of_work
from nodewright_bitcoin.encoding import sha256d
from nodewright_bitcoin.network import REGTEST
from nodewright_bsv_p2p import framing, messages
from nodewright_bsv_p2p.framing import MAGIC
from nodewright_bsv_p2p.messages import BLOCK, GetHeaders, Version

NETWORK = MAGIC["regtest"]
SPACING_SECONDS = 1


def made_up_headers(genesis: bytes, count: int) -> list[bytes]:
    """With proof of work (on the private test network that is cheap), over nothing."""
    headers: list[bytes] = []
    parent = BlockHeader.parse(genesis)
    for height in range(1, count + 1):
        root = sha256d(b"made up %d" % height)
        nonce = 0
        while True:
            header = BlockHeader(0x20000000, parent.hash, root, parent.time + SPACING_SECONDS, parent.bits, nonce)
            if has_proof_of_work(header, REGTEST.pow_limit_bits):
                break
            nonce += 1
        headers.append(header.serialize())
        parent = header
    return headers


class Liar:
    """A context manager. ``cut_off``: whoever dialled hung up after it was lied to, and comes no more."""

    def __init__(self, genesis: bytes, count: int, lie: str) -> None:
        self.headers = made_up_headers(genesis, count)
        self.lie = lie
        self.lied = 0
        self._hung_up_at = 0.0
        self._ended = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._open: list[socket.socket] = []

    @property
    def cut_off(self) -> bool:
        return bool(self.lied) and bool(self._hung_up_at) and not self._open

    def __enter__(self) -> Liar:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        for one in [self._listener, *self._open]:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while not self._ended:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(peer)
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            while True:
                command, payload = _read(lambda count: _exactly(peer, count))
                if self.lie != "silent":
                    self._answer(peer, command, payload)
        except OSError:
            pass
        finally:
            self._hung_up_at = time.monotonic()
            if peer in self._open:
                self._open.remove(peer)
            peer.close()

    def _answer(self, peer: socket.socket, command: str, payload: bytes) -> None:
        def send(command: str, payload: bytes = b"") -> None:
            peer.sendall(framing.encode(NETWORK, command, payload))

        if command == "version":
            send("version", Version(agent="/liar:1/", nonce=7, height=len(self.headers)).encode())
            send("verack")
        elif command == "ping":
            send("pong", payload)
        elif command == "getheaders":
            GetHeaders.decode(payload)
            send("headers", messages.encode_headers(self.headers[: messages.MAX_HEADERS]))
        elif command == "getdata":
            for item in messages.decode_inventory(payload):
                if item.kind == BLOCK:
                    self._lie(peer, item.hash, send)

    def _lie(self, peer: socket.socket, id: bytes, send: Callable[[str, bytes], None]) -> None:
        self.lied += 1
        header = next(header for header in self.headers if sha256d(header) == id)
        coinbase = bytes.fromhex("01000000") + b"\x01" + bytes(32) + b"\xff" * 4 + b"\x02\x51\x51" + b"\xff" * 4
        coinbase += b"\x01" + bytes(8) + b"\x01\x51" + bytes(4)
        if self.lie == "garbage":
            send("block", header + b"\x02" + b"\x99" * 100)
        elif self.lie == "other":
            send("block", header + b"\x01" + coinbase)
        elif self.lie == "drip":
            block = framing.encode(NETWORK, "block", header + b"\x01" + coinbase + bytes(1000))
            for byte in block:
                peer.sendall(bytes((byte,)))
                time.sleep(0.2)


def _exactly(peer: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        piece = peer.recv(count - len(got))
        if not piece:
            raise ConnectionError("hung up")
        got += piece
    return got


def _read(exactly: Callable[[int], bytes]) -> tuple[str, bytes]:
    head = framing.decode_head(exactly(framing.HEAD_BYTES), NETWORK)
    if head is None:
        head = framing.decode_extension(exactly(framing.EXTENSION_BYTES))
    return head.command, exactly(head.length)
