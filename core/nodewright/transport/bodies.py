"""Large bodies between two peers: the reader's end and the server's end of a fetch.

Invariants:
- The reader never holds more of one body than the credit it gave; a piece beyond it breaks the protocol.
- The server holds at most one piece per fetch (two more wait in the outbox) and serves at most ``fetches_per_peer``.
- Pieces come in order and without gaps; END_DONE only when the byte count equals the size announced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import trio
from attrs import define, field

from nodewright.errors import BodyTooLarge, NodewrightError, NotHere, PeerBusy, PeerGone, RequestTimeout
from nodewright.transport import frames
from nodewright.transport.frames import FrameError
from nodewright.transport.link import Limits
from nodewright.transport.outbox import Outbox

if TYPE_CHECKING:
    from nodewright.transport.hub import PeerHub


@define(eq=False)
class Reading:
    offset: int
    credit: int
    size: int | None = None
    received: int = 0
    pieces: deque[bytes] = field(factory=deque)
    outcome: int | None = None
    lot: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)


class BodyReader:
    def __init__(self, peer: bytes, outbox: Outbox, limits: Limits) -> None:
        self._peer = peer.hex()[:16]
        self._outbox = outbox
        self._limits = limits
        self._readings: dict[int, Reading] = {}
        self._next = 0
        self._slots = trio.Semaphore(limits.fetches_per_peer)
        self._gone: PeerGone | None = None

    async def read(self, kind: str, id: bytes, max_bytes: int, offset: int, timeout_seconds: float) -> AsyncIterator[bytes]:
        """The contract's ``fetch`` on this session."""
        late = RequestTimeout(f"peer {self._peer} sent nothing of {kind} {id.hex()[:16]} for {timeout_seconds:g} s")
        with trio.move_on_after(timeout_seconds) as scope:
            await self._slots.acquire()
        if scope.cancelled_caught:
            raise late
        self._next = number = (self._next + 1) & 0xFFFFFFFF
        reading = Reading(offset, self._limits.fetch_credit_bytes)
        try:
            if self._gone is not None:
                raise self._gone
            self._readings[number] = reading
            self._outbox.control(frames.fetch(number, offset, max_bytes, reading.credit, kind, id))
            while True:
                with trio.move_on_after(timeout_seconds) as scope:
                    while not reading.pieces and reading.outcome is None and self._gone is None:
                        await reading.lot.park()
                if reading.pieces:
                    piece = reading.pieces.popleft()
                    yield piece
                    if reading.outcome is None and self._gone is None:
                        reading.credit += len(piece)
                        self._outbox.control(frames.frame(frames.CREDIT, frames.CHANNEL_REQUEST.pack(number, len(piece))))
                    continue
                if reading.outcome is not None:
                    self._finish(reading, kind, id, max_bytes)
                    return
                if self._gone is not None:
                    raise self._gone
                raise late
        finally:
            self._slots.release()
            if self._readings.pop(number, None) is not None and reading.outcome is None and self._gone is None:
                self._outbox.control(frames.frame(frames.STOP, frames.U32.pack(number)))

    def _finish(self, reading: Reading, kind: str, id: bytes, max_bytes: int) -> None:
        name = f"{kind} {id.hex()[:16]}"
        if reading.outcome == frames.END_NOT_HERE:
            raise NotHere(f"peer {self._peer} does not have {name}")
        if reading.outcome == frames.END_TOO_LARGE:
            raise BodyTooLarge(f"{name} of peer {self._peer} is larger than {max_bytes} bytes")
        if reading.outcome != frames.END_DONE:
            raise PeerBusy(f"peer {self._peer} does not serve {name} now")

    def handle(self, kind: int, body: bytes) -> None:
        (number,) = frames.U32.unpack_from(body)
        reading = self._readings.get(number)
        if reading is None or reading.outcome is not None:
            return  # stopped here while this was on its way
        if kind == frames.OPEN:
            if reading.size is not None:
                raise FrameError("a body opened twice")
            reading.size = frames.OPEN_BODY.unpack_from(body)[1]
            return
        if kind == frames.PIECE:
            piece = body[4:]
            reading.credit -= len(piece)
            reading.received += len(piece)
            if reading.size is None or reading.credit < 0 or reading.offset + reading.received > reading.size:
                raise FrameError("a piece of a body beyond its credit or its size")
            reading.pieces.append(piece)
        else:
            outcome = frames.END_BODY.unpack_from(body)[1]
            if outcome == frames.END_DONE and reading.offset + reading.received != reading.size:
                raise FrameError("a body that ends short of its size")
            reading.outcome = outcome
        reading.lot.unpark_all()

    def close(self, gone: PeerGone) -> None:
        self._gone = gone
        for reading in self._readings.values():
            reading.lot.unpark_all()


