"""Authenticators as JSON."""

from __future__ import annotations

from typing import Any

from nodewright_aptos import transactions as tx
from nodewright_aptos.addresses import ED25519, MULTI_ED25519, MULTI_KEY, SINGLE_KEY, address_text
from nodewright_aptos.authenticators import CURVE_NAMES, AccountAuthenticator
from nodewright_aptos.transactions import UserTransaction


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _typed(curve: int, data: bytes) -> dict[str, str]:
    return {"value": _hex(data), "type": CURVE_NAMES[curve]}


def _bitmap(one: AccountAuthenticator) -> str:
    bits = bytearray(4)
    for place, _ in one.signatures:
        bits[place >> 3] |= 0x80 >> (place & 7)
    return _hex(bytes(bits))


def account_signature(one: AccountAuthenticator) -> dict[str, Any]:
    if one.scheme == ED25519:
        return {
            "public_key": _hex(one.keys[0][1]),
            "signature": _hex(one.signatures[0][1]),
            "type": "ed25519_signature",
        }
    if one.scheme == MULTI_ED25519:
        return {
            "public_keys": [_hex(key) for _, key in one.keys],
            "signatures": [_hex(signature) for _, signature in one.signatures],
            "threshold": one.threshold,
            "bitmap": _bitmap(one),
            "type": "multi_ed25519_signature",
        }
    if one.scheme == SINGLE_KEY:
        curve = one.keys[0][0]
        return {
            "public_key": _typed(*one.keys[0]),
            "signature": _typed(curve, one.signatures[0][1]),
            "type": "single_key_signature",
        }
    if one.scheme == MULTI_KEY:
        return {
            "public_keys": [_typed(*key) for key in one.keys],
            "signatures": [
                {"index": place, "signature": _typed(one.keys[place][0], signature)} for place, signature in one.signatures
            ],
            "signatures_required": one.threshold,
            "type": "multi_key_signature",
        }
    return {"type": "no_account_signature"}


def signature(transaction: UserTransaction) -> dict[str, Any]:
    sender = account_signature(transaction.signer)
    if transaction.kind == tx.SIGNED_SINGLE:
        return sender | {"type": "single_sender"}
    if transaction.kind not in (tx.SIGNED_MULTI_AGENT, tx.SIGNED_FEE_PAYER):
        return sender
    document = {
        "sender": sender,
        "secondary_signer_addresses": [address_text(one) for one in transaction.secondary],
        "secondary_signers": [account_signature(one) for one in transaction.secondary_signers],
    }
    if transaction.kind == tx.SIGNED_MULTI_AGENT:
        return document | {"type": "multi_agent_signature"}
    assert transaction.fee_payer is not None and transaction.fee_payer_signer is not None
    return document | {
        "fee_payer_address": address_text(transaction.fee_payer),
        "fee_payer_signer": account_signature(transaction.fee_payer_signer),
        "type": "fee_payer_signature",
    }
