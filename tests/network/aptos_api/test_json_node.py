"""Transactions posted as JSON to a running node: encoded, signed and posted they are what their BCS form is."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from attrs import frozen
from nacl.signing import SigningKey

from nodewright_aptos.addresses import ED25519, MULTI_ED25519, MULTI_KEY, SINGLE_KEY, authentication_key
from nodewright_aptos.authenticators import multi_key_material, single_key_material

Sign = Callable[[bytes], dict[str, Any]]
BOB = "0x" + "b0" * 32


@frozen
class Signer:
    """An account whose signatures are written by hand, as a client without BCS would."""

    address: str
    sign: Sign


def edwards(seed: int) -> SigningKey:
    return SigningKey(seed.to_bytes(32, "big"))


def hexadecimal(data: bytes) -> str:
    return "0x" + data.hex()


def ed25519(seed: int) -> Signer:
    key = edwards(seed)
    public = bytes(key.verify_key)

    def sign(message: bytes) -> dict[str, Any]:
        signed = hexadecimal(key.sign(message).signature)
        return {"type": "ed25519_signature", "public_key": hexadecimal(public), "signature": signed}

    return Signer(hexadecimal(authentication_key(public, ED25519)), sign)


def single_key(seed: int, type: str = "single_key_signature") -> Signer:
    from coincurve import PrivateKey

    key = PrivateKey(hashlib.sha256(bytes([seed])).digest())
    public = key.public_key.format(compressed=False)

    def sign(message: bytes) -> dict[str, Any]:
        signed = key.sign_recoverable(hashlib.sha3_256(message).digest(), hasher=None)[:64]
        return {
            "type": type,
            "public_key": {"type": "secp256k1_ecdsa", "value": hexadecimal(public)},
            "signature": {"type": "secp256k1_ecdsa", "value": hexadecimal(signed)},
        }

    return Signer(hexadecimal(authentication_key(single_key_material((1, public)), SINGLE_KEY)), sign)


def multi_key(seed: int) -> Signer:
    keys = [edwards(seed + at) for at in range(3)]
    publics = tuple((0, bytes(key.verify_key)) for key in keys)

    def sign(message: bytes) -> dict[str, Any]:
        signed = [{"type": "ed25519", "value": hexadecimal(key.sign(message).signature)} for key in keys]
        return {
            "type": "multi_key_signature",
            "public_keys": [{"type": "ed25519", "value": hexadecimal(public)} for _, public in publics],
            "signatures": [{"index": at, "signature": signed[at]} for at in (2, 0)],
            "signatures_required": 2,
        }

    return Signer(hexadecimal(authentication_key(multi_key_material(publics, 2), MULTI_KEY)), sign)


def multi_ed25519(seed: int) -> Signer:
    keys = [edwards(seed + at) for at in range(3)]
    publics = [bytes(key.verify_key) for key in keys]

    def sign(message: bytes) -> dict[str, Any]:
        return {
            "type": "multi_ed25519_signature",
            "public_keys": [public.hex() for public in publics],
            "signatures": [hexadecimal(keys[at].sign(message).signature) for at in (0, 2)],
            "threshold": 2,
            "bitmap": "0xa0000000",
        }

    return Signer(hexadecimal(authentication_key(b"".join(publics) + b"\2", MULTI_ED25519)), sign)


def transfer(sender: Signer, number: int = 0, octas: int = 7, to: str = BOB, **changes: Any) -> dict[str, Any]:
    return {
        "sender": sender.address,
        "sequence_number": str(number),
        "max_gas_amount": "10000",
        "gas_unit_price": "100",
        "expiration_timestamp_secs": str(int(time.time()) + 300),
        "payload": {
            "type": "entry_function_payload",
            "function": "0x1::aptos_account::transfer",
            "type_arguments": [],
            "arguments": [to, str(octas)],
        },
    } | changes


def encode(client: Any, request: dict[str, Any], **more: Any) -> bytes:
    answer = client.http.post("/transactions/encode_submission", json=request | more)
    assert answer.status_code == 200, answer.text
    return bytes.fromhex(answer.json().removeprefix("0x"))


def post(client: Any, document: Any, status: int, path: str = "/transactions") -> Any:
    answer = client.http.post(path, json=document)
    assert answer.status_code == status, answer.text
    return answer.json()


def signed(client: Any, sender: Signer, request: dict[str, Any]) -> dict[str, Any]:
    return request | {"signature": sender.sign(encode(client, request))}


def test_a_transaction_in_json_is_its_bcs_form(client: Any) -> None:
    """Held against the unmodified Python SDK's: the signing message, the hash, and what it does."""
    pytest.importorskip("aptos_sdk")
    from aptos_sdk.account import Account
    from aptos_sdk.account_address import AccountAddress
    from aptos_sdk.authenticator import AccountAuthenticator, Authenticator, Ed25519Authenticator
    from aptos_sdk.bcs import Serializer
    from aptos_sdk.transactions import (
        EntryFunction,
        RawTransaction,
        SignedTransaction,
        TransactionArgument,
        TransactionPayload,
    )

    both = [(ed25519(at), Account.load_key(hexadecimal(bytes(edwards(at))))) for at in (71, 72)]
    told: list[dict[str, Any]] = []
    for posted_as_json, (signer, account) in zip((True, False), both, strict=True):
        assert AccountAddress.from_str(signer.address) == account.address()
        client.fund(signer.address, 100_000_000)
        request = transfer(signer, to="0x7e57" if posted_as_json else "0x7e58")
        to = AccountAddress.from_str_relaxed(request["payload"]["arguments"][0])
        arguments = [TransactionArgument(to, Serializer.struct), TransactionArgument(7, Serializer.u64)]
        call = EntryFunction.natural("0x1::aptos_account", "transfer", [], arguments)
        expires = int(request["expiration_timestamp_secs"])
        raw = RawTransaction(account.address(), 0, TransactionPayload(call), 10_000, 100, expires, 4)
        message = encode(client, request)
        assert message == raw.keyed()
        signature = signer.sign(message)
        authenticator = AccountAuthenticator(Ed25519Authenticator(account.public_key(), account.sign(message)))
        whole = SignedTransaction(raw, Authenticator(authenticator.authenticator)).bytes()
        prefix = hashlib.sha3_256(b"APTOS::Transaction").digest() + b"\0"
        hash = hexadecimal(hashlib.sha3_256(prefix + whole).digest())
        pending = post(client, request | {"signature": signature}, 202) if posted_as_json else client.submit(whole)
        assert pending["type"] == "pending_transaction" and pending["hash"] == hash
        assert pending["signature"] == signature and pending["payload"] == request["payload"] | {
            "arguments": [str(to), "7"]
        }
        found = client.committed(hash)
        assert found["success"] and client.get(f"/accounts/{to}/balance/0xa") == 7
        told.append(found)
    for name in ("gas_used", "vm_status", "sequence_number"):
        assert told[0][name] == told[1][name]
    for name in ("events", "changes"):
        assert [one["type"] for one in told[0][name]] == [one["type"] for one in told[1][name]]
    left = [client.get(f"/accounts/{signer.address}/balance/0xa") for signer, _ in both]
    assert left[0] == left[1] == 100_000_000 - 7 - 100 * int(told[0]["gas_used"])


