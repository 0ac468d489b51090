"""Getting things from peers: bodies resumed over several of them, transactions by id.

Invariants:
- nothing is taken without a check by the caller; a peer is penalised for wrong bytes only where they came from it alone;
- not having something is no fault here (``Unavailable.absent`` names who said so: for some it is one);
- where several can be asked, one that is slow is left after PATIENCE_SECONDS for the next, comes again with the whole
  time-out at the end, and is asked last of all for SLOW_SECONDS;
- SILENT times in a row without an answer within the whole time-out, each begun after the one before had ended, are a fault;
- a body that comes more slowly than MIN_BYTES_PER_SECOND is one that does not come; while others can be asked,
  HASTY_BYTES_PER_SECOND.

``Unavailable`` means that no peer asked could give it now: try again later.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from attrs import define

from nodewright.errors import BodyTooLarge, NotHere, PeerBusy, PeerGone, RequestTimeout
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.transport import Channel, Transport
from nodewright_nakamoto import messages
from nodewright_nakamoto.compact import MalformedError

Check = Callable[[bytes], Awaitable[str | None]]
WRONG_BODY_POINTS = 50
MALFORMED_POINTS = 20
SILENT_POINTS = 34
SILENT = 3
SLOW_POINTS = 4
PATIENCE_SECONDS = 2.0
SLOW_SECONDS = 60.0
MIN_BYTES_PER_SECOND = 32 * 1024
HASTY_BYTES_PER_SECOND = 256 * 1024


class Unavailable(Exception):
    def __init__(self, message: str, absent: Iterable[bytes] = ()) -> None:
        super().__init__(message)
        self.absent = frozenset(absent)


@define
class Silence:
    """How often in a row a peer did not answer, and when it last was found silent."""

    count: int = 0
    at: float = 0.0


class Fetcher:
    def __init__(self, transport: Transport, requests: Channel, environment: Environment, timeout_seconds: float) -> None:
        self.transport = transport
        self.requests = requests
        self._environment = environment
        self._silences: dict[bytes, Silence] = {}
        self._slow: dict[bytes, float] = {}  # peer -> until when it is asked last
        self.timeout_seconds = timeout_seconds

    def sources(self, first: Sequence[bytes] = ()) -> list[bytes]:
        """Connected peers, these first, the others in random order; the slow ones at the end."""
        now = self._environment.monotonic()
        self._slow = {peer: until for peer, until in self._slow.items() if until > now}
        connected = [peer.id for peer in self.transport.peers()]
        rest = [peer for peer in connected if peer not in first]
        self._environment.random.shuffle(rest)
        found = [peer for peer in first if peer in connected] + rest
        return sorted(found, key=lambda peer: peer in self._slow)

    def patience(self, sources: Sequence[bytes]) -> float | None:
        """Seconds to give each of several on the first round; None: all the time there is."""
        return PATIENCE_SECONDS if len(sources) > 1 and self.timeout_seconds > PATIENCE_SECONDS else None

    def blame(self, peer: bytes, points: int, reason: str) -> None:
        self.transport.penalise(peer, points, reason)

    def forget(self, peer: bytes) -> None:
        """It has gone: what it was late with will not come."""
        self._silences.pop(peer, None)

    def _answered(self, peer: bytes) -> None:
        self._silences.pop(peer, None)

    def _late(self, peer: bytes, what: str) -> None:
        """It was left for another: asked last for a while."""
        if peer not in self._slow:
            self._slow[peer] = self._environment.monotonic() + SLOW_SECONDS
            self.blame(peer, SLOW_POINTS, f"it was slow to send {what}, which was asked of another peer")

    def _silent(self, peer: bytes, since: float) -> None:
        silence = self._silences.setdefault(peer, Silence())
        if since < silence.at:
            return  # asked before it was known to be silent
        silence.count += 1
        silence.at = self._environment.monotonic()
        if silence.count % SILENT == 0:
            reason = f"it did not answer {silence.count} times in a row within {self.timeout_seconds:g} s"
            self.blame(peer, SILENT_POINTS, reason)

    async def ask(self, peer: bytes, payload: bytes, patience: float | None = None) -> bytes | None:
        """The reply; None where the peer is gone or does not answer in time (``patience``: in this time, which is no
        fault)."""
        since = self._environment.monotonic()
        try:
            reply = await self.requests.request(peer, payload, patience or self.timeout_seconds)
        except PeerGone:
            return None
        except RequestTimeout:
            if patience is None:
                self._silent(peer, since)
            else:
                self._late(peer, "transactions")
            return None
        self._answered(peer)
        return reply

    async def _pieces(
        self, peer: bytes, kind: str, id: bytes, max_bytes: int, offset: int, patience: float | None
    ) -> AsyncIterator[bytes]:
        """Raises as ``Transport.fetch``, RequestTimeout also where the pieces are too small or too few."""
        begun = since = self._environment.monotonic()
        timeout = patience or self.timeout_seconds
        least = MIN_BYTES_PER_SECOND if patience is None else HASTY_BYTES_PER_SECOND
        received = 0
        try:
            async for piece in self.transport.fetch(peer, kind, id, max_bytes, offset=offset, timeout_seconds=timeout):
                received += len(piece)
                yield piece
                since = self._environment.monotonic()
                if since - begun > timeout and received < least * (since - begun):
                    raise RequestTimeout(f"{received} bytes in {since - begun:.0f} s")
        except RequestTimeout:
            if patience is None:
                self._silent(peer, begun)
            else:
                self._late(peer, kind)
            raise

    async def body(
        self,
        kind: str,
        id: bytes,
        max_bytes: int,
        sources: Sequence[bytes],
        check: Check,
        prefix: bytes = b"",
        blamable: bytes | None = None,
        patience: float | None = None,
    ) -> tuple[bytes, bytes]:
        """A body that passes ``check`` (which answers what is wrong, or None) and the peer that finished it. What one
        peer sent before it went away is kept and the next asked for the rest. ``prefix`` is believed to be its start.
        ``blamable`` is the one peer whose wrong bytes are its own fault, where what is asked for is known from it alone.
        ``patience``: in one round, with these seconds for each piece. Raises Unavailable."""
        first = patience or self.patience(sources)
        queue: list[tuple[bytes, float | None]] = [(peer, first) for peer in sources]
        data = bytearray(prefix)
        givers: set[bytes] = {b""} if prefix else set()
        retried: set[bytes] = set()
        absent: set[bytes] = set()
        while queue:
            peer, seconds = queue.pop(0)
            before = len(data)
            try:
                async for piece in self._pieces(peer, kind, id, max_bytes, len(data), seconds):
                    data += piece
                    if len(data) > max_bytes:
                        raise BodyTooLarge(f"more than {max_bytes} bytes")
            except (PeerGone, PeerBusy, RequestTimeout, NotHere) as error:
                if len(data) > before:
                    givers.add(peer)
                if isinstance(error, NotHere):
                    absent.add(peer)
                    self._answered(peer)
                elif patience is None and seconds is not None and isinstance(error, RequestTimeout):
                    queue.append((peer, None))
                continue
            except BodyTooLarge:
                self.blame(peer, MALFORMED_POINTS, f"its {kind} {id[::-1].hex()[:16]} is over {max_bytes} bytes")
                data, givers = bytearray(), set()
                continue
            self._answered(peer)
            givers.add(peer)
            problem = await check(bytes(data))
            if problem is None:
                return bytes(data), peer
            if givers == {peer} and blamable in (None, peer):
                self.blame(peer, WRONG_BODY_POINTS, f"its {kind} {id[::-1].hex()[:16]}: {problem}")
            elif givers != {peer} and peer not in retried:  # of several makers: ask this one again for all of it
                retried.add(peer)
                queue.insert(0, (peer, seconds))
            data, givers = bytearray(), set()
        raise Unavailable(f"no peer has {kind} {id[::-1].hex()}", absent)

    async def transactions(
        self, ids: Sequence[bytes], sources: Sequence[bytes], max_bytes: int
    ) -> tuple[dict[bytes, bytes], set[bytes]]:
        """Bodies by id, unchecked, of as many as the peers give, and the peers that answered and had not all."""
        found: dict[bytes, bytes] = {}
        lacking: set[bytes] = set()
        first = self.patience(sources)
        queue: list[tuple[bytes, float | None]] = [(peer, first) for peer in sources]
        while queue and len(found) < len(ids):
            peer, patience = queue.pop(0)
            wanted = [id for id in ids if id not in found]
            while wanted:
                batch = wanted[: messages.MAX_IDS]
                reply = await self.ask(peer, b"X" + b"".join(batch), patience)
                if reply is None:
                    if patience is not None:
                        queue.append((peer, None))
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
                    else:
                        lacking.add(peer)
                wanted = wanted[len(answers) :]
        return found, lacking

    async def _large(self, id: bytes, peer: bytes, max_bytes: int, found: dict[bytes, bytes]) -> None:
        async def any_bytes(data: bytes) -> str | None:
            return None

        try:
            found[id], _ = await self.body(messages.BODY_TRANSACTION, id, max_bytes, [peer], any_bytes)
        except Unavailable:
            pass
