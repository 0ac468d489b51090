"""What one parsed transaction must satisfy given the outputs it spends: everything but scripts and double spends.

Pure. The columnar parser has already found some transactions free of fault (``Parsed.checked``); the rules proper are
asked about all others, so the answer never depends on which path parsed.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define

from nodewright.interfaces.common import Refused
from nodewright.interfaces.storage import UtxoOutput
from nodewright_bitcoin.columns import Parsed
from nodewright_bitcoin.network import ChainParameters
from nodewright_bitcoin.policy import Policy, check_fee, check_policy, check_policy_sigops, minimum_fee
from nodewright_bitcoin.rules import MAX_MONEY, Era, RuleError, check_inputs, check_transaction
from nodewright_bitcoin.script.checker import LOCKTIME_THRESHOLD
from nodewright_bitcoin.script.opcodes import is_push_only
from nodewright_bitcoin.scripts import spent_outputs

NOT_OLD_ENOUGH = "non-BIP68-final"
_RELAYED_VERSIONS = (b"\x01\x00\x00\x00", b"\x02\x00\x00\x00")
POLICY_CODES = frozenset(("bad-txns-nonfinal", "bad-txns-premature-spend-of-coinbase", NOT_OLD_ENOUGH))


@define
class Terms:
    """What the outputs spent decide: the fee, and the earliest block that may hold the transaction."""

    fee: int
    min_height: int
    min_time: int


def refusal(error: RuleError, txid: bytes, kind: str = "invalid") -> Refused:
    """A rule's objection as the admission that reports it: a script failure's code is its class, its message says which."""
    code, _, detail = error.code.partition(" (")
    message = f"{error.code}: {error.message}" if detail else error.message
    if code.startswith("non-mandatory") or code in POLICY_CODES:
        kind = "policy"
    return Refused(code if detail else error.code, message, kind, txid)


def check_alone(tx: Parsed, era: Era) -> RuleError | None:
    """Consensus, without knowing what it spends."""
    if tx.checked and era >= Era.GENESIS:
        return None
    return check_transaction(tx.transaction(), era)


def check_relay(tx: Parsed, era: Era, policy: Policy) -> RuleError | None:
    """Policy, without knowing what it spends."""
    fits = era >= Era.GENESIS and len(tx.raw) <= policy.max_transaction_bytes
    if fits and (era >= Era.CHRONICLE or (tx.checked and (tx.pushes or _plainly_pushes(tx.raw)))):
        return None
    return check_policy(tx.transaction(), era, policy)


def _plainly_pushes(raw: bytes) -> bool:
    """Of version 1 or 2, and its few short unlocking scripts only push: read off the bytes (of a transaction that is well
    formed), because making its objects costs ten times as much."""
    count, at = raw[4], 5
    if raw[:4] not in _RELAYED_VERSIONS or count >= 0xFD:
        return False
    for _ in range(count):
        length = raw[at + 36]
        begin = at + 37
        at = begin + length + 4
        if length >= 0xFD or not is_push_only(raw[begin : begin + length]):
            return False
    return True


def check_spent(tx: Parsed, spent: Sequence[UtxoOutput], height: int, parameters: ChainParameters) -> RuleError | Terms:
    """Amounts, and what the spent outputs' age asks: a coinbase binds the transaction to ``min_height`` and does not make
    it invalid here, because a bundle may be judged before the block that holds it is known."""
    total = 0
    min_height = min_time = 0
    for output in spent:
        total += output.satoshis
        if output.coinbase:
            min_height = max(min_height, output.height + parameters.coinbase_maturity)
    if not tx.checked or not tx.value_out <= total <= MAX_MONEY:
        # Far above any maturity, so that only the amounts are judged.
        result = check_inputs(tx.transaction(), spent_outputs(spent), height + (1 << 40), parameters)
        if isinstance(result, RuleError):
            return result
    if tx.lock >= LOCKTIME_THRESHOLD:
        min_time = tx.lock + 1
    elif tx.lock:
        min_height = max(min_height, tx.lock + 1)
    return Terms(total - tx.value_out, min_height, min_time)


def check_when(tx: Parsed, terms: Terms, height: int, time: int) -> RuleError | None:
    """May the block at ``height``, whose lock times are compared with ``time``, hold it?"""
    if height < terms.min_height:
        if tx.lock and tx.lock < LOCKTIME_THRESHOLD and tx.lock + 1 == terms.min_height:
            return RuleError("bad-txns-nonfinal", f"the lock time {tx.lock} has not passed")
        message = f"it spends a coinbase that is spendable from height {terms.min_height}, not at {height}"
        return RuleError("bad-txns-premature-spend-of-coinbase", message)
    if time < terms.min_time:
        return RuleError("bad-txns-nonfinal", f"the lock time {tx.lock} has not passed")
    return None


def check_worth(tx: Parsed, terms: Terms, spent: Sequence[UtxoOutput], era: Era, policy: Policy) -> RuleError | None:
    """Policy that depends on the outputs spent: the fee, and before Genesis the signature operations."""
    if terms.fee < minimum_fee(len(tx.raw), policy):
        return check_fee(len(tx.raw), terms.fee, policy)
    if era >= Era.GENESIS:
        return None
    return check_policy_sigops(tx.transaction(), spent_outputs(spent), era)


def check_claims(tx: Parsed, spent: Sequence[UtxoOutput]) -> RuleError | None:
    """What the extended form says of the outputs spent must be what they are."""
    if tx.claims is None:
        return None
    for index, (claim, output) in enumerate(zip(tx.claims, spent, strict=True)):
        if claim != (output.satoshis, output.script):
            return RuleError(
                "extended-input-mismatch", f"input {index} claims an amount or script that its output does not have"
            )
    return None
