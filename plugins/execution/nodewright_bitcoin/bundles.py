"""Bundles judged before any block names them, and remembered.

Invariants:
- A verdict depends on the bundle, its bodies and the rules of the next block's era, never on reservations: a reserved
  transaction is only one whose body need not be seen again, if it was judged by those very rules. Whether outputs are
  still unspent, and old enough, is not asked here: that depends on the block, and ``blocks`` asks it. So a remembered
  verdict survives commits and reverts.
- A remembered bundle has every transaction's effect, fee and size; a block of remembered bundles needs no body.
- What is remembered is bounded in transactions and can be had again by validating again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import define, field

from nodewright.interfaces.common import BlockRef, Bundle
from nodewright.interfaces.execution import BundleIncomplete, BundleInvalid, BundleValid, BundleVerdict
from nodewright.interfaces.storage import UtxoOutput, UtxoTransaction
from nodewright_bitcoin.checks import check_alone, check_spent
from nodewright_bitcoin.columns import Batch, Parsed, output_at, parse_batch
from nodewright_bitcoin.relative import Locks, asked_of_blocks, relative_locks
from nodewright_bitcoin.rules import RuleError, era_at, era_flags
from nodewright_bitcoin.scripts import ScriptTask, verify_batch
from nodewright_bitcoin.state import Reservation
from nodewright_bitcoin.transaction import MAX_TRANSACTION_BYTES

if TYPE_CHECKING:
    from nodewright_bitcoin.engine import BitcoinEngine

REMEMBERED_TRANSACTIONS = 2_000_000


@define
class Fact:
    """What is known of one transaction whatever block of these rules holds it. A ``state.Reservation`` has all of it too,
    and stands for one."""

    effect: UtxoTransaction
    fee: int
    size: int
    min_height: int
    min_time: int
    rules: int

    @property
    def locks(self) -> Locks:
        return ()


@define
class LockedFact(Fact):
    locks: Locks = ()


Known = Fact | Reservation


@define
class Checked:
    """A valid bundle. ``facts`` in its order; ``outer`` are the parents of its transactions that are not in it;
    ``ordered`` is whether each stands behind its parents in it; ``rules`` the script rules it was judged by; ``locked`` the
    relative lock times that these ask for, by transaction: whether they are met depends on the block."""

    ids: bytes
    keys: list[bytes]
    facts: list[Known]
    outer: set[bytes]
    ordered: bool
    fees: int
    size: int
    min_height: int
    min_time: int
    rules: int
    held_at: int = -1  # the state's count of departures when all of it were reserved
    # Of ``outer``, what was reserved when the engine's generation was that: what all of it were reserved on was either
    # reserved or in a block, and leaves the blocks in a reorganisation alone.
    waits: set[bytes] = field(factory=set)
    waits_at: int = -1
    locked: dict[bytes, Locks] = field(factory=dict)


def checked_of(ids: bytes, facts: list[Known], rules: int) -> Checked:
    effects = [fact.effect for fact in facts]
    keys = [effect.txid for effect in effects]
    outer = {spent[:32] for effect in effects for spent in effect.spends}
    inner = outer.intersection(keys)
    outer -= inner
    ordered = True
    if inner:
        place = dict(zip(keys, range(len(keys)), strict=True))
        for index, effect in enumerate(effects):
            for spent in effect.spends:
                if spent[:32] in inner and place[spent[:32]] >= index:
                    ordered = False
    locked = {fact.effect.txid: fact.locks for fact in facts if fact.locks} if asked_of_blocks(rules) else {}
    return Checked(
        ids,
        keys,
        facts,
        outer,
        ordered,
        sum([fact.fee for fact in facts]),
        sum([fact.size for fact in facts]),
        max([fact.min_height for fact in facts], default=0),
        max([fact.min_time for fact in facts], default=0),
        rules,
        locked=locked,
    )


@define
class Bundles:
    """``pending`` has the facts of all transactions in remembered bundles: parents of others may be among them."""

    engine: BitcoinEngine
    remembered: OrderedDict[bytes, Checked] = field(factory=OrderedDict)
    pending: dict[bytes, Known] = field(factory=dict)
    _held: int = 0

    def recall(self, bundle: Bundle, height: int) -> Checked | None:
        checked = self.remembered.get(bundle.ref.id)
        rules = int(era_flags(height, self.engine.parameters))
        if checked is None or checked.ids != bundle.ids or checked.rules != rules:
            return None
        self.remembered.move_to_end(bundle.ref.id)
        return checked

    def remember(self, bundle: bytes, checked: Checked) -> None:
        self.forget(bundle)
        self.remembered[bundle] = checked
        self._held += len(checked.keys)
        self.pending.update(zip(checked.keys, checked.facts, strict=True))
        while self._held > REMEMBERED_TRANSACTIONS and len(self.remembered) > 1:
            self.forget(next(iter(self.remembered)))

    def forget(self, bundle: bytes) -> None:
        checked = self.remembered.pop(bundle, None)
        if checked is None:
            return
        self._held -= len(checked.keys)
        for key, fact in zip(checked.keys, checked.facts, strict=True):
            if self.pending.get(key) is fact:
                del self.pending[key]

    # --- judging -----------------------------------------------------------------------------------------------------

    async def validate(self, bundle: Bundle, height: int) -> Checked | BundleInvalid | BundleIncomplete:
        """``height`` is the next block's."""
        checked = self.recall(bundle, height)
        if checked is not None:
            return checked
        if len(bundle.ids) % 32:
            return BundleInvalid("bad-bundle", "the ids are no multiple of 32 bytes", 0)
        keys = [bundle.ids[at : at + 32] for at in range(0, len(bundle.ids), 32)]
        if len(set(keys)) != len(keys):
            index = next(i for i, key in enumerate(keys) if key in keys[:i])
            return BundleInvalid("bad-txns-duplicate", "a transaction is in the bundle twice", index)
        rules = int(era_flags(height, self.engine.parameters))
        state, pending = self.engine.state, self.pending
        reserved = state.unmined
        facts: list[Known | None] = list(map(reserved.get, keys))
        departed, unknown = state.departed, list[int]()
        if state.judged_by.keys() - {rules} or not all(facts):
            departed = departed if all(map(reserved.__contains__, keys)) else -1
            for index, key in enumerate(keys):
                fact = facts[index] or pending.get(key)
                facts[index] = fact if fact is not None and fact.rules == rules else None
            unknown = [index for index, fact in enumerate(facts) if fact is None]
        if unknown:
            bodies = bundle.bodies
            if bodies is None or len(bodies) != len(keys):
                return BundleIncomplete([keys[index] for index in unknown])
            problem = await self._judge(keys, unknown, [bodies[index] for index in unknown], facts, height)
            if problem is not None:
                return problem
        done = [fact for fact in facts if fact is not None]
        checked = await self.engine.offload_batch(len(done), checked_of, bundle.ids, done, rules)
        checked.held_at = departed
        checked.waits, checked.waits_at = checked.outer & reserved.keys(), self.engine.generation
        self.remember(bundle.ref.id, checked)
        return checked

    def _known(self, txid: bytes) -> Known | None:
        """By whatever rules it was judged: what a transaction creates does not depend on them."""
        return self.engine.state.unmined.get(txid) or self.pending.get(txid)

    async def _judge(
        self, keys: list[bytes], unknown: list[int], bodies: Sequence[bytes], facts: list[Known | None], height: int
    ) -> BundleInvalid | BundleIncomplete | None:
        """Fill in the facts of the unknown ones from their bodies."""
        engine = self.engine
        batch: Batch = await engine.offload_batch(len(bodies), parse_batch, bodies, 2 * MAX_TRANSACTION_BYTES)
        txs: list[Parsed] = []
        wrong: list[bytes] = []
        for index, item in zip(unknown, batch.items, strict=True):
            if isinstance(item, Parsed) and item.txid == keys[index]:
                txs.append(item)
            else:
                wrong.append(keys[index])  # not that transaction's body: somebody else may have it
        if wrong:
            return BundleIncomplete(wrong)
        era = era_at(height, engine.parameters)
        for index, tx in zip(unknown, txs, strict=True):
            error = check_alone(tx, era)
            if error is not None:
                return BundleInvalid(error.code, error.message, index)
        spent, missing = await self._outputs(keys, txs, facts, height)
        if missing:
            return await self._absent(keys, unknown, txs, missing)
        tasks: list[ScriptTask] = []
        owners: list[int] = []
        rules = int(era_flags(height, engine.parameters))
        aged = asked_of_blocks(rules)
        for index, tx, outputs in zip(unknown, txs, spent, strict=True):
            terms = check_spent(tx, outputs, height, engine.parameters)
            if isinstance(terms, RuleError):
                return BundleInvalid(terms.code, terms.message, index)
            effect = UtxoTransaction(tx.txid, tx.spends, tx.outputs)
            fact = Fact(effect, terms.fee, len(tx.raw), terms.min_height, terms.min_time, rules)
            if aged and (locks := relative_locks(tx.transaction())):
                fact = LockedFact(effect, fact.fee, fact.size, fact.min_height, fact.min_time, rules, locks)
            facts[index] = fact
            passed = (tx.txid, rules) in engine.verified or engine.state.bare_rules.get(tx.txid) == rules
            if not passed:
                tasks.append(ScriptTask(tx, outputs))
                owners.append(index)
        if tasks:
            errors = await engine.offload_batch(
                len(tasks), verify_batch, tasks, batch.columns, height, engine.parameters, engine.verifier, None
            )
            for index, error in zip(owners, errors, strict=True):
                if error is not None:
                    return BundleInvalid(error.code, error.message, index)
            for task in tasks:
                engine.verified.add(task.tx.txid, rules)
        return None

    async def _outputs(
        self, keys: list[bytes], txs: list[Parsed], facts: list[Known | None], height: int
    ) -> tuple[list[list[UtxoOutput]], list[bytes]]:
        """The outputs that each of ``txs`` spends (from the bundle itself, reservations, remembered bundles, the store),
        and the outpoints that are nowhere."""
        vectors = {tx.txid: tx.outputs for tx in txs}
        vectors.update({key: fact.effect.outputs for key, fact in zip(keys, facts, strict=True) if fact is not None})
        state = self.engine.state
        found: dict[bytes, UtxoOutput] = {}
        wanted: list[bytes] = []
        for tx in txs:
            for outpoint in tx.spends:
                parent = outpoint[:32]
                reserved = state.unmined.get(parent)
                if reserved is not None and reserved.stored:
                    wanted.append(outpoint)
                    continue
                vector = vectors.get(parent)
                if vector is None:
                    fact = self._known(parent)
                    vector = fact.effect.outputs if fact is not None else None
                if vector is None or parent not in vectors:
                    wanted.append(outpoint)  # the store has the last word: it may be mined, with an age of its own
                if vector is not None:
                    pair = output_at(vector, int.from_bytes(outpoint[32:], "little"))
                    if pair is not None:
                        found[outpoint] = UtxoOutput(pair[0], pair[1], height)
        if wanted:
            outputs = await self.engine.store.get_outputs(wanted)
            found.update({point: output for point, output in zip(wanted, outputs, strict=True) if output is not None})
        missing = [point for tx in txs for point in tx.spends if point not in found]
        return [[found[point] for point in tx.spends if point in found] for tx in txs], missing

    async def _absent(
        self, keys: list[bytes], unknown: list[int], txs: list[Parsed], missing: list[bytes]
    ) -> BundleInvalid | BundleIncomplete:
        """A parent that is nowhere may come; an output that its known transaction does not have never will."""
        parents = list(dict.fromkeys(point[:32] for point in missing))
        held = dict(zip(parents, await self.engine.store.known(parents), strict=True))
        for parent in parents:
            held[parent] = held[parent] or parent in keys or self._known(parent) is not None
        never = {point for point in missing if held[point[:32]]}
        for index, tx in zip(unknown, txs, strict=True):
            if never.intersection(tx.spends):
                message = "an input spends an output that its transaction does not have"
                return BundleInvalid("bad-txns-inputs-missingorspent", message, index)
        return BundleIncomplete([parent for parent in parents if not held[parent]])

    async def verdict(self, bundle: Bundle, head: BlockRef) -> BundleVerdict:
        result = await self.validate(bundle, head.height + 1)
        if not isinstance(result, Checked):
            return result
        state = self.engine.state
        conflicts: dict[bytes, bytes] = {}
        for key, fact in zip(result.keys, result.facts, strict=True):
            if key in state.unmined:
                continue
            for spent in fact.effect.spends:
                loser = state.spenders.get(spent)
                if loser is not None and loser != key:
                    conflicts[key] = loser
        return BundleValid(
            result.fees,
            result.size,
            [fact.fee for fact in result.facts],
            [fact.size for fact in result.facts],
            conflicts,
        )
