"""A block: its bodies, its metadata, the run of its transactions, and everything that its ledger rows are made of.

Order within a block: metadata, the kept user transactions, state checkpoint. The clock: a block's time is that of its
context in microseconds, or one more than its parent's where that is not later; so it always rises.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha3_256
from typing import Any, Final, Protocol, TypeVar

from attrs import define, frozen

from nodewright.interfaces.common import BlockContext, Bundle
from nodewright.interfaces.execution import (
    ConsensusUpdates,
    ExecutionRequest,
    Incomplete,
    Invalid,
    Outcome,
    Prologue,
)
from nodewright.interfaces.storage import WriteBatch
from nodewright_aptos import bcs, hashing, jmt, records
from nodewright_aptos.accumulator import roots_of
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.executors import Executor
from nodewright_aptos.jmt import Change, TreeUpdate
from nodewright_aptos.ledger import (
    EXECUTED,
    MISCELLANEOUS,
    NO_WRITES,
    ExecutionStatus,
    TransactionInfo,
    encode_write_set,
)
from nodewright_aptos.prologue import PROLOGUE_CODES
from nodewright_aptos.records import BlockRow, TransactionRow, number
from nodewright_aptos.resources import (
    BLOCK_KEY,
    CONFIGURATION_KEY,
    NEW_EPOCH_EVENT,
    TIMESTAMP_KEY,
    handle_event,
    next_block,
)
from nodewright_aptos.state import DISCARDED, KEPT, RETRY, BlockEnvironment, Output, materialise
from nodewright_aptos.statekeys import key_hashes, value_hashes
from nodewright_aptos.statestore import Loaded, Version, View
from nodewright_aptos.transactions import (
    BlockMetadata,
    UserTransaction,
    decode_block_metadata,
    decode_transaction,
    encode_state_checkpoint,
    encode_user,
    transaction_hash,
)
from nodewright_aptos.validators import updates_of

MICROSECONDS: Final = 1_000_000
Known = Callable[[bytes], UserTransaction | None]
T = TypeVar("T")


class Offload(Protocol):
    async def __call__(self, count: int, function: Callable[..., T], *arguments: Any) -> T:
        """In a thread where ``count`` items are worth one."""


# --- the metadata transaction ----------------------------------------------------------------------------------------


def proposer_address(proposer: bytes) -> bytes:
    """An address as it is; anything else a consensus names its proposers by, hashed to one."""
    if len(proposer) == 32:
        return proposer
    return sha3_256(proposer).digest() if proposer else bytes(32)


def round_and_time(context: BlockContext) -> tuple[int, int]:
    """(round, microseconds). A consensus that has them says so in ``extra``: round u64 ‖ microseconds u64 ‖ its own, where
    the microseconds are of the context's second; otherwise the height, and the beginning of that second."""
    if len(context.extra) >= 16:
        round, time = (int.from_bytes(context.extra[at : at + 8], "little") for at in (0, 8))
        if time // MICROSECONDS == context.time:
            return round, time
    return context.height, context.time * MICROSECONDS


def metadata_of(context: BlockContext) -> BlockMetadata:
    """Its id names the block as far as that is known before there is one: no two contexts have the same."""
    told = bcs.vector(
        map(bcs.blob, (bcs.u64(context.height), bcs.u64(context.time), context.proposer, context.randomness, context.extra))
    )
    id = sha3_256(b"nodewright::BlockMetadata" + told).digest()
    round, time = round_and_time(context)
    return BlockMetadata(id, epoch_of(context), round, proposer_address(context.proposer), b"", (), time)


def prologue_of(context: BlockContext) -> Prologue:
    raw = metadata_of(context).encode()
    return Prologue(raw, transaction_hash(raw))


def epoch_of(context: BlockContext) -> int:
    """Epochs count from 1; the genesis is epoch 0."""
    return max(context.epoch, 1)


def run_metadata(metadata: BlockMetadata, block: BlockEnvironment, before: Mapping[bytes, bytes | None]) -> Output:
    """``before`` has the values of ``METADATA_KEYS``, all written by every genesis."""
    resource, settings = before[BLOCK_KEY], before[CONFIGURATION_KEY]
    assert resource is not None and settings is not None
    data = b"".join(
        (
            metadata.id,
            bcs.u64(block.epoch),
            bcs.u64(metadata.round),
            bcs.u64(block.height),
            bcs.blob(metadata.votes),
            block.proposer,
            bcs.vector(map(bcs.u64, metadata.failed_proposers)),
            bcs.u64(block.timestamp),
        )
    )
    resource, event = next_block(resource, block.height, data)
    writes: dict[bytes, bytes | None] = {BLOCK_KEY: resource, TIMESTAMP_KEY: bcs.u64(block.timestamp)}
    events = [event]
    if int.from_bytes(settings[:8], "little") != block.epoch:
        epoch = bcs.u64(block.epoch)
        settings, event = handle_event(epoch + bcs.u64(block.timestamp) + settings[16:], 16, NEW_EPOCH_EVENT, epoch)
        writes[CONFIGURATION_KEY] = settings
        events.append(event)
    return Output(KEPT, 0, EXECUTED, writes, {}, tuple(events))