def test_every_kind_of_signature_is_taken_in_json(client: Any) -> None:
    signers = [ed25519(81), single_key(82), single_key(83, "single_sender"), multi_key(84), multi_ed25519(87)]
    for signer in signers:
        client.fund(signer.address, 100_000_000)
    hashes = [post(client, signed(client, one, transfer(one)), 202)["hash"] for one in signers]
    for hash in hashes:
        told = client.committed(hash)
        assert told["success"], told
        assert post(client, told, 202)["hash"] == hash  # the answer is itself a request, for the same transaction

    alice, payer = signers[0], ed25519(89)
    client.fund(payer.address, 100_000_000)
    before = client.get(f"/accounts/{alice.address}/balance/0xa")
    request = transfer(alice, 1)
    sponsored = {
        "type": "fee_payer_signature",
        "sender": alice.sign(encode(client, request, fee_payer_address="0x0")),
        "secondary_signer_addresses": [],
        "secondary_signers": [],
        "fee_payer_address": payer.address,
        "fee_payer_signer": payer.sign(encode(client, request, fee_payer_address=payer.address)),
    }
    paid = client.committed(post(client, request | {"signature": sponsored}, 202)["hash"])
    assert paid["success"] and paid["signature"] == sponsored
    assert client.get(f"/accounts/{alice.address}/balance/0xa") == before - 7

    # Two sign: it is kept, and the function says that it takes one.
    request = transfer(alice, 2)
    message = encode(client, request, secondary_signers=[payer.address])
    agents = {
        "type": "multi_agent_signature",
        "sender": alice.sign(message),
        "secondary_signer_addresses": [payer.address],
        "secondary_signers": [payer.sign(message)],
    }
    two = client.committed(post(client, request | {"signature": agents}, 202)["hash"])
    assert not two["success"] and "NUMBER_OF_SIGNER" in two["vm_status"] and two["signature"] == agents


