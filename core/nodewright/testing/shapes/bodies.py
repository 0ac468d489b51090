"""Bundle bodies: one blob per bundle, named by SHA-256 of its bytes, served to peers and fetched from them."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import trio

from nodewright.errors import NotHere, TransportError
from nodewright.interfaces import BlobStore, Bundle, BundleRef, Environment, Execution, Transport
from nodewright.testing.shapes.codec import MAX_BLOB, Malformed, Reader, blob, vector

KIND = "bundle"
RETRY_SECONDS = 0.2


def encode(bodies: Sequence[bytes]) -> bytes:
    return vector(bodies, blob)


def decode(data: bytes) -> tuple[bytes, ...]:
    """Raises Malformed."""
    reader = Reader(data)
    bodies = reader.vector(reader.blob)
    reader.finish()
    return bodies


class Bodies:
    """Implements ``BodyProvider`` for one kind. Without ``hashed`` a body is not named by its hash, and whoever uses it
    checks it, and drops it if it is not what it should be."""

    def __init__(
        self,
        blobs: BlobStore,
        transport: Transport,
        environment: Environment,
        kind: str = KIND,
        hashed: bool = True,
    ) -> None:
        self._blobs = blobs
        self._transport = transport
        self._environment = environment
        self.kind = kind
        self._hashed = hashed
        transport.provide(kind, self)

    async def size(self, id: bytes) -> int | None:
        return await self._blobs.size(self.kind, id)

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        return await self._blobs.read(self.kind, id, offset, length) or b""

    async def put(self, data: bytes) -> bytes:
        """Durable; returns the id."""
        id = sha256(data).digest()
        await self._blobs.put(self.kind, id, data)
        return id

    async def keep(self, id: bytes, data: bytes) -> None:
        """Durable under a name that is not the hash of its bytes, but as certain: one that every node derives."""
        await self._blobs.put(self.kind, id, data)

    async def get(self, id: bytes) -> bytes | None:
        return await self._blobs.get(self.kind, id)

    async def have(self, id: bytes) -> bool:
        return (await self._blobs.exists(self.kind, [id]))[0]

    async def drop(self, id: bytes) -> None:
        await self._blobs.delete(self.kind, [id])

    async def fetch(self, id: bytes, first: bytes | None = None) -> None:
        """Until it is here and durable, from ``first`` and then from any peer, round after round."""
        while not await self.have(id):
            peers = [peer.id for peer in self._transport.peers()]
            for peer in sorted(peers, key=lambda peer: (peer != first, peer)):
                data = await self._from(peer, id)
                if data is None:
                    continue
                if not self._hashed or sha256(data).digest() == id:
                    await self._blobs.put(self.kind, id, data)
                    return
                self._transport.penalise(peer, 20, "a body that does not hash to its name")
            await self._environment.sleep(RETRY_SECONDS)

    async def _from(self, peer: bytes, id: bytes) -> bytes | None:
        pieces: list[bytes] = []
        try:
            async for piece in self._transport.fetch(peer, self.kind, id, MAX_BLOB, timeout_seconds=2.0):
                pieces.append(piece)
        except NotHere:
            return None
        except TransportError:
            return None
        return b"".join(pieces)

    async def bundle(self, ref: BundleRef, execution: Execution) -> Bundle:
        """A bundle whose body is here. One that cannot be parsed, or lies about its count, is an empty bundle: the same on
        every node, and no honest one vouches for it."""
        data = await self.get(ref.id)
        if data is None:
            raise LookupError(ref.id.hex())
        try:
            bodies = decode(data)
        except Malformed:
            bodies = ()
        ids = await execution.identify(bodies)
        if len(bodies) != ref.count or any(id is None for id in ids):
            return Bundle(ref, b"", ())
        return Bundle(ref, b"".join(id for id in ids if id is not None), bodies)


async def fetch_all(bodies: Bodies, ids: Sequence[bytes], first: bytes | None = None) -> None:
    async with trio.open_nursery() as nursery:
        for id in ids:
            nursery.start_soon(bodies.fetch, id, first)