METADATA_KEYS: Final = (BLOCK_KEY, CONFIGURATION_KEY, TIMESTAMP_KEY)


# --- bodies ----------------------------------------------------------------------------------------------------------


def bodies_of(bundle: Bundle, known: Known) -> list[bytes | None]:
    """In order; None where this node has none."""
    if bundle.bodies is not None:
        return list(bundle.bodies)
    found = [known(bundle.id_at(index)) for index in range(len(bundle))]
    return [None if transaction is None else transaction.raw for transaction in found]


def parse_body(id: bytes, body: bytes, known: Known) -> UserTransaction | str:
    """The transaction, or what is wrong with it."""
    before = known(id)
    if before is not None and before.raw == body:
        return before
    try:
        transaction = decode_transaction(body)
    except Malformed as error:
        return str(error)
    return transaction if transaction.id == id else "its body has another hash"


@define
class Collected:
    """Transactions of a block in order, each once; ``malformed`` ones (id -> what is wrong) are not among them."""

    transactions: list[UserTransaction]
    malformed: dict[bytes, str]


def collect(request: ExecutionRequest, known: Known) -> Collected | Incomplete | Invalid:
    strict = request.invalid_transaction == "reject_block"
    bodies: dict[bytes, bytes] = {}
    missing: list[bytes] = []
    for bundle in request.bundles:
        for index, body in enumerate(bodies_of(bundle, known)):
            id = bundle.id_at(index)
            if id in bodies:
                if strict:
                    return Invalid("repeated", "a transaction occurs twice in the block", bundle.ref.id, id)
            elif body is None:
                missing.append(id)
            else:
                bodies[id] = body
    if missing:
        return Incomplete(missing)
    collected = Collected([], {})
    for id, body in bodies.items():
        read = parse_body(id, body, known)
        if isinstance(read, UserTransaction):
            collected.transactions.append(read)
        elif strict:
            return Invalid("MALFORMED_TRANSACTION", read, None, id)
        else:
            collected.malformed[id] = read
    return collected


# --- running ---------------------------------------------------------------------------------------------------------


@frozen
class Saved:
    """What a node keeps of its ledger beside what it must."""

    changes: bool = True
    accounts: bool = True
    events: bool = True


@define
class Entry:
    """One transaction of the ledger while its block is made."""

    transaction: bytes
    hash: bytes
    output: Output
    writes: dict[bytes, bytes | None]
    user: UserTransaction | None = None


async def execute(
    request: ExecutionRequest,
    view: View,
    collected: Collected,
    signed: Sequence[bool],
    executor: Executor,
    chain_id: int,
    saved: Saved,
    offload: Offload,
) -> Version | Invalid:
    """The block on the state that ``view`` shows, as a version over it."""
    parent = view.row
    try:
        metadata = decode_block_metadata(request.prologue) if request.prologue else metadata_of(request.context)
    except Malformed as error:
        return Invalid("MALFORMED_PROLOGUE", f"its metadata cannot be read: {error}")
    timestamp = max(round_and_time(request.context)[1], parent.timestamp + 1)
    proposer = proposer_address(request.context.proposer) if request.context.proposer else metadata.proposer
    block = BlockEnvironment(request.block.height, timestamp, epoch_of(request.context), chain_id, proposer)
    loaded = Loaded(view)
    await loaded.load(METADATA_KEYS)
    first = run_metadata(metadata, block, loaded.known)
    before = dict(loaded.known)
    loaded.known.update(first.writes)
    good = [transaction for transaction, answer in zip(collected.transactions, signed, strict=True) if answer]
    outputs = await executor.run(loaded, good, block)
    past = [one.id for one, output in zip(good, outputs, strict=True) if output.code == PROLOGUE_CODES[1002]]
    rows = await view.ledger_rows(records.HASHES, past)
    known = {id for id, row in zip(past, rows, strict=True) if row is not None}
    refusals = _refusals(request, collected, signed, good, outputs, known)
    if isinstance(refusals, Invalid):
        return refusals
    kept = [(one, output) for one, output in zip(good, outputs, strict=True) if output.kind == KEPT]
    touched = dict.fromkeys(key for _, output in kept for key in (*output.writes, *output.deltas))
    await loaded.load(touched)
    for key in touched:
        before.setdefault(key, loaded.known[key])
    each, whole = materialise([output for _, output in kept], {key: loaded.known[key] for key in touched})
    whole = {**first.writes, **whole}
    raw = metadata.encode()
    entries = [Entry(raw, transaction_hash(raw), first, first.writes)]
    entries += [
        Entry(encode_user(one.raw), one.id, output, writes, one) for (one, output), writes in zip(kept, each, strict=True)
    ]
    version = parent.version + len(entries) + 1
    changes: list[Change] = await offload(len(whole), tree_changes, whole)
    paths = await jmt.load_paths(view, parent.state, changes)
    tree: TreeUpdate = await offload(len(changes), jmt.apply_changes, paths, parent.state, changes, version)
    made: Version = await offload(
        len(entries), _version, request, parent, block, metadata, entries, tree, whole, before, saved
    )
    made.outcome = _outcome(request, made, kept, *refusals)
    return made


