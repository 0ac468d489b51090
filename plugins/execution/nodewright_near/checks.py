"""What a transaction must be, in the order NEAR checks it, and what it then costs its signer.

Order: actions, size, signature (by the caller, in batches), signer, access key, nonce from below and from above, balance,
allowance, storage stake, and what a restricted key may do. The same function admits and executes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import evolve

from nodewright.interfaces.verifier import Verifier
from nodewright_near.accounts import NONCES_PER_BLOCK, AccessKey, Account, FullAccess, FunctionCallPermission
from nodewright_near.errors import ErrorValue, Refusal, access_key_refusal
from nodewright_near.fees import Cost, CostOverflow, attached_gas
from nodewright_near.parameters import Limits, Parameters
from nodewright_near.primitives import ED25519, is_account, key_text
from nodewright_near.transactions import (
    Action,
    AddKey,
    Delegate,
    DeleteAccount,
    DeployContract,
    FunctionCall,
    SignedTransaction,
    Stake,
    Transaction,
    Transfer,
)

_HALF_ORDER: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


# --- without the state ------------------------------------------------------------------------------------------------


def actions_error(limits: Limits, actions: Sequence[Action]) -> ErrorValue | None:
    """What is wrong with a list of actions by itself; None where nothing is."""
    if len(actions) == 1 and type(actions[0]) is Transfer:
        return None
    if len(actions) > limits.max_actions:
        return {"TotalNumberOfActionsExceeded": {"total_number_of_actions": len(actions), "limit": limits.max_actions}}
    delegates = 0
    for index, action in enumerate(actions):
        if isinstance(action, DeleteAccount) and index != len(actions) - 1:
            return "DeleteActionMustBeFinal"
        if isinstance(action, Delegate):
            delegates += 1
            if delegates > 1:
                return "DelegateActionMustBeOnlyOne"
        error = _action_error(limits, action)
        if error is not None:
            return error
    try:
        gas = attached_gas(actions)
    except CostOverflow:
        return "IntegerOverflow"
    if gas > limits.max_prepaid_gas:
        return {"TotalPrepaidGasExceeded": {"total_prepaid_gas": gas, "limit": limits.max_prepaid_gas}}
    return None


def _action_error(limits: Limits, action: Action) -> ErrorValue | None:
    match action:
        case DeployContract(code=code) if len(code) > limits.max_contract:
            return {"ContractSizeExceeded": {"size": len(code), "limit": limits.max_contract}}
        case FunctionCall():
            if action.gas == 0:
                return "FunctionCallZeroAttachedGas"
            size = len(action.method_name.encode())
            if size > limits.max_method_name:
                return {"FunctionCallMethodNameLengthExceeded": {"length": size, "limit": limits.max_method_name}}
            if len(action.args) > limits.max_arguments:
                return {"FunctionCallArgumentsLengthExceeded": {"length": len(action.args), "limit": limits.max_arguments}}
        case Stake(public_key=key) if key[0] != ED25519:
            return {"UnsuitableStakingKey": {"public_key": key_text(key)}}
        case AddKey() if isinstance(action.access_key.permission, FunctionCallPermission):
            return _permission_error(limits, action.access_key.permission)
        case Delegate():
            return actions_error(limits, action.delegate_action.actions)
    return None


def _permission_error(limits: Limits, permission: FunctionCallPermission) -> ErrorValue | None:
    if not is_account(permission.receiver_id):
        return {"InvalidAccountId": {"account_id": permission.receiver_id[:64]}}
    total = 0
    for name in permission.method_names:
        size = len(name.encode())
        if size > limits.max_method_name:
            return {"AddKeyMethodNameLengthExceeded": {"length": size, "limit": limits.max_method_name}}
        total += size + 1
    if total > limits.max_method_names_bytes:
        limit = limits.max_method_names_bytes
        return {"AddKeyMethodNamesNumberOfBytesExceeded": {"total_number_of_bytes": total, "limit": limit}}
    return None


def check_form(parameters: Parameters, signed: SignedTransaction) -> None:
    """Actions, then size. Raises Refusal."""
    error = actions_error(parameters.limits, signed.transaction.actions)
    if error is not None:
        raise Refusal.nested("ActionsValidation", error)
    if len(signed.raw) > parameters.limits.max_transaction:
        raise Refusal("TransactionSizeExceeded", size=len(signed.raw), limit=parameters.limits.max_transaction)


def verify_signatures(
    verifier: Verifier, keys: Sequence[bytes], digests: Sequence[bytes], signatures: Sequence[bytes]
) -> list[bool]:
    """Keys and signatures in Borsh form, digests of 32 bytes; one answer each. Ed25519 as the verifier checks it: keys of
    small order and S beyond the group's order never pass. secp256k1 only with the lower S, as libsecp256k1 wants it."""
    answers = [False] * len(keys)
    plain: list[int] = []
    ecdsa: list[int] = []
    for index, (key, signature) in enumerate(zip(keys, signatures, strict=True)):
        if key[0] == signature[0]:
            (plain if key[0] == ED25519 else ecdsa).append(index)
    if plain:
        found = verifier.ed25519(
            [keys[at][1:] for at in plain], [digests[at] for at in plain], [signatures[at][1:] for at in plain]
        )
        for at, good in zip(plain, found, strict=True):
            answers[at] = good == 1
    if ecdsa:
        found = verifier.ecdsa(
            [b"\x04" + keys[at][1:] for at in ecdsa],
            [digests[at] for at in ecdsa],
            [_der(signatures[at][1:65]) for at in ecdsa],
        )
        for at, good in zip(ecdsa, found, strict=True):
            low = int.from_bytes(signatures[at][33:65], "big") <= _HALF_ORDER
            answers[at] = good == 1 and low and signatures[at][65] < 4
    return answers


