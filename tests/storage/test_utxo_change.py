"""Plain batches of the ``utxo`` adapter are written as they would be one by one."""

from __future__ import annotations

import hashlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nodewright.interfaces.storage import UtxoTransaction
from nodewright.storage.utxo_cache import RecordCache
from nodewright.storage.utxo_change import Change
from nodewright.storage.utxo_records import LOCKED, Mark, Record, encode_transaction

OUTPUT = b"\x10" + bytes(7) + b"\x02\x51\x52"
PARENTS = [hashlib.sha256(b"parent%d" % number).digest() for number in range(4)]
HEIGHT = 120


def vector(count: int) -> bytes:
    return bytes([count]) + OUTPUT * count


def outpoint(parent: int, output: int) -> bytes:
    return PARENTS[parent] + output.to_bytes(4, "little")


@st.composite
def batches(draw: Any) -> tuple[dict[bytes, Record | None], list[UtxoTransaction], dict[bytes, Mark], dict[bytes, int]]:
    """Mostly plain: records of parents with spenders read, and transactions that spend them."""
    found: dict[bytes, Record | None] = {}
    for number, parent in enumerate(PARENTS):
        odd = draw(st.sampled_from(["plain"] * 8 + ["coinbase", "absent"]))
        row, _ = encode_transaction(number, odd == "coinbase", (bytes(36),), vector(6))
        record = Record(row, complete=draw(st.booleans()))
        if not record.complete:
            record.spent.update(dict.fromkeys(range(6)))
        for output in draw(st.sampled_from([[]] * 6 + [[1], [2, 5]])):
            record.spent[output] = b"s" * 36
        found[parent] = None if odd == "absent" else record
    points = [outpoint(parent, output) for parent in range(4) for output in range(7)]
    chosen = draw(st.lists(st.sampled_from(points), max_size=8, unique=draw(st.sampled_from([True, True, True, False]))))
    txs: list[UtxoTransaction] = []
    for point in chosen:
        odd = draw(st.sampled_from(["plain"] * 20 + ["two", "child", "same", "locked", "coinbase", "many"]))
        spends = (point,)
        if odd == "two":
            spends += (draw(st.sampled_from(points)),)
        if odd == "child" and txs:
            spends = (txs[-1].txid + bytes(4),)
        if odd == "same" and txs:
            txs.append(txs[-1])
            continue
        outputs = vector(draw(st.integers(0, 3))) if odd != "many" else b"\xfd\xfd\x00" + OUTPUT * 253
        txid = hashlib.sha256(b"".join(spends) + outputs + bytes([len(txs)])).digest()
        txs.append(UtxoTransaction(txid, spends, outputs, odd == "coinbase", odd == "locked"))
    marks = draw(st.sampled_from([{}] * 8 + [{outpoint(0, 0): Mark(True)}]))
    return found, txs, marks, draw(st.sampled_from([{}] * 8 + [{PARENTS[1]: LOCKED}]))


def fields(record: Record) -> list[Any]:
    return [getattr(record, name) for name in Record.__slots__]


@given(batches())
def test_a_plain_batch_is_what_its_transactions_are_one_by_one(batch: Any) -> None:
    found, txs, marks, txmarks = batch
    plain, each = (Change(found, {}, marks, txmarks, 100) for _ in range(2))
    taken = plain.create_plain(txs, HEIGHT)
    verdicts = [each.create(tx, HEIGHT, False) for tx in txs]
    if not taken:
        assert not plain.batch and not plain.created and not plain.spent and not plain.admitted
        # Not for want of trying: something in it is not plain.
        assert (
            not txs
            or any(verdict is not None for verdict in verdicts)
            or any(tx.coinbase or tx.locked or len(tx.spends) != 1 or tx.outputs[0] >= 0xFD for tx in txs)
            or any(tx.spends[0][:32] in each.created for tx in txs)
            or marks
            or txmarks
        )
        return
    assert verdicts == [None] * len(txs)
    for change in (plain, each):
        change.promise()
    assert plain.batch.tables == each.batch.tables and plain.batch.new == each.batch.new
    assert list(plain.batch.tables) == list(each.batch.tables)
    assert (plain.spent, plain.admitted, plain.overwrites) == (each.spent, each.admitted, each.overwrites)
    assert {txid: fields(one) for txid, one in plain.created.items()} == {
        txid: fields(one) for txid, one in each.created.items()
    }


@given(
    st.integers(0, 40_000),
    st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), max_size=6), max_size=6),
)
def test_records_are_kept_alike_one_by_one_and_at_once(budget: int, lots: list[list[tuple[int, int]]]) -> None:
    single, many = RecordCache(budget), RecordCache(budget)
    for lot in lots:
        records = {
            bytes([number]) * 32: Record(encode_transaction(1, False, (bytes(36),), vector(size))[0], complete=True)
            for number, size in lot
        }
        for txid, record in records.items():
            single.put(txid, record)
        many.put_all(records)
        assert single.used == many.used and list(single._records.items()) == list(many._records.items())
