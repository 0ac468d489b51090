"""What each action does to an account. Each raises ``ActionFailure`` with NEAR's own name for what is wrong; the caller
undoes what the receipt has changed and accounts for gas.
"""

from __future__ import annotations

from typing import Final

from attrs import define, evolve, field

from nodewright.interfaces.verifier import Verifier
from nodewright_near.accounts import (
    FULL_ACCESS,
    NONCES_PER_BLOCK,
    AccessKey,
    Account,
    FullAccess,
    access_key_key,
    access_keys_prefix,
    account_key,
    code_key,
    data_key,
)
from nodewright_near.borsh import encode
from nodewright_near.checks import permission_error, verify_signatures
from nodewright_near.errors import ActionFailure, ErrorValue
from nodewright_near.fees import attached_gas, exec_fees, inner_send_fees
from nodewright_near.headers import ValidatorStakeV1
from nodewright_near.parameters import Parameters
from nodewright_near.primitives import (
    ED25519,
    NO_HASH,
    hash256,
    is_implicit,
    is_reserved_form,
    is_sub_account,
    is_top_level,
    key_text,
)
from nodewright_near.receipts import ActionReceipt, Receipt, balance_refund
from nodewright_near.state import State
from nodewright_near.transactions import (
    Action,
    AddKey,
    CreateAccount,
    Delegate,
    DelegateAction,
    DeleteAccount,
    DeleteKey,
    DeployContract,
    Stake,
    Transfer,
)

_OWNER_ONLY: Final = (DeployContract, Stake, AddKey, DeleteKey, DeleteAccount)


@define
class Result:
    """What actions of one receipt have come to so far. ``value`` is what was returned: nothing, bytes, or the index of the
    new receipt that will return it. ``codes`` that were called, by hash, and the work to make each ready."""

    gas_burnt: int = 0
    gas_used: int = 0
    contract_gas: int = 0
    host_calls: int = 0
    logs: list[str] = field(factory=list)
    receipts: list[Receipt] = field(factory=list)
    proposals: list[ValidatorStakeV1] = field(factory=list)
    value: bytes | int | None = None
    codes: dict[bytes, int] = field(factory=dict)


@define
class Actor:
    """The receipt that is applied: who acts now, the account as it is now (None where there is none)."""

    parameters: Parameters
    state: State
    verifier: Verifier
    height: int
    receipt: Receipt
    body: ActionReceipt
    actor_id: str
    account: Account | None

    @property
    def name(self) -> str:
        return self.receipt.receiver_id

    def owned(self) -> Account:
        assert self.account is not None  # ``check`` has seen to it
        return self.account


def check(actor: Actor, action: Action) -> None:
    """Existence of the account, then who may do this to it."""
    name, account = actor.name, actor.account
    if isinstance(action, CreateAccount):
        if account is not None:
            raise ActionFailure.of("AccountAlreadyExists", account_id=name)
        if is_reserved_form(name):
            raise ActionFailure.of("OnlyImplicitAccountCreationAllowed", account_id=name)
        return
    if account is None:
        alone = len(actor.body.actions) == 1 and not actor.receipt.is_refund
        if not (isinstance(action, Transfer) and alone and is_implicit(name)):
            raise ActionFailure.of("AccountDoesNotExist", account_id=name)
        return
    if isinstance(action, _OWNER_ONLY) and actor.actor_id != name:
        raise ActionFailure.of("ActorNoPermission", account_id=name, actor_id=actor.actor_id)
    if isinstance(action, DeleteAccount) and account.locked:
        raise ActionFailure.of("DeleteAccountStaking", account_id=name)


def create_account(actor: Actor) -> None:
    parameters, name, creator = actor.parameters, actor.name, actor.receipt.predecessor_id
    if is_top_level(name):
        if len(name) < parameters.min_top_level and creator != parameters.registrar:
            raise ActionFailure.of(
                "CreateAccountOnlyByRegistrar",
                account_id=name,
                registrar_account_id=parameters.registrar,
                predecessor_id=creator,
            )
    elif not is_sub_account(name, creator):
        raise ActionFailure.of("CreateAccountNotAllowed", account_id=name, predecessor_id=creator)
    actor.actor_id = name
    actor.account = Account(0, 0, NO_HASH, parameters.account_bytes)


def transfer(actor: Actor, action: Transfer) -> None:
    if actor.account is not None:
        actor.account.amount += action.deposit
        if actor.receipt.is_refund and actor.body.signer_id == actor.name:
            _refund_allowance(actor, action.deposit)
        return
    key = bytes([ED25519]) + bytes.fromhex(actor.name)
    access_key = AccessKey((actor.height - 1) * NONCES_PER_BLOCK, FULL_ACCESS)
    usage = actor.parameters.account_bytes + _key_bytes(actor.parameters, key, access_key)
    actor.account = Account(action.deposit, 0, NO_HASH, usage)
    actor.state.set_access_key(actor.name, key, access_key)
    actor.actor_id = actor.name


def _refund_allowance(actor: Actor, amount: int) -> None:
    key = actor.body.signer_public_key
    access_key = actor.state.access_key(actor.name, key)
    if access_key is None or isinstance(access_key.permission, FullAccess) or access_key.permission.allowance is None:
        return
    permission = evolve(access_key.permission, allowance=access_key.permission.allowance + amount)
    actor.state.set_access_key(actor.name, key, AccessKey(access_key.nonce, permission))


