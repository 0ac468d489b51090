"""The columnar executor of the node: runs of transactions that fit are executed as arrays, all others one by one.

A block is taken in pieces. As long as transactions fit (``calls``, and accounts of the usual layout), their accounts are
laid out as rows, a kernel runs them, and outputs are made of what it left; the next one that does not fit is run by
``runtime`` on the state so far.

Invariant: outputs are those of the sequential executor, byte for byte, whatever mixture of transactions a block has; what
another process's numba does or lacks is not visible in them. Texts of refusals and failures come from ``runtime`` itself,
which is run on a state that shows what the kernel saw.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from struct import Struct
from types import ModuleType
from typing import Any, Final

import trio

from nodewright.interfaces.environment import Environment
from nodewright.kernels.switch import compiled
from nodewright_aptos import gas
from nodewright_aptos.columnar import layout
from nodewright_aptos.columnar.calls import FUNCTION_GAS, Read, read_call
from nodewright_aptos.executors import Base, Executor, SequentialRun, declared_keys
from nodewright_aptos.framework import RESERVED
from nodewright_aptos.functions import Functions
from nodewright_aptos.ledger import EXECUTED, Event, ExecutionStatus
from nodewright_aptos.resources import (
    ACCOUNT_BYTES,
    DEPOSIT_EVENT,
    FEE_STATEMENT,
    STORE_BYTES,
    SUPPLY_KEY,
    WITHDRAW_EVENT,
    account_key,
    apt_store_key,
    new_account,
    new_store,
    with_balance,
    with_sequence_number,
)
from nodewright_aptos.runtime import run_transaction
from nodewright_aptos.state import KEPT, Absent, BlockEnvironment, Output, aggregate
from nodewright_aptos.transactions import UserTransaction

KERNELS: Final = "nodewright_aptos.columnar.runkernels"
WORTH_A_RUN: Final = 8
MAX_RUN: Final = 16_384  # bounds the memory of snapshots to 8 MiB

_STORE: Final = slice(layout.STORE_AT, layout.FLAGS_AT)
_FEE: Final = Struct("<5Q")


class ColumnarExecutor:
    name = "columnar"

    def __init__(self, functions: Functions, environment: Environment) -> None:
        self._functions = functions
        self._environment = environment
        self._statuses: dict[int, ExecutionStatus] = {}

    async def run(self, base: Base, transactions: Sequence[UserTransaction], block: BlockEnvironment) -> Sequence[Output]:
        calls = [read_call(transaction, self._functions) for transaction in transactions]
        await base.load(keys_of(self._functions, transactions, calls))
        run = ColumnarRun(self._functions, base.get, block, self._statuses, calls)
        while len(run.outputs) < len(transactions):
            try:
                await self._environment.offload(run.all, transactions)
            except Absent as absent:
                await base.load(absent.keys)
        return run.outputs


class ColumnarRun(SequentialRun):
    """``all`` goes on where it stopped: to the end of the block's transactions, or of as many as it is given."""

    def __init__(
        self,
        functions: Functions,
        read: Any,
        block: BlockEnvironment,
        statuses: dict[int, ExecutionStatus],
        calls: Sequence[Read | None],
    ) -> None:
        super().__init__(functions, read, block)
        self._statuses = statuses
        self._calls = calls

    def all(self, transactions: Sequence[UserTransaction]) -> None:
        """Raises Absent."""
        kernels = compiled(KERNELS)
        if kernels is None:
            self.go_on(transactions[len(self.outputs) :])
            return
        while (position := len(self.outputs)) < len(transactions):
            rows = Rows(self)
            fitting: list[Read] = []
            piece = slice(position, min(position + MAX_RUN, len(transactions)))
            for transaction, call in zip(transactions[piece], self._calls[piece], strict=True):
                if call is None or not rows.take(transaction.sender, call[1] or transaction.sender):
                    break
                fitting.append(call)
            end = position + len(fitting)
            if len(fitting) >= WORTH_A_RUN:
                self._columns(kernels, transactions[position:end], fitting, rows)
            else:
                self.go_on(transactions[position : end + 1])

    def _columns(
        self, kernels: ModuleType, transactions: Sequence[UserTransaction], calls: Sequence[Read], rows: Rows
    ) -> None:
        import numpy as np

        number, chain = rows.number, self._block.chain_id
        table = np.array(
            [
                (
                    call[0],
                    number[one.sender],
                    number[call[1] or one.sender],
                    one.sequence_number,
                    call[2],
                    one.max_gas,
                    one.gas_price,
                    one.expires_at,
                    gas.intrinsic(len(one.raw)),
                    FUNCTION_GAS[call[0]],
                    layout.WRONG_CHAIN if one.chain_id != chain else rows.keys[one.sender] == one.sender_key,
                )
                for one, call in zip(transactions, calls, strict=True)
            ],
            np.uint64,
        )
        count = len(transactions)
        states = np.frombuffer(bytearray(b"".join(rows.rows)), np.uint8).reshape(-1, layout.ROW_BYTES)
        addresses = np.frombuffer(bytearray(b"".join(rows.number)), np.uint8).reshape(-1, 32)
        results = np.zeros((count, layout.RESULT), np.uint64)
        snapshots = np.empty((count, 2 * layout.ROW_BYTES), np.uint8)
        self._execute(kernels, table, states, addresses, results, snapshots)
        self._take(transactions, calls, results.tolist(), snapshots.tobytes())

    def _execute(self, kernels: ModuleType, table: Any, states: Any, addresses: Any, results: Any, snapshots: Any) -> None:
        """What ``runkernels.execute`` leaves in these arrays."""
        kernels.execute(table, states, max(self._block.seconds, 0), addresses, results, snapshots)

    def _take(
        self, transactions: Sequence[UserTransaction], calls: Sequence[Read], results: list[list[int]], snapshots: bytes
    ) -> None:
        """Outputs of what the kernel did, and the state after it."""
        supply = self.read(SUPPLY_KEY)
        changed, outputs, burnt = self._changed, [], 0
        width = layout.ROW_BYTES
        for at, (transaction, call, result) in enumerate(zip(transactions, calls, results, strict=True)):
            status = result[layout.R_STATUS]
            if status >= layout.REFUSED:
                outputs.append(self._refused(transaction, status, result[layout.R_DETAIL]))
                continue
            begin = 2 * width * at
            output = self._kept(transaction, call, result, snapshots[begin : begin + width])
            if status:
                output.status = self._status(status, transaction, call, snapshots[begin : begin + 2 * width], result)
            elif call[0] != layout.TOUCH:
                _add_recipient(output, call, result, snapshots[begin + width : begin + 2 * width])
            outputs.append(output)
            changed.update(output.writes)
            burnt += output.fee
        if burnt:
            changed[SUPPLY_KEY] = aggregate(supply, -burnt)
        self.outputs += outputs

    def _kept(self, transaction: UserTransaction, call: Read, result: list[int], row: bytes) -> Output:
        """What every kept transaction has: the sender's values, the gas, and events but for the deposit."""
        kind, _, amount = call
        status, used, fee = result[layout.R_STATUS], result[layout.R_GAS], result[layout.R_FEE]
        writes, created = result[layout.R_WRITES], result[layout.R_CREATED]
        told = (used, result[layout.R_EXECUTION], gas.WRITE * writes, gas.STORAGE * created * transaction.gas_price, 0)
        statement = Event(FEE_STATEMENT, _FEE.pack(*told))
        sender = transaction.sender
        events: tuple[Event, ...] = (statement,)
        if not status and kind in (layout.PAY, layout.MOVE):
            events = (_event(row, layout.WITHDRAWALS_AT, WITHDRAW_EVENT, amount, result[layout.R_WITHDRAWAL]), statement)
        return Output(
            KEPT,
            used,
            EXECUTED,
            {account_key(sender): row[:ACCOUNT_BYTES], apt_store_key(sender): row[_STORE]},
            {SUPPLY_KEY: -fee},
            events,
            (),
            "",
            "",
            fee,
        )

    def _refused(self, transaction: UserTransaction, status: int, detail: int) -> Output:
        """As ``runtime`` says it of an account that shows what the kernel saw."""
        sender = transaction.sender
        account: bytes | None = with_sequence_number(
            new_account(sender, transaction.sender_key if status != layout.OTHER_KEY else bytes(32)),
            detail if status in (layout.SEQUENCE_OLD, layout.SEQUENCE_NEW) else transaction.sequence_number % (1 << 63),
        )
        if status == layout.NO_ACCOUNT:
            account = None
        values = {account_key(sender): account, apt_store_key(sender): with_balance(new_store(sender), detail)}
        return run_transaction(values.get, transaction, self._block, self._functions)

    def _status(
        self, status: int, transaction: UserTransaction, call: Read, rows: bytes, result: list[int]
    ) -> ExecutionStatus:
        """How a transaction failed: the same for all that fail so, had from ``runtime`` once."""
        known = self._statuses.get(status)
        if known is None:
            width = layout.ROW_BYTES
            values = dict(_values(call[1] or transaction.sender, rows[width:]))
            values.update(_values(transaction.sender, rows[:width]))
            own, coins = account_key(transaction.sender), apt_store_key(transaction.sender)
            values[own] = with_sequence_number(values[own] or b"", transaction.sequence_number)
            held = int.from_bytes((values[coins] or b"")[:8], "little") + result[layout.R_FEE]
            values[coins] = with_balance(values[coins] or b"", held)
            known = run_transaction(values.get, transaction, self._block, self._functions).status
            self._statuses[status] = known
        return known


