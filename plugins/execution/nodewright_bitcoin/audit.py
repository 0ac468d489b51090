"""The unspent outputs of a stopped node, computed anew from raw blocks and pending transactions and compared with the
store (``interfaces.audit.StateAudit``).

What is held to be true:
- the store holds every transaction of the chain and of the pending ones that it has, with exactly the inputs and outputs
  that its bytes say, and no other transaction; one is gone only where all its outputs were spent deep in the chain;
- an output is spent in the store exactly where a transaction of the chain, or a pending one that the store holds, spends
  it, by that input of that transaction;
- those that the store lists as unmined are those pending; none of them is in the chain;
- the last blocks could be taken back (``audit_undo``).

How, within a memory that does not grow with the state: transactions come block by block. What each spends is looked up in
the store at once, and must name it. Every output created is added to a digest, every one spent is taken from it with the
amount and script that the store has, and so is every output that the store lists as unspent. What is left must be nothing.
There is one such digest for each of 65,536 groups of outpoints (``Sums``); only the outputs of a group where something is
left are looked at one by one, in a second pass over the blocks (``locate``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from attrs import define

from nodewright.interfaces.audit import ChainAudit, ChainPart, Journal, Report
from nodewright.interfaces.common import BlockRef, Refused
from nodewright.interfaces.storage import UtxoOutput, UtxoStore, UtxoTransaction
from nodewright_bitcoin.audit_locate import Locator, Wanted
from nodewright_bitcoin.audit_sums import Sums, name, same_outputs
from nodewright_bitcoin.audit_undo import UndoAudit
from nodewright_bitcoin.columns import output_at, parse_batch
from nodewright_bitcoin.transaction import MAX_TRANSACTION_BYTES

LEAST_RETENTION = 100  # of the setting retention_blocks: what is spent less deep is never pruned
READ = 4096  # outpoints of one question to the store
KEPT_UNMINED = 4096
STATE_FIX = (
    "empty stores.utxo (move its folder away, or rename its schema on a database server) and start the node: it computes "
    "the state anew from its blocks, and takes the pending transactions from its journal"
)
POST_FIX = "post it again: its bytes are gone, and the next start takes it out of the store"
BODY_FIX = "restore the data directory from a snapshot, or start anew in another --data-dir: the node follows its peers"


@define
class Spend:
    """An input: ``height`` is that of its block, None while it is pending."""

    outpoint: bytes
    spender: bytes
    height: int | None


class BitcoinAudit:
    """One pass over an opened store that nobody else writes to. Reads only."""

    def __init__(self, store: UtxoStore, genesis: UtxoTransaction | None) -> None:
        self._store = store
        self._genesis = genesis
        self._sums = Sums()
        self._absent = Sums()
        self._unmined: set[bytes] = set()
        self._reassigned = 0
        self._transactions = 0
        self._deep = 0
        self._told = self._hidden = False  # what is wrong with bodies; whether transactions of the chain are not at hand
        self._report: Report
        self._journal: Journal

    async def applied(self) -> BlockRef | None:
        return await self._store.applied()

    def identify(self, raws: Sequence[bytes]) -> list[bytes | None]:
        return [None if isinstance(one, Refused) else one.txid for one in parse_batch(raws, MAX_TRANSACTION_BYTES).items]

    async def compare(self, chain: ChainAudit, journal: Journal, report: Report) -> None:
        self._report = report
        applied = await self.applied()
        if applied is None:
            async for point, _ in self._store.iterate_unspent():
                self._differs("the store holds outputs and does not say of which block they are", name(point))
                return
            report.note("stores.utxo is empty: the next start computes it from the blocks")
            return
        self._deep = chain.highest - LEAST_RETENTION
        self._journal = journal
        self._unmined = {item.txid async for item in self._store.iterate_unmined()}
        pending = dict(journal.pending)
        mined_pending = 0
        if self._genesis is not None:
            await self._take([self._genesis], 0)
        undo = UndoAudit(self._store, max(chain.highest, applied.height), self._deep, self._differs)
        async for part in chain.parts():
            effects = self._effects(part)
            await self._take(effects, part.block.height)
            if chain.whole and not self._hidden:
                await undo.part(part, effects[0] if part.prologue else None)
            for effect in effects:
                mined_pending += pending.pop(effect.txid, None) is not None
                if effect.txid in self._unmined:
                    self._unmined.discard(effect.txid)
                    self._differs("a transaction of the chain is listed as unmined", effect.txid[::-1].hex())
        self._told = True
        self._hidden = self._hidden or not chain.whole
        if not self._hidden:
            await undo.end()
        waiting = await self._waiting(chain, pending)
        if self._hidden:
            report.note("stores.utxo: not compared to the end, because blocks are damaged")
            return
        wanted = await self._unspent(applied, len(waiting))
        if mined_pending:
            report.note(f"{mined_pending} transactions of the journal are in blocks already: the next start settles them")
        if wanted:
            await Locator(self._store, report, STATE_FIX, wanted).run(self._genesis, chain, self._effects, waiting)

    def _differs(self, kind: str, where: str, fix: str = STATE_FIX) -> None:
        self._report.differs(kind, where, fix)

    # --- transactions of the chain -----------------------------------------------------------------------------------

    def _effects(self, part: ChainPart) -> list[UtxoTransaction]:
        """Those of the part whose bytes are theirs; the others are reported."""
        found = []
        batch = parse_batch(part.bodies, MAX_TRANSACTION_BYTES)
        for at, item in enumerate(batch.items):
            id = part.ids[32 * at : 32 * at + 32]
            if isinstance(item, Refused) or item.txid != id:
                if not self._told:
                    where = f"{id[::-1].hex()} of {part.source}"
                    self._differs("a stored body is not the transaction that its block names", where, BODY_FIX)
                self._hidden = True
                continue
            spends = () if part.prologue else item.spends
            found.append(UtxoTransaction(item.txid, spends, item.outputs, coinbase=part.prologue))
        return found

    async def _take(self, effects: Sequence[UtxoTransaction], height: int | None) -> None:
        """``height`` None: pending ones, which the store holds."""
        self._transactions += len(effects)
        held = await self._store.transactions([effect.txid for effect in effects])
        spends: list[Spend] = []
        for effect, stored in zip(effects, held, strict=True):
            add = self._sums.created if stored is not None else self._absent.outpoints
            add(effect)
            if stored is not None:
                self._held_to(effect, stored)
            spends += [
                Spend(point, effect.txid + index.to_bytes(4, "little"), height) for index, point in enumerate(effect.spends)
            ]
        for start in range(0, len(spends), READ):
            await self._spend(spends[start : start + READ])

    def _held_to(self, effect: UtxoTransaction, stored: UtxoTransaction) -> None:
        id = effect.txid[::-1].hex()
        if stored.spends != effect.spends:
            self._differs("the store has other inputs of a transaction than its bytes", id)
        if stored.coinbase != effect.coinbase:
            self._differs("the store takes a transaction for a coinbase that is none, or a coinbase for none", id)
        if stored.outputs != effect.outputs and not same_outputs(stored.outputs, effect.outputs):
            self._differs("the store has other outputs of a transaction than its bytes", id)

    async def _spend(self, spends: Sequence[Spend]) -> None:
        """Each output spent is there and names its spender."""
        outputs = await self._store.get_outputs([spend.outpoint for spend in spends])
        for spend, output in zip(spends, outputs, strict=True):
            if output is None:
                if spend.height is None or spend.height > self._deep:
                    self._differs(
                        "an output is gone from the store although it is spent by a recent transaction",
                        name(spend.outpoint),
                    )
                self._absent.take_outpoint(spend.outpoint)
                continue
            if output.spender is None:
                by = spend.spender[:32][::-1].hex()
                self._differs(
                    "a spent output has come back: the store has it as unspent", f"{name(spend.outpoint)}, by {by}"
                )
                continue
            if output.spender != spend.spender:
                told, due = output.spender[:32][::-1].hex(), spend.spender[:32][::-1].hex()
                where = f"{name(spend.outpoint)} by {told}, not by {due}"
                self._differs("the store names another spender of an output", where)
            await self._take_output(spend.outpoint, output)

    async def _take_output(self, point: bytes, output: UtxoOutput) -> None:
        script = output.script
        if output.spendable_from:  # reassigned: blocks know the script that it was created with
            self._reassigned += 1
            (stored,) = await self._store.transactions([point[:32]])
            made = None if stored is None else output_at(stored.outputs, int.from_bytes(point[32:], "little"))
            script = made[1] if made is not None else script
        self._sums.take(point, output.satoshis, script)

    # --- pending -----------------------------------------------------------------------------------------------------

    async def _waiting(self, chain: ChainAudit, pending: dict[bytes, bytes]) -> list[UtxoTransaction]:
        """Effects of the pending transactions that the store holds, taken; and what stands in the way of the others."""
        loose = 0
        async for part in chain.loose():
            for at, raw in enumerate(part.bodies):
                id = part.ids[32 * at : 32 * at + 32]
                if id in self._unmined and id not in pending:
                    pending[id] = raw
                    loose += 1
        if loose:
            self._report.note(f"{loose} transactions of blocks that were taken back: the next start makes them pending")
        waiting: list[UtxoTransaction] = []
        later = 0
        ids = list(pending)
        for start in range(0, len(ids), KEPT_UNMINED):
            some = ids[start : start + KEPT_UNMINED]
            batch = parse_batch([pending[id] for id in some], MAX_TRANSACTION_BYTES)
            known = await self._store.known(some)
            effects = []
            for id, item, there in zip(some, batch.items, known, strict=True):
                if isinstance(item, Refused) or item.txid != id:
                    self._differs("the journal's body of a transaction is not its", id[::-1].hex(), BODY_FIX)
                elif not there:
                    later += 1
                else:
                    if id not in self._unmined:
                        self._differs(
                            "a pending transaction is not listed as unmined: no block would take it", id[::-1].hex()
                        )
                    self._unmined.discard(id)
                    effects.append(UtxoTransaction(id, item.spends, item.outputs))
            await self._take(effects, None)
            waiting += effects
        if later:
            self._report.note(f"{later} pending transactions are in the journal alone: the next start takes them up again")
        return waiting + await self._unclaimed(chain)

    async def _unclaimed(self, chain: ChainAudit) -> list[UtxoTransaction]:
        """What the store has as unmined and nobody knows. Taken with the effects that the store has of them."""
        ids = sorted(self._unmined)
        found: list[UtxoTransaction] = []
        for start in range(0, len(ids), KEPT_UNMINED):
            part = ids[start : start + KEPT_UNMINED]
            for id, effect in zip(part, await self._store.transactions(part), strict=True):
                if effect is None:
                    self._differs("a transaction is listed as unmined that the store does not hold", id[::-1].hex())
                else:
                    found.append(effect)
        await self._take(found, None)
        if not self._hidden:
            self._tell_unclaimed([effect.txid for effect in found])
        return found

    def _tell_unclaimed(self, ids: Sequence[bytes]) -> None:
        rejected = 0
        for id in ids:
            status = self._journal.final(id)
            if status is not None and status.status in ("rejected", "replaced", "expired"):
                rejected += 1
            else:
                kind = "the store holds a transaction that is in no block and is not pending"
                self._differs(kind, id[::-1].hex(), POST_FIX)
        if rejected:
            self._report.note(f"{rejected} transactions that were rejected are in the store: the next start takes them out")

    # --- the whole ---------------------------------------------------------------------------------------------------

    async def _unspent(self, applied: BlockRef, waiting: int) -> Wanted:
        """Take what the store lists as unspent; which groups something is left of."""
        count = satoshis = mixed = 0
        with self._report.progress("unspent outputs", None) as advance:
            async for point, output in self._store.iterate_unspent():
                await self._take_output(point, output)
                row = hashlib.sha256(point + output.satoshis.to_bytes(8, "little") + output.script).digest()
                mixed = (mixed + int.from_bytes(row, "little")) % (1 << 256)
                satoshis += output.satoshis
                count += 1
                if count % READ == 0:
                    advance(READ)
        digest = hashlib.sha256(mixed.to_bytes(32, "little") + count.to_bytes(8, "little")).hexdigest()
        self._report.note(
            f"{self._transactions} transactions up to block {applied}, {waiting} of them pending: {count} unspent outputs "
            f"of {satoshis} satoshis, digest {digest} (as in gettxoutsetinfo)"
        )
        if self._reassigned:
            self._report.note(f"{self._reassigned} outputs were reassigned: their scripts are not those of the blocks")
        return Wanted(self._sums.left(), self._absent.left())