@define(eq=False)
class Serving:
    credit: int
    stopped: bool = False
    lot: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)


class BodyServer:
    def __init__(self, hub: PeerHub, outbox: Outbox, peer: bytes) -> None:
        self._hub = hub
        self._outbox = outbox
        self._peer = peer
        self._servings: dict[int, Serving] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    def handle(self, kind: int, body: bytes) -> None:
        if kind == frames.FETCH:
            number, offset, max_bytes, credit, name, id = frames.parse_fetch(body)
            if number in self._servings:
                raise FrameError("a fetch number used twice")
            if len(self._servings) >= self._hub.limits.fetches_per_peer or self._nursery is None:
                self._end(number, frames.END_BUSY)
                return
            serving = self._servings[number] = Serving(min(credit, self._hub.limits.fetch_credit_bytes))
            self._nursery.start_soon(self._serve, number, serving, offset, max_bytes, name, id)
            return
        known = self._servings.get(frames.U32.unpack_from(body)[0])
        if known is None:
            return
        if kind == frames.CREDIT:
            more = frames.CHANNEL_REQUEST.unpack_from(body)[1]
            known.credit = min(known.credit + more, self._hub.limits.fetch_credit_bytes)
        else:
            known.stopped = True
        known.lot.unpark_all()

    def _end(self, number: int, outcome: int) -> None:
        self._outbox.control(frames.frame(frames.END, frames.END_BODY.pack(number, outcome)))

    async def _serve(self, number: int, serving: Serving, offset: int, max_bytes: int, kind: str, id: bytes) -> None:
        try:
            outcome = await self._stream(number, serving, offset, max_bytes, kind, id)
        except NodewrightError as error:
            self._hub.log.warning("a body could not be served", kind=kind, id=id.hex(), error=str(error))
            outcome = frames.END_FAILED
        finally:
            del self._servings[number]
        if outcome is not None:
            # After the last piece, so through the same queue.
            await self._outbox.bulk(frames.frame(frames.END, frames.END_BODY.pack(number, outcome)))

    async def _stream(self, number: int, serving: Serving, offset: int, max_bytes: int, kind: str, id: bytes) -> int | None:
        provider = self._hub.provider(kind)
        size = await provider.size(id) if provider is not None else None
        if provider is None or size is None or offset > size:
            return frames.END_NOT_HERE
        if size > max_bytes:
            return frames.END_TOO_LARGE
        self._outbox.control(frames.frame(frames.OPEN, frames.OPEN_BODY.pack(number, size)))
        while offset < size:
            while serving.credit <= 0 and not serving.stopped:
                await serving.lot.park()
            if serving.stopped:
                return None
            length = min(frames.PIECE_BYTES, serving.credit, size - offset)
            piece = await provider.read(id, offset, length)
            if not piece or len(piece) > length:
                return frames.END_FAILED
            serving.credit -= len(piece)
            offset += len(piece)
            if not await self._outbox.bulk(frames.piece(number, piece)):
                return None
        return frames.END_DONE
