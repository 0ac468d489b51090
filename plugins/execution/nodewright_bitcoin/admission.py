"""Admission: a batch of raw transactions against the applied head and all reservations, staged in memory.

Order, for every batch: parse and txids (off the loop) → outputs spent (reservations, this batch, then one read of the
store) → rules and relay policy → scripts (off the loop) → conflicts → stage. Two batches may be in flight: the last two
steps happen under the engine's lock, and if a block was committed or reverted meanwhile, the outputs are read again
first. Scripts are not checked again: an outpoint's amount and script never change.

A batch that was judged by the rules of one era and is staged in another (a block came between) is to be sent again.

A batch may hold a child after its parent. A child before its parent is ``missing``: to be offered again.

Most of a batch is plain (``plain``), and judged and staged in bulk; what follows here is asked about all others.

A *quick* batch leaves out what takes long (``data["slow"]``): its scripts are for ``prepare``, which looks at one
transaction, stages nothing, and remembers that it passed, so that the next batch takes it without a look.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, cast

from attrs import define

from nodewright.interfaces.common import Admission, Admitted, BlockRef, Refused
from nodewright.interfaces.storage import UtxoOutput, UtxoTransaction
from nodewright_bitcoin import plain
from nodewright_bitcoin.checks import (
    NOT_OLD_ENOUGH,
    Terms,
    check_alone,
    check_claims,
    check_relay,
    check_spent,
    check_when,
    check_worth,
    refusal,
)
from nodewright_bitcoin.columns import Batch, Parsed, output_at, parse_batch
from nodewright_bitcoin.relative import Locks, RelativeLock, asked_of_blocks, relative_locks, told, unmet
from nodewright_bitcoin.rules import Era, RuleError, era_at, era_flags
from nodewright_bitcoin.scripts import SLOW, ScriptTask, verify_batch
from nodewright_bitcoin.state import LockedReservation, Reservation

if TYPE_CHECKING:
    from nodewright_bitcoin.engine import BitcoinEngine

# A thread hop costs about a hundred microseconds, a plain signature check half of that.
WORTH_A_HOP = 4
BYTES_WORTH_ONE = 512


@define
class Offer:
    """One transaction on its way in. ``spent`` has None where an output is not known (yet); ``answer`` ends its way.

    ``needs`` are the inputs whose outputs are in no store yet: their transactions must be reserved when this one is
    staged. ``held`` says that the store holds this one already: its scripts passed before, staging it only brings its
    effect back. ``plain``: see that module. Its ``tx`` and ``spent`` make it a ``ScriptTask`` once all are known."""

    tx: Parsed
    spent: list[UtxoOutput | None]
    needs: set[int] | None = None
    terms: Terms | None = None
    answer: Admission | None = None
    held: bool = False
    plain: bool = False


class Admitter:
    """Works on its engine's reservations, store and lock; holds no state of its own."""

    def __init__(self, engine: BitcoinEngine) -> None:
        self.engine = engine

    async def admit(self, raws: Sequence[bytes], head: BlockRef, time: int, quick: bool = False) -> list[Admission]:
        engine = self.engine
        batch: Batch = await engine.offload_batch(len(raws), parse_batch, raws, engine.max_raw_bytes)
        offers = [Offer(item, []) for item in batch.items if isinstance(item, Parsed)]
        height = head.height + 1
        generation = engine.generation
        await self._fill(offers, height)
        self._judge(offers, height, time)
        await self._scripts(offers, batch, height, quick)
        async with engine.lock:
            if engine.generation != generation:
                await self._refill(offers, height)
            await self._name_missing(offers)
            rules = engine.rules_at(height)
            aged = self._aged(height)
            applied = engine.applied_block
            if applied is not None and engine.rules_at(applied.height + 1) != rules:
                for offer in offers:
                    offer.answer = offer.answer or _again(offer.tx.txid)
            plain.stage(offers, engine.state, height, rules)
            for offer in offers:
                if offer.answer is None:
                    self._stage(offer, height, rules, aged)
        answers = iter(offers)
        return [item if isinstance(item, Refused) else self._answer(next(answers)) for item in batch.items]

    async def prepare(self, raw: bytes, head: BlockRef, time: int) -> Refused | None:
        engine, height = self.engine, head.height + 1
        batch: Batch = await engine.offload_batch(len(raw) // BYTES_WORTH_ONE, parse_batch, [raw], engine.max_raw_bytes)
        item = batch.items[0]
        if isinstance(item, Refused):
            return item
        offer = Offer(item, [])
        generation = engine.generation
        await self._fill([offer], height)
        self._judge([offer], height, time)
        if isinstance(offer.answer, Refused):
            return offer.answer
        if offer.terms is None or offer.held:
            return None
        for index, output in enumerate(offer.spent):
            winner = self._winner(item.spends[index], output)
            if winner is not None and winner != item.txid:
                return _conflict(index, winner, item.txid)
        rules = engine.rules_at(height)
        if not engine.passed(item.txid, rules):
            task = ScriptTask(item, cast("list[UtxoOutput]", offer.spent))
            (error,) = await engine.environment.offload(
                verify_batch, [task], batch.columns, height, engine.parameters, engine.verifier, engine.policy
            )
            if error is not None:
                return refusal(error, item.txid)
            if engine.generation == generation:  # else an output may have been reassigned under it
                engine.prepared.add(item.txid, rules)
        return None

    def _winner(self, outpoint: bytes, output: UtxoOutput | None) -> bytes | None:
        """Who spent it first."""
        winner = self.engine.state.spenders.get(outpoint)
        if winner is None and output is not None and output.spender is not None:
            return output.spender[:32]
        return winner

    @staticmethod
    def _answer(offer: Offer) -> Admission:
        assert offer.answer is not None
        return offer.answer

    async def _fill(self, offers: list[Offer], height: int) -> None:
        """The outputs spent, from staged reservations, from earlier transactions of this batch, and in one read of the
        store, which has the last word: it knows what is frozen, reassigned or spent."""
        state = self.engine.state
        points = list(chain.from_iterable([offer.tx.spends for offer in offers]))
        parents = {outpoint[:32] for outpoint in points}
        if parents.isdisjoint(state.staged) and parents.isdisjoint([offer.tx.txid for offer in offers]):
            if points:
                outputs_of = await self.engine.store.get_outputs(points)
                at = 0
                for offer in offers:
                    end = at + len(offer.tx.spends)
                    offer.spent, offer.needs = outputs_of[at:end], None
                    at = end
            return
        unmined = state.unmined
        earlier: dict[bytes, Parsed] = {}
        wanted: list[bytes] = []
        places: list[tuple[Offer, int]] = []
        for offer in offers:
            tx = offer.tx
            spent: list[UtxoOutput | None] = [None] * len(tx.spends)
            offer.spent = spent
            offer.needs = None
            for index, outpoint in enumerate(tx.spends):
                parent = outpoint[:32]
                reserved = unmined.get(parent)
                if reserved is not None and not reserved.stored:
                    outputs: bytes | None = reserved.effect.outputs
                else:
                    wanted.append(outpoint)
                    places.append((offer, index))
                    outputs = earlier[parent].outputs if parent in earlier else None
                if outputs is not None:
                    found = output_at(outputs, int.from_bytes(outpoint[32:], "little"))
                    if found is not None:
                        spent[index] = UtxoOutput(found[0], found[1], height)
                        offer.needs = {index} if offer.needs is None else offer.needs | {index}
            earlier[tx.txid] = tx
        if not wanted:
            return
        for (offer, index), output in zip(places, await self.engine.store.get_outputs(wanted), strict=True):
            if output is not None:
                offer.spent[index] = output
                if offer.needs is not None:
                    offer.needs.discard(index)

    async def _refill(self, offers: list[Offer], height: int) -> None:
        """The head or a mark changed since the outputs were read: read them again. Scripts hold unless an output was
        reassigned under them."""
        before = [[output and (output.satoshis, output.script) for output in offer.spent] for offer in offers]
        await self._fill(offers, height)
        for offer, old in zip(offers, before, strict=True):
            offer.plain = False
            now = [output and (output.satoshis, output.script) for output in offer.spent]
            if offer.answer is None and offer.terms is not None and now != old:
                offer.answer = _again(offer.tx.txid)

    def _judge(self, offers: list[Offer], height: int, time: int) -> None:
        engine = self.engine
        era: Era = era_at(height, engine.parameters)
        policy, parameters, unmined = engine.policy, engine.parameters, engine.state.unmined
        for offer in offers if self._aged(height) else plain.judge(offers, era, policy, engine.state):
            tx, spent = offer.tx, offer.spent
            txid = tx.txid
            error = check_alone(tx, era)
            if error is not None:
                offer.answer = refusal(error, txid)
                continue
            if None in spent:
                continue  # judged missing under the lock, where it may have come
            known = cast("list[UtxoOutput]", spent)
            if txid in unmined or (known[0].spender is not None and known[0].spender[:32] == txid):
                offer.held = True
            terms = check_spent(tx, known, height, parameters)
            if isinstance(terms, RuleError):
                offer.answer = refusal(terms, txid)
                continue
            offer.terms = terms
            if tx.claims is not None:
                error = check_claims(tx, known)
                if error is not None:
                    offer.answer = refusal(error, txid)
                    continue
            if offer.held:
                continue
            if height < terms.min_height or time < terms.min_time:
                error = check_when(tx, terms, height, time)
                if error is not None:
                    offer.answer = refusal(error, txid)
                    continue
            error = check_relay(tx, era, policy) or check_worth(tx, terms, known, era, policy)
            if error is not None:
                offer.answer = refusal(error, txid, "policy")

    def _aged(self, height: int) -> bool:
        """Whether it is asked how old outputs are (BIP68): until the tip is of Genesis, as the network's nodes do, so for
        the first block of Genesis too, which may hold what is younger."""
        return height <= self.engine.parameters.genesis_height

    async def _scripts(self, offers: list[Offer], batch: Batch, height: int, quick: bool) -> None:
        engine = self.engine
        rules = int(era_flags(height, engine.parameters))
        asked = [offer for offer in offers if offer.terms is not None and offer.answer is None and not offer.held]
        if engine.knows([offer.tx.txid for offer in asked]):
            asked = [offer for offer in asked if not engine.passed(offer.tx.txid, rules)]
        if not asked:
            return
        tasks = cast("list[ScriptTask]", asked)
        weight = len(tasks) if quick else WORTH_A_HOP
        if weight < WORTH_A_HOP:
            weight += sum(len(task.tx.raw) for task in tasks) // BYTES_WORTH_ONE
        errors = await engine.offload_batch(
            weight, verify_batch, tasks, batch.columns, height, engine.parameters, engine.verifier, engine.policy, quick
        )
        if not any(errors):
            engine.verified.add_all([offer.tx.txid for offer in asked], rules)
            return
        for offer, error in zip(asked, errors, strict=True):
            if error is None:
                engine.verified.add(offer.tx.txid, rules)
            elif error is SLOW:
                data = {"slow": True, "retry_after_seconds": 1}
                offer.answer = Refused(error.code, error.message, "busy", offer.tx.txid, data)
            else:
                offer.answer = refusal(error, offer.tx.txid)

    async def _name_missing(self, offers: list[Offer]) -> None:
        """What is not judged for want of an output: mined before (outputs may be pruned), or waiting for parents."""
        waiting = [offer for offer in offers if offer.answer is None and offer.terms is None]
        if not waiting:
            return
        store, state = self.engine.store, self.engine.state
        asked = list(
            dict.fromkeys(txid for offer in waiting for txid in (offer.tx.txid, *(spent[:32] for spent in offer.tx.spends)))
        )
        known = dict(zip(asked, await store.known(asked), strict=True))
        for offer in waiting:
            tx = offer.tx
            if known[tx.txid] and tx.txid not in state:
                offer.answer = Admitted(tx.txid, tx.raw, known=True)
                continue
            lost = [spent for spent, output in zip(tx.spends, offer.spent, strict=True) if output is None]
            missing = list(dict.fromkeys(spent[:32] for spent in lost if not known[spent[:32]]))
            exhausted = [spent for spent in lost if known[spent[:32]] and spent[:32] not in missing]
            if lost and exhausted and len(exhausted) == len(lost):
                message = "an input spends an output that its transaction does not have"
                offer.answer = Refused("bad-txns-inputs-missingorspent", message, "invalid", tx.txid)
                continue
            message = f"{len(missing) or 'some'} of the transactions that it spends from are not known here (yet)"
            data = {"missing": missing or list(dict.fromkeys(spent[:32] for spent in lost))}
            offer.answer = Refused("missing-inputs", message, "missing", tx.txid, data)

    def _stage(self, offer: Offer, height: int, rules: int, aged: bool) -> None:
        """Conflicts, and the reservation itself; where the outputs' age matters (``aged``), that too: only under the lock
        it is certain which are mined. No await in here."""
        if offer.answer is not None or offer.terms is None:
            return
        state = self.engine.state
        tx, terms = offer.tx, offer.terms
        txid = tx.txid
        held = txid in state.unmined
        present = state.unmined.get(txid)
        if present is not None:
            offer.answer = Admitted(txid, tx.raw, present.fee, known=True)
            return
        winner = None
        for index, (outpoint, output) in enumerate(zip(tx.spends, offer.spent, strict=True)):
            if output is None:
                offer.answer = _again(txid)
                return
            winner = state.spenders.get(outpoint)
            if winner is None and output.spender is not None:
                winner = output.spender[:32]
            if winner is not None and winner != txid:
                offer.answer = _conflict(index, winner, txid)
                return
            if offer.needs and index in offer.needs and outpoint[:32] not in state.unmined:
                message = f"input {index} spends from a transaction that is not accepted here"
                offer.answer = Refused("missing-inputs", message, "missing", txid, {"missing": [outpoint[:32]]})
                return
            hindered = output.conflicting or output.locked or output.frozen or output.spendable_from > height
            if hindered and not held and winner is None:
                offer.answer = _hindered(output, index, height, txid)
                return
        if winner == txid and not held:
            offer.answer = Admitted(txid, tx.raw, terms.fee, known=True)  # it is in a block
            return
        if offer.held and not held:
            offer.answer = _again(txid)  # a block displaced it between the two looks: its scripts were not checked
            return
        effect = UtxoTransaction(txid, tx.spends, tx.outputs)
        rules = state.bare_rules.get(txid, rules)  # of one that the store holds, those that it passed
        reserved = Reservation(effect, terms.fee, len(tx.raw), height, terms.min_height, terms.min_time, held, rules)
        if (aged or (held and asked_of_blocks(rules))) and (locks := relative_locks(tx.transaction())):
            lock = self._unmet(offer, locks) if not held else None
            if lock is not None:
                offer.answer = refusal(RuleError(NOT_OLD_ENOUGH, told(lock)), txid)
                return
            if asked_of_blocks(rules):
                bounds = (terms.min_height, terms.min_time, held, rules, locks)
                reserved = LockedReservation(effect, terms.fee, len(tx.raw), height, *bounds)
        state.add(reserved)
        offer.answer = Admitted(txid, tx.raw, terms.fee, known=held)

    def _unmet(self, offer: Offer, locks: Locks) -> RelativeLock | None:
        """For the next block: what is unmined will be in it at the earliest. Relayed only where met, also before blocks
        were asked for it."""
        engine = self.engine
        assert engine.applied_block is not None
        made_at = {
            outpoint: output.height
            for outpoint, output in zip(offer.tx.spends, offer.spent, strict=True)
            if output is not None and outpoint[:32] not in engine.state.unmined
        }
        return unmet(locks, made_at, engine.applied_block, engine.times)


def _again(txid: bytes) -> Refused:
    return Refused(
        "busy", "the chain changed while this was checked: send it again", "busy", txid, {"retry_after_seconds": 1}
    )


def _conflict(index: int, winner: bytes, txid: bytes) -> Refused:
    message = f"input {index} spends what {winner[::-1].hex()} spent first"
    return Refused("txn-mempool-conflict", message, "conflict", txid, {"winner": winner})


def _hindered(output: UtxoOutput, index: int, height: int, txid: bytes) -> Refused:
    """An output that is there and unspent, and still may not be spent now."""
    if output.conflicting:
        return Refused("txn-conflicting-parent", f"input {index} spends from a conflicting transaction", "conflict", txid)
    if output.locked:
        return Refused("bad-txns-locked", f"input {index} spends from a locked transaction", "locked", txid)
    if output.frozen:
        return Refused("bad-txns-inputs-frozen", f"input {index} spends a frozen output", "frozen", txid)
    message = f"input {index} spends an output that is spendable from height {output.spendable_from}"
    return Refused("bad-txns-not-yet-spendable", message, "locked", txid)