def test_a_third_partys_function_is_called_in_json(client: Any) -> None:
    """By the types that it was registered with; its module stands among those of the node."""
    module = "0xc1::trial"
    (bump,) = [
        one
        for one in client.get("/accounts/0xc1/module/trial")["abi"]["exposed_functions"]
        if one["name"] == "bump" and one["is_entry"]
    ]
    assert bump["params"] == ["&signer", "u64", "u64"]
    grace = ed25519(97)
    client.fund(grace.address, 100_000_000)
    payload = {"type": "entry_function_payload", "function": f"{module}::bump", "type_arguments": [], "arguments": ["2", 6]}
    told = client.committed(post(client, signed(client, grace, transfer(grace, payload=payload)), 202)["hash"])
    assert told["success"] and told["payload"]["arguments"] == ["2", "6"]
    counter = (2).to_bytes(32, "little").hex()
    asked = {"key_type": "address", "value_type": "u64", "key": f"0x{counter}"}
    assert client.http.post("/tables/0x0/item", json=asked).json() == "7"
    broken = payload | {"arguments": ["2", "666"]}
    told = client.committed(post(client, signed(client, grace, transfer(grace, 1, payload=broken)), 202)["hash"])
    assert not told["success"] and "EBROKEN(0x10001)" in told["vm_status"]
    for arguments, path in ((["2"], "payload.arguments"), (["2", "0x6"], "payload.arguments[1]")):
        wrong = transfer(grace, payload=payload | {"arguments": arguments})
        assert post(client, wrong, 400, "/transactions/encode_submission")["message"].startswith(f"{path}: ")


def test_batches_and_simulations_in_json(client: Any) -> None:
    carol = ed25519(91)
    client.fund(carol.address, 100_000_000)
    good = signed(client, carol, transfer(carol))
    forged = transfer(carol, 1) | {"signature": good["signature"]}
    (failure,) = post(client, [good, forged], 206, "/transactions/batch")["transaction_failures"]
    assert failure["transaction_index"] == 1 and failure["error"]["vm_error_code"] == 1
    told = post(client, [good, transfer(carol, 1)], 400, "/transactions/batch")
    assert told == {"message": "[1].signature: it is missing", "error_code": "invalid_input", "vm_error_code": None}
    assert post(client, good, 400, "/transactions/batch")["message"].startswith("the body: not a list")

    blank = {"type": "ed25519_signature", "public_key": good["signature"]["public_key"], "signature": "0x" + "00" * 64}
    for signature in (blank, {"type": "no_account_signature"}):
        number = client.get(f"/accounts/{carol.address}")["sequence_number"]
        request = transfer(carol, int(number)) | {"signature": signature}
        (simulated,) = post(client, request, 200, "/transactions/simulate")
        assert simulated["success"] and int(simulated["gas_used"]) > 0, simulated
    refused = post(client, signed(client, carol, transfer(carol, 5)), 400, "/transactions/simulate")
    assert "must not have a valid signature" in refused["message"]


def test_a_simulation_estimates_gas(client: Any) -> None:
    """As ts-sdk asks for it: with what the transaction says of gas left out of account."""
    erin, payer = ed25519(93), ed25519(94)
    client.fund(erin.address, 1_000_000)
    client.fund(payer.address, 500_000)
    request = transfer(erin, max_gas_amount="1", gas_unit_price="1", signature={"type": "no_account_signature"})

    def simulated(status: int = 200, **flags: str) -> Any:
        answer = client.http.post("/transactions/simulate", json=request, params=flags)
        assert answer.status_code == status, answer.text
        return answer.json()[0] if status == 200 else answer.json()

    assert simulated(400)["error_code"] == "vm_error"
    assert simulated(400, estimate_gas_unit_price="true")["vm_error_code"] == 14
    both = simulated(estimate_gas_unit_price="true", estimate_max_gas_amount="true")
    assert (both["success"], both["gas_unit_price"], both["max_gas_amount"]) == (True, "100", "10000")
    request |= {"gas_unit_price": "200"}
    one = simulated(estimate_max_gas_amount="true")
    assert (one["success"], one["gas_unit_price"], one["max_gas_amount"]) == (True, "200", "5000")
    assert simulated(estimate_max_gas_amount="true", estimate_prioritized_gas_unit_price="true")["gas_unit_price"] == "100"
    nobody = {"type": "no_account_signature"}
    request["signature"] = {
        "type": "fee_payer_signature",
        "sender": nobody,
        "secondary_signer_addresses": [],
        "secondary_signers": [],
        "fee_payer_address": payer.address,
        "fee_payer_signer": payer.sign(b"") | {"signature": "0x" + "00" * 64},
    }
    assert simulated(estimate_max_gas_amount="true")["max_gas_amount"] == "2500"


