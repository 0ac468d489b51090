"""The execution ``aptos``: accounts, coins and transaction functions over a Jellyfish Merkle tree, behind ``Execution``.

Capabilities ``declared-access`` and ``undo``. Several blocks may be executed above the applied one; only a committed one is
durable. The last ``history`` committed blocks can be undone, read and proven.

Invariants
- The store holds the state of ``applied``, its tree, and the ledger up to it (``statestore``).
- ``execute`` looks at no reservation, other than to report which ones a block defeats, and at no clock but the context's.
- Reservations live in memory: the pool's journal brings them back at the next start.
- Commits and reverts follow each other; a block may be executed while its parent is being committed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import trio
from attrs import evolve

from nodewright.caches import Verified
from nodewright.errors import StoreCorrupt
from nodewright.interfaces.common import Admission, BlockContext, BlockRef, Bundle
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import (
    BundleIncomplete,
    BundleInvalid,
    BundleValid,
    BundleVerdict,
    Candidate,
    Deferred,
    ExecutionRequest,
    ExecutionResult,
    Incomplete,
    Invalid,
    Limits,
    Outcome,
    Prologue,
    Reverted,
    Selection,
    View,
)
from nodewright.interfaces.storage import KeyValueStore, WriteBatch
from nodewright.interfaces.verifier import Verifier
from nodewright_aptos import admission, blocks, records
from nodewright_aptos.accumulator import PAGE_LEVEL
from nodewright_aptos.admission import Admitter, refused
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.blocks import Saved, bodies_of, parse_body
from nodewright_aptos.executors import Executor
from nodewright_aptos.functions import Functions
from nodewright_aptos.genesis import genesis_version
from nodewright_aptos.prologue import Problem, check_form
from nodewright_aptos.queries import Queries
from nodewright_aptos.records import TransactionRow, number, read_transaction
from nodewright_aptos.reservations import Reservations
from nodewright_aptos.signatures import check_signatures
from nodewright_aptos.state import BlockEnvironment
from nodewright_aptos.statestore import Stale, StateStore, Version, sound
from nodewright_aptos.transactions import (
    UserTransaction,
    decode_block_metadata,
    decode_transaction,
    transaction_hash,
)

T = TypeVar("T")
# A thread hop costs about as much as two signature checks.
WORTH_A_HOP = 4
VERIFIED_BYTES = 64 * 1024 * 1024
EVERYTHING = Saved()
_BAD_SIGNATURE = Problem("INVALID_SIGNATURE", "a signature is missing or wrong")


class AptosEngine:
    capabilities: frozenset[str] = frozenset({"declared-access", "undo"})
    format: str = "aptos-1"

    def __init__(
        self,
        store: KeyValueStore,
        environment: Environment,
        verifier: Verifier,
        functions: Functions,
        executor: Executor,
        chain_id: int,
        *,
        cache_bytes: int = 64 * 1024 * 1024,
        history: int = 1000,
        saved: Saved = EVERYTHING,
    ) -> None:
        self.environment = environment
        self.verifier = verifier
        self.functions = functions
        self.executor = executor
        self.chain_id = chain_id
        self.saved = saved
        self.state = StateStore(store, cache_bytes, history)
        self.reservations = Reservations()
        self.verified: Verified[UserTransaction] = Verified(VERIFIED_BYTES)
        self._admitter = Admitter(functions, self.reservations)
        self._queries = Queries(self.state, functions, chain_id)
        self._executing = trio.Lock()
        self._moving = trio.Lock()

    async def open(self) -> None:
        await self.state.open()

    async def _offload(self, count: int, function: Callable[..., T], *arguments: Any) -> T:
        if count < WORTH_A_HOP:
            return function(*arguments)
        return await self.environment.offload(function, *arguments)

    # --- genesis -----------------------------------------------------------------------------------------------------

    async def genesis(self, document: Mapping[str, Any], block: BlockRef) -> bytes | None:
        """``document["execution"]`` as ``genesis`` says. The root of the transaction accumulator after it."""
        version = genesis_version(document, block, self.saved)
        if self.state.applied is None:
            await self.state.install(version)
        return version.row.accumulator.root

    # --- transactions ------------------------------------------------------------------------------------------------

    async def identify(self, txs: Sequence[bytes]) -> list[bytes | None]:
        return [_identify(raw) for raw in txs]

    async def admit(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        read = [self._admitter.form(raw) for raw in txs]
        fresh = [one for one in read if isinstance(one, UserTransaction)]
        good = await self._signed(fresh)
        state, block = await self._state_near(head, time, admission.state_keys(fresh))
        answers: list[Admission] = []
        signs = iter(good)
        for one in read:
            if not isinstance(one, UserTransaction):
                answers.append(one)
            elif not next(signs):
                answers.append(refused(_BAD_SIGNATURE, one.id))
            else:
                answers.append(self._admitter.admit(one, state, block))
        return answers

    async def _state_near(
        self, head: BlockRef, time: int, keys: Mapping[bytes, None]
    ) -> tuple[Mapping[bytes, bytes | None], BlockEnvironment]:
        """These values after ``head``, or after the applied block where that is not here, and what a block at ``time``
        would go by."""
        while True:
            view = self.state.view_near(head.id)
            if view is None:
                raise StoreCorrupt("the execution has no genesis yet")
            try:
                values = await view.values(list(keys))
            except Stale:
                await trio.lowlevel.checkpoint()
                continue
            timestamp = max(time * blocks.MICROSECONDS, view.row.timestamp)
            return values, BlockEnvironment(view.row.height + 1, timestamp, view.row.epoch, self.chain_id)

    async def confirm(self, ids: Sequence[bytes]) -> None:
        """Reservations live in memory: the pool's journal redoes them at the next start."""

    async def release(self, ids: Sequence[bytes]) -> list[bytes]:
        return self.reservations.drop(ids)

    async def release_unclaimed(self) -> list[bytes]:
        return []  # none outlives its process

    async def select(self, parent: BlockRef, candidates: Sequence[Candidate], limits: Limits) -> Selection:
        held = [known.transaction for one in candidates if (known := self.reservations.by_id.get(one.id)) is not None]
        state, block = await self._state_near(parent, 0, admission.state_keys(held))
        return admission.select(candidates, self.reservations, state, limits, block.seconds)

    async def prologue(self, context: BlockContext) -> Prologue:
        return blocks.prologue_of(context)

    def _known(self, id: bytes) -> UserTransaction | None:
        held = self.reservations.by_id.get(id)
        return held.transaction if held is not None else self.verified.get(id)

    async def _signed(self, transactions: Sequence[UserTransaction]) -> list[bool]:
        """One answer each; those that were good before are not checked again."""
        fresh = [one for one in transactions if self._known(one.id) is None]
        good = await self._offload(len(fresh), check_signatures, self.verifier, fresh)
        bad = {one.id for one, answer in zip(fresh, good, strict=True) if not answer}
        self.verified.add(one for one in fresh if one.id not in bad)
        return [one.id not in bad for one in transactions]

    async def validate_bundle(self, bundle: Bundle, head: BlockRef) -> BundleVerdict:
        ids = [bundle.id_at(index) for index in range(len(bundle))]
        bodies = bodies_of(bundle, self._known)
        missing = [id for id, body in zip(ids, bodies, strict=True) if body is None]
        if missing:
            return BundleIncomplete(missing)
        read: list[UserTransaction] = []
        for index, (id, body) in enumerate(zip(ids, bodies, strict=True)):
            one = parse_body(id, body or b"", self._known)
            if isinstance(one, str):
                return BundleInvalid("MALFORMED_TRANSACTION", one, index)
            problem = check_form(one, self.functions)
            if problem is None and one.chain_id != self.chain_id:
                problem = Problem("BAD_CHAIN_ID", f"it is for chain {one.chain_id}, this is chain {self.chain_id}", 1007)
            if problem is not None:
                return BundleInvalid(problem.status, problem.message, index)
            read.append(one)
        good = await self._signed(read)
        if not all(good):
            return BundleInvalid(_BAD_SIGNATURE.status, _BAD_SIGNATURE.message, good.index(False))
        holders = {one.id: self.reservations.holder(one) for one in read}
        conflicts = {id: holder for id, holder in holders.items() if holder is not None and holder != id}
        fees, sizes = [one.max_fee for one in read], [len(one.raw) for one in read]
        return BundleValid(sum(fees), sum(sizes), fees, sizes, conflicts)

    # --- blocks ------------------------------------------------------------------------------------------------------

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        async with self._executing:
            known = self.state.versions.get(request.block.id)
            if known is not None and known.outcome is not None and known.row.parent == request.parent.id:
                done: Outcome = known.outcome
                return done
            view = self.state.view(request.parent.id)
            if view is None:
                return self._deferred(request)
            collected = blocks.collect(request, self._known)
            if isinstance(collected, Incomplete | Invalid):
                return collected
            signed = await self._signed(collected.transactions)
            try:
                made = await blocks.execute(
                    request, view, collected, signed, self.executor, self.chain_id, self.saved, self._offload
                )
            except Stale:
                return self._deferred(request)
            if isinstance(made, Invalid):
                return made
            if request.parent.id not in self.state.versions:  # another child of its parent was committed meanwhile
                return self._deferred(request)
            made.outcome = evolve(made.outcome, evicted=self.reservations.losers(made.sequences, made.ids))
            self.state.versions[request.block.id] = made
            outcome: Outcome = made.outcome
            return outcome

    def _deferred(self, request: ExecutionRequest) -> Deferred:
        assert self.state.applied is not None  # genesis comes first
        return Deferred(request.parent, self.state.applied.ref)

    async def verify_witness(self, request: ExecutionRequest, witness: bytes) -> ExecutionResult:
        """There are no witnesses (no capability ``witness``): none shows the state it claims."""
        return Incomplete([request.context.parent_commitment or request.parent.id])

    async def commit(self, block: BlockRef, shard: int = 0) -> Mapping[bytes, bytes] | None:
        async with self._moving:
            with trio.CancelScope(shield=True):
                version = await self.state.commit(block)
        if version is None:
            return None
        lost = self.reservations.losers(version.sequences, version.ids)
        self.reservations.drop([*version.ids, *lost])
        told = version.outcome.evicted
        return {id: winner for id, winner in lost.items() if id not in told}

    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        """Raises Pruned where the block is older than ``history``; StoreCorrupt where it is not the applied one."""
        async with self._executing, self._moving:
            applied = self.state.applied
            if applied is None or block.height > applied.height:
                return Reverted(block)
            if block != applied.ref:
                raise StoreCorrupt(f"block {block} is to be undone, and {applied.ref} is applied: undo that first")
            rows, users = await self._ledger_of(self.state.versions[block.id])
            with trio.CancelScope(shield=True):
                await self.state.revert(rows)
            return Reverted(block, [(user.id, user.raw) for user in users])

    async def _ledger_of(self, version: Version) -> tuple[WriteBatch, list[UserTransaction]]:
        """Deletions of the applied block's ledger rows, and its users' transactions in order."""
        row, batch = version.row, WriteBatch()
        versions = range(row.first_version, row.version + 1)
        raws = await self.state.store.get_many(records.TRANSACTIONS, [number(one) for one in versions])
        users = []
        for at, raw in zip(versions, raws, strict=True):
            if raw is None:
                raise StoreCorrupt(f"stores.state lacks the transaction at version {at}: restore it from a copy")
            entry, keys_of = _read_row(at, raw)
            for table, keys in keys_of.items():
                batch.delete_many(table, keys)
            user = blocks.user_of(entry)
            if user is not None:
                users.append(user)
        leaves = row.accumulator.leaves
        for level in range(PAGE_LEVEL, leaves.bit_length(), PAGE_LEVEL):
            for index in range((leaves - len(versions)) >> level, leaves >> level):
                batch.delete(records.ACCUMULATOR, bytes([level]) + number(index))
        return batch, users

    async def abandon(self, block: BlockRef, shard: int = 0) -> None:
        self.state.abandon(block)

    async def applied(self, shard: int = 0) -> BlockRef | None:
        return None if self.state.applied is None else self.state.applied.ref

    async def query(self, view: View, kind: str, **arguments: Any) -> Any:
        """See ``queries``."""
        return await self._queries.answer(view, kind, arguments)


def _read_row(version: int, raw: bytes) -> tuple[TransactionRow, dict[str, list[bytes]]]:
    """A transaction of the ledger, and the keys of all that is kept of it. Raises StoreCorrupt."""

    def read() -> tuple[TransactionRow, dict[str, list[bytes]]]:
        row = read_transaction(version, raw)
        return row, blocks.index_keys(row)

    return sound(f"the transaction at version {version}", read)


def _identify(raw: bytes) -> bytes | None:
    """Of a user's transaction, or of a block's metadata with its tag."""
    try:
        return decode_transaction(raw).id
    except Malformed:
        pass
    try:
        decode_block_metadata(raw)
    except Malformed:
        return None
    return transaction_hash(raw)