def stake(actor: Actor, action: Stake, result: Result) -> None:
    account, name = actor.owned(), actor.name
    increment = max(action.stake - account.locked, 0)
    if account.amount < increment:
        raise ActionFailure.of(
            "TriesToStake",
            account_id=name,
            stake=str(action.stake),
            locked=str(account.locked),
            balance=str(account.amount),
        )
    if not account.locked and not action.stake:
        raise ActionFailure.of("TriesToUnstake", account_id=name)
    if 0 < action.stake < actor.parameters.minimum_stake:
        minimum = str(actor.parameters.minimum_stake)
        raise ActionFailure.of("InsufficientStake", account_id=name, stake=str(action.stake), minimum_stake=minimum)
    result.proposals.append(ValidatorStakeV1(name, action.public_key, action.stake))
    if action.stake > account.locked:
        account.amount -= increment
        account.locked = action.stake


def _key_bytes(parameters: Parameters, key: bytes, access_key: AccessKey) -> int:
    return len(key) + len(encode(access_key)) + parameters.record_bytes


def add_key(actor: Actor, action: AddKey) -> None:
    key = action.public_key
    if actor.state.access_key(actor.name, key) is not None:
        raise ActionFailure.of("AddKeyAlreadyExists", account_id=actor.name, public_key=key_text(key))
    access_key = AccessKey((actor.height - 1) * NONCES_PER_BLOCK, action.access_key.permission)
    actor.state.set_access_key(actor.name, key, access_key)
    actor.owned().storage_usage += _key_bytes(actor.parameters, key, access_key)


def delete_key(actor: Actor, action: DeleteKey) -> None:
    key = action.public_key
    access_key = actor.state.access_key(actor.name, key)
    if access_key is None:
        raise ActionFailure.of("DeleteKeyDoesNotExist", account_id=actor.name, public_key=key_text(key))
    actor.state.remove(access_key_key(actor.name, key))
    account = actor.owned()
    account.storage_usage = max(account.storage_usage - _key_bytes(actor.parameters, key, access_key), 0)


def deploy(actor: Actor, action: DeployContract) -> None:
    account = actor.owned()
    account.storage_usage = max(account.storage_usage - _code_bytes(actor, account), 0) + len(action.code)
    account.code_hash = hash256(action.code)
    actor.state.set(code_key(actor.name), action.code)


def _code_bytes(actor: Actor, account: Account) -> int:
    if account.code_hash == NO_HASH:
        return 0
    return len(actor.state.get(code_key(actor.name)) or b"")


def delete_account(actor: Actor, action: DeleteAccount, result: Result) -> None:
    account, name, state = actor.owned(), actor.name, actor.state
    if account.storage_usage - _code_bytes(actor, account) > actor.parameters.limits.max_deletion_storage:
        raise ActionFailure.of("DeleteAccountWithLargeState", account_id=name)
    if account.amount:
        result.receipts.append(balance_refund(action.beneficiary_id, account.amount))
    for key in (*state.keys_under(access_keys_prefix(name)), *state.keys_under(data_key(name, b""))):
        state.remove(key)
    if account.code_hash != NO_HASH:
        state.remove(code_key(name))
    state.remove(account_key(name))
    actor.account = None
    actor.actor_id = actor.receipt.predecessor_id


def delegate(actor: Actor, action: Delegate, result: Result) -> None:
    inner = action.delegate_action
    signed = verify_signatures(actor.verifier, [inner.public_key], [inner.digest()], [action.signature])
    if not signed[0]:
        raise ActionFailure.of("DelegateActionInvalidSignature")
    if actor.height > inner.max_block_height:
        raise ActionFailure.of("DelegateActionExpired")
    if inner.sender_id != actor.name:
        raise ActionFailure.of(
            "DelegateActionSenderDoesNotMatchTxReceiver", sender_id=inner.sender_id, receiver_id=actor.name
        )
    _use_delegate_key(actor, inner)
    fees = actor.parameters.fees
    body = ActionReceipt(
        actor.body.signer_id, actor.body.signer_public_key, actor.body.gas_price, (), (), tuple(inner.actions)
    )
    result.receipts.append(Receipt(inner.sender_id, inner.receiver_id, NO_HASH, body))
    sending = inner_send_fees(fees, [action])
    running = exec_fees(fees, inner.actions) + attached_gas(inner.actions) + fees.action_receipt.execution
    result.gas_used += running + sending
    result.gas_burnt += sending


def _use_delegate_key(actor: Actor, inner: DelegateAction) -> None:
    key = actor.state.access_key(inner.sender_id, inner.public_key)

    def key_error(error: ErrorValue) -> ActionFailure:
        return ActionFailure({"DelegateActionAccessKeyError": error})

    if key is None:
        public = key_text(inner.public_key)
        raise key_error({"AccessKeyNotFound": {"account_id": inner.sender_id, "public_key": public}})
    if inner.nonce <= key.nonce:
        raise ActionFailure.of("DelegateActionInvalidNonce", delegate_nonce=inner.nonce, ak_nonce=key.nonce)
    bound = actor.height * NONCES_PER_BLOCK
    if inner.nonce >= bound:
        raise ActionFailure.of("DelegateActionNonceTooLarge", delegate_nonce=inner.nonce, upper_bound=bound)
    if not isinstance(key.permission, FullAccess):
        error = permission_error(key.permission, inner.receiver_id, inner.actions)
        if error is not None:
            raise key_error(error)
    actor.state.set_access_key(inner.sender_id, inner.public_key, AccessKey(inner.nonce, key.permission))
