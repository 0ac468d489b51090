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
from typing import Any, Literal, Protocol, runtime_checkable

from attrs import define, field, frozen

from nodewright.interfaces.common import Admission, BlockContext, BlockRef, Bundle, Parcel, Refused

InvalidTransaction = Literal["reject_block", "discard"]


# Made once per transaction: a frozen class costs three times as much to build. Nobody assigns to one.
@define(unsafe_hash=True)
class Candidate:
    """An admitted transaction as the pool hands it to consensus (``shard`` as in its ``Admitted``)."""

    id: bytes
    size: int
    fee: int
    ordering_key: bytes = b""
    shard: int = 0


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
    """One block (one shard of it). ``bundles`` in block order. ``incoming`` parcels in the order consensus fixed.

    ``invalid_transaction`` is the consensus's own declaration: under ``reject_block`` the first transaction that cannot
    run makes the block ``Invalid``; under ``discard`` it is reported in the outcome and the block stands. An id that occurs
    again within the block breaks it under ``reject_block``; under ``discard`` only its first occurrence counts, and the
    repetition is neither executed nor reported.

    ``parent`` is the block whose state this shard runs on: its last one that ran, where a shard may miss a block."""

    parent: BlockRef
    block: BlockRef
    context: BlockContext
    bundles: Sequence[Bundle]
    prologue: bytes = b""
    incoming: Sequence[Parcel] = ()
    shard: int = 0
    record_witness: bool = False
    invalid_transaction: InvalidTransaction = "reject_block"


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
    the id of the winner, descendants included.

    Everything is agreed data, equal on every node, except ``evicted``, which reports on this node's own reservations (and
    is empty from ``verify_witness``), and ``witness``, which is there if asked for. ``detail`` names the parts of
    ``commitment`` that a family puts in its headers one by one (state root, outcome root, balance burnt)."""

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
    detail: Mapping[str, Any] = field(factory=dict)


@frozen
class Deferred:
    """Cannot run on this parent now: its state is not here. Under ``single-head``, revert or commit to ``need`` first;
    otherwise execute ``need`` first."""

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
    """The block cannot be judged yet: what it needs is not here. ``missing`` are transaction ids whose bodies are unknown,
    roots of parcels whose proof does not reach their commitment, or the parent commitment for a witness that does not
    show the state it claims: another peer may have better ones. Never to be stored as invalid."""

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
        """Install the genesis state if the store is empty (idempotent); returns its commitment (under ``sharded`` those of
        all shards, also the ones not kept here, 32 bytes each in shard order)."""

    async def identify(self, txs: Sequence[bytes]) -> list[bytes | None]:
        """The ids of raw transactions; None where one cannot be parsed."""

    async def admit(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        """One answer per transaction, in order; a later one may depend on an earlier one. Stages reservations."""

    async def confirm(self, ids: Sequence[bytes]) -> None:
        """The pool has journalled these: their staged reservations enter the store."""

    async def release(self, ids: Sequence[bytes]) -> list[bytes]:
        """Forget these reservations and all that depend on them; returns every id released. Mined ones are left."""

    async def release_unclaimed(self) -> list[bytes]:
        """The node has recovered, everything pending was admitted again: let go of reservations that the store still holds
        and nobody claimed (a crash between recording a rejection and releasing it). Returns their ids."""

    async def select(self, parent: BlockRef, candidates: Sequence[Candidate], limits: Limits) -> Selection: ...

    async def prologue(self, context: BlockContext) -> Prologue: ...

    async def validate_bundle(self, bundle: Bundle, head: BlockRef) -> BundleVerdict: ...

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        """Not durable. Idempotent per (block, shard), safe to cancel; shards may run side by side; a child may execute
        on an uncommitted parent unless ``single-head``. Once a block is committed its outcome and witness need not be
        had again: what a consensus publishes of them later, it stores before it commits."""

    async def verify_witness(self, request: ExecutionRequest, witness: bytes) -> ExecutionResult:
        """The same outcome from the witness alone; needs no store (capability ``witness``)."""

    async def commit(self, block: BlockRef, shard: int = 0) -> Mapping[bytes, bytes] | None:
        """Make an executed block durable with its applied marker in one batch. Idempotent. Its parent is committed first.

        Returns reservations that lost to this block and that the outcome did not yet report, admitted between ``execute``
        and now, as ``Outcome.evicted`` does; None where the execution reports them all before."""

    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        """Undo the applied head block (capability ``undo``). Durable, in one batch with the marker. Idempotent."""

    async def abandon(self, block: BlockRef, shard: int = 0) -> None:
        """Forget an executed, uncommitted block."""

    async def applied(self, shard: int = 0) -> BlockRef | None: ...

    async def query(self, view: View, kind: str, **arguments: Any) -> Any:
        """Family reads by name (``balance``, ``outputs``, ``access_key`` …): each documented by the plugin. Raises
        ``nodewright.errors.Pruned`` for a block no longer held, ``UnknownQuery`` for a name it does not have."""


@runtime_checkable
class Upgrading(Protocol):
    """Of an execution whose rules for transactions change with the height; one without it has the same rules for ever."""

    async def outdated(self) -> Sequence[bytes]:
        """Ids of reservations that were judged by other rules than those of the block after the applied one: an upgrade's
        height was passed since, in either direction. The pool releases them and offers them again. O(1) where there are
        none."""


class ChainTimes(Protocol):
    """Agreed data that a consensus has of every block whose header it knows. From memory: nothing is awaited."""

    def median_time_past(self, block: BlockRef, height: int) -> int:
        """The median time past (of it and its ten predecessors) of the ancestor of ``block`` at ``height``, which may be
        the block itself. Raises KeyError for a block that is not known, ValueError for a height above it."""


@runtime_checkable
class Timed(Protocol):
    """Of an execution where a transaction may have to wait for a height, a time, or the age of what it uses."""

    def use_times(self, times: ChainTimes) -> None:
        """Given once, before the consensus recovers. An execution that is given none judges by ``BlockContext`` alone."""

    async def unripe(self) -> Sequence[bytes]:
        """Ids of reservations that the block after the applied one may not hold yet, with all that descend from them. A
        consensus that assembles ahead asks after a reorganisation, which may have made what was ripe unripe; whatever else
        ``select`` chose stays ripe. O(those that wait or waited)."""


@runtime_checkable
class Unhurried(Protocol):
    """Of an execution where checking one transaction may take long, whatever its size and whether it is valid. Pools use
    these two for what is submitted, so that such a one waits for its like alone."""

    async def admit_quick(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        """As ``admit``, but what would take long is not taken: ``Refused`` of kind ``busy`` with ``data["slow"]``."""

    async def prepare(self, tx: bytes, head: BlockRef, time: int) -> Refused | None:
        """Check what takes long of one transaction; stages nothing, may run beside ``admit_quick``. None: now it may be
        offered to ``admit_quick``, which is quick about it. Bounded by the execution's own policy."""


