"""What this node refuses to relay although a block may hold it.

Since Genesis any script may be paid, dust is not refused, and what counts is the fee for the bytes. Before Genesis only
the well-known kinds of output are relayed. None of this is ever asked of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from attrs import evolve, frozen

from nodewright_bitcoin.network import ChainParameters
from nodewright_bitcoin.rules import (
    MAX_TRANSACTION_SIGOPS,
    Era,
    RuleError,
    SpentOutput,
    era_flags,
    input_flags,
    legacy_sigops,
    redeem_sigops,
    script_failure,
)
from nodewright_bitcoin.script import opcodes as op
from nodewright_bitcoin.script.checker import TransactionSignatureChecker
from nodewright_bitcoin.script.errors import ScriptError
from nodewright_bitcoin.script.flags import ScriptFlags
from nodewright_bitcoin.script.interpreter import verify_script
from nodewright_bitcoin.script.limits import (
    POLICY_STACK_BYTES,
    POLICY_WORK,
    POLICY_WORK_PER_BYTE,
    WorkBudget,
    consensus_limits,
    policy_limits,
)
from nodewright_bitcoin.script.numbers import decode_number, is_minimal
from nodewright_bitcoin.script.opcodes import is_p2sh, is_push_only, read_instruction
from nodewright_bitcoin.script.signatures import is_pubkey_shape
from nodewright_bitcoin.transaction import Transaction

MAX_STANDARD_BYTES_BEFORE_GENESIS: Final = 99_999
MAX_STANDARD_UNLOCKING_BYTES: Final = 1_650
MAX_STANDARD_SIGOPS: Final = MAX_TRANSACTION_SIGOPS // 5
MAX_STANDARD_MULTISIG_KEYS: Final = 3
MAX_STANDARD_DATA_BYTES: Final = 223
QUICK_WORK: Final = 1 << 18

STANDARD_FLAGS: Final = (
    ScriptFlags.DERSIG
    | ScriptFlags.NULLDUMMY
    | ScriptFlags.DISCOURAGE_UPGRADABLE_NOPS
    | ScriptFlags.CHECKLOCKTIMEVERIFY
    | ScriptFlags.CHECKSEQUENCEVERIFY
    | ScriptFlags.CLEANSTACK
    | ScriptFlags.MINIMALDATA
    | ScriptFlags.P2SH
)
"""Script rules of relay beyond those of blocks."""


@frozen
class Policy:
    """``fee_per_kilobyte`` in satoshis for 1,000 bytes; ``standard_scripts`` asks ``STANDARD_FLAGS`` of every script and,
    before Genesis, one of the well-known kinds of every output. ``max_work`` is the work that a transaction's scripts may
    take beside what its bytes give it."""

    fee_per_kilobyte: int = 1
    max_transaction_bytes: int = 10_000_000
    max_work: int = POLICY_WORK
    standard_scripts: bool = True

    def work(self, size: int) -> int:
        """Units for all scripts of a transaction of ``size`` bytes."""
        return self.max_work + POLICY_WORK_PER_BYTE * size

    def quick_work(self, size: int) -> int:
        """Units for one that is to keep nobody waiting: a few signatures more than its bytes give it."""
        return min(self.work(size), QUICK_WORK + POLICY_WORK_PER_BYTE * size)


class OutputKind(Enum):
    """Kinds of locking script that wallets have names for."""

    PUBKEY = "pubkey"
    PUBKEY_HASH = "pubkeyhash"
    SCRIPT_HASH = "scripthash"
    MULTISIG = "multisig"
    DATA = "nulldata"
    OTHER = "nonstandard"


def output_kind(script: bytes, era: Era) -> OutputKind:
    """By shape alone. A script hash is nothing special since Genesis; data starts with OP_FALSE OP_RETURN, or before
    Genesis with OP_RETURN."""
    if len(script) == 25 and script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac":
        return OutputKind.PUBKEY_HASH
    if is_p2sh(script):
        return OutputKind.SCRIPT_HASH if era < Era.GENESIS else OutputKind.OTHER
    if script[:2] == b"\x00\x6a" and is_push_only(script[2:]):
        return OutputKind.DATA
    if script[:1] == b"\x6a" and era < Era.GENESIS and is_push_only(script[1:]):
        return OutputKind.DATA
    if len(script) in (35, 67) and script[0] == len(script) - 2 and script[-1] == op.OP_CHECKSIG:
        return OutputKind.PUBKEY if is_pubkey_shape(script[1:-1]) else OutputKind.OTHER
    if script[-1:] == bytes((op.OP_CHECKMULTISIG,)) and _multisig_keys(script):
        return OutputKind.MULTISIG
    return OutputKind.OTHER


def _multisig_keys(script: bytes) -> int:
    """``m key… n CHECKMULTISIG``: n, or 0 where the script is something else."""
    parts: list[tuple[int, bytes]] = []
    offset = 0
    while offset < len(script) - 1:
        opcode, data, offset, complete = read_instruction(script, offset)
        if not complete or opcode > op.OP_16:
            return 0
        parts.append((opcode, data))
    if len(parts) < 3 or offset != len(script) - 1:
        return 0
    needed, keys = _small_number(*parts[0]), _small_number(*parts[-1])
    plausible = all(33 <= len(data) <= 65 for _, data in parts[1:-1])
    return keys if plausible and 1 <= needed <= keys == len(parts) - 2 else 0


def _small_number(opcode: int, data: bytes) -> int:
    """A count pushed by OP_1 … OP_16 or as a minimal number of at most four bytes; 0 for anything else."""
    if op.OP_1 <= opcode <= op.OP_16:
        return opcode - op.OP_1 + 1
    return decode_number(data) if 0 < len(data) <= 4 and is_minimal(data) else 0


def minimum_fee(size: int, policy: Policy) -> int:
    """Satoshis asked for ``size`` bytes: rounded down, but at least one where a rate is asked at all."""
    if policy.fee_per_kilobyte <= 0:
        return 0
    return max(1, size * policy.fee_per_kilobyte // 1000)


def check_fee(size: int, fee: int, policy: Policy) -> RuleError | None:
    needed = minimum_fee(size, policy)
    if fee >= needed:
        return None
    return RuleError("mempool min fee not met", f"{fee} satoshis for {size} bytes: at least {needed} are asked")


def check_policy(tx: Transaction, era: Era, policy: Policy) -> RuleError | None:
    """What can be said without knowing what the transaction spends."""
    max_bytes = policy.max_transaction_bytes
    if era < Era.GENESIS:
        max_bytes = min(max_bytes, MAX_STANDARD_BYTES_BEFORE_GENESIS)
    if tx.size > max_bytes:
        return RuleError("tx-size", f"{tx.size} bytes are more than the {max_bytes} relayed")
    if not policy.standard_scripts:
        return None
    if era < Era.CHRONICLE:
        if tx.version not in (1, 2):
            return RuleError("version", f"version {tx.version} is not relayed before Chronicle")
        for index, i in enumerate(tx.inputs):
            if era < Era.GENESIS and len(i.script) > MAX_STANDARD_UNLOCKING_BYTES:
                return RuleError("scriptsig-size", f"the unlocking script of input {index} is too long to relay")
            if not is_push_only(i.script):
                return RuleError("scriptsig-not-pushonly", f"the unlocking script of input {index} does more than push")
    return _check_standard_outputs(tx) if era < Era.GENESIS else None


def _check_standard_outputs(tx: Transaction) -> RuleError | None:
    data_bytes = 0
    for index, output in enumerate(tx.outputs):
        kind = output_kind(output.script, Era.BEFORE_GENESIS)
        few_keys = kind is not OutputKind.MULTISIG or _multisig_keys(output.script) <= MAX_STANDARD_MULTISIG_KEYS
        if kind is OutputKind.OTHER or not few_keys:
            return RuleError("scriptpubkey", f"output {index} has a script of no known kind")
        if kind is OutputKind.DATA:
            data_bytes += len(output.script)
    if data_bytes > MAX_STANDARD_DATA_BYTES:
        return RuleError("datacarrier-size-exceeded", f"{data_bytes} bytes of data outputs are too many to relay")
    return None


def check_policy_sigops(tx: Transaction, spent: Sequence[SpentOutput], era: Era) -> RuleError | None:
    """Before Genesis: a fifth of what a block allows."""
    if era >= Era.GENESIS:
        return None
    redeem = redeem_sigops(tx, spent)
    total = legacy_sigops(tx) + (redeem or 0)
    if redeem is None or total > MAX_STANDARD_SIGOPS:
        return RuleError("bad-txns-too-many-sigops", f"{total} signature operations are too many to relay")
    return None


def policy_flags(height: int, parameters: ChainParameters) -> ScriptFlags:
    """Script rules for relaying a transaction that the block at ``height`` could hold."""
    return era_flags(height, parameters) | STANDARD_FLAGS


def check_policy_scripts(
    tx: Transaction,
    spent: Sequence[SpentOutput],
    height: int,
    parameters: ChainParameters,
    policy: Policy,
    budget: WorkBudget | None = None,
) -> RuleError | None:
    """Every input's scripts under the rules and limits of relay. A failure is told apart: ``mandatory-…`` where consensus
    fails as well, ``non-mandatory-…`` where a block could hold it, or where more than ``budget`` (else the policy's) or
    this node's memory would be needed to tell."""
    consensus = era_flags(height, parameters)
    flags = consensus | STANDARD_FLAGS if policy.standard_scripts else consensus
    budget = budget or WorkBudget(policy.work(tx.size))
    for index, output in enumerate(spent):
        own = int(input_flags(flags, output.height, parameters))
        checker = TransactionSignatureChecker(tx, index, output.satoshis)
        unlocking = tx.inputs[index].script
        error = verify_script(unlocking, output.locking_script, own, checker, policy_limits(own), budget)
        if error is None:
            continue
        if _costs_too_much(error, own):
            return script_failure(error, index, mandatory=False)
        mandatory = int(input_flags(consensus, output.height, parameters))
        # The second look has what is left of the work, and no more memory: a hostile script gets no more for failing.
        limits = evolve(consensus_limits(mandatory), max_stack_bytes=POLICY_STACK_BYTES)
        again = verify_script(unlocking, output.locking_script, mandatory, checker, limits, budget)
        if again is not None and _costs_too_much(again, mandatory):
            return script_failure(again, index, mandatory=False)
        return script_failure(error, index, mandatory=again is not None)
    return None


def _costs_too_much(error: ScriptError, flags: int) -> bool:
    """For this node: a block could hold it. Before Genesis the stack's size is a rule."""
    if error is ScriptError.STACK_SIZE:
        return bool(flags & ScriptFlags.UTXO_AFTER_GENESIS)
    return error is ScriptError.WORK_LIMIT
