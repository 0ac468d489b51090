"""Getting things from peers: bodies resumed over several of them, transactions by id.

Invariants: nothing is taken without a check by the caller; a peer is penalised only for bytes that came from it alone;
not having something is no fault. ``Unavailable`` means that no peer asked could give it now: try again later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from nodewright.errors import BodyTooLarge, NotHere, PeerGone, RequestTimeout
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.transport import Channel, Transport
from nodewright_nakamoto import messages
from nodewright_nakamoto.compact import MalformedError

Check = Callable[[bytes], Awaitable[str | None]]
WRONG_BODY_POINTS = 50
MALFORMED_POINTS = 20


class Unavailable(Exception):
    pass


class Fetcher:
    def __init__(self, transport: Transport, requests: Channel, environment: Environment, timeout_seconds: float) -> None:
        self.transport = transport
        self.requests = requests
        self._environment = environment
        self.timeout_seconds = timeout_seconds

    def sources(self, first: Sequence[bytes] = ()) -> list[bytes]:
        """Connected peers, these first, the others in random order."""
        connected = [peer.id for peer in self.transport.peers()]
        rest = [peer for peer in connected if peer not in first]
        self._environment.random.shuffle(rest)
        return [peer for peer in first if peer in connected] + rest

    def blame(self, peer: bytes, points: int, reason: str) -> None:
        self._environment.logger.warning("peer penalised", peer=peer.hex()[:16], points=points, reason=reason)
        self.transport.penalise(peer, points, reason)

    async def ask(self, peer: bytes, payload: bytes) -> bytes | None:
        """The reply; None where the peer is gone or does not answer in time."""
        try:
            return await self.requests.request(peer, payload, self.timeout_seconds)
        except (PeerGone, RequestTimeout):
            return None

    async def body(
        self,
        kind: str,
        id: bytes,
        max_bytes: int,
        sources: Sequence[bytes],
        check: Check,
        prefix: bytes = b"",
        blamable: bytes | None = None,
    ) -> tuple[bytes, bytes]:
        """A body that passes ``check`` (which answers what is wrong, or None) and the peer that finished it. What one
        peer sent before it went away is kept and the next asked for the rest. ``prefix`` is believed to be its start.
        ``blamable`` is the one peer whose wrong bytes are its own fault, where what is asked for is known from it alone.
        Raises Unavailable."""
        queue = list(sources)
        data = bytearray(prefix)
        givers: set[bytes] = {b""} if prefix else set()
        retried: set[bytes] = set()
        while queue:
            peer = queue.pop(0)
            before = len(data)
            try:
                async for piece in self.transport.fetch(
                    peer, kind, id, max_bytes, offset=len(data), timeout_seconds=self.timeout_seconds
                ):
                    data += piece
                    if len(data) > max_bytes:
                        raise BodyTooLarge(f"more than {max_bytes} bytes")
            except (PeerGone, RequestTimeout, NotHere):
                if len(data) > before:
                    givers.add(peer)
                continue
            except BodyTooLarge:
                self.blame(peer, MALFORMED_POINTS, f"its {kind} {id[::-1].hex()[:16]} is over {max_bytes} bytes")
                data, givers = bytearray(), set()
                continue
            givers.add(peer)
            problem = await check(bytes(data))
            if problem is None:
                return bytes(data), peer
            if givers == {peer} and blamable in (None, peer):
                self.blame(peer, WRONG_BODY_POINTS, f"its {kind} {id[::-1].hex()[:16]}: {problem}")
            elif givers != {peer} and peer not in retried:  # of several makers: ask this one again for all of it
                retried.add(peer)
                queue.insert(0, peer)
            data, givers = bytearray(), set()
        raise Unavailable(f"no peer has {kind} {id[::-1].hex()}")

    async def transactions(self, ids: Sequence[bytes], sources: Sequence[bytes], max_bytes: int) -> dict[bytes, bytes]:
        """Bodies by id, unchecked, of as many as the peers give."""
        found: dict[bytes, bytes] = {}
        for peer in sources:
            wanted = [id for id in ids if id not in found]
            while wanted:
                batch = wanted[: messages.MAX_IDS]
                reply = await self.ask(peer, b"X" + b"".join(batch))
                if reply is None:
                    break
                try:
                    answers = messages.decode_transactions(reply, len(batch))
                except MalformedError as error:
                    self.blame(peer, MALFORMED_POINTS, str(error))
                    break
                for id, answer in zip(batch, answers, strict=False):
                    if isinstance(answer, bytes):
                        found[id] = answer
                    elif answer:
                        await self._large(id, peer, max_bytes, found)
                wanted = wanted[len(answers) :]
            if len(found) == len(ids):
                break
        return found

    async def _large(self, id: bytes, peer: bytes, max_bytes: int, found: dict[bytes, bytes]) -> None:
        async def any_bytes(data: bytes) -> str | None:
            return None

        try:
            found[id], _ = await self.body(messages.BODY_TRANSACTION, id, max_bytes, [peer], any_bytes)
        except Unavailable:
            pass
