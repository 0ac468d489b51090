"""Running a chunk: from the request of a consensus to its outcome, on a view of the state or on a witness alone.

The rules are ``runtime.run``; this module gives it what it asks for, and turns what it did into roots, parcels, proofs and
the witness. Both ways come to the same outcome because everything is made from the same ``Run``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Final, TypeVar

from attrs import define, evolve, field, frozen

from nodewright.interfaces.common import Bundle, Parcel
from nodewright.interfaces.execution import ConsensusUpdates, ExecutionRequest, Incomplete, Invalid, Outcome
from nodewright.interfaces.verifier import Verifier
from nodewright_near.borsh import Malformed, decode, encode
from nodewright_near.checks import verify_signatures
from nodewright_near.chunks import ChunkExtra, ParcelProof, RunContext, StateWitness
from nodewright_near.congestion import ShardCongestion
from nodewright_near.contracts.beside import Beside
from nodewright_near.contracts.calls import Machine
from nodewright_near.errors import innermost, sentence
from nodewright_near.merkle import climb, merklize, root_of_row
from nodewright_near.outcomes import outcome_leaves as leaves_of
from nodewright_near.parameters import Parameters, for_protocol
from nodewright_near.primitives import NO_HASH
from nodewright_near.receipts import RECEIPTS, Receipt, outgoing_leaf, receipts_payload
from nodewright_near.runtime import ChunkInput, ChunkResult, Long, Run, run
from nodewright_near.shardstore import View, proof_values
from nodewright_near.state import Cause, State
from nodewright_near.transactions import MAX_TRANSACTION_BYTES, SignedTransaction
from nodewright_near.trie import ByHash, Missing, Recorder, find, items_under, update

T = TypeVar("T")
MAX_WITNESS_BYTES: Final = 64 * 1024 * 1024
# What chunks that ran here sent lately, by the leaf of the outgoing root, which is the hash of the payload: a shard kept
# here mostly takes in what another one kept here, or itself, sent a block before, and need not read it.
_sent_here: Final[dict[bytes, tuple[Receipt, ...]]] = {}
REMEMBERED_RECEIPTS: Final = 1 << 16


@frozen
class Rules:
    """What is the same for every chunk of a network."""

    parameters: Parameters
    boundaries: tuple[str, ...]
    verifier: Verifier
    machine: Machine


@define
class Collected:
    """The transactions of a request, each once, and those that cannot even be read or are not what their id says."""

    transactions: list[SignedTransaction]
    refusals: dict[bytes, tuple[str, str]]
    receipts: list[Receipt]


@define
class Ran:
    """A chunk that has run: what it changed, what came of it, and the witness if asked for."""

    result: ChunkResult
    extra: ChunkExtra
    values: dict[bytes, bytes | None]
    nodes: Mapping[bytes, bytes | None]
    outcome: Outcome
    leaves: bytes  # of all outcomes, 32 bytes each
    causes: Mapping[bytes, Cause] = field(factory=dict)


# --- what comes in ---------------------------------------------------------------------------------------------------


def proves(parcel: Parcel, shard: int) -> list[Receipt] | None:
    """The parcel's receipts where its (agreed) commitment says that they were sent to this shard; else None."""
    try:
        proof: ParcelProof = decode(ParcelProof, parcel.proof)
        good = (
            parcel.destination == shard
            and proof.extra.commitment() == parcel.commitment
            and outgoing_leaf(parcel.destination, parcel.payload) == parcel.root
            and climb(parcel.root, proof.path) == proof.extra.outgoing_root
        )
        if not good:
            return None
        receipts: tuple[Receipt, ...] = _sent_here.get(parcel.root) or decode(RECEIPTS, parcel.payload)
    except Malformed:
        return None
    return list(receipts)


Known = Callable[[bytes], SignedTransaction | None]


def _nobody(id: bytes) -> SignedTransaction | None:
    return None


