"""Blocks: execute, commit, revert over the applied head.

Invariants:
- An outcome depends on the applied state and the request alone. Reservations only save work, and give way: one that
  spends what a transaction of the block spends is *evicted* with all its descendants.
- A block may hold a transaction only behind its unmined parents; a parent that is reserved here but not in the block is
  no parent at all.
- Nothing changes before ``commit``; ``commit`` is one durable write of the store (losers out, unknown transactions and
  coinbase in, bundles marked, applied marker, undo record), after which memory follows without a checkpoint. A crash
  before it leaves the old head, a crash after it the new one; both are found by reading the store alone.
- A block's known transactions are neither read from nor written to the store: its bundles are marked.
- An output's age decides by which script rules it is spent, so what the store holds from before an upgrade's height and a
  block after it orders is created anew with that block, and all that descends from it.
- Before Genesis, where relative lock times count from the block that made an output, the store has the height of that very
  block for all that blocks made: what it holds under another height is created anew in the same way.
- ``revert`` makes a block's transactions reservations again, and takes out its coinbase with what descends from it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import trio
from attrs import define, field

from nodewright.errors import Pruned, StoreError
from nodewright.interfaces.common import BlockContext, BlockRef, Bundle
from nodewright.interfaces.execution import (
    BundleIncomplete,
    BundleInvalid,
    Deferred,
    ExecutionRequest,
    ExecutionResult,
    Incomplete,
    Invalid,
    Outcome,
    Reverted,
)
from nodewright.interfaces.storage import UtxoTransaction
from nodewright_bitcoin import coinbase
from nodewright_bitcoin.bundles import Bundles, Checked, Known
from nodewright_bitcoin.columns import output_count
from nodewright_bitcoin.discarding import Sifted, sift
from nodewright_bitcoin.encoding import sha256d
from nodewright_bitcoin.relative import Locks, told, unmet
from nodewright_bitcoin.rules import RuleError
from nodewright_bitcoin.state import LockedReservation, Reservation, descendants_first, outpoint
from nodewright_bitcoin.undo import Undo

if TYPE_CHECKING:
    from nodewright_bitcoin.engine import BitcoinEngine

RECENT_TRANSACTIONS = 200_000
MAX_PLANS = 16


@define
class Part:
    """One bundle of a block. ``kept`` are the facts that take effect: all of the bundle's, or fewer under ``discard``."""

    bundle: Bundle
    checked: Checked
    kept: list[Known]

    @property
    def keys(self) -> list[bytes]:
        return self.checked.keys if self.whole else [fact.effect.txid for fact in self.kept]

    @property
    def mark(self) -> bytes:
        """What the store knows it by: its own id, or one derived from it where only some transactions took effect."""
        if self.whole:
            return self.bundle.ref.id
        return sha256d(self.bundle.ref.id + self.ids)

    @property
    def whole(self) -> bool:
        return self.kept is self.checked.facts

    @property
    def ids(self) -> bytes:
        return self.checked.ids if self.whole else b"".join(self.keys)


@define
class Plan:
    """An executed block that is not committed. ``losers`` maps each directly displaced reservation to its winner."""

    block: BlockRef
    parent: BlockRef
    parts: list[Part]
    coinbase: UtxoTransaction | None
    losers: dict[bytes, bytes]
    outcome: Outcome


@define
class Stop(Exception):
    """Ends a walk with its result."""

    result: ExecutionResult


@define
class Walk:
    """One pass over a block's transactions in order. ``held`` names, by identity, the bundles all of whose transactions
    are reserved: under the engine's lock they stay so. ``locked`` are the relative lock times by transaction, ``made_at``
    the heights of the outputs that they are about, where a block before this one made them."""

    request: ExecutionRequest
    height: int
    lock_time: int
    new: set[bytes]
    mined: set[bytes]
    stored: dict[bytes, bytes | None]
    held: set[int]
    inside: set[bytes] = field(factory=set)
    spent: dict[bytes, bytes] = field(factory=dict)
    losers: dict[bytes, bytes] = field(factory=dict)
    evicted: dict[bytes, bytes] = field(factory=dict)
    locked: dict[bytes, Locks] = field(factory=dict)
    made_at: dict[bytes, int] = field(factory=dict)
    discarded: dict[bytes, tuple[str, str]] = field(factory=dict)
    retry: dict[bytes, str] = field(factory=dict)
    missing: list[bytes] = field(factory=list)


