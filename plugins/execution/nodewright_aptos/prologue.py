"""Whether a transaction may run: its form, and the checks of Aptos's transaction prologue with its codes.

A check's code is what the framework's prologue aborts with (1001 to 1009), its name the VM status that it becomes.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from nodewright_aptos import gas
from nodewright_aptos.addresses import address_text
from nodewright_aptos.functions import Functions
from nodewright_aptos.resources import (
    account_key,
    apt_store_key,
    authentication_key_of,
    balance,
    sequence_number,
)
from nodewright_aptos.state import BlockEnvironment, Read
from nodewright_aptos.transactions import EntryFunction, Multisig, Script, UserTransaction


@frozen
class Problem:
    """``status`` is the VM status, ``prologue`` the prologue's code (0: found before it)."""

    status: str
    message: str
    prologue: int = 0


# VM status -> its number among the validation statuses.
STATUS_CODES: Final = {
    "INVALID_SIGNATURE": 1,
    "INVALID_AUTH_KEY": 2,
    "SEQUENCE_NUMBER_TOO_OLD": 3,
    "SEQUENCE_NUMBER_TOO_NEW": 4,
    "INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE": 5,
    "TRANSACTION_EXPIRED": 6,
    "SENDING_ACCOUNT_DOES_NOT_EXIST": 7,
    "EXCEEDED_MAX_TRANSACTION_SIZE": 10,
    "UNKNOWN_SCRIPT": 11,
    "UNKNOWN_MODULE": 12,
    "MAX_GAS_UNITS_EXCEEDS_MAX_GAS_UNITS_BOUND": 13,
    "MAX_GAS_UNITS_BELOW_MIN_TRANSACTION_GAS_UNITS": 14,
    "GAS_UNIT_PRICE_BELOW_MIN_BOUND": 15,
    "GAS_UNIT_PRICE_ABOVE_MAX_BOUND": 16,
    "BAD_CHAIN_ID": 23,
    "SEQUENCE_NUMBER_TOO_BIG": 25,
    "SECONDARY_KEYS_ADDRESSES_COUNT_MISMATCH": 26,
    "SIGNERS_CONTAIN_DUPLICATES": 27,
}
PROLOGUE_CODES: Final = {
    1001: "INVALID_AUTH_KEY",
    1002: "SEQUENCE_NUMBER_TOO_OLD",
    1003: "SEQUENCE_NUMBER_TOO_NEW",
    1004: "SENDING_ACCOUNT_DOES_NOT_EXIST",
    1005: "INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE",
    1006: "TRANSACTION_EXPIRED",
    1007: "BAD_CHAIN_ID",
    1008: "SEQUENCE_NUMBER_TOO_BIG",
    1009: "SECONDARY_KEYS_ADDRESSES_COUNT_MISMATCH",
}
TOO_NEW: Final = 1003
MAX_SEQUENCE_NUMBER: Final = 1 << 63


def _problem(code: int, message: str) -> Problem:
    return Problem(PROLOGUE_CODES[code], message, code)


def check_form(transaction: UserTransaction, functions: Functions) -> Problem | None:
    """What can be said without the state: gas bounds, signers, and whether there is such a function."""
    payload, max_gas, price = transaction.payload, transaction.max_gas, transaction.gas_price
    if max_gas > gas.MAX_GAS:
        return Problem("MAX_GAS_UNITS_EXCEEDS_MAX_GAS_UNITS_BOUND", f"{max_gas} units of gas are more than {gas.MAX_GAS}")
    least = gas.intrinsic(len(transaction.raw))
    if max_gas < least:
        name = "MAX_GAS_UNITS_BELOW_MIN_TRANSACTION_GAS_UNITS"
        return Problem(name, f"{max_gas} units of gas are fewer than the {least} of its bytes")
    if price < gas.MIN_GAS_PRICE:
        return Problem("GAS_UNIT_PRICE_BELOW_MIN_BOUND", f"a gas price of {price} is below {gas.MIN_GAS_PRICE}")
    if price > gas.MAX_GAS_PRICE:
        return Problem("GAS_UNIT_PRICE_ABOVE_MAX_BOUND", f"a gas price of {price} is above {gas.MAX_GAS_PRICE}")
    if isinstance(payload, EntryFunction):
        if payload.key not in functions.entries:
            named = f"{address_text(payload.address)}::{payload.module}::{payload.name}"
            return Problem(
                "UNKNOWN_MODULE",
                f"there is no transaction function {named} here: this node has no Move VM, see docs/aptos.md",
            )
    elif isinstance(payload, Script):
        return Problem("UNKNOWN_SCRIPT", "scripts are not run here: this node has no Move VM, see docs/aptos.md")
    elif isinstance(payload, Multisig):
        return Problem("UNKNOWN_SCRIPT", "multisig accounts are not run here: see docs/aptos.md")
    if transaction.secondary or transaction.fee_payer is not None:
        return _check_signers(transaction)
    return None


def _check_signers(transaction: UserTransaction) -> Problem | None:
    if len(transaction.secondary) != len(transaction.secondary_signers):
        return _problem(1009, "there are other secondary signers than addresses")
    signers = [transaction.sender, *transaction.secondary]
    if len(set(signers)) != len(signers):
        return Problem("SIGNERS_CONTAIN_DUPLICATES", "a signer stands twice among the signers")
    return None


def check_prologue(read: Read, transaction: UserTransaction, block: BlockEnvironment) -> Problem | None:
    """Against the state before the transaction, in the order of Aptos's prologue."""
    if transaction.expires_at <= block.seconds:
        return _problem(1006, f"it expired at {transaction.expires_at}, the block's time is {block.seconds}")
    if transaction.chain_id != block.chain_id:
        return _problem(1007, f"it is for chain {transaction.chain_id}, this is chain {block.chain_id}")
    account = read(account_key(transaction.sender))
    if account is None:
        return _problem(1004, f"there is no account {address_text(transaction.sender)}")
    if authentication_key_of(account) != transaction.sender_key:
        return _problem(1001, "it is signed by another key than its account's")
    number, wanted = transaction.sequence_number, sequence_number(account)
    if number >= MAX_SEQUENCE_NUMBER:
        return _problem(1008, f"sequence numbers end before {MAX_SEQUENCE_NUMBER}")
    if number < wanted:
        return _problem(1002, f"its sequence number is {number}, its account's {wanted}")
    if number > wanted:
        return _problem(1003, f"its sequence number is {number}, its account's {wanted}")
    if transaction.secondary or transaction.fee_payer is not None:
        problem = _check_others(read, transaction)
        if problem is not None:
            return problem
    coins = read(apt_store_key(transaction.payer))
    most = transaction.max_gas * transaction.gas_price
    if coins is None or balance(coins) < most:
        held = 0 if coins is None else balance(coins)
        return _problem(1005, f"its payer holds {held} octas, it may cost {most}")
    return None


def _check_others(read: Read, transaction: UserTransaction) -> Problem | None:
    others = list(zip(transaction.secondary, transaction.secondary_signers, strict=True))
    if transaction.fee_payer is not None and transaction.fee_payer_signer is not None:
        others.append((transaction.fee_payer, transaction.fee_payer_signer))
    for address, signer in others:
        account = read(account_key(address))
        if account is None:
            return _problem(1004, f"there is no account {address_text(address)}")
        if authentication_key_of(account) != signer.authentication_key:
            return _problem(1001, f"another key than that of account {address_text(address)} signed for it")
    return None