def parse_bodies(bundle: Bundle, bodies: Sequence[bytes], known: Known = _nobody) -> list[SignedTransaction | str]:
    """Each body read, or why it cannot be. ``known`` gives transactions that were read before, by id."""
    read: list[SignedTransaction | str] = []
    for index, raw in enumerate(bodies):
        before = known(bundle.id_at(index))
        if before is not None and before.raw == raw:
            read.append(before)
            continue
        try:
            if len(raw) > MAX_TRANSACTION_BYTES:
                raise Malformed(f"{len(raw)} bytes are more than a transaction has")
            signed = SignedTransaction.decode(raw)
        except Malformed as error:
            read.append(str(error))
            continue
        read.append(signed if signed.id == bundle.id_at(index) else "a body does not hash to its id")
    return read


def bodies_of(bundle: Bundle, known: Known) -> Sequence[bytes | None]:
    if bundle.bodies is not None:
        return bundle.bodies
    held = [known(bundle.id_at(index)) for index in range(len(bundle))]
    return [signed.raw if signed is not None else None for signed in held]


def collect(request: ExecutionRequest, known: Known = _nobody) -> Collected | Invalid | Incomplete:
    """``known`` gives transactions that were read before, also those that the request leaves out. A repeated id counts
    once."""
    strict = request.invalid_transaction == "reject_block"
    collected = Collected([], {}, [])
    missing: list[bytes] = []
    seen: set[bytes] = set()
    for bundle in request.bundles:
        ids = [bundle.id_at(index) for index in range(len(bundle))]
        bodies = bodies_of(bundle, known)
        gaps = [id for id, body in zip(ids, bodies, strict=True) if body is None]
        missing += gaps
        if gaps:
            continue
        for id, read in zip(ids, parse_bodies(bundle, [body for body in bodies if body is not None], known), strict=True):
            if id in seen and strict:
                return Invalid("Repeated", "a transaction occurs twice in the block", bundle.ref.id, id)
            if id in seen:
                continue
            seen.add(id)
            if isinstance(read, SignedTransaction):
                collected.transactions.append(read)
            elif strict:
                return Invalid("Malformed", read, bundle.ref.id, id)
            else:
                collected.refusals[id] = ("Malformed", read)
    for parcel in request.incoming:
        receipts = proves(parcel, request.shard)
        if receipts is None:
            missing.append(parcel.root)
        else:
            collected.receipts += receipts
    return Incomplete(missing) if missing else collected


def check_signatures(verifier: Verifier, transactions: Sequence[SignedTransaction]) -> list[bool]:
    if min([signed.deposit for signed in transactions], default=-1) >= 0:  # Ed25519 alone
        keys = [signed.slot[-32:] for signed in transactions]
        ids, signatures = [signed.id for signed in transactions], [signed.raw[-64:] for signed in transactions]
        return [good == 1 for good in verifier.ed25519(keys, ids, signatures)]
    return verify_signatures(
        verifier,
        [signed.transaction.public_key for signed in transactions],
        [signed.id for signed in transactions],
        [signed.signature for signed in transactions],
    )


def chunk_input(
    rules: Rules, request: ExecutionRequest, parent: ChunkExtra, collected: Collected, signed: Sequence[bool]
) -> ChunkInput:
    """Raises Malformed for a context that is none, ValueError for a protocol version that is not known."""
    context = request.context
    extra: RunContext = decode(RunContext, context.extra) if context.extra else RunContext()
    parameters = for_protocol(context.protocol_version, rules.parameters)
    return ChunkInput(
        parameters=parameters,
        shard=request.shard,
        boundaries=rules.boundaries,
        height=request.block.height,
        timestamp=extra.timestamp or context.time * 10**9,
        epoch=context.epoch,
        gas_price=context.gas_price or parameters.min_gas_price,
        random_seed=context.randomness or NO_HASH,
        transactions=collected.transactions,
        signed=signed,
        incoming=collected.receipts,
        info=parent.congestion,
        congestion={load.shard: ShardCongestion(load.info, load.missed_chunks) for load in extra.loads},
        refused=frozenset(extra.refused),
        locks={one.account: one.stake for one in extra.locks},
    )