def _der(compact: bytes) -> bytes:
    numbers = b""
    for part in (compact[:32], compact[32:]):
        number = part.lstrip(b"\0") or b"\0"
        if number[0] & 0x80:
            number = b"\0" + number
        numbers += bytes([2, len(number)]) + number
    return bytes([0x30, len(numbers)]) + numbers


# --- against the state ------------------------------------------------------------------------------------------------


def missing_storage_stake(parameters: Parameters, account: Account, amount: int) -> int:
    """How much an account with this balance lacks for the bytes that it uses; 0 where it lacks nothing."""
    if account.storage_usage <= parameters.zero_balance_bytes:
        return 0
    lack = account.storage_usage * parameters.storage_amount_per_byte - amount - account.locked
    return max(lack, 0)


class Stakes:
    """What accounts may not fall below for the bytes that they use, by what follows the balance in their rows (56 bytes):
    that is the same for most of them. An account has no ``missing_storage_stake`` exactly where it has so much."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._known: dict[bytes, int] = {}

    def __getitem__(self, rest: bytes) -> int:
        need = self._known.get(rest)
        if need is None:
            usage, locked = int.from_bytes(rest[48:], "little"), int.from_bytes(rest[:16], "little")
            free = usage <= self._parameters.zero_balance_bytes
            need = 0 if free else max(usage * self._parameters.storage_amount_per_byte - locked, 0)
            if len(self._known) >= _STAKES:
                self._known.clear()
            self._known[rest] = need
        return need


_STAKES: Final = 1 << 14


def charge(
    parameters: Parameters,
    transaction: Transaction,
    account: Account | None,
    access_key: AccessKey | None,
    cost: Cost,
    height: int | None,
) -> tuple[Account, AccessKey]:
    """The signer and the key as they are after the transaction has been paid for; what is given is left as it is.
    ``height`` of the block, None where it is not known. Raises Refusal."""
    signer = transaction.signer_id
    if account is None:
        raise Refusal("SignerDoesNotExist", signer_id=signer)
    if access_key is None:
        key = key_text(transaction.public_key)
        raise access_key_refusal("AccessKeyNotFound", account_id=signer, public_key=key)
    if transaction.nonce <= access_key.nonce:
        raise Refusal("InvalidNonce", tx_nonce=transaction.nonce, ak_nonce=access_key.nonce)
    if height is not None and transaction.nonce >= height * NONCES_PER_BLOCK:
        raise Refusal("NonceTooLarge", tx_nonce=transaction.nonce, upper_bound=height * NONCES_PER_BLOCK)
    amount = account.amount - cost.total
    if amount < 0:
        raise Refusal("NotEnoughBalance", signer_id=signer, balance=str(account.amount), cost=str(cost.total))
    permission = access_key.permission
    charged = AccessKey(transaction.nonce, permission)
    if not isinstance(permission, FullAccess) and permission.allowance is not None:
        allowance = permission.allowance - cost.total
        if allowance < 0:
            raise access_key_refusal(
                "NotEnoughAllowance",
                account_id=signer,
                public_key=key_text(transaction.public_key),
                allowance=str(permission.allowance),
                cost=str(cost.total),
            )
        charged = AccessKey(transaction.nonce, evolve(permission, allowance=allowance))
    lack = missing_storage_stake(parameters, account, amount)
    if lack:
        raise Refusal("LackBalanceForState", signer_id=signer, amount=str(lack))
    if not isinstance(permission, FullAccess):
        error = permission_error(permission, transaction.receiver_id, transaction.actions)
        if error is not None:
            raise Refusal.nested("InvalidAccessKeyError", error)
    return Account(amount, account.locked, account.code_hash, account.storage_usage), charged


def permission_error(permission: FunctionCallPermission, receiver: str, actions: Sequence[Action]) -> ErrorValue | None:
    """Why a restricted key may not do this; None where it may."""
    if len(actions) != 1 or not isinstance(actions[0], FunctionCall):
        return "RequiresFullAccess"
    call = actions[0]
    if call.deposit > 0:
        return "DepositWithFunctionCall"
    if receiver != permission.receiver_id:
        return {"ReceiverMismatch": {"tx_receiver": receiver, "ak_receiver": permission.receiver_id}}
    if permission.method_names and call.method_name not in permission.method_names:
        return {"MethodNameMismatch": {"method_name": call.method_name}}
    return None