@frozen
class StateTarget:
    """The state of a shard after a block, as agreed data names it: ``commitment`` is that of the outcome of the shard's run
    in the block, as a header published it, and ``detail`` the family's own form of it."""

    block: BlockRef
    shard: int
    commitment: bytes
    detail: bytes = b""


@runtime_checkable
class StateParts(Protocol):
    """Of an execution whose state can be handed from node to node, shard by shard, in parts. Into how many parts a state is
    cut, and what is in each, follows from the commitment alone; each part proves itself against it; none is larger than
    ``max_part_bytes``. Which block's state is handed over, and who has it, is the consensus's to know."""

    max_part_bytes: int

    async def share_state(self, blocks: Mapping[int, BlockRef]) -> bool:
        """Hold the state of these shards, each after its applied block, for others, while later blocks are committed. The
        one shared before is held too, older ones are let go. False where the store cannot, or stands elsewhere."""

    async def state_part(self, block: BlockRef, shard: int, index: int) -> bytes | None:
        """A part of a shared state; None where that is not shared (any more) or has no part of this number."""

    async def missing_parts(self, target: StateTarget) -> Sequence[int]:
        """Which parts are still to come; until the first one is in, only that is known. From the first call for a target on
        the shard is not kept: its state, and what had come in for another target, is deleted. Kept over restarts.
        Raises ValueError where ``detail`` is not what ``commitment`` says."""

    async def take_part(self, target: StateTarget, index: int, part: bytes) -> bool:
        """Check a part and store it, durably. False: it is not that part, and nothing of it was stored."""

    async def install_state(self, target: StateTarget) -> None:
        """No part is missing: from now on the shard is kept, and ``applied`` answers the target's block. Durable."""

    async def drop_state(self, shard: int) -> None:
        """The shard is not kept any more, also after a restart."""