# --- what goes out ---------------------------------------------------------------------------------------------------


def _finish(
    rules: Rules, request: ExecutionRequest, collected: Collected, result: ChunkResult, state: State, root: bytes
) -> Ran | Invalid:
    if request.invalid_transaction == "reject_block" and result.refusals:
        id, error = next(iter(result.refusals.items()))
        return Invalid(innermost(error), sentence(error), transaction=id)
    outcome_leaves = leaves_of(result.outcomes)
    shards = range(len(rules.boundaries) + 1)
    sent = [tuple(result.outgoing.get(shard, ())) for shard in shards]
    payloads = [receipts_payload(receipts) for receipts in sent]
    leaves = [outgoing_leaf(shard, payloads[shard]) for shard in shards]
    outgoing_root, outgoing_paths = merklize(leaves)
    for shard in shards:
        if sent[shard]:
            _remember(leaves[shard], sent[shard])
    extra = ChunkExtra(
        root,
        root_of_row(outcome_leaves),
        outgoing_root,
        result.gas_used,
        result.balance_burnt,
        tuple(result.proposals),
        result.info,
    )
    parcels = {
        shard: Parcel(
            request.shard,
            shard,
            payloads[shard],
            leaves[shard],
            encode(ParcelProof(extra, outgoing_paths[shard])),
        )
        for shard in shards
        if sent[shard]
    }
    discarded = dict(collected.refusals)
    discarded.update({id: (innermost(error), sentence(error)) for id, error in result.refusals.items()})
    powers = {proposal.public_key: proposal.stake for proposal in result.proposals}
    outcome = Outcome(
        request.block,
        extra.commitment(),
        discarded,
        outgoing=parcels,
        gas_used=result.gas_used,
        fees=result.balance_burnt,
        updates=ConsensusUpdates(powers) if powers else None,
        detail={
            "extra": extra,
            "outcomes": result.outcomes,
            "sent": tuple(chain.from_iterable(sent)),
            "refusals": dict(result.refusals),
            "proposals": tuple(result.proposals),
        },
    )
    return Ran(result, extra, {}, {}, outcome, outcome_leaves)


def _remember(leaf: bytes, sent: tuple[Receipt, ...]) -> None:
    """The oldest go: what the other shards sent in this block is asked for next."""
    _sent_here[leaf] = sent
    held = sum(map(len, list(_sent_here.values())))
    while held > REMEMBERED_RECEIPTS and len(_sent_here) > 1:
        held -= len(_sent_here.pop(next(iter(_sent_here))))


async def execute(
    rules: Rules,
    request: ExecutionRequest,
    view: View,
    collected: Collected,
    signed: Sequence[bool],
    beside: Beside,
    patch: Mapping[bytes, bytes] | None = None,
    causes: bool = False,
) -> Ran | Invalid:
    """On a view of the parent's state. ``patch``: rows that a sandbox puts over what the chunk came to. Raises
    ``shardstore.Stale``, Malformed, ValueError."""
    state = State()
    if causes:
        state.causes = {}
    parent = view.version.extra
    work = run(chunk_input(rules, request, parent, collected, signed), state, rules.verifier, rules.machine)
    load = partial(view.load, state)
    try:
        wanted = next(work)
        while True:
            if isinstance(wanted, Long):
                wanted = work.send(await beside.step(wanted.step, state, load))
            else:
                await load(wanted.keys, wanted.prefixes)
                wanted = next(work)
    except StopIteration as stop:
        result: ChunkResult = stop.value
    changes = {**state.final_changes(), **(patch or {})}
    if request.record_witness:
        await view.walk(list({**state.loaded, **changes}))
    fetched = request.record_witness
    recorder = Recorder(view)
    nodes: Mapping[bytes, bytes | None]
    while True:
        try:
            if request.record_witness:
                found: dict[bytes, bytes | None] = {}
                root, nodes = update(recorder, view.root, changes, found), found
            else:
                root, nodes = _root(view, changes)
            break
        except Missing as missing:
            # The ways of what changes; and then what is beside them: the only child that is left of a branch.
            if fetched:
                await view.fetch(missing.wanted)
            else:
                await view.walk(list(changes))
                fetched = True
    ran = _finish(rules, request, collected, result, state, root)
    if isinstance(ran, Ran):
        ran.values, ran.nodes, ran.causes = changes, nodes, state.causes or {}
        while request.record_witness and ran.outcome.witness is None:
            try:
                ran.outcome = _with_witness(ran.outcome, recorder, view, state)
            except Missing as missing:  # it was at hand, in a cache that is smaller than what was loaded since
                await view.fetch(missing.wanted)
    return ran


