"""Authenticators as JSON: written of transactions, and read of requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from nodewright_aptos import bcs
from nodewright_aptos import transactions as tx
from nodewright_aptos.addresses import ED25519, MULTI_ED25519, MULTI_KEY, SINGLE_KEY, address_text
from nodewright_aptos.authenticators import (
    CURVE_NAMES,
    KEY_BYTES,
    MAX_KEYS,
    NO_AUTHENTICATOR,
    AccountAuthenticator,
    Key,
    ed25519_authenticator,
    encode_authenticator,
    multi_key_authenticator,
    read_authenticator,
    read_multi_ed25519,
    single_key_authenticator,
)
from nodewright_aptos.transactions import UserTransaction, encode_signatures
from nodewright_aptos_api.document import Part

# --- writing ---------------------------------------------------------------------------------------------------------


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


# --- reading ---------------------------------------------------------------------------------------------------------


def _ed25519(part: Part) -> AccountAuthenticator:
    return ed25519_authenticator(part.field("public_key").hex(32), part.field("signature").hex(64))


def _multi_ed25519(part: Part) -> AccountAuthenticator:
    keys = [one.hex(32) for one in part.field("public_keys").items(MAX_KEYS)]
    signatures = [one.hex(64) for one in part.field("signatures").items(MAX_KEYS)]
    material = b"".join(keys) + bytes([part.field("threshold").number("u8")])
    signed = b"".join(signatures) + part.field("bitmap").hex(4)
    return part.read(lambda _: bcs.whole(bcs.blob(material) + bcs.blob(signed), read_multi_ed25519))


def _curve(part: Part) -> int:
    name = part.field("type")
    if name.text() not in CURVE_NAMES:
        raise name.wrong(f"{name.value[:40]!r} is none of {', '.join(CURVE_NAMES)}")
    return CURVE_NAMES.index(name.value)


def _key(part: Part) -> Key:
    curve = _curve(part)
    return curve, part.field("value").hex(KEY_BYTES[curve])


def _signed_by(key: Key, part: Part) -> bytes:
    if _curve(part) != key[0]:
        raise part.field("type").wrong("a signature is of another kind than its key")
    return part.field("value").hex(64)


def _single_key(part: Part) -> AccountAuthenticator:
    key = _key(part.field("public_key"))
    return single_key_authenticator(key, _signed_by(key, part.field("signature")))


def _multi_key(part: Part) -> AccountAuthenticator:
    keys = tuple(map(_key, part.field("public_keys").items(MAX_KEYS)))
    signatures: dict[int, bytes] = {}
    for one in part.field("signatures").items(MAX_KEYS):
        index = one.field("index")
        place = index.number("u8")
        if place >= len(keys) or place in signatures:
            raise index.wrong(f"{place} names a key that is not there, or one that another signature names")
        signatures[place] = _signed_by(keys[place], one.field("signature"))
    made = multi_key_authenticator(keys, part.field("signatures_required").number("u8"), tuple(sorted(signatures.items())))
    return part.read(lambda _: bcs.whole(encode_authenticator(made), read_authenticator))


def _nobody(part: Part) -> AccountAuthenticator:
    return AccountAuthenticator(NO_AUTHENTICATOR, b"", (), ())


_ACCOUNTS: Final[Mapping[str, Callable[[Part], AccountAuthenticator]]] = {
    "ed25519_signature": _ed25519,
    "multi_ed25519_signature": _multi_ed25519,
    "single_key_signature": _single_key,
    "multi_key_signature": _multi_key,
    "no_account_signature": _nobody,
}
# Those that are signatures of a whole transaction; any other account signature stands under a single sender.
_KINDS: Final = {"ed25519_signature": tx.SIGNED_ED25519, "multi_ed25519_signature": tx.SIGNED_MULTI_ED25519}


def _account(part: Part) -> AccountAuthenticator:
    kind = part.field("type")
    read = _ACCOUNTS.get(kind.text())
    if read is None:
        raise kind.wrong(f"{kind.value[:40]!r} is none of {', '.join(_ACCOUNTS)}")
    return read(part)


def _single_sender(part: Part) -> AccountAuthenticator:
    """Its type says nothing of the sender's scheme: the fields do."""
    if part.has("public_keys"):
        return _multi_key(part) if part.has("signatures_required") else _multi_ed25519(part)
    if part.has("public_key"):
        return _single_key(part) if isinstance(part.value["public_key"], dict) else _ed25519(part)
    return _nobody(part)


def read_signature(part: Part) -> bytes:
    """The transaction authenticator in BCS. Raises ApiError, a 400 that names the field."""
    kind = part.field("type").text()
    if kind == "single_sender":
        return encode_signatures(tx.SIGNED_SINGLE, _single_sender(part))
    if kind not in ("multi_agent_signature", "fee_payer_signature"):
        return encode_signatures(_KINDS.get(kind, tx.SIGNED_SINGLE), _account(part))
    sender = _account(part.field("sender"))
    addresses = tuple(one.address() for one in part.field("secondary_signer_addresses").items(tx.MAX_SIGNERS))
    signers = tuple(map(_account, part.field("secondary_signers").items(tx.MAX_SIGNERS)))
    if kind == "multi_agent_signature":
        return encode_signatures(tx.SIGNED_MULTI_AGENT, sender, addresses, signers)
    payer, paying = part.field("fee_payer_address").address(), _account(part.field("fee_payer_signer"))
    return encode_signatures(tx.SIGNED_FEE_PAYER, sender, addresses, signers, payer, paying)
