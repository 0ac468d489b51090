"""How much gas actions cost to send and to run, and what a transaction costs its signer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import define

from nodewright_near.accounts import FullAccess
from nodewright_near.parameters import Fee, Fees, Parameters
from nodewright_near.transactions import (
    Action,
    AddKey,
    CreateAccount,
    Delegate,
    DeleteAccount,
    DeleteKey,
    DeployContract,
    FunctionCall,
    Stake,
    Transaction,
    Transfer,
)

U64_MAX: Final = (1 << 64) - 1
U128_MAX: Final = (1 << 128) - 1


class CostOverflow(ArithmeticError):
    """A cost is beyond what the protocol's integers hold."""


def add_gas(left: int, right: int) -> int:
    total = left + right
    if total > U64_MAX:
        raise CostOverflow
    return total


def add_balance(left: int, right: int) -> int:
    total = left + right
    if total > U128_MAX:
        raise CostOverflow
    return total


def gas_to_balance(gas_price: int, gas: int) -> int:
    amount = gas_price * gas
    if amount > U128_MAX:
        raise CostOverflow
    return amount


def send_fees(fees: Fees, actions: Sequence[Action], sir: bool) -> int:
    """``sir``: sender is receiver."""
    total = 0
    for action in actions:
        total += _send_fee(fees, action, sir)
    if total > U64_MAX:
        raise CostOverflow
    return total


def _send_fee(fees: Fees, action: Action, sir: bool) -> int:
    if type(action) is Transfer:
        return fees.transfer.send(sir)
    if isinstance(action, Delegate):
        return fees.delegate.send(sir) + send_fees(fees, action.delegate_action.actions, sir)
    base, per_byte, count = _parts(fees, action)
    return base.send(sir) + (per_byte.send(sir) * count if per_byte is not None else 0)


def exec_fee(fees: Fees, action: Action) -> int:
    """Of a delegate action only its own: what is inside is paid for as a receipt of its own."""
    if type(action) is Transfer:
        return fees.transfer.execution
    if isinstance(action, Delegate):
        return fees.delegate.execution
    base, per_byte, count = _parts(fees, action)
    return base.execution + (per_byte.execution * count if per_byte is not None else 0)


def _parts(fees: Fees, action: Action) -> tuple[Fee, Fee | None, int]:
    match action:
        case CreateAccount():
            return fees.create_account, None, 0
        case DeployContract():
            return fees.deploy_contract, fees.deploy_contract_byte, len(action.code)
        case FunctionCall():
            return fees.function_call, fees.function_call_byte, len(action.method_name.encode()) + len(action.args)
        case Stake():
            return fees.stake, None, 0
        case AddKey():
            permission = action.access_key.permission
            if isinstance(permission, FullAccess):
                return fees.add_full_access_key, None, 0
            # Each name ends with a zero where the fees were measured.
            size = sum(len(name.encode()) + 1 for name in permission.method_names)
            return fees.add_function_call_key, fees.add_function_call_key_byte, size
        case DeleteKey():
            return fees.delete_key, None, 0
        case DeleteAccount():
            return fees.delete_account, None, 0
    raise TypeError(f"{type(action).__name__} has no fee")


def exec_fees(fees: Fees, actions: Sequence[Action]) -> int:
    """With what the receipts inside delegate actions will burn when they are executed."""
    total = 0
    for action in actions:
        total += exec_fee(fees, action)
        if isinstance(action, Delegate):
            total += exec_fees(fees, action.delegate_action.actions) + fees.action_receipt.execution
    if total > U64_MAX:
        raise CostOverflow
    return total


def inner_send_fees(fees: Fees, actions: Sequence[Action]) -> int:
    """Prepaid for sending what is inside delegate actions; nothing for all others, which are sent when they are signed."""
    total = 0
    for action in actions:
        if isinstance(action, Delegate):
            inner = action.delegate_action
            total += send_fees(fees, inner.actions, inner.sender_id == inner.receiver_id)
    return total


def attached_gas(actions: Sequence[Action]) -> int:
    total = 0
    for action in actions:
        if isinstance(action, FunctionCall):
            total += action.gas
        elif isinstance(action, Delegate):
            total += attached_gas(action.delegate_action.actions)
    if total > U64_MAX:
        raise CostOverflow
    return total


def deposits(actions: Sequence[Action]) -> int:
    """With those inside delegate actions: who relays them pays."""
    total = 0
    for action in actions:
        if isinstance(action, Transfer | FunctionCall):
            total += action.deposit
        elif isinstance(action, Delegate):
            total += deposits(action.delegate_action.actions)
    if total > U128_MAX:
        raise CostOverflow
    return total


@define
class Cost:
    """Of a transaction: gas burnt at once, gas bought for its receipt, and all that its signer pays, in yoctoNEAR."""

    gas_burnt: int
    gas_remaining: int
    burnt_amount: int
    total: int


@define
class TransferPrice:
    """Of a transaction that is one transfer, first to another, then to oneself: gas burnt at once, what that costs, and all
    that its signer pays beside the deposit."""

    gas: tuple[int, int]
    burnt: tuple[int, int]
    paid: tuple[int, int]

    @staticmethod
    def of(parameters: Parameters, gas_price: int) -> TransferPrice:
        fees = parameters.fees
        other, own = (fees.action_receipt.send(sir) + fees.transfer.send(sir) for sir in (False, True))
        later = fees.action_receipt.execution + fees.transfer.execution
        return TransferPrice(
            (other, own), (gas_price * other, gas_price * own), (gas_price * (other + later), gas_price * (own + later))
        )


def transaction_cost(parameters: Parameters, transaction: Transaction, gas_price: int) -> Cost:
    """Raises CostOverflow."""
    fees, actions = parameters.fees, transaction.actions
    sir = transaction.signer_id == transaction.receiver_id
    if len(actions) == 1 and type(actions[0]) is Transfer:
        burnt = fees.action_receipt.send(sir) + fees.transfer.send(sir)
        remaining = fees.action_receipt.execution + fees.transfer.execution
        paid = add_balance(gas_price * (burnt + remaining), actions[0].deposit)
        return Cost(burnt, remaining, gas_price * burnt, paid)
    burnt = add_gas(fees.action_receipt.send(sir), send_fees(fees, actions, sir))
    prepaid = add_gas(attached_gas(actions), inner_send_fees(fees, actions))
    remaining = add_gas(prepaid, add_gas(fees.action_receipt.execution, exec_fees(fees, actions)))
    burnt_amount = gas_to_balance(gas_price, burnt)
    total = add_balance(burnt_amount, gas_to_balance(gas_price, remaining))
    return Cost(burnt, remaining, burnt_amount, add_balance(total, deposits(actions)))
