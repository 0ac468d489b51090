"""What consensus asks of a transaction, by the era of the block that holds it.

Eras: before Genesis (small scripts, counted signature operations, pay-to-script-hash, relative lock times), Genesis
(2020: no limits but size, no new pay-to-script-hash outputs), Chronicle (2026: opcodes and the original digest come back,
transactions of version 2 and later may be malleable). An *output* keeps the script rules of the era in which it was
created, so script flags have a part of the block (``era_flags``) and a part of each input (``input_flags``).

Every check is pure and answers None or a ``RuleError`` whose code is the reject reason that the network's nodes give.
What a node refuses to relay although it is valid lives in ``policy``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Final

from attrs import frozen

from nodewright_bitcoin.network import ChainParameters
from nodewright_bitcoin.script.checker import (
    LOCKTIME_THRESHOLD,
    TransactionSignatureChecker,
)
from nodewright_bitcoin.script.errors import ScriptError
from nodewright_bitcoin.script.flags import ScriptFlags
from nodewright_bitcoin.script.interpreter import verify_script
from nodewright_bitcoin.script.limits import ScriptLimits, WorkBudget, consensus_limits
from nodewright_bitcoin.script.opcodes import is_p2sh
from nodewright_bitcoin.script.sigops import count_p2sh_sigops, count_sigops
from nodewright_bitcoin.transaction import MAX_TRANSACTION_BYTES, NULL_OUTPOINT, SEQUENCE_FINAL, Transaction

COIN: Final = 100_000_000
MAX_MONEY: Final = 21_000_000 * COIN
MAX_TRANSACTION_BYTES_BEFORE_GENESIS: Final = 1_000_000
MAX_TRANSACTION_SIGOPS: Final = 20_000
MIN_COINBASE_SCRIPT_BYTES: Final = 2
MAX_COINBASE_SCRIPT_BYTES: Final = 100
INITIAL_SUBSIDY: Final = 50 * COIN


@frozen
class RuleError:
    """``code`` is the reject reason, ``message`` a sentence for whoever sent the transaction."""

    code: str
    message: str


@frozen
class SpentOutput:
    """An output as the UTXO set knows it. ``height`` of the block that created it (the next block's, while unmined)."""

    satoshis: int
    locking_script: bytes
    height: int
    coinbase: bool = False


class Era(IntEnum):
    BEFORE_GENESIS = 0
    GENESIS = 1
    CHRONICLE = 2


def era_at(height: int, parameters: ChainParameters) -> Era:
    """Of the block at ``height``, and of the outputs it creates."""
    if height >= parameters.chronicle_height:
        return Era.CHRONICLE
    return Era.GENESIS if height >= parameters.genesis_height else Era.BEFORE_GENESIS


@lru_cache(maxsize=4096)  # asked several times for each batch and block; combining flags costs more than their look-up
def era_flags(height: int, parameters: ChainParameters) -> ScriptFlags:
    """Script rules for the transactions of the block at ``height`` (for unmined ones: the next block's)."""
    flags = ScriptFlags.NONE
    tip = height - 1
    if tip >= parameters.p2sh_height:
        flags |= ScriptFlags.P2SH
    if height >= parameters.bip66_height:
        flags |= ScriptFlags.DERSIG
    if height >= parameters.bip65_height:
        flags |= ScriptFlags.CHECKLOCKTIMEVERIFY
    if height >= parameters.csv_height:
        flags |= ScriptFlags.CHECKSEQUENCEVERIFY
    if tip >= parameters.uahf_height:
        flags |= ScriptFlags.STRICTENC | ScriptFlags.SIGHASH_FORKID
    if tip >= parameters.daa_height:
        flags |= ScriptFlags.LOW_S | ScriptFlags.NULLFAIL
    era = era_at(height, parameters)
    if era >= Era.GENESIS:
        flags |= ScriptFlags.GENESIS | ScriptFlags.SIGPUSHONLY
    if era >= Era.CHRONICLE:
        flags |= ScriptFlags.CHRONICLE
    return flags


def input_flags(block_flags: int, created_height: int, parameters: ChainParameters) -> ScriptFlags:
    """``block_flags`` with what the age of the output spent adds."""
    flags = ScriptFlags(block_flags)
    era = era_at(created_height, parameters)
    if era >= Era.GENESIS:
        flags |= ScriptFlags.UTXO_AFTER_GENESIS
    if era >= Era.CHRONICLE:
        flags |= ScriptFlags.UTXO_AFTER_CHRONICLE
    return flags


def subsidy(height: int, parameters: ChainParameters) -> int:
    """Satoshis that the block at ``height`` may create beside its fees."""
    halvings = height // parameters.subsidy_halving_interval
    return INITIAL_SUBSIDY >> halvings if halvings < 64 else 0


def check_transaction(tx: Transaction, era: Era) -> RuleError | None:
    """What can be said of a transaction that is not a coinbase without knowing what it spends."""
    if tx.is_coinbase:
        return RuleError("bad-tx-coinbase", "a coinbase is made by a block, not sent")
    error = _check_shape(tx, era)
    if error is not None:
        return error
    if era >= Era.GENESIS:
        for index, output in enumerate(tx.outputs):
            if is_p2sh(output.script):
                return RuleError("bad-txns-vout-p2sh", f"output {index} pays to a script hash, which Genesis ended")
    seen: set[bytes] = set()
    for index, spent in enumerate(tx.inputs):
        if spent.outpoint == NULL_OUTPOINT:
            return RuleError("bad-txns-prevout-null", f"input {index} spends nothing")
        if spent.outpoint in seen:
            return RuleError("bad-txns-inputs-duplicate", f"input {index} spends what an earlier input spends")
        seen.add(spent.outpoint)
    return None


def check_coinbase(tx: Transaction, era: Era) -> RuleError | None:
    """The first transaction of a block, as far as it stands alone: what it may pay depends on the block."""
    if not tx.is_coinbase:
        return RuleError("bad-cb-missing", "the first transaction is not a coinbase")
    error = _check_shape(tx, era)
    if error is not None:
        return error
    size = len(tx.inputs[0].script)
    if not MIN_COINBASE_SCRIPT_BYTES <= size <= MAX_COINBASE_SCRIPT_BYTES:
        bounds = f"{MIN_COINBASE_SCRIPT_BYTES} to {MAX_COINBASE_SCRIPT_BYTES}"
        return RuleError("bad-cb-length", f"the coinbase's script has {size} bytes instead of {bounds}")
    return None


def _check_shape(tx: Transaction, era: Era) -> RuleError | None:
    if not tx.inputs:
        return RuleError("bad-txns-vin-empty", "the transaction has no inputs")
    if not tx.outputs:
        return RuleError("bad-txns-vout-empty", "the transaction has no outputs")
    max_bytes = MAX_TRANSACTION_BYTES if era >= Era.GENESIS else MAX_TRANSACTION_BYTES_BEFORE_GENESIS
    if tx.size > max_bytes:
        return RuleError("bad-txns-oversize", f"{tx.size} bytes are more than the {max_bytes} allowed")
    total = 0
    for index, output in enumerate(tx.outputs):
        if output.satoshis < 0:
            return RuleError("bad-txns-vout-negative", f"output {index} has a negative amount")
        if output.satoshis > MAX_MONEY:
            return RuleError("bad-txns-vout-toolarge", f"output {index} is more than all money")
        total += output.satoshis
        if total > MAX_MONEY:
            return RuleError("bad-txns-txouttotal-toolarge", "the outputs together are more than all money")
    if era < Era.GENESIS:
        sigops = legacy_sigops(tx)
        if sigops > MAX_TRANSACTION_SIGOPS:
            return RuleError("bad-txn-sigops", f"{sigops} signature operations are more than {MAX_TRANSACTION_SIGOPS}")
    return None


def legacy_sigops(tx: Transaction) -> int:
    """As blocks before Genesis count them, without those of redeem scripts."""
    scripts = [i.script for i in tx.inputs] + [o.script for o in tx.outputs]
    return sum(count_sigops(script, accurate=False) or 0 for script in scripts)


def redeem_sigops(tx: Transaction, spent: Sequence[SpentOutput]) -> int | None:
    """Those of redeem scripts (BIP16), for blocks before Genesis. None where one cannot be counted."""
    total = 0
    for i, output in zip(tx.inputs, spent, strict=True):
        count = count_p2sh_sigops(i.script, output.locking_script)
        if count is None:
            return None
        total += count
    return total


def check_inputs(
    tx: Transaction, spent: Sequence[SpentOutput], height: int, parameters: ChainParameters
) -> RuleError | int:
    """The fee in satoshis, or why the amounts or the age of the ``spent`` outputs (in the order of the inputs) do not
    allow a block at ``height`` to hold the transaction."""
    total = 0
    for index, output in enumerate(spent):
        depth = height - output.height
        if output.coinbase and depth < parameters.coinbase_maturity:
            return RuleError(
                "bad-txns-premature-spend-of-coinbase",
                f"input {index} spends a coinbase at depth {depth}, before {parameters.coinbase_maturity}",
            )
        total += output.satoshis
        if not 0 <= output.satoshis <= MAX_MONEY or total > MAX_MONEY:
            return RuleError("bad-txns-inputvalues-outofrange", f"input {index} takes the sum out of the range of money")
    paid = sum(output.satoshis for output in tx.outputs)
    if total < paid:
        return RuleError("bad-txns-in-belowout", f"the inputs bring {total} satoshis, the outputs take {paid}")
    return total - paid


def is_final(tx: Transaction, height: int, time: int) -> bool:
    """May be in a block at ``height`` whose time (since CSV: the median time of its eleven predecessors) is ``time``."""
    if tx.locktime == 0 or tx.locktime < (height if tx.locktime < LOCKTIME_THRESHOLD else time):
        return True
    return all(i.sequence == SEQUENCE_FINAL for i in tx.inputs)


def check_final(tx: Transaction, height: int, time: int) -> RuleError | None:
    if is_final(tx, height, time):
        return None
    return RuleError("bad-txns-nonfinal", f"the lock time {tx.locktime} has not passed")


def script_failure(error: ScriptError, index: int, mandatory: bool = True) -> RuleError:
    """A script error as a reject reason. ``mandatory`` is whether consensus refuses it, or policy alone."""
    prefix = "mandatory-script-verify-flag-failed" if mandatory else "non-mandatory-script-verify-flag"
    return RuleError(f"{prefix} ({error})", f"input {index}: {error} ({error.name})")


def check_scripts(
    tx: Transaction,
    spent: Sequence[SpentOutput],
    block_flags: int,
    parameters: ChainParameters,
    max_work: int | None = None,
) -> RuleError | None:
    """Every input's scripts, one after the other, under consensus rules and one work budget: the plain reference of what
    a batch verifier does."""
    budget = WorkBudget(max_work) if max_work is not None else None
    for index, output in enumerate(spent):
        flags = int(input_flags(block_flags, output.height, parameters))
        limits: ScriptLimits = consensus_limits(flags)
        budget = budget or WorkBudget(limits.max_work)
        checker = TransactionSignatureChecker(tx, index, output.satoshis)
        error = verify_script(tx.inputs[index].script, output.locking_script, flags, checker, limits, budget)
        if error is not None:
            return script_failure(error, index)
    return None
