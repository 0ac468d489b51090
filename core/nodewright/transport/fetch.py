"""A body of a peer as a whole, for who asks the next peer where this one does not give it."""

from __future__ import annotations

from nodewright.errors import TransportError
from nodewright.interfaces.transport import Transport


async def whole_body(
    transport: Transport, peer: bytes, kind: str, id: bytes, max_bytes: int, timeout_seconds: float
) -> bytes | None:
    """None where the peer has it not, is too busy, too slow or gone, or where it is larger. The caller checks the bytes."""
    data = bytearray()
    try:
        async for piece in transport.fetch(peer, kind, id, max_bytes, timeout_seconds=timeout_seconds):
            data += piece
    except TransportError:
        return None
    return bytes(data)
