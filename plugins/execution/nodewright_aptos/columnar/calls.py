"""Which transactions the columnar path runs, and as what: a sender that signs alone, moving AptosCoin or making an account.

Everything else (further signers, fee payers, other coins, third parties' functions, arguments that do not fit) is left to
the sequential executor, as is whoever touches an account whose resources have another length than usual.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nodewright_aptos.addresses import APT_METADATA, ONE
from nodewright_aptos.columnar.layout import CREATE, MOVE, PAY, TOUCH
from nodewright_aptos.framework import TRANSFER_GAS
from nodewright_aptos.functions import Call, Functions, TransactionFunction
from nodewright_aptos.transactions import EntryFunction, UserTransaction, function_key
from nodewright_aptos.typetags import APT

TOUCH_GAS: Final = 1
WORKLOAD: Final = bytes(30) + b"\x0b\xe0"

# (kind, recipient, amount); the recipient of what has none is the sender
Read = tuple[int, bytes, int]


def _payment(payload: EntryFunction) -> tuple[bytes, int] | None:
    if len(payload.arguments) != 2:
        return None
    recipient, amount = payload.arguments
    return (recipient, int.from_bytes(amount, "little")) if len(recipient) == 32 and len(amount) == 8 else None


def _pay(payload: EntryFunction) -> Read | None:
    payment = None if payload.type_arguments else _payment(payload)
    return None if payment is None else (PAY, *payment)


def _pay_coin(payload: EntryFunction) -> Read | None:
    payment = _payment(payload) if payload.type_arguments == (APT,) else None
    return None if payment is None else (PAY, *payment)


def _move(payload: EntryFunction) -> Read | None:
    payment = _payment(payload) if payload.type_arguments == (APT,) else None
    return None if payment is None else (MOVE, *payment)


def _pay_asset(payload: EntryFunction) -> Read | None:
    arguments = payload.arguments
    if len(payload.type_arguments) != 1 or len(arguments) != 3 or arguments[0] != APT_METADATA:
        return None
    recipient, amount = arguments[1:]
    return (PAY, recipient, int.from_bytes(amount, "little")) if len(recipient) == 32 and len(amount) == 8 else None


def _create(payload: EntryFunction) -> Read | None:
    if payload.type_arguments or len(payload.arguments) != 1 or len(payload.arguments[0]) != 32:
        return None
    return CREATE, payload.arguments[0], 0


def _touch(payload: EntryFunction) -> Read | None:
    return None if payload.type_arguments or payload.arguments else (TOUCH, b"", 0)


TOUCH_KEY: Final = function_key(WORKLOAD, "workload", "touch")
READERS: Final[dict[bytes, Callable[[EntryFunction], Read | None]]] = {
    function_key(ONE, "aptos_account", "transfer"): _pay,
    function_key(ONE, "aptos_account", "fungible_transfer_only"): _pay,
    function_key(ONE, "aptos_account", "transfer_coins"): _pay_coin,
    function_key(ONE, "aptos_account", "create_account"): _create,
    function_key(ONE, "coin", "transfer"): _move,
    function_key(ONE, "primary_fungible_store", "transfer"): _pay_asset,
    TOUCH_KEY: _touch,
}
FUNCTION_GAS: Final = {TOUCH: TOUCH_GAS, PAY: TRANSFER_GAS, MOVE: TRANSFER_GAS, CREATE: TRANSFER_GAS}


def read_call(transaction: UserTransaction, functions: Functions) -> Read | None:
    """None where it is not for the columnar path."""
    payload = transaction.payload
    if not isinstance(payload, EntryFunction) or transaction.secondary or transaction.fee_payer is not None:
        return None
    reader = READERS.get(payload.key)
    return None if reader is None or payload.key not in functions.entries else reader(payload)


def _nothing(call: Call) -> None:
    """Its sequence number and its gas are all that a touch changes."""


def _no_more_keys(signers: tuple[bytes, ...], types: object, arguments: object) -> tuple[tuple[()], tuple[()]]:
    return (), ()


def register_transaction_functions(functions: Functions) -> None:
    """``0xbe0::workload::touch()``: what the benchmark's non-conflicting transactions call. A module for the setting
    ``functions``."""
    signer = ("&signer",)
    functions.add(TransactionFunction(WORKLOAD, "workload", "touch", signer, _nothing, TOUCH_GAS, 0, _no_more_keys))