def lock_time(context: BlockContext) -> int:
    """What lock times are compared with: the parent's median time past where the consensus has one (8 bytes in
    ``extra``), else the block's own time."""
    return int.from_bytes(context.extra, "little") if len(context.extra) == 8 else context.time


class Blocks:
    def __init__(self, engine: BitcoinEngine, bundles: Bundles) -> None:
        self.engine = engine
        self.bundles = bundles
        self.plans: OrderedDict[bytes, Plan] = OrderedDict()
        self._recent: OrderedDict[bytes, list[list[Known]]] = OrderedDict()
        self._recent_count = 0

    # --- execute -----------------------------------------------------------------------------------------------------

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        engine = self.engine
        height = request.block.height
        parts: list[Part] = []
        missing: dict[bytes, None] = {}
        sifted: Sifted | None = None
        for bundle in request.bundles:
            result = await self.bundles.validate(bundle, height)
            if not isinstance(result, Checked) and request.invalid_transaction == "discard":
                found = await sift(engine, request)
                if isinstance(found, BundleIncomplete):
                    return Incomplete(found.missing)
                sifted, parts = found, [Part(whole, checked, checked.facts) for whole, checked in found.judged]
                missing.clear()
                break
            if isinstance(result, BundleInvalid):
                return Invalid(result.code, result.message, bundle.ref.id, bundle.id_at(result.index))
            if isinstance(result, BundleIncomplete):
                missing.update(dict.fromkeys(result.missing))
            else:
                parts.append(Part(bundle, result, result.facts))
        async with engine.lock:
            if engine.applied_block is None or request.parent != engine.applied_block:
                return Deferred(request.parent, engine.applied_block or BlockRef(-1, b""))
            if missing:
                inside = {key for part in parts for key in part.checked.keys}
                inside.update(bundle.id_at(i) for bundle in request.bundles for i in range(len(bundle)))
                outside = [txid for txid in missing if txid not in inside]
                # A parent in another bundle of this block comes with that bundle's bodies.
                return Incomplete(outside or list(missing))
            try:
                plan = await self._plan(request, parts, sifted or Sifted())
            except Stop as stop:
                return stop.result
            self.plans[request.block.id] = plan
            while len(self.plans) > MAX_PLANS:
                self.plans.popitem(last=False)
            return plan.outcome

    async def _plan(self, request: ExecutionRequest, parts: list[Part], sifted: Sifted) -> Plan:
        height = request.block.height
        walk = await self._start(request, height, parts)
        walk.discarded.update(sifted.discarded)
        walk.retry.update(sifted.retry)
        for part in parts:
            if self._regular(walk, part.checked):
                if part is not parts[-1]:  # nobody asks for it any more
                    walk.inside.update(part.checked.keys)
            else:
                await self._irregular(walk, part)
        if walk.missing:
            raise Stop(Incomplete(list(dict.fromkeys(walk.missing))))
        fees = sum(part.checked.fees if part.whole else sum(fact.fee for fact in part.kept) for part in parts)
        made = await self._coinbase(request, height, fees)
        outcome = Outcome(
            request.block,
            discarded=walk.discarded,
            retry=walk.retry,
            evicted=walk.evicted,
            fees=fees,
        )
        return Plan(request.block, request.parent, parts, made, walk.losers, outcome)

    async def _start(self, request: ExecutionRequest, height: int, parts: list[Part]) -> Walk:
        """One look at the store for all that reservations do not tell."""
        state, store = self.engine.state, self.engine.store
        unmined = state.unmined
        for part in parts:
            checked = part.checked
            if checked.held_at != state.departed and all(map(unmined.__contains__, checked.keys)):
                checked.held_at = state.departed
        held = {id(part.checked) for part in parts if part.checked.held_at == state.departed}
        facts = {
            key: fact
            for part in parts
            if id(part.checked) not in held
            for key, fact in zip(part.checked.keys, part.checked.facts, strict=True)
            if key not in unmined
        }
        keys = list(facts)
        mined: set[bytes] = set()
        stored: dict[bytes, bytes | None] = {}
        if keys:
            mined = {key for key, known in zip(keys, await store.known(keys), strict=True) if known}
            points = [spent for key in keys if key not in mined for spent in facts[key].effect.spends]
            for point, output in zip(points, await store.get_outputs(points), strict=True):
                if output is not None:
                    stored[point] = output.spender and output.spender[:32]
        walk = Walk(request, height, lock_time(request.context), set(keys) - mined, mined, stored, held)
        for part in parts:
            if part.checked.locked:
                walk.locked.update(part.checked.locked)
        if walk.locked:
            walk.made_at = await self.engine.made_at(chain.from_iterable(walk.locked.values()))
        return walk

    def _regular(self, walk: Walk, checked: Checked) -> bool:
        """All reserved, in order, in time, and untouched by what came before in the block: no look at each is needed."""
        unmined = self.engine.state.unmined
        if not checked.ordered or walk.height < checked.min_height or walk.lock_time < checked.min_time:
            return False
        if checked.locked:
            return False
        if id(checked) not in walk.held or (walk.inside and not walk.inside.isdisjoint(checked.keys)):
            return False
        if walk.evicted and not walk.evicted.keys().isdisjoint(checked.keys):
            return False
        known = checked.held_at == self.engine.state.departed and checked.waits_at == self.engine.generation
        waits = checked.waits if known else checked.outer & unmined.keys()
        return waits <= walk.inside and checked.outer & walk.new <= walk.inside

    async def _irregular(self, walk: Walk, part: Part) -> None:
        rejects = walk.request.invalid_transaction == "reject_block"
        kept: list[Known] = []
        for fact in part.checked.facts:
            key = fact.effect.txid
            if key in walk.inside and not rejects:
                continue
            problem = self._problem(walk, fact)
            if problem is None:
                await self._take(walk, fact)
                kept.append(fact)
            elif rejects and problem.code != "missing":
                raise Stop(Invalid(problem.code, problem.message, part.bundle.ref.id, key))
            elif problem.code == "too-early":
                walk.retry[key] = problem.message
            elif problem.code != "missing":
                walk.discarded[key] = (problem.code, problem.message)
        if len(kept) != len(part.checked.facts):
            part.kept = kept

    def _problem(self, walk: Walk, fact: Known) -> RuleError | None:
        """Why this transaction cannot stand here; ``missing`` where that cannot be said yet."""
        rejects = walk.request.invalid_transaction == "reject_block"
        state = self.engine.state
        key = fact.effect.txid
        if key in walk.inside:
            return RuleError("bad-txns-duplicate", "the transaction is in the block twice")
        if key in walk.mined:
            return RuleError("txn-already-mined", "an ancestor of the block holds the transaction")
        if walk.height < fact.min_height or walk.lock_time < fact.min_time:
            code = "bad-txns-nonfinal" if rejects else "too-early"
            return RuleError(code, "its lock time or the coinbase that it spends does not allow it in this block")
        for spent in fact.effect.spends:
            parent = spent[:32]
            if parent in walk.inside:
                pass
            elif parent in walk.discarded:
                return RuleError("bad-txns-inputs-missingorspent", "a transaction that it spends from was discarded")
            elif parent in state.unmined or parent in walk.new:
                code = "bad-txns-inputs-missingorspent" if rejects else "too-early"
                return RuleError(code, f"{parent[::-1].hex()}, which it spends from, is not before it")
            elif key in walk.new and spent not in walk.stored:
                if not rejects:
                    return RuleError("too-early", f"{parent[::-1].hex()}, which it spends from, is not before it")
                walk.missing.append(parent)
                return RuleError("missing", "a parent is not known here")
            spender = walk.spent.get(spent) or state.spenders.get(spent) or walk.stored.get(spent)
            if spender is None or spender == key:
                continue
            if spender in walk.inside or spender not in state.unmined:
                message = f"{spender[::-1].hex()} spent an input before it"
                return RuleError("bad-txns-inputs-missingorspent", message)
        if walk.locked and key in walk.locked:
            lock = unmet(walk.locked[key], walk.made_at, walk.request.parent, self.engine.times)
            if lock is not None:
                return RuleError("bad-txns-nonfinal" if rejects else "too-early", told(lock))
        return None

    async def _take(self, walk: Walk, fact: Known) -> None:
        """Keep it: what it displaces is evicted with all descendants."""
        state = self.engine.state
        key = fact.effect.txid
        walk.inside.add(key)
        losers = []
        for spent in fact.effect.spends:
            walk.spent[spent] = key
            for spender in (state.spenders.get(spent), walk.stored.get(spent)):
                if spender is not None and spender != key and spender in state.unmined:
                    losers.append(spender)
        for loser in losers:
            walk.losers[loser] = key
        for lost in await self.family(losers):
            walk.evicted.setdefault(lost, key)

    async def _coinbase(self, request: ExecutionRequest, height: int, fees: int) -> UtxoTransaction | None:
        if not request.prologue:
            return None
        made = coinbase.read(request.prologue, height, fees, self.engine.parameters)
        if isinstance(made, RuleError):
            raise Stop(Invalid(made.code, made.message))
        if (await self.engine.store.known([made.txid]))[0]:
            raise Stop(Invalid("bad-txns-BIP30", "a coinbase of the same id is in an earlier block", None, made.txid))
        return made

    async def family(self, roots: Iterable[bytes]) -> dict[bytes, UtxoTransaction]:
        """These reservations and all that descend from them, with their effects."""
        state, store = self.engine.state, self.engine.store
        found: dict[bytes, UtxoTransaction] = {}
        queue = [root for root in roots if root in state.unmined]
        while queue:
            layer = [txid for txid in dict.fromkeys(queue) if txid not in found]
            queue = []
            bare = [txid for txid in layer if state.unmined[txid] is None]
            for txid, stored in zip(bare, await store.transactions(bare) if bare else (), strict=True):
                if stored is None:
                    raise StoreError(f"the reserved transaction {txid[::-1].hex()} is not in the UTXO store")
                found[txid] = stored
            for txid in layer:
                reserved = state.unmined[txid]
                if reserved is not None:
                    found[txid] = reserved.effect
                queue += state.children(found[txid])
            if state.bare:
                queue += await self._stored_children([found[txid] for txid in layer])
        return found

    async def _stored_children(self, effects: list[UtxoTransaction]) -> list[bytes]:
        points = [outpoint(effect.txid, i) for effect in effects for i in range(output_count(effect.outputs))]
        outputs = await self.engine.store.get_outputs(points)
        spenders = [output.spender[:32] for output in outputs if output is not None and output.spender is not None]
        return [spender for spender in spenders if spender in self.engine.state.unmined]

    # --- commit ------------------------------------------------------------------------------------------------------

    async def commit(self, block: BlockRef) -> Mapping[bytes, bytes] | None:
        engine = self.engine
        state, store = engine.state, engine.store
        async with engine.lock:
            if engine.applied_block == block:
                return None
            plan = self.plans.get(block.id)
            if plan is None or plan.parent != engine.applied_block:
                raise StoreError(f"block {block} was not executed on the applied block {engine.applied_block}")
            columns = [part.keys for part in plan.parts]
            keys = columns[0] if len(columns) == 1 else list(chain.from_iterable(columns))
            create: list[UtxoTransaction] = []
            for part in plan.parts:
                create += self._not_stored(part)
            losers = {loser: winner for loser, winner in plan.losers.items() if loser in state.unmined}
            for effect in create:  # admitted between execute and now
                for spent in effect.spends:
                    spender = state.spenders.get(spent)
                    if spender is not None and spender != effect.txid:
                        losers[spender] = effect.txid
            late: dict[bytes, bytes] = {}
            lost: dict[bytes, UtxoTransaction] = {}
            for loser, winner in losers.items():
                family = await self.family([loser])
                lost.update(family)
                late.update({txid: winner for txid in family if txid not in plan.outcome.evicted})
            for part in plan.parts:
                await store.assign_bundle(part.mark, part.ids)
            marks = [part.mark for part in plan.parts]
            undo = Undo(plan.parent, plan.coinbase, marks).encode()
            aged = await self._aged(keys, block.height, lost)
            if aged:
                inside = set(keys)
                effects = (fact.effect for part in plan.parts for fact in part.kept)
                create = [effect for effect in effects if effect.txid in aged or not state.is_stored(effect.txid)]
                create += [
                    effect for effect in reversed(descendants_first(list(aged.values()))) if effect.txid not in inside
                ]
            if plan.coinbase is not None:
                create = [*create, plan.coinbase]
            gone = descendants_first([*lost.values(), *aged.values()])
            remove = [effect for effect in gone if state.is_stored(effect.txid)]
            with trio.CancelScope(shield=True):
                await store.replace(remove, create, block.height, block, mined=marks, undo=undo)
                engine.moved(block)
            for txid in lost:
                state.drop(txid)
            state.drop_all(keys)
            self._keep_recent(block.id, plan.parts)
            self.plans.clear()
            return late or None

    def _not_stored(self, part: Part) -> list[UtxoTransaction]:
        """What of it the store does not hold yet."""
        state, found = self.engine.state, list[UtxoTransaction]()
        unmined, keys = state.unmined, part.keys
        if not state.staged and part.whole and part.checked.held_at == state.departed:
            return found
        for key, fact in zip(keys, part.kept, strict=True):
            reserved = unmined.get(key)
            if not reserved.stored if reserved is not None else key not in unmined:
                found.append(fact.effect)
        return found

    async def _aged(
        self, keys: list[bytes], height: int, lost: Mapping[bytes, UtxoTransaction]
    ) -> dict[bytes, UtxoTransaction]:
        """Of these, what the store has under a height of other rules, or before Genesis under any other, with its
        descendants that are stored and stay."""
        state, rules = self.engine.state, self.engine.rules_at(height)
        roots = []
        if height < self.engine.parameters.genesis_height:
            held = [key for key in keys if state.is_stored(key)]
            outputs = await self.engine.store.get_outputs([outpoint(key, 0) for key in held]) if held else ()
            roots = [key for key, output in zip(held, outputs, strict=True) if output is None or output.height != height]
        elif not state.judged_by.keys() - {rules} and not state.bare:
            return {}
        for key in keys:
            reserved = state.get(key)
            judged = reserved.rules if reserved is not None else state.bare_rules.get(key, rules)
            if judged != rules and state.is_stored(key):
                roots.append(key)
        found = await self.family(roots)
        return {key: effect for key, effect in found.items() if key not in lost and state.is_stored(key)}

    def _keep_recent(self, block: bytes, parts: Sequence[Part]) -> None:
        """A shallow revert finds fees and sizes here; a deep one leaves its transactions bare."""
        self._recent[block] = [part.kept for part in parts]
        self._recent_count += sum(len(part.kept) for part in parts)
        while self._recent_count > RECENT_TRANSACTIONS and len(self._recent) > 1:
            self._recent_count -= sum(map(len, self._recent.popitem(last=False)[1]))

    # --- revert ------------------------------------------------------------------------------------------------------

    async def revert(self, block: BlockRef) -> Reverted:
        engine = self.engine
        state, store = engine.state, engine.store
        async with engine.lock:
            if engine.applied_block != block:
                if engine.applied_block is not None and engine.applied_block.height < block.height:
                    return Reverted(block)  # done before
                raise StoreError(f"only the applied block {engine.applied_block} can be reverted, not {block}")
            row = await store.undo(block.id)
            if row is None:
                raise Pruned(f"there is no undo record for block {block}: it is the genesis block or too deep")
            undo = Undo.decode(row)
            keys: list[bytes] = []
            for mark in undo.bundles:
                ids = await store.bundle(mark)
                if ids is None:
                    raise StoreError(f"bundle {mark[::-1].hex()} of block {block} is not in the UTXO store")
                keys += [ids[at : at + 32] for at in range(0, len(ids), 32)]
            lost: dict[bytes, UtxoTransaction] = {}
            if undo.coinbase is not None:
                lost = await self.family(await self._stored_children([undo.coinbase]))
                lost.update(await self.family(state.children(undo.coinbase)))
            gone = descendants_first(list(lost.values()))
            remove = [effect for effect in gone if state.is_stored(effect.txid)]
            if undo.coinbase is not None:
                remove.append(undo.coinbase)
            with trio.CancelScope(shield=True):
                await store.replace(remove, (), undo.parent.height, undo.parent, unmined=undo.bundles)
                engine.moved(undo.parent)
            for txid in lost:
                state.drop(txid)
            facts = self._recent.pop(block.id, [])
            self._recent_count -= sum(map(len, facts))
            recent = {fact.effect.txid: fact for column in facts for fact in column}
            for key in keys:
                self._reserve_again(key, recent.get(key) or self.bundles.pending.get(key), block.height)
            self.plans.clear()
            removed = [effect.txid for effect in gone]
            if undo.coinbase is not None:
                removed.append(undo.coinbase.txid)
            return Reverted(block, [(key, None) for key in keys], removed)

    def _reserve_again(self, key: bytes, fact: Known | None, height: int) -> None:
        state = self.engine.state
        rules = self.engine.rules_at(height)
        if fact is None:
            state.add_bare([key], rules)
            return
        bounds = (fact.min_height, fact.min_time, True, rules)
        if fact.locks:
            state.add(LockedReservation(fact.effect, fact.fee, fact.size, height, *bounds, fact.locks))
        else:
            state.add(Reservation(fact.effect, fact.fee, fact.size, height, *bounds))
