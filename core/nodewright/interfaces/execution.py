"""Contract ``execution``: what transactions mean.

Deterministic: no clock, no randomness, no network. **An outcome depends only on (parent, request)**, never on what this
node admitted before; what was reserved at admission gives way to what was ordered.

A transaction's life. ``admit`` checks against head and earlier reservations and *stages* a reservation in memory; the pool
journals and syncs the accepted ones, then ``confirm`` makes the reservations part of the store (not synced: the journal
redoes them). ``release`` takes reservations back. ``validate_bundle`` runs before any block names the bundle.
``execute`` computes a block's outcome without making it durable; ``commit`` does, in one batch with the ``applied`` marker.

Capabilities: ``sharded``, ``witness``, ``declared-access``, ``undo`` (revert works), ``single-head`` (one durable head:
``execute`` off it answers ``Deferred`` and consensus drives ``revert`` and ``commit``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from attrs import field, frozen

from nodewright.interfaces.common import Admission, BlockContext, BlockRef, Bundle, Parcel


@frozen
class Candidate:
    """An admitted transaction as the pool hands it to consensus."""

    id: bytes
    size: int
    fee: int
    ordering_key: bytes = b""


@frozen
class Limits:
    max_count: int
    max_bytes: int
    max_gas: int = 0


@frozen
class Selection:
    """``chosen`` in execution order; ``rejected`` will never run (with the reason); ``deferred`` may later."""

    chosen: Sequence[Candidate]
    rejected: Mapping[bytes, str] = field(factory=dict)
    deferred: Sequence[Candidate] = ()


@frozen
class Prologue:
    """The block's first transaction (coinbase, block metadata). Empty ``raw`` where a family has none."""

    raw: bytes
    id: bytes


@frozen
class BundleValid:
    """``fees`` in base units over the whole bundle, ``size`` in bytes; per transaction values in ``each_fee`` and
    ``each_size``. ``conflicts`` maps a transaction of the bundle to the reserved transaction here that it displaces if a
    block orders it (valid all the same)."""

    fees: int
    size: int
    each_fee: Sequence[int] = ()
    each_size: Sequence[int] = ()
    conflicts: Mapping[bytes, bytes] = field(factory=dict)


@frozen
class BundleInvalid:
    code: str
    message: str
    index: int


@frozen
class BundleIncomplete:
    """``missing`` transaction ids: bodies, or parents outside the bundle. Never to be marked invalid: fetch, retry."""

    missing: Sequence[bytes]


BundleVerdict = BundleValid | BundleInvalid | BundleIncomplete


@frozen
class ExecutionRequest:
    """One block (one shard of it). ``bundles`` in block order. ``incoming`` parcels in the order consensus fixed."""

    parent: BlockRef
    block: BlockRef
    context: BlockContext
    bundles: Sequence[Bundle]
    prologue: bytes = b""
    incoming: Sequence[Parcel] = ()
    shard: int = 0
    record_witness: bool = False


@frozen
class ConsensusUpdates:
    """How execution tells consensus of a changed validator set: key → (power, data), and whether the epoch ends."""

    validators: Mapping[bytes, int] = field(factory=dict)
    epoch_end: bool = False


@frozen
class Outcome:
    """What a block did. Transactions absent from ``discarded`` and ``retry`` were kept.

    ``discarded`` maps an id to (code, message): it had its place and no effect. ``retry`` maps an id to the reason it is
    to be ordered again (a child before its parent). ``evicted`` maps a *reserved* transaction that lost to this block to
    the id of the winner, descendants included."""

    block: BlockRef
    commitment: bytes | None = None
    discarded: Mapping[bytes, tuple[str, str]] = field(factory=dict)
    retry: Mapping[bytes, str] = field(factory=dict)
    evicted: Mapping[bytes, bytes] = field(factory=dict)
    receipts: Sequence[bytes] = ()
    outgoing: Mapping[int, Parcel] = field(factory=dict)
    witness: bytes | None = None
    gas_used: int = 0
    fees: int = 0
    updates: ConsensusUpdates | None = None


@frozen
class Deferred:
    """Cannot run on this parent now (capability ``single-head``): revert or commit to ``need`` first."""

    need: BlockRef
    have: BlockRef


@frozen
class Invalid:
    """The block breaks a rule and can never be executed (a consensus that discards never sees this)."""

    code: str
    message: str
    bundle: bytes | None = None
    transaction: bytes | None = None


@frozen
class Incomplete:
    """The block cannot be judged yet: these bundles' or transactions' bodies are not here."""

    missing: Sequence[bytes]


ExecutionResult = Outcome | Deferred | Invalid | Incomplete


@frozen
class Reverted:
    """What ``revert`` took back: ``transactions`` in dependency order that should return to the pool as (id, raw);
    ``removed`` ids that cannot (a coinbase and whatever spent it)."""

    block: BlockRef
    transactions: Sequence[tuple[bytes, bytes | None]] = ()
    removed: Sequence[bytes] = ()


@frozen
class View:
    """Which state a query reads: ``head``, ``final`` or ``block`` with its reference."""

    kind: str = "head"
    block: BlockRef | None = None


HEAD = View("head")
FINAL = View("final")


@runtime_checkable
class Execution(Protocol):
    capabilities: frozenset[str]
    format: str

    async def genesis(self, document: Mapping[str, Any], block: BlockRef) -> bytes | None:
        """Install the genesis state if the store is empty (idempotent); returns its commitment."""

    async def identify(self, txs: Sequence[bytes]) -> list[bytes | None]:
        """The ids of raw transactions; None where one cannot be parsed."""

    async def admit(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        """One answer per transaction, in order; a later one may depend on an earlier one. Stages reservations."""

    async def confirm(self, ids: Sequence[bytes]) -> None:
        """The pool has journalled these: their staged reservations enter the store."""

    async def release(self, ids: Sequence[bytes]) -> list[bytes]:
        """Forget these reservations and all that depend on them; returns every id released. Mined ones are left."""

    async def select(self, parent: BlockRef, candidates: Sequence[Candidate], limits: Limits) -> Selection: ...

    async def prologue(self, context: BlockContext) -> Prologue: ...

    async def validate_bundle(self, bundle: Bundle, head: BlockRef) -> BundleVerdict: ...

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        """Not durable. Idempotent per (block, shard), safe to cancel; shards may run side by side; a child may execute
        on an uncommitted parent unless ``single-head``."""

    async def verify_witness(self, request: ExecutionRequest, witness: bytes) -> ExecutionResult:
        """The same outcome from the witness alone; needs no store (capability ``witness``)."""

    async def commit(self, block: BlockRef, shard: int = 0) -> None:
        """Make an executed block durable with its applied marker in one batch. Idempotent."""

    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        """Undo the applied head block (capability ``undo``). Durable, in one batch with the marker. Idempotent."""

    async def abandon(self, block: BlockRef, shard: int = 0) -> None:
        """Forget an executed, uncommitted block."""

    async def applied(self, shard: int = 0) -> BlockRef | None: ...

    async def query(self, view: View, kind: str, **arguments: Any) -> Any:
        """Family reads by name (``balance``, ``outputs``, ``access_key`` …): each documented by the plugin. Raises
        ``nodewright.errors.Pruned`` for a block no longer held, ``UnknownQuery`` for a name it does not have."""
