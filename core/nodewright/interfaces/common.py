"""Vocabulary every slot shares: transaction, admission, bundle, block. No behaviour lives here.

Identifiers are raw bytes in the order the family hashes them (never display-reversed hex). Heights start at 0 for
genesis. Times are whole or fractional Unix seconds unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field, frozen


@frozen
class BlockRef:
    """A block by height and identifier. Ordered by nothing: two blocks of one height differ only in ``id``."""

    height: int
    id: bytes

    def __str__(self) -> str:
        return f"{self.height}:{self.id[::-1].hex()[:16]}"


# Made once per transaction: a frozen class costs three times as much to build. Nobody assigns to one.
@define(unsafe_hash=True)
class Admitted:
    """A transaction the execution would run on the head it was checked against.

    ``raw`` is the canonical serialisation the node stores and relays (an extended-format Bitcoin transaction comes back
    in standard form). ``ordering_key`` sorts ready transactions where a family orders by price or nonce; empty means
    arrival order. ``expires_at`` is a Unix time in seconds, or None. ``known`` is true when the execution already held
    this very transaction, so that posting it again is success. ``shard`` is where it must be ordered (capability
    ``sharded``).
    """

    id: bytes
    raw: bytes
    fee: int = 0
    ordering_key: bytes = b""
    expires_at: float | None = None
    known: bool = False
    shard: int = 0

    @property
    def size(self) -> int:
        return len(self.raw)


@frozen
class Refused:
    """A transaction that is not taken. ``code`` is a stable name in the family's terms, ``message`` a sentence.

    ``kind`` is what the core and the APIs act upon, one of: ``malformed`` (cannot be parsed), ``invalid`` (breaks a rule
    for good), ``policy`` (valid, but this node will not relay it), ``conflict`` (spends or uses what another transaction
    did; ``data["winner"]`` is that transaction's id), ``missing`` (an input or nonce is not known yet;
    ``data["missing"]`` lists ids), ``frozen``, ``locked``, ``expired``, ``busy`` (``data["retry_after_seconds"]``).
    """

    code: str
    message: str
    kind: str = "invalid"
    id: bytes | None = None
    data: Mapping[str, Any] = field(factory=dict)


Admission = Admitted | Refused


@frozen
class BundleRef:
    """What a block names: a subtree, chunk or proof-of-store batch. ``count`` transactions, ``size`` bytes of bodies."""

    id: bytes
    count: int = 0
    size: int = 0
    shard: int = 0


@frozen
class Bundle:
    """A bundle handed to the execution.

    ``ids`` are its transaction ids in order, 32·n bytes concatenated, without any placeholder. ``bodies`` are the raw
    transactions in the same order, or None where the execution is expected to know them all (it answers
    ``Incomplete`` with those that it does not).
    """

    ref: BundleRef
    ids: bytes
    bodies: Sequence[bytes] | None = None

    def id_at(self, index: int) -> bytes:
        return self.ids[32 * index : 32 * index + 32]

    def __len__(self) -> int:
        return len(self.ids) // 32


@frozen
class Parcel:
    """Receipts from one shard to another: ``payload`` is the execution's own encoding, ``root`` commits to it and
    ``proof`` ties that root to the source block's commitment.

    The execution that produces a parcel leaves ``block`` and ``commitment`` empty. The consensus that delivers it sets
    both from what is agreed (``block``: the one whose execution produced it; ``commitment``: that of its outcome as a
    header published it), never from what a peer says; the execution that takes it in checks the proof against it."""

    source: int
    destination: int
    payload: bytes
    root: bytes = b""
    proof: bytes = b""
    block: BlockRef | None = None
    commitment: bytes = b""


@frozen
class BlockContext:
    """What a block's transactions may depend on besides the parent state. All of it is agreed data."""

    height: int
    time: int
    proposer: bytes = b""
    randomness: bytes = b""
    epoch: int = 0
    protocol_version: int = 0
    gas_price: int = 0
    fees: int = 0
    congestion: Mapping[int, float] = field(factory=dict)
    extra: bytes = b""
    parent_commitment: bytes | None = None


@frozen
class BlockRecord:
    """A block as its consensus stored it, in the core's terms.

    ``header`` and ``raw`` are the family's own bytes; ``prologue`` is the coinbase or block-metadata transaction (empty
    when the family has none); ``transactions`` counts every transaction including the prologue; ``size`` is in bytes.
    ``detail`` holds what only this consensus knows (difficulty bits, chain work, quorum certificate, chunk mask) under
    the field's standard names, as JSON-ready values.
    """

    ref: BlockRef
    parent: bytes
    time: int
    header: bytes
    raw: bytes
    bundles: tuple[BundleRef, ...] = ()
    prologue: bytes = b""
    prologue_id: bytes = b""
    transactions: int = 0
    size: int = 0
    detail: Mapping[str, Any] = field(factory=dict)


@frozen
class Location:
    """Where a transaction stands in the chain: ``block`` is None while its bundle is in no block of the best chain."""

    bundle: bytes
    index: int
    block: BlockRef | None = None