def test_hostile_json_is_a_400_at_every_door(client: Any, budget: int) -> None:
    dice = random.Random(11)

    def value(depth: int = 0) -> Any:
        leaves: list[Any] = [None, True, -1, 1 << 200, 1.5, "", "0x1", "0x1::coin::balance", "vec", "vector<u8>", "u64"]
        if depth > 3 or dice.random() < 0.5:
            return dice.choice(leaves)
        if dice.random() < 0.5:
            return [value(depth + 1) for _ in range(dice.randrange(3))]
        names = ("function", "type_arguments", "arguments", "key", "key_type", "value_type", "vec", "inner", "address")
        return {dice.choice(names): value(depth + 1) for _ in range(dice.randrange(4))}

    views = ("0x1::coin::balance", "0x1::account::exists_at", "0x1::fungible_asset::supply", "0x1::coin::supply")
    for _ in range(20 * budget):
        call = {"function": dice.choice(views), "type_arguments": ["0x1::a::B"], "arguments": [value()]}
        call |= {} if dice.random() < 0.7 else {dice.choice(list(call)): value()}
        types = ("u64", "address", "vector<vector<u8>>", "0x1::option::Option<u8>", "vector<" * 3000 + "u8" + ">" * 3000)
        item = {"key_type": dice.choice(types), "value_type": "u128", "key": value()}
        item |= {} if dice.random() < 0.7 else {dice.choice(list(item)): value()}
        for path, document in (
            ("/view", call),
            ("/tables/0x1/item", item),
            *((f"/transactions{end}", value()) for end in ("", "/batch", "/simulate", "/encode_submission")),
        ):
            body = json.dumps(document).encode()
            answer = client.http.post(path, content=body, headers={"Content-Type": "application/json"})
            valid = (path == "/view" and answer.status_code == 200) or (path.endswith("item") and answer.status_code == 404)
            valid = valid or (path.endswith("batch") and document == [])
            assert valid or answer.status_code == 400, (path, document, answer.text)
            assert valid or answer.json()["error_code"] == "invalid_input"
        given = {"address": value(), "amount": value(), "pub_key": value()}
        answer = httpx.post(f"{client.faucet}/fund", json=given | {"amount": -1}, timeout=60)
        assert answer.status_code == 400, (given, answer.text)
    call = {"function": views[0], "type_arguments": ["0x1::a::B"], "arguments": [5]}
    assert client.http.post("/view", json=call).json()["message"].startswith("arguments[0]: ")
    call |= {"type_arguments": ["0x1"]}
    assert client.http.post("/view", json=call).json()["message"].startswith("type_arguments[0]: ")


def test_what_is_wrong_in_json_is_named(client: Any) -> None:
    dave = ed25519(95)
    client.fund(dave.address, 100_000_000)
    good = signed(client, dave, transfer(dave))
    payload = good["payload"]
    for change, path in (
        ({"sender": "dave"}, "sender"),
        ({"sequence_number": -1}, "sequence_number"),
        ({"max_gas_amount": "1e3"}, "max_gas_amount"),
        ({"payload": payload | {"function": "0x1::coin::nothing"}}, "payload.function"),
        ({"payload": payload | {"arguments": [BOB, "7", "8"]}}, "payload.arguments"),
        ({"payload": payload | {"arguments": [BOB, str(1 << 64)]}}, "payload.arguments[1]"),
        ({"payload": payload | {"type_arguments": ["u8"]}}, "payload.type_arguments"),
        ({"signature": good["signature"] | {"public_key": "0x12"}}, "signature.public_key"),
    ):
        for end in ("", "/simulate", *(("/encode_submission",) if path[:9] != "signature" else ())):
            told = post(client, good | change, 400, f"/transactions{end}")
            assert told["error_code"] == "invalid_input" and told["message"].startswith(f"{path}: "), told
    script = payload | {"function": "0x1::no_such::thing"}
    assert "docs/aptos.md" in post(client, good | {"payload": script}, 400)["message"]
    forged = good | {"signature": good["signature"] | {"signature": "0x" + "00" * 64}}
    assert post(client, forged, 400)["vm_error_code"] == 1
    for path in ("/transactions", "/transactions/batch", "/transactions/simulate", "/transactions/encode_submission"):
        types = ("text/plain", "application/x.aptos.signed_transaction+bcs") if "encode" in path else ("text/plain",)
        for type in types:
            answer = client.http.post(path, content=b"{}", headers={"Content-Type": type})
            assert answer.status_code == 415 and answer.json()["error_code"] == "web_framework_error"
        for body in (b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"[1e999]", b"1" * 9000, b"\xff\xfe"):
            answer = client.http.post(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400 and answer.json()["error_code"] == "invalid_input", answer.text
