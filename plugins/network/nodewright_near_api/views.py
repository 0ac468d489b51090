"""JSON of what the execution knows: keys, actions, transactions, receipts, outcomes. Balances are decimal strings, gas and
nonces numbers, hashes base58, bytes base64.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from nodewright_near.accounts import AccessKey, Account, FullAccess
from nodewright_near.merkle import Left, MerkleStep
from nodewright_near.outcomes import Outcome, SuccessReceiptId, SuccessValue
from nodewright_near.primitives import base58, key_text
from nodewright_near.receipts import ActionReceipt, Receipt
from nodewright_near.records import StoredOutcome
from nodewright_near.transactions import (
    Action,
    AddKey,
    CreateAccount,
    Delegate,
    DeleteAccount,
    DeleteKey,
    DeployContract,
    FunctionCall,
    SignedTransaction,
    Stake,
    Transfer,
)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def account_view(account: Account) -> dict[str, Any]:
    return {
        "amount": str(account.amount),
        "locked": str(account.locked),
        "code_hash": base58(account.code_hash),
        "storage_usage": account.storage_usage,
        "storage_paid_at": 0,
    }


def access_key_view(key: AccessKey) -> dict[str, Any]:
    permission = key.permission
    if isinstance(permission, FullAccess):
        return {"nonce": key.nonce, "permission": "FullAccess"}
    call = {
        "allowance": None if permission.allowance is None else str(permission.allowance),
        "receiver_id": permission.receiver_id,
        "method_names": list(permission.method_names),
    }
    return {"nonce": key.nonce, "permission": {"FunctionCall": call}}


def action_view(action: Action) -> Any:
    match action:
        case CreateAccount():
            return "CreateAccount"
        case DeployContract():
            return {"DeployContract": {"code": encoded(action.code)}}
        case FunctionCall():
            call = {
                "method_name": action.method_name,
                "args": encoded(action.args),
                "gas": action.gas,
                "deposit": str(action.deposit),
            }
            return {"FunctionCall": call}
        case Transfer():
            return {"Transfer": {"deposit": str(action.deposit)}}
        case Stake():
            return {"Stake": {"stake": str(action.stake), "public_key": key_text(action.public_key)}}
        case AddKey():
            added = {"public_key": key_text(action.public_key), "access_key": access_key_view(action.access_key)}
            return {"AddKey": added}
        case DeleteKey():
            return {"DeleteKey": {"public_key": key_text(action.public_key)}}
        case DeleteAccount():
            return {"DeleteAccount": {"beneficiary_id": action.beneficiary_id}}
        case Delegate():
            return {"Delegate": _delegate_view(action)}
    raise TypeError(f"{type(action).__name__} has no view")


def _delegate_view(action: Delegate) -> dict[str, Any]:
    inner = action.delegate_action
    delegated = {
        "sender_id": inner.sender_id,
        "receiver_id": inner.receiver_id,
        # Inside a delegate action each has its fields under its name, and none is a bare name.
        "actions": [{"CreateAccount": {}} if isinstance(one, CreateAccount) else action_view(one) for one in inner.actions],
        "nonce": inner.nonce,
        "max_block_height": inner.max_block_height,
        "public_key": key_text(inner.public_key),
    }
    return {"delegate_action": delegated, "signature": key_text(action.signature)}


def transaction_view(signed: SignedTransaction) -> dict[str, Any]:
    transaction = signed.transaction
    return {
        "signer_id": transaction.signer_id,
        "public_key": key_text(transaction.public_key),
        "nonce": transaction.nonce,
        "receiver_id": transaction.receiver_id,
        "actions": [action_view(action) for action in transaction.actions],
        "priority_fee": 0,
        "signature": key_text(signed.signature),
        "hash": base58(signed.id),
    }


def receipt_view(receipt: Receipt) -> dict[str, Any]:
    body = receipt.receipt
    inner: dict[str, Any]
    if isinstance(body, ActionReceipt):
        action = {
            "signer_id": body.signer_id,
            "signer_public_key": key_text(body.signer_public_key),
            "gas_price": str(body.gas_price),
            "output_data_receivers": [
                {"data_id": base58(one.data_id), "receiver_id": one.receiver_id} for one in body.output_data_receivers
            ],
            "input_data_ids": [base58(id) for id in body.input_data_ids],
            "actions": [action_view(one) for one in body.actions],
            "is_promise_yield": False,
        }
        inner = {"Action": action}
    else:
        data = None if body.data is None else encoded(body.data)
        inner = {"Data": {"data_id": base58(body.data_id), "data": data, "is_promise_resume": False}}
    return {
        "predecessor_id": receipt.predecessor_id,
        "receiver_id": receipt.receiver_id,
        "receipt_id": base58(receipt.receipt_id),
        "receipt": inner,
        "priority": 0,
    }


def path_view(path: Sequence[MerkleStep]) -> list[dict[str, str]]:
    return [
        {"hash": base58(step.hash), "direction": "Left" if isinstance(step.direction, Left) else "Right"} for step in path
    ]


def status_view(outcome: Outcome) -> Any:
    """Of one outcome: what it came to itself."""
    status = outcome.status
    if isinstance(status, SuccessValue):
        return {"SuccessValue": encoded(status.value)}
    if isinstance(status, SuccessReceiptId):
        return {"SuccessReceiptId": base58(status.receipt_id)}
    if outcome.error is not None:
        return {"Failure": outcome.error}
    return "Unknown"


def outcome_view(stored: StoredOutcome, outcome: Outcome, path: Sequence[MerkleStep]) -> dict[str, Any]:
    """``path`` leads from it to the outcome root of its chunk."""
    return {
        "proof": path_view(path),
        "block_hash": base58(stored.block),
        "id": base58(outcome.id),
        "outcome": {
            "logs": list(outcome.logs),
            "receipt_ids": [base58(id) for id in outcome.receipt_ids],
            "gas_burnt": outcome.gas_burnt,
            "tokens_burnt": str(outcome.tokens_burnt),
            "executor_id": outcome.executor_id,
            "status": status_view(outcome),
            "metadata": {"version": 1, "gas_profile": None},
        },
    }