def _root(view: View, changes: Mapping[bytes, bytes | None]) -> tuple[bytes, Mapping[bytes, bytes | None]]:
    """The state root after the changes and the nodes that they change, the fast way if that is one. Raises Missing."""
    ways = view.shard.ways
    moved = ways.move(view, view.root, changes)
    if moved is not None:
        return moved
    nodes: dict[bytes, bytes | None] = {}
    root = update(view, view.root, changes, nodes)
    ways.follow(view.root, root, nodes)
    return root, nodes


def _with_witness(outcome: Outcome, recorder: Recorder, view: View, state: State) -> Outcome:
    values = proof_values(recorder, view.root, list(state.loaded), state.loaded)
    for prefix in state.listed:
        for _ in items_under(recorder, view.root, prefix):
            pass
    blobs = sorted({*recorder.seen.values(), *values})
    return evolve(outcome, witness=encode(StateWitness(view.version.extra, tuple(blobs))))


# --- from a witness --------------------------------------------------------------------------------------------------


class _Unproved(Exception):
    """The witness does not show what is asked of it."""


def _drive(work: Run[T], source: ByHash, root: bytes, state: State) -> T:
    def load(keys: Sequence[bytes], prefixes: Sequence[bytes]) -> None:
        for prefix in prefixes:
            state.listed[prefix] = tuple(key for key, _ in items_under(source, root, prefix))
        for key in keys:
            ref = find(source, root, key)
            state.loaded[key] = None if ref is None else source.value(ref)

    state.fetch = load
    try:
        wanted = next(work)
        while True:
            if isinstance(wanted, Long):
                wanted = work.send(wanted.step())
            else:
                load(wanted.keys, wanted.prefixes)
                wanted = next(work)
    except StopIteration as stop:
        value: T = stop.value
        return value


def verify(rules: Rules, request: ExecutionRequest, raw: bytes) -> Outcome | Invalid | Incomplete:
    """The outcome, from the request and the witness alone. A witness that lacks anything, holds anything more, or shows
    another state than the parent's commitment says is ``Incomplete``: another peer may have a good one."""
    claimed = request.context.parent_commitment
    bad = Incomplete([claimed or request.parent.id])
    collected = collect(request)
    if not isinstance(collected, Collected):
        return collected
    try:
        if len(raw) > MAX_WITNESS_BYTES:
            raise _Unproved
        witness: StateWitness = decode(StateWitness, raw)
        if witness.parent.commitment() != claimed:
            raise _Unproved
        source, state, root = ByHash(witness.state), State(), witness.parent.state_root
        signed = check_signatures(rules.verifier, collected.transactions)
        given = chunk_input(rules, request, witness.parent, collected, signed)
        result = _drive(run(given, state, rules.verifier, rules.machine), source, root, state)
        after = update(source, root, state.final_changes(), {})
        if not source.complete():
            raise _Unproved
    except (Malformed, Missing, _Unproved):
        return bad
    ran = _finish(rules, request, collected, result, state, after)
    return ran if isinstance(ran, Invalid) else ran.outcome