def _refusals(
    request: ExecutionRequest,
    collected: Collected,
    signed: Sequence[bool],
    good: Sequence[UserTransaction],
    outputs: Sequence[Output],
    known: Collection[bytes],
) -> tuple[dict[bytes, tuple[str, str]], dict[bytes, str]] | Invalid:
    """Discarded and to be retried; or, where the consensus takes no such block, the first of them in block order. Those
    of an earlier block (``known``) are passed over like any repetition: told of as discarded, they would seem rejected."""
    strict = request.invalid_transaction == "reject_block"
    results = {one.id: output for one, output in zip(good, outputs, strict=True)}
    discarded = {id: ("MALFORMED_TRANSACTION", told) for id, told in collected.malformed.items()}
    retry: dict[bytes, str] = {}
    for transaction, answer in zip(collected.transactions, signed, strict=True):
        output = results.get(transaction.id) if answer else None
        if output is None:
            discarded[transaction.id] = ("INVALID_SIGNATURE", "a signature is missing or wrong")
        elif output.kind == DISCARDED and (strict or transaction.id not in known):
            discarded[transaction.id] = (output.code, output.message)
        elif output.kind == RETRY:
            retry[transaction.id] = f"{output.code}: {output.message}"
        if strict and (discarded or retry):
            code, told = discarded.get(transaction.id, ("SEQUENCE_NUMBER_TOO_NEW", retry.get(transaction.id, "")))
            return Invalid(code, told, None, transaction.id)
    return discarded, retry


def tree_changes(whole: Mapping[bytes, bytes | None]) -> list[Change]:
    """Of a block's writes, in the order that the tree takes them."""
    keys = list(whole)
    hashes = key_hashes(keys)
    values = iter(value_hashes([value for value in whole.values() if value is not None]))
    return jmt.ordered(
        Change(hash, None if whole[key] is None else next(values), key) for key, hash in zip(keys, hashes, strict=True)
    )


# --- ledger rows -----------------------------------------------------------------------------------------------------


def _version(
    request: ExecutionRequest,
    parent: BlockRow,
    block: BlockEnvironment,
    metadata: BlockMetadata,
    entries: list[Entry],
    tree: TreeUpdate,
    whole: dict[bytes, bytes | None],
    before: dict[bytes, bytes | None],
    saved: Saved,
) -> Version:
    checkpoint = encode_state_checkpoint(request.block.id)
    entries.append(Entry(checkpoint, transaction_hash(checkpoint), Output(KEPT), {}))
    rows, infos = ledger_rows(entries, parent.version + 1, request.block.height, block.timestamp, tree.root.hash, saved)
    accumulator, nodes = parent.accumulator.append(hashing.digests(hashing.TRANSACTION_INFO, infos))
    rows.put_many(records.ACCUMULATOR, {bytes([level]) + number(index): hash for (level, index), hash in nodes.items()})
    row = BlockRow(
        request.block.height,
        request.block.id,
        request.parent.id,
        block.epoch,
        metadata.round,
        block.proposer,
        block.timestamp,
        parent.version + 1,
        parent.version + len(entries),
        tree.root,
        accumulator,
    )
    users = [entry.user for entry in entries if entry.user is not None]
    return Version(
        row,
        request.parent,
        whole,
        tree.nodes,
        tree.stale,
        {key: before[key] for key in whole},
        rows=rows,
        sequences={user.sender: (user.sequence_number, user.id) for user in users},
        ids=frozenset([user.id for user in users]),
    )


