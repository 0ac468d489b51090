"""What a receipt does when its turn comes: waits for its data, or runs its actions, and what it leaves behind.

A receipt's actions happen all together or not at all. Gas that was bought and not used, and on failure the deposit too,
go back by receipts of their own, from ``system``, which cost nothing; one that cannot be delivered is burnt.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field, frozen

from nodewright.interfaces.verifier import Verifier
from nodewright_near import actions
from nodewright_near.accounts import (
    Account,
    ReceivedData,
    account_key,
    code_key,
    pending_data_count_key,
    postponed_receipt_id_key,
    postponed_receipt_key,
    received_data_key,
)
from nodewright_near.actions import Actor, Result
from nodewright_near.borsh import decode, encode
from nodewright_near.checks import actions_error, missing_storage_stake
from nodewright_near.contracts.calls import Call, Machine
from nodewright_near.contracts.meter import HOST_CALL_WORK, MAX_HOST_CALLS
from nodewright_near.errors import ActionFailure
from nodewright_near.fees import attached_gas, deposits, exec_fee, exec_fees, inner_send_fees
from nodewright_near.headers import ValidatorStakeV1
from nodewright_near.outcomes import Failure, Outcome, Status, SuccessReceiptId, SuccessValue
from nodewright_near.parameters import Parameters
from nodewright_near.primitives import NO_HASH, hash256
from nodewright_near.receipts import (
    ActionReceipt,
    DataReceipt,
    Receipt,
    balance_refund,
    gas_refund,
    receipt_id,
    with_id,
)
from nodewright_near.state import State
from nodewright_near.transactions import (
    AddKey,
    CreateAccount,
    Delegate,
    DeleteAccount,
    DeleteKey,
    DeployContract,
    FunctionCall,
    Stake,
    Transfer,
)


@frozen
class Setting:
    """What every receipt of a chunk runs under."""

    parameters: Parameters
    verifier: Verifier
    machine: Machine
    height: int
    timestamp: int
    epoch: int
    gas_price: int
    random_seed: bytes


@define
class Done:
    """Of one receipt: its outcome (None where it waits), the receipts it sends with their ids, what left the supply, and
    ``work``: what it took of the node beside gas, in the same unit; of ``codes``, by hash, each counts once a chunk."""

    outcome: Outcome | None = None
    receipts: tuple[Receipt, ...] = ()
    proposals: tuple[ValidatorStakeV1, ...] = ()
    burnt: int = 0
    work: int = 0
    codes: Mapping[bytes, int] = field(factory=dict)


def process(setting: Setting, state: State, receipt: Receipt) -> Done:
    """Changes stay pending in ``state``: the caller commits. Raises ``state.Absent``."""
    if isinstance(receipt.receipt, DataReceipt):
        return _take_data(setting, state, receipt, receipt.receipt)
    return _take_action(setting, state, receipt, receipt.receipt)


def _take_data(setting: Setting, state: State, receipt: Receipt, data: DataReceipt) -> Done:
    account = receipt.receiver_id
    state.set(received_data_key(account, data.data_id), encode(ReceivedData(data.data)))
    link = postponed_receipt_id_key(account, data.data_id)
    waiting = state.get(link)
    if waiting is None:
        return Done()
    state.remove(link)
    count_key = pending_data_count_key(account, waiting)
    count = int.from_bytes(state.get(count_key) or b"", "little")
    if count > 1:
        state.set(count_key, (count - 1).to_bytes(4, "little"))
        return Done()
    state.remove(count_key)
    key = postponed_receipt_key(account, waiting)
    raw = state.get(key)
    assert raw is not None  # it stands as long as its count does
    state.remove(key)
    return _apply(setting, state, decode(Receipt, raw))


def _take_action(setting: Setting, state: State, receipt: Receipt, body: ActionReceipt) -> Done:
    account = receipt.receiver_id
    missing = [one for one in body.input_data_ids if state.get(received_data_key(account, one)) is None]
    if not missing:
        return _apply(setting, state, receipt)
    for data_id in missing:
        state.set(postponed_receipt_id_key(account, data_id), receipt.receipt_id)
    state.set(pending_data_count_key(account, receipt.receipt_id), len(missing).to_bytes(4, "little"))
    state.set(postponed_receipt_key(account, receipt.receipt_id), encode(receipt))
    return Done()


def _promise_results(state: State, receipt: Receipt, body: ActionReceipt) -> tuple[bytes | None, ...]:
    results = []
    for data_id in body.input_data_ids:
        key = received_data_key(receipt.receiver_id, data_id)
        raw = state.get(key)
        assert raw is not None  # the receipt was held back until it was here
        state.remove(key)
        results.append(decode(ReceivedData, raw).data)
    return tuple(results)


def _apply(setting: Setting, state: State, receipt: Receipt) -> Done:
    body = receipt.receipt
    assert isinstance(body, ActionReceipt)
    parameters, name = setting.parameters, receipt.receiver_id
    results = _promise_results(state, receipt, body) if body.input_data_ids else ()
    before = state.mark()
    actor = Actor(
        parameters, state, setting.verifier, setting.height, receipt, body, receipt.predecessor_id, state.account(name)
    )
    base = parameters.fees.action_receipt.execution
    result = Result(base, base)
    failure = None
    try:
        _run_actions(setting, actor, result, results)
        _settle_account(actor)
    except ActionFailure as error:
        failure = error
        state.reset(before)
        result.receipts.clear()
        result.proposals.clear()
        result.value = None
    burnt = _refund(setting, receipt, body, result, failure is not None)
    tokens = 0 if receipt.is_refund else body.gas_price * result.gas_burnt
    reward = _reward(setting, state, name, body, result)
    children = _answer_receivers(name, body, result, failure is not None)
    ids = [receipt_id(receipt.receipt_id, setting.height, index) for index in range(len(children))]
    sent = tuple(with_id(child, identity) for child, identity in zip(children, ids, strict=True))
    status: Status
    if failure is not None:
        status = Failure()
    elif isinstance(result.value, int):
        status = SuccessReceiptId(ids[result.value])
    else:
        status = SuccessValue(result.value or b"")
    outcome = Outcome(
        receipt.receipt_id,
        tuple(child.receipt_id for child in sent if isinstance(child.receipt, ActionReceipt)),
        result.gas_burnt,
        tokens,
        name,
        status,
        tuple(result.logs),
        None if failure is None else failure.value(),
    )
    work = result.host_calls * HOST_CALL_WORK
    return Done(outcome, sent, tuple(result.proposals), burnt + tokens - reward, work, result.codes)


def _settle_account(actor: Actor) -> None:
    account = actor.account
    if account is None:
        return
    lack = missing_storage_stake(actor.parameters, account, account.amount)
    if lack:
        raise ActionFailure.of("LackBalanceForState", account_id=actor.name, amount=str(lack))
    actor.state.set(account_key(actor.name), account.encode())


def _run_actions(setting: Setting, actor: Actor, result: Result, results: tuple[bytes | None, ...]) -> None:
    fees = actor.parameters.fees
    for index, action in enumerate(actor.body.actions):
        gas = exec_fee(fees, action)
        result.gas_burnt += gas
        result.gas_used += gas
        first = len(result.receipts)
        result.value = None
        try:
            actions.check(actor, action)
            match action:
                case Transfer():
                    actions.transfer(actor, action)
                case FunctionCall():
                    _call(setting, actor, action, result, results, index)
                case CreateAccount():
                    actions.create_account(actor)
                case AddKey():
                    actions.add_key(actor, action)
                case DeleteKey():
                    actions.delete_key(actor, action)
                case DeployContract():
                    actions.deploy(actor, action)
                case Stake():
                    actions.stake(actor, action, result)
                case DeleteAccount():
                    actions.delete_account(actor, action, result)
                case Delegate():
                    actions.delegate(actor, action, result)
            _check_new(setting, result, first)
        except ActionFailure as failure:
            failure.index = index
            raise


def _check_new(setting: Setting, result: Result, first: int) -> None:
    limits = setting.parameters.limits
    for receipt in result.receipts[first:]:
        body = receipt.receipt
        if not isinstance(body, ActionReceipt) or receipt.is_refund:
            continue
        if len(body.input_data_ids) > limits.max_input_data:
            count = {"number_of_input_data_dependencies": len(body.input_data_ids), "limit": limits.max_input_data}
            raise ActionFailure({"NewReceiptValidationError": {"NumberInputDataDependenciesExceeded": count}})
        error = actions_error(limits, body.actions)
        if error is not None:
            raise ActionFailure({"NewReceiptValidationError": {"ActionsValidation": error}})
        size = len(encode(receipt))
        if size > limits.max_receipt:
            excess = {"size": size, "limit": limits.max_receipt}
            raise ActionFailure({"NewReceiptValidationError": {"ReceiptSizeExceeded": excess}})


def _call(
    setting: Setting,
    actor: Actor,
    action: FunctionCall,
    result: Result,
    results: tuple[bytes | None, ...],
    index: int,
) -> None:
    account, name, body = actor.owned(), actor.name, actor.body
    if account.code_hash == NO_HASH:
        raise ActionFailure({"FunctionCallError": {"CompilationError": {"CodeDoesNotExist": {"account_id": name}}}})
    code = actor.state.get(code_key(name))
    assert code is not None  # an account with a code hash has code
    last = index == len(body.actions) - 1
    action_hash = receipt_id(actor.receipt.receipt_id, setting.height, (1 << 64) - 1 - index)
    outcome = setting.machine.call(
        Call(
            parameters=setting.parameters,
            account_id=name,
            signer_id=body.signer_id,
            signer_key=body.signer_public_key,
            predecessor_id=actor.receipt.predecessor_id,
            code=code,
            code_hash=account.code_hash,
            method=action.method_name,
            args=action.args,
            gas=action.gas,
            deposit=action.deposit,
            balance=account.amount + action.deposit,
            locked=account.locked,
            storage_usage=account.storage_usage,
            gas_price=body.gas_price,
            height=setting.height,
            timestamp=setting.timestamp,
            epoch=setting.epoch,
            random_seed=hash256(action_hash + setting.random_seed),
            action_hash=action_hash,
            promise_results=results,
            output_receivers=body.output_data_receivers if last else (),
            host_calls=MAX_HOST_CALLS - result.host_calls,
        ),
        actor.state,
    )
    result.gas_burnt += outcome.gas_burnt
    result.gas_used += outcome.gas_used
    result.contract_gas += outcome.gas_burnt
    result.host_calls += outcome.host_calls
    result.codes[account.code_hash] = outcome.code_work
    result.logs += outcome.logs
    if outcome.error is not None:
        raise ActionFailure({"FunctionCallError": outcome.error})
    first = len(result.receipts)
    result.receipts += outcome.receipts
    result.value = outcome.value + first if isinstance(outcome.value, int) else outcome.value
    actor.account = Account(outcome.balance, account.locked, account.code_hash, outcome.storage_usage)


def _refund(setting: Setting, receipt: Receipt, body: ActionReceipt, result: Result, failed: bool) -> int:
    """Sends back what was not used; what cannot be sent back is answered as burnt."""
    deposit = deposits(body.actions) if failed else 0
    if receipt.is_refund:
        return deposit
    fees = setting.parameters.fees
    bought = attached_gas(body.actions) + inner_send_fees(fees, body.actions)
    bought += exec_fees(fees, body.actions) + fees.action_receipt.execution
    unused = bought - (result.gas_burnt if failed else result.gas_used)
    if deposit:
        result.receipts.append(balance_refund(receipt.predecessor_id, deposit))
    if unused * body.gas_price:
        result.receipts.append(gas_refund(body.signer_id, unused * body.gas_price, body.signer_public_key))
    return 0


def _reward(setting: Setting, state: State, name: str, body: ActionReceipt, result: Result) -> int:
    """The contract's share of the gas that it burnt; none where its account is gone."""
    share = setting.parameters.burnt_gas_reward
    reward = result.contract_gas * share.numerator // share.denominator * body.gas_price
    if not reward:
        return 0
    account = state.account(name)
    if account is None:
        return 0
    account.amount += reward
    state.set_account(name, account)
    return reward


def _answer_receivers(name: str, body: ActionReceipt, result: Result, failed: bool) -> list[Receipt]:
    """The new receipts, and data for those who wait for this one; a promise that is returned answers in its stead."""
    receipts = result.receipts
    if not body.output_data_receivers:
        return receipts
    if not failed and isinstance(result.value, int):
        promised = receipts[result.value]
        inner = promised.receipt
        assert isinstance(inner, ActionReceipt)
        inner = ActionReceipt(
            inner.signer_id,
            inner.signer_public_key,
            inner.gas_price,
            inner.output_data_receivers + body.output_data_receivers,
            inner.input_data_ids,
            inner.actions,
        )
        receipts[result.value] = Receipt(promised.predecessor_id, promised.receiver_id, NO_HASH, inner)
        return receipts
    value = None if failed else (result.value if isinstance(result.value, bytes) else b"")
    data = [
        Receipt(name, receiver.receiver_id, NO_HASH, DataReceipt(receiver.data_id, value))
        for receiver in body.output_data_receivers
    ]
    return [*receipts, *data]
