"""One transaction on the state before it: prologue, function, epilogue. Pure: see ``state`` for what goes in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from nodewright_aptos import gas
from nodewright_aptos.addresses import ONE
from nodewright_aptos.functions import ArgumentMismatch, Functions
from nodewright_aptos.ledger import EXECUTED, MISCELLANEOUS, MOVE_ABORT, OUT_OF_GAS, Event, ExecutionStatus
from nodewright_aptos.prologue import TOO_NEW, Problem, check_form, check_prologue
from nodewright_aptos.resources import (
    SUPPLY_KEY,
    account_key,
    apt_store_key,
    balance,
    fee_statement,
    with_balance,
    with_sequence_number,
)
from nodewright_aptos.state import (
    DISCARDED,
    KEPT,
    RETRY,
    Abort,
    BlockEnvironment,
    OutOfGas,
    Output,
    Read,
    TransactionView,
)
from nodewright_aptos.statekeys import MAX_STATE_KEY_BYTES
from nodewright_aptos.transactions import EntryFunction, UserTransaction

_GONE: Final = ExecutionStatus(OUT_OF_GAS)
# The transaction left less than it must pay for gas.
_CANNOT_PAY: Final = ExecutionStatus(
    MOVE_ABORT, (ONE, "transaction_validation"), 0x20006, "EOUT_OF_GAS", "Transaction exceeded its allocated max gas"
)

_TOO_MUCH: Final = ExecutionStatus(MISCELLANEOUS, None, 0, "STORAGE_WRITE_LIMIT_REACHED")
# What one transaction may write and emit, so that its row and its values fit any store.
MAX_WRITTEN_BYTES: Final = 4 * 1024 * 1024
_EVENT_BYTES: Final = 256


def fits(writes: Mapping[bytes, bytes | None], events: Sequence[Event]) -> bool:
    """Whether this can be stored: keys are those of resources or table items, short enough, and it is not too much."""
    written = sum([len(key) + (len(value) if value is not None else 0) for key, value in writes.items()])
    emitted = sum([len(event.data) + _EVENT_BYTES for event in events])
    if written + emitted > MAX_WRITTEN_BYTES:
        return False
    return not any(len(key) > MAX_STATE_KEY_BYTES or len(key) < 34 or key[0] > 1 for key in writes)


def refused(problem: Problem) -> Output:
    """Not in the ledger. One whose sequence number is too new is to be ordered again: what comes before it may follow."""
    kind = RETRY if problem.prologue == TOO_NEW else DISCARDED
    return Output(kind, code=problem.status, message=problem.message)


def run_transaction(read: Read, transaction: UserTransaction, block: BlockEnvironment, functions: Functions) -> Output:
    """Its signatures are good: whoever calls has seen to that. What ``read`` raises goes through."""
    problem = check_form(transaction, functions) or check_prologue(read, transaction, block)
    if problem is not None:
        return refused(problem)
    base = gas.intrinsic(len(transaction.raw))
    view = TransactionView(read, transaction.max_gas - base)
    status = _call(view, transaction, block, functions)
    if status.kind == OUT_OF_GAS:
        return _epilogue(read, transaction, transaction.max_gas, status)
    if status.success:
        own = account_key(transaction.sender)
        account = view.get(own)
        assert account is not None  # the prologue saw it, and no function deletes one
        view.set(own, with_sequence_number(account, transaction.sequence_number + 1))
        coins_key = apt_store_key(transaction.payer)
        coins = view.get(coins_key)
        writes = view.writes
        if not fits(writes, view.events):
            return _epilogue(read, transaction, base + view.gas + 2 * gas.WRITE, _TOO_MUCH)
        created = tuple([key for key, value in writes.items() if value is not None and read(key) is None])
        written = len(writes) + (coins_key not in writes)
        storage = gas.STORAGE * len(created)
        used = base + view.gas + gas.WRITE * written + storage
        if used > transaction.max_gas:
            return _epilogue(read, transaction, transaction.max_gas, _GONE)
        price = transaction.gas_price
        fee = used * price
        if coins is not None and (held := int.from_bytes(coins[:8], "little")) >= fee:
            writes[coins_key] = (held - fee).to_bytes(8, "little") + coins[8:]
            view.add(SUPPLY_KEY, -fee)
            view.events.append(fee_statement(used, base + view.gas, gas.WRITE * written, storage * price))
            return Output(KEPT, used, EXECUTED, writes, view.deltas, tuple(view.events), created, "", "", fee)
        status = _CANNOT_PAY
    return _epilogue(read, transaction, base + view.gas + 2 * gas.WRITE, status)


def _call(
    view: TransactionView, transaction: UserTransaction, block: BlockEnvironment, functions: Functions
) -> ExecutionStatus:
    payload = transaction.payload
    assert isinstance(payload, EntryFunction)  # check_form lets no other through
    try:
        function, call = functions.call(view, block, payload, (transaction.sender, *transaction.secondary))
        view.charge(function.gas)
        function.run(call)
    except Abort as abort:
        if abort.code is None:
            return ExecutionStatus(MISCELLANEOUS, abort.module, 0, abort.reason)
        return ExecutionStatus(MOVE_ABORT, abort.module, abort.code, abort.reason, abort.description)
    except ArgumentMismatch as mismatch:
        return ExecutionStatus(MISCELLANEOUS, None, 0, str(mismatch))
    except OutOfGas:
        return _GONE
    return EXECUTED


def _epilogue(read: Read, transaction: UserTransaction, used: int, status: ExecutionStatus) -> Output:
    """Of a transaction that failed: its sequence number is used, and its gas is paid."""
    used = min(used, transaction.max_gas)
    fee = used * transaction.gas_price
    own, coins_key = account_key(transaction.sender), apt_store_key(transaction.payer)
    account, coins = read(own), read(coins_key)
    assert account is not None and coins is not None  # the prologue saw both
    writes: dict[bytes, bytes | None] = {
        own: with_sequence_number(account, transaction.sequence_number + 1),
        coins_key: with_balance(coins, balance(coins) - fee),
    }
    statement = fee_statement(used, used - 2 * gas.WRITE, 2 * gas.WRITE, 0)
    return Output(KEPT, used, status, writes, {SUPPLY_KEY: -fee}, (statement,), (), "", "", fee)
