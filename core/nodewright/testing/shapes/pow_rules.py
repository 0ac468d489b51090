"""Best chain by work, as a pure state machine: no trio, clock or sockets.

A header's work is what its target asks for on average; a chain's is the sum. The best tip is the one with most work whose
chain holds no invalid block; of equals, the one seen first.

Invariants
- ``best`` never has less work than any other valid tip.
- A block found invalid takes all its descendants out, and only those.
- ``Switch`` names a path through blocks that are all known: back to the common ancestor, then forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from attrs import define, field, frozen

from nodewright.interfaces import BlockRef, BundleRef
from nodewright.testing.shapes.chain_log import bundle_refs, read_bundle_refs
from nodewright.testing.shapes.codec import Malformed, Reader, blob, digest, u8, u64

ZERO_BITS = 6
MAX_BITS = 64
WORK = 1 << ZERO_BITS


@frozen
class PowBlock:
    """``id`` is SHA-256 of the header: parent, height, time, bits, digest of the body, nonce."""

    ref: BlockRef
    parent: BlockRef
    time: int
    bits: int
    proposer: bytes
    bundles: tuple[BundleRef, ...]
    prologue: bytes
    nonce: int

    @property
    def id(self) -> bytes:
        return self.ref.id

    @property
    def work(self) -> int:
        return 1 << self.bits

    def body(self) -> bytes:
        return self.proposer + bundle_refs(self.bundles) + blob(self.prologue)

    def encode(self) -> bytes:
        return header(self.parent, self.time, self.bits, self.body()) + u64(self.nonce) + self.body()

    @classmethod
    def decode(cls, raw: bytes) -> PowBlock:
        """Raises Malformed; also where the work is not done or the header does not commit to the body."""
        data = Reader(raw)
        parent, time, bits, committed, nonce = data.ref(), data.u64(), data.u8(), data.hash(), data.u64()
        proposer, bundles, prologue = data.hash(), read_bundle_refs(data), data.blob(64 * 1024)
        data.finish()
        id = solve_id(header(parent, time, bits, proposer + bundle_refs(bundles) + blob(prologue)), nonce)
        block = cls(BlockRef(parent.height + 1, id), parent, time, bits, proposer, bundles, prologue, nonce)
        if committed != digest(b"body", block.body()) or bits != ZERO_BITS or not solved(id, bits):
            raise Malformed("the header does not show the work for this body")
        return block


def header(parent: BlockRef, time: int, bits: int, body: bytes) -> bytes:
    return u64(parent.height) + parent.id + u64(time) + u8(bits) + digest(b"body", body)


def solve_id(header: bytes, nonce: int) -> bytes:
    return sha256(header + u64(nonce)).digest()


def solved(id: bytes, bits: int) -> bool:
    return int.from_bytes(id[:8], "big") >> (64 - bits) == 0


def solve(header: bytes, bits: int, start: int) -> int:
    """The first nonce from ``start`` that does the work: 2^bits hashes on average."""
    nonce = start
    while not solved(solve_id(header, nonce), bits):
        nonce += 1
    return nonce


@frozen
class Switch:
    """Undo ``back`` (tip first), then do ``forward`` (oldest first)."""

    back: tuple[BlockRef, ...]
    forward: tuple[PowBlock, ...]


@define
class _Entry:
    block: PowBlock
    work: int
    order: int
    invalid: bool = False


@define
class BlockTree:
    """``head`` is where the state stands, moved by ``moved``; ``best`` is where it should be."""

    genesis: BlockRef
    head: BlockRef = field(init=False)
    _entries: dict[bytes, _Entry] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.head = self.genesis

    def knows(self, id: bytes) -> bool:
        return id == self.genesis.id or id in self._entries

    def get(self, id: bytes) -> PowBlock | None:
        entry = self._entries.get(id)
        return entry.block if entry is not None else None

    def work(self, id: bytes) -> int:
        return self._entries[id].work if id in self._entries else 0

    def insert(self, block: PowBlock) -> None:
        """Its parent is known."""
        if not self.knows(block.id):
            parent = self._entries.get(block.parent.id)
            self._entries[block.id] = _Entry(
                block,
                (parent.work if parent is not None else 0) + block.work,
                len(self._entries),
                parent is not None and parent.invalid,
            )

    def invalidate(self, id: bytes) -> None:
        self._entries[id].invalid = True
        for entry in self._entries.values():  # in the order inserted: parents first
            parent = self._entries.get(entry.block.parent.id)
            if parent is not None and parent.invalid:
                entry.invalid = True

    def invalid(self, id: bytes) -> bool:
        return id in self._entries and self._entries[id].invalid

    def best(self) -> BlockRef:
        """Of equal work, where the state stands already; then the one seen first."""
        good = [entry for entry in self._entries.values() if not entry.invalid]
        if not good:
            return self.genesis
        return max(good, key=lambda entry: (entry.work, entry.block.id == self.head.id, -entry.order)).block.ref

    def switch(self) -> Switch | None:
        """From the head to the best tip; None if it stands there."""
        best = self.best()
        if best == self.head:
            return None
        old, new = self.path(self.head.id), self.path(best.id)
        shared = 0
        while shared < min(len(old), len(new)) and old[shared].id == new[shared].id:
            shared += 1
        return Switch(tuple(block.ref for block in reversed(old[shared:])), tuple(new[shared:]))

    def path(self, id: bytes) -> list[PowBlock]:
        """From the child of genesis to ``id``."""
        chain: list[PowBlock] = []
        while id in self._entries:
            chain.append(self._entries[id].block)
            id = chain[-1].parent.id
        return chain[::-1]

    def locator(self) -> Sequence[bytes]:
        """Ids of the best chain, dense at the tip and sparse below, genesis last."""
        path = [block.id for block in self.path(self.best().id)]
        found: list[bytes] = []
        at, step = len(path) - 1, 1
        while at >= 0:
            found.append(path[at])
            if len(found) > 8:
                step *= 2
            at -= step
        return [*found, self.genesis.id]

    def after(self, locator: Sequence[bytes], limit: int) -> list[PowBlock]:
        """Blocks of the best chain above the first id of ``locator`` that is on it."""
        path = self.path(self.best().id)
        heights = {block.id: index + 1 for index, block in enumerate(path)}
        start = next((heights[id] for id in locator if id in heights), 0)
        return path[start : start + limit]
