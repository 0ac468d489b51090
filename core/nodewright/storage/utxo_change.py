"""One change of the UTXO set, worked out in memory before it is written: what is removed, created and spent, laid over the
records that were read. Pure: no store, no trio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from nodewright.interfaces.storage import UtxoRefused, UtxoTransaction, WriteBatch
from nodewright.storage.utxo_records import (
    BURIED,
    CONFLICTING,
    HEAD,
    LOCKED,
    MARK,
    PAGE,
    PAGE_BYTES,
    SPENT,
    TX,
    TXMARK,
    Mark,
    Record,
    encode_transaction,
    page_keys,
    spender_of,
)


class Verdict(Enum):
    APPLIED = "applied before"


APPLIED = Verdict.APPLIED
_UNTOUCHED = b"untouched"


class Change:
    """``batch`` is what to commit; the other attributes are what the caches have to follow with."""

    __slots__ = (
        "_found",
        "_marks",
        "_maturity",
        "_spenders",
        "_txmarks",
        "admitted",
        "batch",
        "created",
        "locked",
        "overwrites",
        "removed",
        "spent",
        "unmarked",
    )

    def __init__(
        self,
        found: Mapping[bytes, Record | None],
        spenders: Mapping[bytes, bytes | None],
        marks: Mapping[bytes, Mark],
        txmarks: Mapping[bytes, int],
        maturity: int,
    ) -> None:
        self._found = found
        self._spenders = spenders
        self._marks = marks
        self._txmarks = txmarks
        self._maturity = maturity
        self.batch = WriteBatch()
        self.created: dict[bytes, Record] = {}
        self.admitted: list[bytes] = []
        self.removed: set[bytes] = set()
        self.locked: set[bytes] = set()
        self.overwrites = False
        self.spent: dict[bytes, bytes | None] = {}
        self.unmarked: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self.batch)

    def remove(self, transactions: Sequence[UtxoTransaction]) -> None:
        """Descendants first. What is not there is passed over."""
        spent_rows = self.batch.tables.setdefault(SPENT, {})
        self.overwrites = self.overwrites or bool(transactions)
        for tx in transactions:
            for index, outpoint in enumerate(tx.spends):
                if self._spender(outpoint) == spender_of(tx.txid, index):
                    self.spent[outpoint] = None
                    spent_rows[outpoint] = None
            record = self._found.get(tx.txid)
            if record is not None and tx.txid not in self.removed:
                self.delete(tx.txid, record)

    def promise(self) -> None:
        """Say in the batch that its transactions and spenders are new to the store, where they are: a spender that comes
        in place of one that is removed here has a row already."""
        if not self.overwrites:
            self.batch.new |= {TX, SPENT}

    def delete(self, txid: bytes, record: Record) -> None:
        """Delete every row of a transaction."""
        outpoints = [txid + index.to_bytes(4, "little") for index in range(record.count)]
        self.removed.add(txid)
        self.batch.delete(TX, txid)
        self.batch.delete_many(SPENT, outpoints)
        self.batch.delete_many(PAGE, page_keys(txid, record))
        self.batch.delete(BURIED, txid)
        if txid in self._txmarks:
            self.batch.delete(TXMARK, txid)
        if self._marks:
            marked = [outpoint for outpoint in outpoints if outpoint in self._marks]
            self.batch.delete_many(MARK, marked)
            self.unmarked += marked

    def _spender(self, outpoint: bytes) -> bytes | None:
        if outpoint in self.spent:
            return self.spent[outpoint]
        if outpoint in self._spenders:
            return self._spenders[outpoint]
        record = self._found.get(outpoint[:32])
        return None if record is None else record.spent.get(int.from_bytes(outpoint[32:], "little"))

    def create_plain(self, transactions: Sequence[UtxoTransaction], height: int) -> bool:
        """As the first step of a change, add all of these, where all are plain: one input each, an unspent output of a
        transaction that was here before and is no coinbase; nothing is marked. Else False, and nothing is done: ``create``
        says of each what it is."""
        if self._marks or self._txmarks or self.overwrites or self.created or not transactions:
            return False
        found = self._found
        rows: dict[bytes, bytes | None] = {}
        spent: dict[bytes, bytes | None] = {}
        created: dict[bytes, Record] = {}
        fresh, head, first = Record.fresh, HEAD.pack(0, height, 1), spender_of(b"", 0)
        for tx in transactions:
            txid, spends, outputs = tx.txid, tx.spends, tx.outputs
            if (
                len(spends) != 1
                or tx.coinbase
                or tx.locked
                or not 0 < len(outputs) <= PAGE_BYTES - 36
                or outputs[0] >= 0xFD
            ):
                return False
            (outpoint,) = spends
            record = found.get(outpoint[:32])
            if record is None or record.coinbase:
                return False
            output = int.from_bytes(outpoint[32:], "little")
            if output >= record.count or record.spent.get(output, None if record.complete else _UNTOUCHED) is not None:
                return False
            rows[txid] = row = head + outpoint + outputs
            spent[outpoint] = txid + first
            created[txid] = fresh(row, height, 44, outputs[0])
        if len(rows) != len(transactions) or len(spent) != len(transactions) or not found.keys().isdisjoint(rows):
            return False
        self.batch.tables.update({SPENT: dict(spent), TX: rows})
        self.spent.update(spent)
        self.created = created
        self.admitted = list(rows)
        return True

    def create(self, tx: UtxoTransaction, height: int, looked_up: bool) -> UtxoRefused | Verdict | None:
        """Add the transaction, or say why not. ``looked_up``: whether its own record was asked for."""
        txid = tx.txid
        spends = tx.spends
        if txid in self.created:
            return APPLIED
        if looked_up and self._found.get(txid) is not None and txid not in self.removed:
            return APPLIED
        created, found, spent = self.created, self._found, self.spent
        spenders: list[bytes] = []
        applied = 0
        for index, outpoint in enumerate(spends):
            parent = outpoint[:32]
            record = created.get(parent)
            if record is None:
                record = found.get(parent)
                if record is None or parent in self.removed:
                    return UtxoRefused("missing", index, outpoint)
            output = int.from_bytes(outpoint[32:], "little")
            if output >= record.count:
                return UtxoRefused("missing", index, outpoint)
            spender = spent.get(outpoint, _UNTOUCHED)
            if spender is _UNTOUCHED:
                spender = record.spent.get(output, _UNTOUCHED)
                if spender is _UNTOUCHED:
                    assert record.complete, "an output is judged whose spender was not read"
                    spender = None
            mine = spender_of(txid, index)
            spenders.append(mine)
            if spender == mine:
                applied += 1
                continue
            if self._txmarks or self._marks or self.locked:
                code = self._marked(parent, outpoint, record, height)
                if code:
                    return UtxoRefused(code, index, outpoint)
            elif record.coinbase and height - record.height < self._maturity:
                return UtxoRefused("immature", index, outpoint)
            if spender is not None:
                return UtxoRefused("spent", index, outpoint, spender)
        if applied:
            if applied == len(spends):
                return APPLIED
            self.overwrites = True
        if len(spends) > 1 and len(set(spends)) < len(spends):
            return _spent_twice(txid, spends)
        row, pages = encode_transaction(height, tx.coinbase, spends, tx.outputs)
        record = Record(row, complete=True)
        tables = self.batch.tables
        if TX not in tables:
            tables.setdefault(SPENT, {})
            tables[TX] = {}
        tables[TX][txid] = row
        spent_rows = tables[SPENT]
        for outpoint, mine in zip(spends, spenders, strict=True):
            spent[outpoint] = mine
            spent_rows[outpoint] = mine
        for key, page in pages:
            self.batch.put(PAGE, txid + key, page)
        created[txid] = record
        if not tx.coinbase:
            self.admitted.append(txid)
        if tx.locked:
            self.batch.put(TXMARK, txid, bytes([LOCKED]))
            self.locked.add(txid)
        return None

    def _marked(self, parent: bytes, outpoint: bytes, record: Record, height: int) -> str | None:
        flags = (LOCKED if parent in self.locked else 0) if parent in self.created else self._txmarks.get(parent, 0)
        if flags & CONFLICTING:
            return "conflicting"
        if flags & LOCKED:
            return "locked"
        if record.coinbase and height - record.height < self._maturity:
            return "immature"
        mark = self._marks.get(outpoint)
        if mark is not None and parent not in self.removed:
            if height < mark.spendable_from:
                return "not-yet-spendable"
            if mark.frozen:
                return "frozen"
        return None


def _spent_twice(txid: bytes, spends: Sequence[bytes]) -> UtxoRefused:
    first: dict[bytes, int] = {}
    for index, outpoint in enumerate(spends):
        if outpoint in first:
            return UtxoRefused("spent", index, outpoint, spender_of(txid, first[outpoint]))
        first[outpoint] = index
    raise AssertionError("no outpoint is spent twice")
