"""The execution ``near``: sharded accounts, receipts and contracts behind the ``Execution`` contract.

Capabilities ``sharded`` and ``witness``. A node keeps the state of some shards (``kept``) and checks the others from
witnesses. Several blocks may be executed above the applied one; only a committed one is durable.

Invariants
- Per kept shard the store holds the state of ``applied(shard)``; shards commit independently of each other.
- ``execute`` and ``verify_witness`` look at no reservation, other than to report which ones a block defeats.
- Reservations live in memory: the pool's journal brings them back at the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import trio
from attrs import evolve, frozen

from nodewright.caches import Verified
from nodewright.errors import ConfigurationError, Pruned, StoreError
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
    Invalid,
    Limits,
    Outcome,
    Prologue,
    Reverted,
    Selection,
    StateTarget,
    View,
)
from nodewright.interfaces.storage import KeyValueStore
from nodewright_near import blocks, records
from nodewright_near.admission import Admitter, Setting, Signers, by_nonce, first_of, select
from nodewright_near.blocks import Collected, Ran, Rules, bodies_of, parse_bodies
from nodewright_near.borsh import Malformed
from nodewright_near.checks import check_form
from nodewright_near.chunks import ChunkExtra
from nodewright_near.congestion import ShardCongestion
from nodewright_near.contracts.beside import Beside
from nodewright_near.errors import Refusal
from nodewright_near.fees import TransferPrice
from nodewright_near.founding import Founding
from nodewright_near.genesis import GenesisRows, patch_of_records, split_rows
from nodewright_near.handover import Handover
from nodewright_near.headers import CongestionInfo
from nodewright_near.patches import Patches
from nodewright_near.primitives import NO_HASH
from nodewright_near.queries import Queries
from nodewright_near.reservations import Reservations
from nodewright_near.shardstore import HELD_BACK_BYTES, ShardStore, Stale, SyncPace, Version
from nodewright_near.stateparts import MAX_PART_BYTES
from nodewright_near.transactions import SignedTransaction

T = TypeVar("T")
# A thread hop costs about as much as two signature checks.
WORTH_A_HOP = 4
VERIFIED_BYTES = 64 * 1024 * 1024


@frozen
class Prepared:
    """A genesis state that is in the store: the root of each shard, and how much NEAR there is."""

    roots: list[bytes]
    supply: int


class NearEngine:
    capabilities: frozenset[str] = frozenset({"sharded", "witness"})
    format: str = "near-1"

    def __init__(
        self,
        store: KeyValueStore,
        environment: Environment,
        rules: Rules,
        kept: Collection[int] | None,
        cache_bytes: int,
        save_outcomes: bool = True,
        view_calls: int = 2,
        view_seconds: float = 5.0,
        save_changes: bool = False,
        sync_bytes: int = 0,
        behind_bytes: int = HELD_BACK_BYTES,
    ) -> None:
        self.store = store
        self.environment = environment
        self.rules = rules
        self.shard_count = len(rules.boundaries) + 1
        self.kept = tuple(range(self.shard_count)) if kept is None else tuple(sorted(set(kept)))
        for number in self.kept:
            if not 0 <= number < self.shard_count:
                raise ConfigurationError(f"execution.kept: there is no shard {number}: the genesis has {self.shard_count}")
        share = cache_bytes // max(len(self.kept), 1)
        pace, held_back = SyncPace(sync_bytes), behind_bytes // max(len(self.kept), 1)
        self._new_shard: Callable[[int], ShardStore] = lambda number: ShardStore(store, number, share, pace, held_back)
        self.shards = {number: self._new_shard(number) for number in self.kept}
        self.save_outcomes = save_outcomes
        self.save_changes = save_changes
        self._founding = Founding(store, environment, self.shards, cache_bytes)
        self._prepared: Prepared | None = None
        self.reservations = Reservations()
        self.verified: Verified[SignedTransaction] = Verified(VERIFIED_BYTES)
        self.gas_price = rules.parameters.min_gas_price
        self.patches = Patches(store)
        self.max_part_bytes = MAX_PART_BYTES
        self.handover = Handover(store)
        self._admitter = Admitter(rules.parameters, rules.boundaries, self.reservations)
        self.beside = Beside(environment, view_calls, view_seconds)
        self._queries = Queries(self)
        self._locks = {shard: trio.Lock() for shard in self.kept}

    async def open(self) -> None:
        for number in await self.handover.kept(self.kept, self.shard_count):
            if number not in self.shards:
                self._keep_shard(number)
        for number in set(self.kept) - set(await self.handover.kept(self.kept, self.shard_count)):
            self._let_go(number)
        for shard in self.shards.values():
            await shard.open()
        await self.patches.open()

    async def _offload(self, count: int, function: Callable[..., T], *arguments: Any) -> T:
        if count < WORTH_A_HOP:
            return function(*arguments)
        return await self.environment.offload(function, *arguments)

    # --- genesis -----------------------------------------------------------------------------------------------------

    async def genesis(self, document: Mapping[str, Any], block: BlockRef) -> bytes | None:
        """``document["execution"]`` has ``accounts`` or ``records`` (see ``genesis``). 32 bytes for every shard."""
        roots = await self._founding.known()
        if roots is None:
            roots = (await self.prepare_genesis(document)).roots
        commitments = b""
        for shard, root in enumerate(roots):
            extra = ChunkExtra(root, NO_HASH, NO_HASH, 0, 0, (), CongestionInfo())
            commitments += extra.commitment()
            kept = self.shards.get(shard)
            if kept is not None and kept.applied is None:
                await kept.install(block, extra, Version(block, None, extra))
                await self.environment.offload(kept.learn)
        self._prepared = None
        return commitments

    async def prepare_genesis(self, document: Mapping[str, Any]) -> Prepared:
        """Makes the state before the block that names its roots is known: ``genesis`` then makes it the applied one."""
        if self._prepared is None:
            table = document.get("execution", document)
            rows = await self.environment.offload(GenesisRows, table, self.rules.parameters, self.rules.boundaries)
            self._prepared = Prepared(await self._founding.write(rows), rows.supply)
        return self._prepared

    # --- transactions ------------------------------------------------------------------------------------------------

    async def identify(self, txs: Sequence[bytes]) -> list[bytes | None]:
        ids: list[bytes | None] = []
        for raw in txs:
            try:
                ids.append(SignedTransaction.decode(raw).id)
            except Malformed:
                ids.append(None)
        return ids

    async def admit(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        admitter = self._admitter
        read = admitter.read(txs)
        fresh = [one for one in read if type(one) is SignedTransaction]
        good = await self._signed(fresh, remember=False)
        shards = [admitter.shard(signed) for signed in fresh]
        by_shard: dict[int, list[SignedTransaction]] = {}
        for signed, shard in zip(fresh, shards, strict=True):
            by_shard.setdefault(shard, []).append(signed)
        signers = {}
        for shard, mine in by_shard.items():
            kept = self.shards.get(shard)
            view = None if kept is None else kept.view_near(head.id)
            if view is not None:
                signers[shard] = Signers(admitter.stakes, view.ran())
                await signers[shard].read(view, mine)
        price = TransferPrice.of(self.rules.parameters, self.gas_price)
        setting = Setting(self.gas_price, price, head.height + 1, self._closed())
        answers = admitter.admit_all(read, zip(good, shards, strict=True), signers, setting)
        by_id = self.reservations.by_id  # what is there is known by that
        self.verified.add([one for one, answer in zip(fresh, good, strict=True) if answer and one.id not in by_id])
        return answers

    def _closed(self) -> dict[int, float]:
        """Shards kept here that are too full for new transactions, and how full they are."""
        limits = self.rules.parameters.congestion
        closed = {}
        for number, shard in self.shards.items():
            if shard.applied is not None:
                load = ShardCongestion(shard.versions[shard.applied.id].extra.congestion)
                if not load.accepts_transactions(limits):
                    closed[number] = float(load.level(limits))
        return closed

    async def confirm(self, ids: Sequence[bytes]) -> None:
        """Reservations live in memory: the pool's journal redoes them at the next start."""

    async def release(self, ids: Sequence[bytes]) -> list[bytes]:
        return self.reservations.drop(ids)

    async def release_unclaimed(self) -> list[bytes]:
        return []

    async def select(self, parent: BlockRef, candidates: Sequence[Candidate], limits: Limits) -> Selection:
        """For one shard: that of the first candidate; those of others are deferred."""
        if not candidates:
            return Selection(())
        number = candidates[0].shard
        mine = [candidate for candidate in candidates if candidate.shard == number]
        alone = len(mine) == len(candidates)
        others = [] if alone else [candidate for candidate in candidates if candidate.shard != number]
        shard = self.shards.get(number)
        view = None if shard is None else shard.view_near(parent.id)
        if view is None:
            return Selection((), {}, candidates)
        parameters = self.rules.parameters
        gas = ShardCongestion(view.version.extra.congestion).process_tx_limit(parameters.congestion)
        gas = min(gas, limits.max_gas) if limits.max_gas else gas
        ordered: Sequence[Candidate] = mine if self.reservations.in_order else by_nonce(mine, self.reservations)
        chosen: list[Candidate] = []
        rejected: dict[bytes, str] = {}
        signers, height, room = Signers(self._admitter.stakes), parent.height + 1, limits.max_bytes
        while ordered and len(chosen) < limits.max_count:
            count = first_of(parameters, limits, gas)
            first, ordered = ordered[:count], ordered[count:]
            held = [known.signed for one in first if (known := self.reservations.by_id.get(one.id)) is not None]
            await signers.read(view, held)
            left = evolve(limits, max_count=limits.max_count - len(chosen), max_bytes=room)
            part, gas = select(parameters, first, self.reservations, signers, self.gas_price, height, left, gas)
            rejected.update(part.rejected)
            chosen += part.chosen
            if part.deferred:  # there is no room for it: what comes after it waits too
                return Selection(chosen, rejected, [*part.deferred, *ordered, *others])
            room -= sum([one.size for one in part.chosen])
        return Selection(chosen, rejected, [*ordered, *others])

    async def prologue(self, context: BlockContext) -> Prologue:
        return Prologue(b"", b"")

    def _known(self, id: bytes) -> SignedTransaction | None:
        held = self.reservations.by_id.get(id)
        return held.signed if held is not None else self.verified.get(id)

    async def _signed(self, transactions: Sequence[SignedTransaction], remember: bool = True) -> list[bool]:
        """One answer each; those that were good before are not checked again. ``remember``: those that are good now."""
        held, verified = self.reservations.by_id.get, self.verified.get
        fresh = [
            signed
            for signed in transactions
            if ((known := held(signed.id)) is None or known.signed is not signed) and verified(signed.id) is not signed
        ]
        good = await self._offload(len(fresh), blocks.check_signatures, self.rules.verifier, fresh)
        if all(good):
            if remember:
                self.verified.add(fresh)
            return [True] * len(transactions)
        bad = {id(signed) for signed, answer in zip(fresh, good, strict=True) if not answer}
        if remember:
            self.verified.add(signed for signed in fresh if id(signed) not in bad)
        return [id(signed) not in bad for signed in transactions]

    async def validate_bundle(self, bundle: Bundle, head: BlockRef) -> BundleVerdict:
        ids = [bundle.id_at(index) for index in range(len(bundle))]
        bodies = bodies_of(bundle, self._known)
        missing = [id for id, body in zip(ids, bodies, strict=True) if body is None]
        if missing:
            return BundleIncomplete(missing)
        read = parse_bodies(bundle, [body for body in bodies if body is not None], self._known)
        for index, one in enumerate(read):
            if isinstance(one, str):
                return BundleInvalid("Malformed", one, index)
            if self._admitter.shard(one) != bundle.ref.shard:
                return BundleInvalid("InvalidShard", f"its signer lives in shard {self._admitter.shard(one)}", index)
            try:
                check_form(self.rules.parameters, one)
            except Refusal as refusal:
                return BundleInvalid(refusal.innermost, str(refusal), index)
        signed = [one for one in read if isinstance(one, SignedTransaction)]
        good = await self._signed(signed)
        if not all(good):
            return BundleInvalid("InvalidSignature", "a transaction is not signed by its key", good.index(False))
        sizes = [len(one.raw) for one in signed]
        return BundleValid(0, sum(sizes), [0] * len(sizes), sizes)

    # --- state from node to node: ``StateParts`` ---

    def _keep_shard(self, number: int) -> None:
        self.shards[number] = self._new_shard(number)
        self._locks.setdefault(number, trio.Lock())
        self.kept = tuple(sorted(self.shards))

    def _let_go(self, number: int) -> None:
        self.shards.pop(number, None)
        self.kept = tuple(sorted(self.shards))

    async def share_state(self, blocks: Mapping[int, BlockRef]) -> bool:
        for number in blocks.keys() & self.shards.keys():
            await self._write_nodes(number)
        return await self.handover.share(blocks)

    async def state_part(self, block: BlockRef, shard: int, index: int) -> bytes | None:
        return await self.handover.part(block, shard, index)

    async def missing_parts(self, target: StateTarget) -> Sequence[int]:
        """Raises BadTarget."""
        shard = self.shards.get(target.shard)
        if shard is not None and shard.applied == target.block:
            return ()
        self._let_go(target.shard)
        return await self.handover.missing(target)

    async def take_part(self, target: StateTarget, index: int, part: bytes) -> bool:
        return await self.handover.take(target, index, part)

    async def install_state(self, target: StateTarget) -> None:
        """Raises BadTarget."""
        if target.shard in self.shards:
            return
        await self.handover.finish(target)
        self._keep_shard(target.shard)
        await self.shards[target.shard].open()

    async def drop_state(self, shard: int) -> None:
        self._let_go(shard)
        await self.handover.clear(shard)

    async def _write_nodes(self, number: int) -> None:
        """Into the store: it alone then says what the state is."""
        async with self._locks[number]:
            await self.shards[number].write_nodes()

    async def aclose(self) -> None:
        """What is shared is let go; what a start would have to make again is written."""
        with trio.CancelScope(shield=True):
            await self.handover.aclose()
            for number in list(self.shards):
                try:
                    await self._write_nodes(number)
                except StoreError as error:  # the next start makes them again
                    self.environment.logger.warning("trie nodes were not written", shard=number, reason=str(error))

    # --- sandbox ---

    async def patch(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Put these records (as in a genesis) into the state with the next chunk of their shards. For a lone sandbox: no
        other node would come to the same state. Durable once that chunk has run. Raises ConfigurationError."""
        rows = patch_of_records(records, self.rules.parameters)
        for shard, part in enumerate(split_rows(rows, self.rules.boundaries)):
            if part:
                self.patches.add(shard, part)

    # --- blocks ------------------------------------------------------------------------------------------------------

    def _kept(self, shard: int) -> ShardStore:
        kept = self.shards.get(shard)
        if kept is None:
            raise Pruned(f"the state of shard {shard} is not kept on this node")
        return kept

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        shard = self._kept(request.shard)
        async with self._locks[request.shard]:
            known = shard.versions.get(request.block.id)
            done: Outcome | None = None if known is None or known.parent != request.parent else known.outcome
            if done is not None and (not request.record_witness or done.witness is not None):
                return done
            view = shard.view(request.parent.id)
            if view is None:
                assert shard.applied is not None  # genesis comes first
                return Deferred(request.parent, shard.applied)
            collected = blocks.collect(request, self._known)
            if not isinstance(collected, Collected):
                return collected
            transactions = collected.transactions
            signed = await self._signed(transactions)
            try:
                patch = await self.patches.of(request.block, request.shard)
                ran = await blocks.execute(
                    self.rules, request, view, collected, signed, self.beside, patch, self.save_changes
                )
            except Stale:
                assert shard.applied is not None
                return Deferred(request.parent, shard.applied)
            except (Malformed, ValueError) as error:
                return Invalid("InvalidContext", f"what the block says of its setting cannot be read: {error}")
            if isinstance(ran, Invalid):
                return ran
            return self._keep(shard, request, collected, ran)

    def _keep(self, shard: ShardStore, request: ExecutionRequest, collected: Collected, ran: Ran) -> Outcome:
        self.gas_price = request.context.gas_price or self.rules.parameters.min_gas_price
        ids = frozenset(signed.id for signed in collected.transactions)
        evicted = self.reservations.losers(ran.result.nonces, ids)
        outcome = evolve(ran.outcome, evicted=evicted)
        version = Version(
            request.block, request.parent, ran.extra, ran.values, ran.nodes, outcome, nonces=ran.result.nonces, ids=ids
        )
        if self.save_outcomes:
            sent = [receipt for receipts in ran.result.outgoing.values() for receipt in receipts]
            version.rows = records.rows(request.block, request.shard, ran.result.outcomes, ran.leaves, sent)
        if self.save_changes:
            records.put_changes(version.rows, request.block, request.shard, ran.values, ran.causes)
        shard.versions[request.block.id] = version
        return outcome

    async def verify_witness(self, request: ExecutionRequest, witness: bytes) -> ExecutionResult:
        try:
            return await self.environment.offload(blocks.verify, self.rules, request, witness)
        except ValueError as error:
            return Invalid("InvalidContext", f"what the block says of its setting cannot be read: {error}")

    async def commit(self, block: BlockRef, shard: int = 0) -> Mapping[bytes, bytes] | None:
        kept = self._kept(shard)
        async with self._locks[shard]:
            with trio.CancelScope(shield=True):
                due = kept.versions.get(block.id)
                if due is not None:
                    self.patches.forget(block, shard, due.rows)
                version = await kept.commit(block)
                self.patches.forgotten(block, shard)
        if version is None:
            return None
        lost = self.reservations.losers(version.nonces, version.ids)
        self.reservations.drop([*version.ids, *lost])
        told = version.outcome.evicted
        return {id: winner for id, winner in lost.items() if id not in told}

    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        raise Pruned(f"the state before block {block} is gone: this execution has no undo")

    async def abandon(self, block: BlockRef, shard: int = 0) -> None:
        kept = self.shards.get(shard)
        if kept is not None:
            kept.abandon(block)

    async def applied(self, shard: int = 0) -> BlockRef | None:
        kept = self.shards.get(shard)
        return kept.applied if kept is not None else None

    async def query(self, view: View, kind: str, **arguments: Any) -> Any:
        """See ``queries``."""
        return await self._queries.answer(view, kind, arguments)
