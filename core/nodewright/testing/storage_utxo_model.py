"""The reference of the contract ``utxo``: plain dictionaries, one rule a method. The kit compares stores with it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

from attrs import define, field, frozen

from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.storage import UtxoOutput, UtxoRefused, UtxoStore, UtxoTransaction

MATURITY = 100


def outpoint(txid: bytes, index: int) -> bytes:
    return txid + index.to_bytes(4, "little")


def output_vector(outputs: Sequence[tuple[int, bytes]]) -> bytes:
    return _size(len(outputs)) + b"".join(
        satoshis.to_bytes(8, "little") + _size(len(script)) + script for satoshis, script in outputs
    )


def _size(number: int) -> bytes:
    if number < 0xFD:
        return bytes([number])
    if number <= 0xFFFF:
        return b"\xfd" + number.to_bytes(2, "little")
    return b"\xfe" + number.to_bytes(4, "little")


def block_at(height: int, fork: int = 0) -> BlockRef:
    return BlockRef(height, hashlib.sha256(f"block {height} {fork}".encode()).digest())


@frozen
class Universe:
    """A fixed graph of transactions, parents before children; some spend the same outputs. ``outputs[n]`` are those of
    ``txs[n]``. A bundle is a tuple of transactions by number."""

    txs: tuple[UtxoTransaction, ...]
    outputs: tuple[tuple[tuple[int, bytes], ...], ...]

    def outpoints(self) -> list[bytes]:
        """Every output, and one past the last of each transaction."""
        return [
            outpoint(tx.txid, index)
            for tx, outputs in zip(self.txs, self.outputs, strict=True)
            for index in range(len(outputs) + 1)
        ]

    def bundle_txids(self, bundle: Sequence[int]) -> bytes:
        return b"".join(self.txs[index].txid for index in bundle)

    def bundle_id(self, bundle: Sequence[int]) -> bytes:
        return hashlib.sha256(b"bundle" + self.bundle_txids(bundle)).digest()


def universe(shape: Sequence[tuple[int, Sequence[tuple[int, int]]]]) -> Universe:
    """From drawn numbers: each transaction has (count of outputs, its spends as (how far back, which output)); without
    spends it is a coinbase."""
    txs: list[UtxoTransaction] = []
    outputs: list[tuple[tuple[int, bytes], ...]] = []
    for number, (count, wanted) in enumerate(shape):
        own = tuple((1000 * number + index, bytes([number, index]) * (index * 90)) for index in range(1, count + 1))
        spends = dict.fromkeys(
            outpoint(txs[parent].txid, index % len(outputs[parent]))
            for back, index in wanted
            if (parent := number - 1 - back) >= 0
        )
        txid = hashlib.sha256(repr((number, own, tuple(spends))).encode()).digest()
        txs.append(UtxoTransaction(txid, tuple(spends), output_vector(own), coinbase=not spends))
        outputs.append(own)
    return Universe(tuple(txs), tuple(outputs))


@define
class Flags:
    frozen: bool = False
    spendable_from: int = 0
    script: bytes | None = None


@define
class UtxoModel:
    """``chain`` is the stack of blocks, each with the one bundle that is in it (or an empty one)."""

    universe: Universe
    heights: dict[bytes, int] = field(factory=dict)  # of every known transaction
    spenders: dict[bytes, bytes] = field(factory=dict)
    flags: dict[bytes, Flags] = field(factory=dict)
    locked: set[bytes] = field(factory=set)
    conflicting: set[bytes] = field(factory=set)
    chain: list[tuple[BlockRef, tuple[int, ...]]] = field(factory=list)
    applied: BlockRef | None = None
    pruned: set[bytes] = field(factory=set)
    buried: int = -1

    def copy(self) -> UtxoModel:
        made = copy.deepcopy({name: getattr(self, name) for name in _CHANGING})
        return UtxoModel(self.universe, **made)

    @property
    def height(self) -> int:
        return self.chain[-1][0].height if self.chain else 0

    def number(self, txid: bytes) -> int:
        return next(number for number, tx in enumerate(self.universe.txs) if tx.txid == txid)

    def mined(self) -> set[bytes]:
        return {self.universe.txs[index].txid for _, bundle in self.chain for index in bundle}

    # --- rules -------------------------------------------------------------------------------------------------------

    def create(self, tx: UtxoTransaction, height: int) -> UtxoRefused | None:
        if tx.txid in self.heights:
            return None
        mine = [tx.txid + index.to_bytes(4, "little") for index in range(len(tx.spends))]
        if tx.spends and all(self.spenders.get(o) == own for o, own in zip(tx.spends, mine, strict=True)):
            return None
        for index, spent in enumerate(tx.spends):
            if self.spenders.get(spent) == mine[index]:
                continue
            code = self._why_not(spent, height)
            if code:
                return UtxoRefused(code, index, spent, self.spenders.get(spent) if code == "spent" else None)
        self.heights[tx.txid] = height
        self.spenders.update(zip(tx.spends, mine, strict=True))
        if tx.locked:
            self.locked.add(tx.txid)
        return None

    def _why_not(self, spent: bytes, height: int) -> str | None:
        txid = spent[:32]
        if txid not in self.heights:
            return "missing"
        parent = self.universe.txs[self.number(txid)]
        flags = self.flags.get(spent, Flags())
        for code, wrong in (
            ("conflicting", txid in self.conflicting),
            ("locked", txid in self.locked),
            ("immature", parent.coinbase and height - self.heights[txid] < MATURITY),
            ("not-yet-spendable", height < flags.spendable_from),
            ("frozen", flags.frozen),
            ("spent", spent in self.spenders),
        ):
            if wrong:
                return code
        return None

    def with_descendants(self, numbers: Sequence[int]) -> list[UtxoTransaction]:
        """These transactions and all that spend from them, descendants first."""
        chosen = set(numbers)
        for number, tx in enumerate(self.universe.txs):
            if tx.txid in self.heights and any(self.number(o[:32]) in chosen for o in tx.spends):
                chosen.add(number)
        return [self.universe.txs[number] for number in sorted(chosen, reverse=True)]

    def remove(self, txs: Sequence[UtxoTransaction]) -> None:
        for tx in txs:
            for index, spent in enumerate(tx.spends):
                if self.spenders.get(spent) == tx.txid + index.to_bytes(4, "little"):
                    del self.spenders[spent]
            self._forget(tx.txid)

    def _forget(self, txid: bytes) -> None:
        self.heights.pop(txid, None)
        self.locked.discard(txid)
        self.conflicting.discard(txid)
        for table in (self.flags, self.spenders):
            for held in [held for held in table if held[:32] == txid]:
                del table[held]

    def prune(self, limit: int) -> int:
        deep = {self.universe.txs[index].txid for block, bundle in self.chain if block.height <= limit for index in bundle}
        self.buried = max(self.buried, limit)
        gone = [
            tx.txid
            for tx, outputs in zip(self.universe.txs, self.universe.outputs, strict=True)
            if tx.txid in self.heights
            and all(self.spenders.get(outpoint(tx.txid, index), b"")[:32] in deep for index in range(len(outputs)))
        ]
        for txid in gone:
            self._forget(txid)
            self.pruned.add(txid)
        return len(gone)

    def minable(self, indexes: Sequence[int]) -> tuple[int, ...]:
        """Those of the transactions that a block could hold: known, not mined, parents mined or before it."""
        mined = self.mined()
        chosen = []
        for number in sorted({index % len(self.universe.txs) for index in indexes}):
            tx = self.universe.txs[number]
            if tx.coinbase or tx.txid not in self.heights or tx.txid in mined:
                continue
            parents = [self.universe.txs[self.number(spent[:32])] for spent in tx.spends]
            if all(parent.coinbase or parent.txid in mined for parent in parents):
                mined.add(tx.txid)
                chosen.append(number)
        return tuple(chosen)

    # --- what can be seen --------------------------------------------------------------------------------------------

    def observe(self) -> dict[str, Any]:
        outputs = [self._output(held) for held in self.universe.outpoints()]
        unmined = {
            (tx.txid, self.heights[tx.txid])
            for tx in self.universe.txs
            if tx.txid in self.heights and not tx.coinbase and tx.txid not in self.mined()
        }
        return {
            "outputs": outputs,
            "known": [tx.txid in self.heights for tx in self.universe.txs],
            "unmined": unmined,
            "unspent": {
                held: output
                for held, output in zip(self.universe.outpoints(), outputs, strict=True)
                if output is not None and output.spender is None
            },
            "applied": self.applied,
        }

    def _output(self, held: bytes) -> UtxoOutput | None:
        txid, index = held[:32], int.from_bytes(held[32:], "little")
        number = self.number(txid)
        outputs = self.universe.outputs[number]
        if txid not in self.heights or index >= len(outputs):
            return None
        flags = self.flags.get(held, Flags())
        satoshis, script = outputs[index]
        return UtxoOutput(
            satoshis=satoshis,
            script=script if flags.script is None else flags.script,
            height=self.heights[txid],
            coinbase=self.universe.txs[number].coinbase,
            spender=self.spenders.get(held),
            frozen=flags.frozen,
            locked=txid in self.locked,
            conflicting=txid in self.conflicting,
            spendable_from=flags.spendable_from,
        )


_CHANGING = ("heights", "spenders", "flags", "locked", "conflicting", "chain", "applied", "pruned", "buried")


async def observe(store: UtxoStore, universe: Universe, ordered: bool = False) -> dict[str, Any]:
    """What ``UtxoModel.observe`` gives, asked of a store."""
    unmined = [(held.txid, held.height) async for held in store.iterate_unmined()]
    assert len(unmined) == len(set(unmined)), "an unmined transaction was given twice"
    unspent = [item async for item in store.iterate_unspent()]
    assert len(unspent) == len({held for held, _ in unspent}), "an output was given twice"
    if ordered:
        order = [(held[:32], int.from_bytes(held[32:], "little")) for held, _ in unspent]
        assert order == sorted(order), "outputs are by txid, then by index"
    return {
        "outputs": await store.get_outputs(universe.outpoints()),
        "known": await store.known([tx.txid for tx in universe.txs]),
        "unmined": set(unmined),
        "unspent": dict(unspent),
        "applied": await store.applied(),
    }