def keys_of(
    functions: Functions, transactions: Sequence[UserTransaction], calls: Sequence[Read | None]
) -> dict[bytes, None]:
    """As ``declared_keys``, said in fewer words for those that fit."""
    others: list[UserTransaction] = []
    addresses: dict[bytes, None] = {}
    for transaction, call in zip(transactions, calls, strict=True):
        if call is None:
            others.append(transaction)
        else:
            addresses[transaction.sender] = addresses[call[1] or transaction.sender] = None
    keys = declared_keys(functions, others)
    keys.update(dict.fromkeys(map(account_key, addresses)))
    keys.update(dict.fromkeys(map(apt_store_key, addresses)))
    return keys


def _values(address: bytes, row: bytes) -> list[tuple[bytes, bytes | None]]:
    flags = row[layout.FLAGS_AT]
    return [
        (account_key(address), row[:ACCOUNT_BYTES] if flags & layout.HAS_ACCOUNT else None),
        (apt_store_key(address), row[_STORE] if flags & layout.HAS_STORE else None),
    ]


def _event(row: bytes, at: int, type: bytes, amount: int, counter: int) -> Event:
    creation, address = int.from_bytes(row[at + 8 : at + 16], "little"), row[at + 16 : at + 48]
    return Event(type, amount.to_bytes(8, "little"), address, creation, counter)


