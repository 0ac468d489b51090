"""The execution ``bitcoin``: an unspent-output state with one durable head, behind the ``Execution`` contract.

Invariants:
- The UTXO state always equals replay(blocks up to the applied one) + reservations; every method is idempotent.
- Order of writes: a reservation enters the store only at ``confirm`` (the pool has journalled it by then); a block
  enters it in one durable commit. A crash between any two steps leaves a state that ``open`` and the pool's replay of its
  journal complete: ``admit`` of a stored transaction answers ``known`` and brings its effect back to memory.
- One lock covers every change of the applied block or of reservations; reads, parsing and scripts run outside of it.
  ``generation`` counts changes that outputs read before may not have survived (blocks, releases, freezes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import trio

from nodewright.errors import Pruned, StoreError, UnknownQuery
from nodewright.interfaces.common import Admission, BlockContext, BlockRef, Bundle, Refused
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import (
    BundleIncomplete,
    BundleInvalid,
    BundleVerdict,
    Candidate,
    ChainTimes,
    ExecutionRequest,
    ExecutionResult,
    Invalid,
    Limits,
    Prologue,
    Reverted,
    Selection,
    View,
)
from nodewright.interfaces.storage import UtxoOutput, UtxoRefused, UtxoStore, UtxoTransaction
from nodewright.interfaces.verifier import Verifier
from nodewright_bitcoin import coinbase
from nodewright_bitcoin.admission import WORTH_A_HOP, Admitter
from nodewright_bitcoin.blocks import Blocks
from nodewright_bitcoin.bundles import Bundles, Checked
from nodewright_bitcoin.columns import Parsed, parse_batch
from nodewright_bitcoin.encoding import sha256d
from nodewright_bitcoin.network import ChainParameters
from nodewright_bitcoin.policy import Policy
from nodewright_bitcoin.relative import RelativeLock, unmet
from nodewright_bitcoin.rules import COIN, era_flags
from nodewright_bitcoin.scripts import VerifiedCache
from nodewright_bitcoin.staged import staged_outputs
from nodewright_bitcoin.state import Reservation, Reservations, descendants_first, parents_first
from nodewright_bitcoin.transaction import MAX_TRANSACTION_BYTES

T = TypeVar("T")

PREPARED_BYTES = 1024 * 160
REASSIGNED_AFTER_BLOCKS = 1000
EXTENDED_FORM_FACTOR = 4


class BitcoinEngine:
    capabilities: frozenset[str] = frozenset({"undo", "single-head"})
    format: str = "bitcoin-1"

    def __init__(
        self,
        store: UtxoStore,
        verifier: Verifier,
        environment: Environment,
        parameters: ChainParameters,
        policy: Policy,
        payout: bytes,
        cache_bytes: int,
    ) -> None:
        self.store = store
        self.verifier = verifier
        self.environment = environment
        self.parameters = parameters
        self.policy = policy
        self.payout = payout
        # The extended form carries the scripts of the outputs spent as well.
        self.max_raw_bytes = EXTENDED_FORM_FACTOR * policy.max_transaction_bytes
        self.verified = VerifiedCache(cache_bytes)
        # What passed outside of admission: kept, whatever the size of the other, until it is admitted.
        self.prepared = VerifiedCache(PREPARED_BYTES)
        self.state = Reservations()
        self.lock = trio.Lock()
        self.generation = 0
        self._moved = trio.Event()
        self.applied_block: BlockRef | None = None
        self.times: ChainTimes | None = None
        self._admitter = Admitter(self)
        self._bundles = Bundles(self)
        self._blocks = Blocks(self, self._bundles)

    def rules_at(self, height: int) -> int:
        """The script rules of the block at this height, as a number to compare by."""
        return int(era_flags(height, self.parameters))

    async def outdated(self) -> Sequence[bytes]:
        """See ``interfaces.execution.Upgrading``: reservations judged by other script rules than the next block has."""
        if self.applied_block is None:
            return []
        return self.state.judged_otherwise(self.rules_at(self.applied_block.height + 1))

    def use_times(self, times: ChainTimes) -> None:
        """See ``interfaces.execution.Timed``."""
        self.times = times

    async def unripe(self) -> Sequence[bytes]:
        async with self.lock:
            if self.applied_block is None or not self.state.timed:
                return []
            return list(await self._blocks.family(await self._unripe(self.state.timed, self.applied_block)))

    async def _unripe(self, txids: Iterable[bytes], parent: BlockRef) -> set[bytes]:
        """Of these reservations, those that the block after ``parent`` may not hold for their own sake."""
        found = [one for one in map(self.state.get, txids) if one is not None]
        made_at = await self.made_at([lock for one in found for lock in one.locks])
        height, times = parent.height + 1, self.times
        median = times.median_time_past(parent, parent.height) if times is not None else None
        return {
            one.effect.txid
            for one in found
            if one.min_height > height
            or (median is not None and one.min_time > median)
            or (one.locks and unmet(one.locks, made_at, parent, times) is not None)
        }

    async def made_at(self, locks: Iterable[RelativeLock]) -> dict[bytes, int]:
        """The heights of the blocks that made the outputs which these are about; those of unmined ones are not in it."""
        points = [lock.outpoint for lock in locks if lock.outpoint[:32] not in self.state.unmined]
        outputs = await self.store.get_outputs(points) if points else ()
        return {point: output.height for point, output in zip(points, outputs, strict=True) if output is not None}

    async def load(self) -> None:
        """Where the store stands, and which transactions it holds unmined (bare until the pool admits them again)."""
        self.applied_block = await self.store.applied()
        async for item in self.store.iterate_unmined():
            self.state.add_bare([item.txid], self.rules_at(item.height))

    async def offload_batch(self, count: int, function: Callable[..., T], *arguments: Any) -> T:
        """One hop for a batch; none for a few."""
        if count < WORTH_A_HOP:
            return function(*arguments)
        return await self.environment.offload(function, *arguments)

    def moved(self, block: BlockRef) -> None:
        self.applied_block = block
        self.generation += 1
        self._moved.set()
        self._moved = trio.Event()

    async def keep_pruned(self, retention: int) -> None:
        """After every block, drop what was spent more than ``retention`` blocks deep and strike mined transactions from
        the store's list of unmined ones. Runs until cancelled, beside everything else; several blocks may share one
        turn."""
        while True:
            moved = self._moved
            if self.applied_block is not None:
                await self.store.prune(self.applied_block.height, retention)
            await moved.wait()

    # --- genesis and transactions ------------------------------------------------------------------------------------

    async def genesis(self, document: Mapping[str, Any], block: BlockRef) -> bytes | None:
        """``document`` is the whole genesis document or its table ``execution``. The coinbase of the genesis block is not
        spendable and enters no state; ``allocations`` do (see ``coinbase.allocation``)."""
        table = document.get("execution", document)
        given = coinbase.allocation(table if isinstance(table, Mapping) else {}, self.parameters)
        async with self.lock:
            if self.applied_block is not None:
                return None
            mark = sha256d(b"genesis" + block.id)
            if given is not None:
                await self.store.assign_bundle(mark, given.txid)
            create, mined = ([given], [mark]) if given is not None else ([], [])
            await self.store.replace((), create, block.height, block, mined=mined)
            self.moved(block)
        return None

    async def identify(self, txs: Sequence[bytes]) -> list[bytes | None]:
        batch = await self.offload_batch(len(txs), parse_batch, txs, MAX_TRANSACTION_BYTES)
        return [item.txid if isinstance(item, Parsed) else None for item in batch.items]

    async def admit(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        if not txs:
            return []
        return await self._admitter.admit(txs, head, time)

    async def admit_quick(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        return await self._admitter.admit(txs, head, time, quick=True) if txs else []

    async def prepare(self, tx: bytes, head: BlockRef, time: int) -> Refused | None:
        return await self._admitter.prepare(tx, head, time)

    def knows(self, txids: Sequence[bytes]) -> bool:
        """Whether scripts of any of these passed before, under whatever rules."""
        return not (self.verified.is_strange(txids) and self.prepared.is_strange(txids))

    def passed(self, txid: bytes, rules: int) -> bool:
        return (txid, rules) in self.verified or (txid, rules) in self.prepared

    async def confirm(self, ids: Sequence[bytes]) -> None:
        """Ids that are not reserved any more are passed over: a block took or displaced them meanwhile."""
        async with self.lock:
            by_height: dict[int, list[Reservation]] = {}
            for txid in ids:
                reserved = self.state.get(txid)
                if reserved is not None and not reserved.stored:
                    by_height.setdefault(reserved.height, []).append(reserved)
            for height, reserved_there in by_height.items():
                effects = [reserved.effect for reserved in reserved_there]
                with trio.CancelScope(shield=True):
                    results = await self.store.spend_and_create(effects, height)
                    for reserved, refused in zip(reserved_there, results, strict=True):
                        if refused is None:
                            self.state.now_stored(reserved)
                for effect, refused in zip(effects, results, strict=True):
                    if refused is not None:
                        raise StoreError(
                            f"the UTXO store refuses the admitted transaction {effect.txid[::-1].hex()}: input "
                            f"{refused.input} is {refused.code}"
                        )

    async def release(self, ids: Sequence[bytes]) -> list[bytes]:
        async with self.lock:
            family = await self._blocks.family(ids)
            effects = descendants_first(list(family.values()))
            await self._remove(effects)
        return [effect.txid for effect in effects]

    async def _remove(self, effects: Sequence[UtxoTransaction]) -> None:
        stored = [effect for effect in effects if self.state.is_stored(effect.txid)]
        with trio.CancelScope(shield=True):
            if stored:
                await self.store.remove(stored, durable=True)
            for effect in effects:
                self.state.drop(effect.txid)
            if effects:
                self.generation += 1

    # --- blocks ------------------------------------------------------------------------------------------------------

    async def release_unclaimed(self) -> list[bytes]:
        return await self.release([txid for txid, reservation in self.state.unmined.items() if reservation is None])

    async def select(self, parent: BlockRef, candidates: Sequence[Candidate], limits: Limits) -> Selection:
        """All that are ready, up to the limits, in the order given, but a child never before its parents: where the order
        given has one so, the whole lot is put in order."""
        state, reservations = self.state, self.state.unmined
        candidates = parents_first(state, candidates)
        ready = [reservations.get(candidate.id) for candidate in candidates]
        fits = len(candidates) <= limits.max_count and sum([one.size for one in candidates]) <= limits.max_bytes
        timed = state.timed.intersection([one.id for one in candidates]) if state.timed else None
        unripe = await self._unripe(timed, parent) if timed else ()
        if fits and not unripe and all([one is not None for one in ready]):
            return Selection(list(candidates), {}, [])
        chosen: list[Candidate] = []
        deferred: list[Candidate] = []
        rejected: dict[bytes, str] = {}
        waiting: set[bytes] = set()
        size = 0
        for candidate in candidates:
            reserved = reservations.get(candidate.id)
            if reserved is None:
                if candidate.id not in state:
                    rejected[candidate.id] = "it is in a block, or gave way to one"
                    continue
                waits = True
            else:
                full = len(chosen) >= limits.max_count or size + candidate.size > limits.max_bytes
                waits = full or candidate.id in unripe
                if waiting and not waits:
                    waits = any(spent[:32] in waiting for spent in reserved.effect.spends)
            if waits:
                waiting.add(candidate.id)
                deferred.append(candidate)
            else:
                chosen.append(candidate)
                size += candidate.size
        return Selection(chosen, rejected, deferred)

    async def prologue(self, context: BlockContext) -> Prologue:
        """The coinbase: to ``context.proposer`` (a locking script) where it is not empty, else to the configured payout."""
        raw = coinbase.make(context, context.proposer or self.payout, self.parameters)
        return Prologue(raw, sha256d(raw))

    async def validate_bundle(self, bundle: Bundle, head: BlockRef) -> BundleVerdict:
        return await self._bundles.verdict(bundle, head)

    async def validate_for_block(self, bundle: Bundle, height: int) -> Checked | BundleInvalid | BundleIncomplete:
        return await self._bundles.validate(bundle, height)

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        return await self._blocks.execute(request)

    async def verify_witness(self, request: ExecutionRequest, witness: bytes) -> ExecutionResult:
        return Invalid("no-witness", "this execution makes no witnesses (capability witness)")

    async def commit(self, block: BlockRef, shard: int = 0) -> Mapping[bytes, bytes] | None:
        return await self._blocks.commit(block)

    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        return await self._blocks.revert(block)

    async def abandon(self, block: BlockRef, shard: int = 0) -> None:
        self._blocks.plans.pop(block.id, None)

    async def applied(self, shard: int = 0) -> BlockRef | None:
        return self.applied_block

    # --- queries -----------------------------------------------------------------------------------------------------

    async def query(self, view: View, kind: str, **arguments: Any) -> Any:
        """Only the head can be read. Kinds:

        ``outputs(outpoints)`` → ``UtxoOutput`` or None each, reservations included. ``known(txids)`` → bool each.
        ``chain`` → the ``ChainParameters``. ``policy`` → fee_per_kilobyte (satoshis) and max_transaction_bytes.
        ``unspent_digest`` → height, bestblock, txouts, total (satoshis), total_amount (coins) and hash_serialized over all
        unspent outputs, equal on every database that holds the same set. ``unmined`` → (id, whether its body is awaited)
        of every reservation. ``freeze(outpoints)``, ``unfreeze(outpoints)``, ``reassign(changes)`` → ``UtxoRefused`` or
        None each; these three change the state."""
        if view.kind == "block" and view.block != self.applied_block:
            raise Pruned("only the head's state is held")
        queries: dict[str, Callable[..., Any]] = {
            "outputs": self._outputs,
            "known": self._known,
            "chain": self._chain,
            "policy": self._policy,
            "unspent_digest": self._unspent_digest,
            "unmined": self._unmined,
            "freeze": self._freeze,
            "unfreeze": self._unfreeze,
            "reassign": self._reassign,
        }
        if kind not in queries:
            raise UnknownQuery(f"the execution bitcoin has no query {kind!r}: it has {', '.join(sorted(queries))}")
        return await queries[kind](**arguments)

    async def _outputs(self, outpoints: Sequence[bytes]) -> list[UtxoOutput | None]:
        return staged_outputs(self.state, outpoints, await self.store.get_outputs(outpoints))

    async def _known(self, txids: Sequence[bytes]) -> list[bool]:
        stored = await self.store.known(txids)
        return [known or txid in self.state for txid, known in zip(txids, stored, strict=True)]

    async def _policy(self) -> dict[str, int]:
        policy = self.policy
        return {"fee_per_kilobyte": policy.fee_per_kilobyte, "max_transaction_bytes": policy.max_transaction_bytes}

    async def _chain(self) -> ChainParameters:
        return self.parameters

    async def _unmined(self) -> list[tuple[bytes, bool]]:
        return [(txid, reserved is None) for txid, reserved in self.state.unmined.items()]

    async def _unspent_digest(self) -> dict[str, Any]:
        """The sum modulo 2**256 of the hashes of all unspent outputs (outpoint ‖ satoshis u64 ‖ script), hashed with their
        number: it does not depend on the order in which a database gives them."""
        count = total = mixed = 0
        async with self.lock:
            block = self.applied_block
            async for outpoint, output in self.store.iterate_unspent():
                row = hashlib.sha256(outpoint + output.satoshis.to_bytes(8, "little") + output.script).digest()
                mixed = (mixed + int.from_bytes(row, "little")) % (1 << 256)
                total += output.satoshis
                count += 1
        digest = hashlib.sha256(mixed.to_bytes(32, "little") + count.to_bytes(8, "little")).hexdigest()
        return {
            "height": block.height if block else None,
            "bestblock": block.id[::-1].hex() if block else None,
            "txouts": count,
            "total": total,
            "total_amount": total / COIN,
            "hash_serialized": digest,
        }

    async def _freeze(self, outpoints: Sequence[bytes]) -> list[UtxoRefused | None]:
        return await self._mark(outpoints, lambda: self.store.freeze(outpoints))

    async def _unfreeze(self, outpoints: Sequence[bytes]) -> list[UtxoRefused | None]:
        return await self._mark(outpoints, lambda: self.store.unfreeze(outpoints))

    async def _reassign(
        self, changes: Sequence[tuple[bytes, bytes]], spendable_from: int | None = None
    ) -> list[UtxoRefused | None]:
        head = self.applied_block.height if self.applied_block else 0
        start = head + REASSIGNED_AFTER_BLOCKS if spendable_from is None else spendable_from
        return await self._mark([point for point, _ in changes], lambda: self.store.reassign(changes, start))

    async def _mark(self, outpoints: Iterable[bytes], change: Callable[[], Any]) -> list[UtxoRefused | None]:
        """Under the lock, and after staged spenders of these outputs: first seen wins here as well."""
        async with self.lock:
            points = list(outpoints)
            for index, point in enumerate(points):
                spender = self.state.spenders.get(point)
                if spender is not None and not self.state.is_stored(spender):
                    return [
                        UtxoRefused("spent", index, point, spender + bytes(4)) if other == point else None
                        for other in points
                    ]
            self.generation += 1
            self.verified.clear()
            self.prepared.clear()
            results: list[UtxoRefused | None] = await change()
            return results