def ledger_rows(
    entries: Sequence[Entry], first_version: int, height: int, timestamp: int, state_root: bytes, saved: Saved
) -> tuple[WriteBatch, list[bytes]]:
    """Rows of these transactions and their indexes, and their infos in BCS, in order. The last one has the state's root."""
    changes = [
        encode_write_set(entry.writes, frozenset(entry.output.created)) if entry.writes else b"\0\0" for entry in entries
    ]
    change_hashes = hashing.digests(hashing.WRITE_SET, changes)
    events = [[event.encode() for event in entry.output.events] for entry in entries]
    event_hashes = iter(hashing.digests(hashing.CONTRACT_EVENT, [one for listed in events for one in listed]))
    roots = roots_of(hashing.EVENT_ACCUMULATOR, [[next(event_hashes) for _ in listed] for listed in events])
    batch = WriteBatch()
    transactions: dict[bytes, bytes] = {}
    infos = []
    last = len(entries) - 1
    for index, (entry, changed, change_hash, listed) in enumerate(
        zip(entries, changes, change_hashes, events, strict=True)
    ):
        output = entry.output
        hashed = change_hash if entry.writes else NO_WRITES
        checkpoint = state_root if index == last else None
        info = TransactionInfo(output.gas_used, output.status, entry.hash, roots[index], hashed, checkpoint).encode()
        infos.append(info)
        version = first_version + index
        row = TransactionRow(
            version,
            height,
            timestamp,
            entry.transaction,
            info,
            bcs.vector(listed),
            changed if saved.changes else b"",
            _reason(output.status),
        )
        transactions[number(version)] = row.encode()
    batch.put_many(records.TRANSACTIONS, transactions)
    batch.put_many(records.HASHES, {entry.hash: number(first_version + at) for at, entry in enumerate(entries)})
    if saved.accounts:
        batch.put_many(records.BY_ACCOUNT, _by_account(entries, first_version))
    if saved.events:
        batch.put_many(records.EVENTS, _by_event(entries, first_version))
    return batch, infos


def _reason(status: ExecutionStatus) -> str:
    return status.reason if status.kind == MISCELLANEOUS else ""


def _by_account(entries: Sequence[Entry], first_version: int) -> dict[bytes, bytes]:
    return {
        entry.user.sender + number(entry.user.sequence_number): number(first_version + at)
        for at, entry in enumerate(entries)
        if entry.user is not None
    }


def _by_event(entries: Sequence[Entry], first_version: int) -> dict[bytes, bytes]:
    rows = {}
    for at, entry in enumerate(entries):
        for index, event in enumerate(entry.output.events):
            key = records.event_key(event)
            if key is not None:
                rows[key] = number(first_version + at) + index.to_bytes(2, "big")
    return rows


def index_keys(row: TransactionRow) -> dict[str, list[bytes]]:
    """Keys by table of everything that the ledger has of a transaction."""
    keys = {records.TRANSACTIONS: [number(row.version)], records.HASHES: [row.hash]}
    keys[records.EVENTS] = [key for event in row.event_list() if (key := records.event_key(event)) is not None]
    user = user_of(row)
    keys[records.BY_ACCOUNT] = [] if user is None else [user.sender + number(user.sequence_number)]
    return keys


def user_of(row: TransactionRow) -> UserTransaction | None:
    return decode_transaction(row.transaction[1:]) if row.transaction[:1] == b"\0" else None


def _outcome(
    request: ExecutionRequest,
    version: Version,
    kept: Sequence[tuple[UserTransaction, Output]],
    discarded: dict[bytes, tuple[str, str]],
    retry: dict[bytes, str],
) -> Outcome:
    """Committed to: the root of the transaction accumulator, which a LedgerInfo signs; the state's root is under it."""
    row = version.row
    validators = updates_of(output for _, output in kept)
    detail = {
        "state_root": row.state.hash,
        "version": row.version,
        "first_version": row.first_version,
        "timestamp": row.timestamp,
        "epoch": row.epoch,
        "round": row.round,
    }
    return Outcome(
        request.block,
        row.accumulator.root,
        discarded,
        retry,
        gas_used=sum(output.gas_used for _, output in kept),
        fees=sum(output.fee for _, output in kept),
        updates=ConsensusUpdates(validators, True) if validators else None,
        detail=detail,
    )
