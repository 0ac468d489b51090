"""Whole transactions to be sent to nodes: valid spends of real coins, and each rule of a transaction broken on purpose.

Every one spends coins of its own, so that no two depend on one another and two nodes may be sent them in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from attrs import evolve, frozen

from nodewright_bitcoin.encoding import hash160
from nodewright_bitcoin.script.opcodes import push_data
from nodewright_bitcoin.signing import p2pkh_script, public_key, sign_p2pkh_inputs
from nodewright_bitcoin.testing import programs
from nodewright_bitcoin.testing.cases import evolve_transaction, with_script
from nodewright_bitcoin.transaction import NULL_OUTPOINT, SEQUENCE_FINAL, Transaction, TxInput, TxOutput

MAX_MONEY = 2_100_000_000_000_000
FEE = 500


@frozen
class Purse:
    """A P2PKH output and its key."""

    outpoint: bytes
    satoshis: int
    privkey: bytes

    @property
    def script(self) -> bytes:
        return p2pkh_script(public_key(self.privkey))


@frozen
class Offer:
    """``what`` says what is odd about the raw transaction (nothing: ``plain``)."""

    what: str
    raw: bytes


Change = Callable[[Random, Transaction], Transaction]


def _signed(tx: Transaction, purses: list[Purse], hash_type: int = 0x41) -> Transaction:
    return sign_p2pkh_inputs(tx, [purse.privkey for purse in purses], hash_type)


def _base(random: Random, purses: list[Purse]) -> Transaction:
    inputs = tuple(TxInput(purse.outpoint, b"", SEQUENCE_FINAL, purse.satoshis, purse.script) for purse in purses)
    total = sum(purse.satoshis for purse in purses) - FEE
    count = random.randint(1, 3)
    outputs = tuple(TxOutput(total // count, p2pkh_script(random.randbytes(33))) for _ in range(count))
    return Transaction(random.choice((1, 2)), inputs, outputs, 0)


def _outputs(*rows: tuple[int, bytes]) -> tuple[TxOutput, ...]:
    return tuple(TxOutput(*row) for row in rows)


def _sequences(tx: Transaction, sequence: int) -> Transaction:
    return evolve_transaction(tx, inputs=tuple(evolve(one, sequence=sequence) for one in tx.inputs))


def _total(tx: Transaction) -> int:
    return sum(output.satoshis for output in tx.outputs)


P2PKH = p2pkh_script(bytes(33))

BEFORE_SIGNING: dict[str, Change] = {
    "plain": lambda random, tx: tx,
    "version": lambda random, tx: evolve_transaction(tx, version=random.choice((0, 3, -1, 2**31 - 1))),
    "final by its sequences": lambda random, tx: evolve_transaction(tx, locktime=random.choice((1, 10**6, 2**32 - 1))),
    "lock passed": lambda random, tx: evolve_transaction(_sequences(tx, 0), locktime=random.choice((1, 50, 1_400_000_000))),
    "lock not passed": lambda random, tx: evolve_transaction(
        _sequences(tx, random.choice((0, SEQUENCE_FINAL - 1))), locktime=random.choice((10**6, 4_000_000_000))
    ),
    "relative lock": lambda random, tx: evolve_transaction(
        _sequences(tx, random.choice((5, 1000, 1 << 22 | 9))), version=2
    ),
    "no outputs": lambda random, tx: evolve_transaction(tx, outputs=()),
    "output of nothing": lambda random, tx: evolve_transaction(tx, outputs=_outputs((0, P2PKH))),
    "output of dust": lambda random, tx: evolve_transaction(tx, outputs=_outputs((1, P2PKH), (_total(tx) - 1, P2PKH))),
    "negative output": lambda random, tx: evolve_transaction(tx, outputs=_outputs((-1, P2PKH))),
    "output above all money": lambda random, tx: evolve_transaction(tx, outputs=_outputs((MAX_MONEY + 1, P2PKH))),
    "outputs above all money": lambda random, tx: evolve_transaction(tx, outputs=_outputs((MAX_MONEY, P2PKH), (1, P2PKH))),
    "more than it has": lambda random, tx: evolve_transaction(tx, outputs=_outputs((_total(tx) + FEE + 1, P2PKH))),
    "no fee": lambda random, tx: evolve_transaction(tx, outputs=_outputs((_total(tx) + FEE, P2PKH))),
    "input twice": lambda random, tx: evolve_transaction(tx, inputs=(*tx.inputs, tx.inputs[0])),
    "pays to a script hash": lambda random, tx: evolve_transaction(
        tx, outputs=_outputs((_total(tx), b"\xa9\x14" + hash160(b"redeem") + b"\x87"))
    ),
    "data": lambda random, tx: evolve_transaction(
        tx, outputs=(*tx.outputs, TxOutput(0, b"\x00\x6a" + push_data(random.randbytes(random.choice((1, 80, 300, 5000))))))
    ),
    "data without a zero": lambda random, tx: evolve_transaction(
        tx, outputs=(*tx.outputs, TxOutput(0, b"\x6a" + push_data(random.randbytes(20))))
    ),
    "pays to any script": lambda random, tx: evolve_transaction(
        tx, outputs=_outputs((_total(tx), programs.program(random)[:9000]))
    ),
    "many outputs": lambda random, tx: evolve_transaction(tx, outputs=_outputs(*[(1, P2PKH)] * 200)),
}

AFTER_SIGNING: dict[str, Change] = {
    "unlocking damaged": lambda random, tx: with_script(tx, 0, programs.damaged(random, tx.inputs[0].script)),
    "unlocking empty": lambda random, tx: with_script(tx, 0, b""),
    "unlocking does more than push": lambda random, tx: with_script(tx, 0, b"\x61" + tx.inputs[0].script),
    "unlocking leaves more": lambda random, tx: with_script(tx, 0, b"\x51" + tx.inputs[0].script),
    "longer push than needed": lambda random, tx: with_script(tx, 0, b"\x4c" + tx.inputs[0].script),
    "output changed": lambda random, tx: evolve_transaction(
        tx, outputs=(TxOutput(tx.outputs[0].satoshis - 1, tx.outputs[0].script), *tx.outputs[1:])
    ),
    "lock time changed": lambda random, tx: evolve_transaction(tx, locktime=1),
    "spends nothing": lambda random, tx: evolve_transaction(tx, inputs=(*tx.inputs, TxInput(NULL_OUTPOINT, b"\x51"))),
    "a coinbase": lambda random, tx: evolve_transaction(tx, inputs=(TxInput(NULL_OUTPOINT, b"\x51\x51"),)),
    "spends what is unknown": lambda random, tx: evolve_transaction(
        tx, inputs=(TxInput(random.randbytes(32) + bytes(4), tx.inputs[0].script),)
    ),
    "an output that is not there": lambda random, tx: evolve_transaction(
        tx, inputs=(evolve(tx.inputs[0], outpoint=tx.inputs[0].outpoint[:32] + b"\xff\xff\x00\x00"),)
    ),
    "no inputs": lambda random, tx: evolve_transaction(tx, inputs=()),
}

HASH_TYPES = {
    "none": 0x42,
    "single": 0x43,
    "all, alone": 0xC1,
    "single, alone": 0xC3,
    "without the fork id": 0x01,
    "Chronicle's bit": 0x61,
    "hash type of no meaning": 0x45,
}

KINDS = [*BEFORE_SIGNING, *AFTER_SIGNING, *HASH_TYPES, "bytes behind", "cut short"]


def offer(random: Random, purses: list[Purse], what: str) -> Offer:
    """A transaction of kind ``what`` (one of KINDS) that spends these outputs."""
    tx = _base(random, purses)
    if what in HASH_TYPES:
        return Offer(what, _signed(tx, purses, HASH_TYPES[what]).raw)
    if what in BEFORE_SIGNING:
        tx = BEFORE_SIGNING[what](random, tx)
        keys = purses + purses[: len(tx.inputs) - len(purses)]
        return Offer(what, _signed(tx, keys).raw)
    tx = _signed(tx, purses)
    if what == "bytes behind":
        return Offer(what, tx.raw + b"\x00")
    if what == "cut short":
        return Offer(what, tx.raw[: random.randrange(1, len(tx.raw))])
    return Offer(what, AFTER_SIGNING[what](random, tx).raw)
