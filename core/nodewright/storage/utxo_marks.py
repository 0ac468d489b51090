"""What the ``utxo`` adapter holds of marks: frozen and reassigned outputs, locked and conflicting transactions. All of them
are in memory: they are few. Rows are written by the adapter, which then lets these follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nodewright.interfaces.storage import KeyValueStore, UtxoOutput, UtxoRefused, WriteBatch
from nodewright.storage.utxo_bundles import scan_all
from nodewright.storage.utxo_records import (
    CONFLICTING,
    LOCKED,
    MARK,
    TXMARK,
    Mark,
    Record,
    decode_mark,
    encode_mark,
)

FREEZE = "freeze"
UNFREEZE = "unfreeze"
REASSIGN = "reassign"
_NONE = Mark(False)


class Marks:
    """``outputs`` by outpoint; ``transactions`` by txid, as flags. Neither holds an entry that says nothing."""

    __slots__ = ("outputs", "transactions")

    def __init__(self) -> None:
        self.outputs: dict[bytes, Mark] = {}
        self.transactions: dict[bytes, int] = {}

    async def load(self, store: KeyValueStore) -> None:
        async for outpoint, row in scan_all(store, MARK):
            self.outputs[outpoint] = decode_mark(row)
        async for txid, row in scan_all(store, TXMARK):
            self.transactions[txid] = row[0]

    def __bool__(self) -> bool:
        return bool(self.outputs or self.transactions)

    def output(self, outpoint: bytes, record: Record, satoshis: int, script: bytes, spender: bytes | None) -> UtxoOutput:
        """An output as it is with its marks."""
        mark = self.outputs.get(outpoint, _NONE)
        flags = self.transactions.get(outpoint[:32], 0)
        return UtxoOutput(
            satoshis,
            script if mark.script is None else mark.script,
            record.height,
            record.coinbase,
            spender,
            mark.frozen,
            bool(flags & LOCKED),
            bool(flags & CONFLICTING),
            mark.spendable_from,
        )

    def judge(
        self,
        changes: Sequence[tuple[bytes, bytes | None]],
        action: str,
        spendable_from: int,
        found: Mapping[bytes, Record | None],
    ) -> tuple[list[UtxoRefused | None], dict[bytes, Mark]]:
        """The answer for each (outpoint, new script), and the marks to set. ``found`` holds the outputs' records with
        their spenders known."""
        results: list[UtxoRefused | None] = []
        marks: dict[bytes, Mark] = {}
        for position, (outpoint, script) in enumerate(changes):
            record = found[outpoint[:32]]
            index = int.from_bytes(outpoint[32:], "little")
            held = marks.get(outpoint) or self.outputs.get(outpoint, _NONE)
            if record is None or index >= record.count:
                results.append(UtxoRefused("missing", position, outpoint))
                continue
            spender = record.spent.get(index)
            if action == UNFREEZE:
                marks[outpoint] = Mark(False, held.spendable_from, held.script)
            elif spender is not None:
                results.append(UtxoRefused("spent", position, outpoint, spender))
                continue
            elif action == FREEZE:
                marks[outpoint] = Mark(True, held.spendable_from, held.script)
            elif held.frozen:
                marks[outpoint] = Mark(False, spendable_from, script)
            elif held.script != script or held.spendable_from != spendable_from:
                results.append(UtxoRefused("not-frozen", position, outpoint))
                continue
            results.append(None)
        return results, marks

    def flags(self, txids: Iterable[bytes], flag: int, wanted: bool) -> dict[bytes, int]:
        """New flags of those transactions that do not have them yet."""
        held = self.transactions
        flags = {txid: held.get(txid, 0) | flag if wanted else held.get(txid, 0) & ~flag for txid in txids}
        return {txid: value for txid, value in flags.items() if value != held.get(txid, 0)}

    def set_outputs(self, marks: Mapping[bytes, Mark]) -> None:
        for outpoint, mark in marks.items():
            if mark == _NONE:
                self.outputs.pop(outpoint, None)
            else:
                self.outputs[outpoint] = mark

    def set_transactions(self, flags: Mapping[bytes, int]) -> None:
        for txid, value in flags.items():
            if value:
                self.transactions[txid] = value
            else:
                self.transactions.pop(txid, None)


def output_rows(marks: Mapping[bytes, Mark]) -> WriteBatch:
    batch = WriteBatch()
    for outpoint, mark in marks.items():
        batch.tables.setdefault(MARK, {})[outpoint] = None if mark == _NONE else encode_mark(mark)
    return batch


def transaction_rows(flags: Mapping[bytes, int]) -> WriteBatch:
    batch = WriteBatch()
    for txid, value in flags.items():
        batch.tables.setdefault(TXMARK, {})[txid] = bytes([value]) if value else None
    return batch