def _add_recipient(output: Output, call: Read, result: list[int], row: bytes) -> None:
    """The other side of a transaction that succeeded."""
    kind, recipient, amount = call
    key, created = apt_store_key(recipient), result[layout.R_CREATED]
    output.writes[key] = row[_STORE]
    if created:
        own = account_key(recipient)
        output.writes[own] = row[:ACCOUNT_BYTES]
        output.created = (own, key) if created == 2 else (key,)
    if kind != layout.CREATE:
        event = _event(row, layout.DEPOSITS_AT, DEPOSIT_EVENT, amount, result[layout.R_DEPOSIT])
        output.events = (output.events[0], event, output.events[1])


class Rows:
    """The accounts of one run, numbered as they come: ``rows`` as ``layout`` has them, ``keys`` their authentication keys
    (of one that is not there, those it would be made with)."""

    def __init__(self, run: SequentialRun) -> None:
        self._read = run.read
        self.number: dict[bytes, int] = {}
        self.rows: list[bytes] = []
        self.keys: dict[bytes, bytes] = {}

    def take(self, *addresses: bytes) -> bool:
        """False, and nothing taken, where one has resources of another layout. Raises Absent."""
        fresh = []
        for address in addresses:
            if address not in self.number:
                account, store = self._read(account_key(address)), self._read(apt_store_key(address))
                if account is None:
                    usual = store is None
                else:
                    usual = len(account) == ACCOUNT_BYTES and (store is None or len(store) == STORE_BYTES)
                if not usual:
                    return False
                fresh.append((address, account, store))
        for address, account, store in fresh:
            if address in self.number:
                continue  # both of a transaction to oneself
            flags = layout.RESERVED if address in RESERVED else 0
            flags |= (account is not None) * layout.HAS_ACCOUNT | (store is not None) * layout.HAS_STORE
            self.number[address] = len(self.rows)
            row = (account or bytes(ACCOUNT_BYTES)) + (store or bytes(STORE_BYTES)) + bytes([flags])
            self.rows.append(row.ljust(layout.ROW_BYTES, b"\0"))
            self.keys[address] = account[1:33] if account is not None else address
        return True


@asynccontextmanager
async def open_executor(
    functions: Functions, environment: Environment, options: Mapping[str, Any]
) -> AsyncIterator[Executor]:
    """Yields at once, and runs one by one until its kernels are compiled in the background."""
    from nodewright.kernels.plugin import warm_up_kernels

    async with trio.open_nursery() as nursery:
        nursery.start_soon(warm_up_kernels, environment, KERNELS)
        yield ColumnarExecutor(functions, environment)
        nursery.cancel_scope.cancel()
