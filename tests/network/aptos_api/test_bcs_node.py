"""Answers of a running node in BCS, read by the unmodified Python SDK's deserialiser, against its answers in JSON."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from nacl.signing import SigningKey

from nodewright_aptos.authenticators import (
    ed25519_authenticator,
    multi_key_authenticator,
    single_key_authenticator,
)
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.transactions import EntryFunction, RawTransaction, signed_transaction, signing_message
from nodewright_aptos_api.document import Part
from nodewright_aptos_api.errors import ERROR_CODES
from nodewright_aptos_api.requests import Requests

pytest.importorskip("aptos_sdk")

BCS = "application/x-bcs"
STORE = "0x1::coin::CoinStore<0x1::aptos_coin::AptosCoin>"
APT = "0x1::aptos_coin::AptosCoin"


def digest(name: str, data: bytes) -> str:
    return "0x" + hashlib.sha3_256(hashlib.sha3_256(f"APTOS::{name}".encode()).digest() + data).hexdigest()


def hexadecimal(data: bytes) -> str:
    return "0x" + data.hex()


# --- Aptos's structures, by the SDK's deserialiser ---------------------------------------------------------------------


def whole(data: bytes, read: Callable[[Any], Any]) -> Any:
    from aptos_sdk.bcs import Deserializer

    reader = Deserializer(data)
    found = read(reader)
    assert reader.remaining() == 0
    return found


def many(read: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    return lambda reader: reader.sequence(read)


def option(reader: Any, read: Callable[[], Any]) -> Any:
    return read() if reader.bool() else None


def address(reader: Any) -> str:
    from aptos_sdk.account_address import AccountAddress

    return str(reader.struct(AccountAddress))


def transaction(reader: Any) -> tuple[str, Any]:
    """Its kind and what is in it."""
    from aptos_sdk.transactions import SignedTransaction

    kind = reader.uleb128()
    if kind == 0:
        return "user_transaction", reader.struct(SignedTransaction)
    if kind == 1:
        assert reader.uleb128() == 0  # a change set
        return "genesis_transaction", (write_set(reader), reader.sequence(event))
    if kind == 2:
        id, epoch, round, proposer = reader.to_bytes(), reader.u64(), reader.u64(), address(reader)
        votes, failed = reader.to_bytes(), reader.sequence(lambda inner: inner.u32())
        return "block_metadata_transaction", {
            "id": hexadecimal(id),
            "epoch": str(epoch),
            "round": str(round),
            "proposer": proposer,
            "previous_block_votes_bitvec": list(votes),
            "failed_proposer_indices": failed,
            "timestamp": str(reader.u64()),
        }
    assert kind == 3
    return "state_checkpoint_transaction", hexadecimal(reader.to_bytes())


def info(reader: Any) -> dict[str, Any]:
    assert reader.uleb128() == 0
    gas, status = reader.u64(), reader.uleb128()
    if status == 2:  # an abort: where, code, what it means
        if reader.uleb128() == 0:
            address(reader), reader.str()
        reader.u64(), option(reader, lambda: (reader.str(), reader.str()))
    elif status == 4:
        assert not reader.bool()
    hashes = [hexadecimal(reader.to_bytes()) for _ in range(3)]
    checkpoint = option(reader, reader.to_bytes)
    assert not reader.bool()
    return {
        "gas_used": str(gas),
        "success": status == 0,
        "hash": hashes[0],
        "event_root_hash": hashes[1],
        "state_change_hash": hashes[2],
        "state_checkpoint_hash": None if checkpoint is None else hexadecimal(checkpoint),
    }


def event(reader: Any) -> dict[str, Any]:
    from aptos_sdk.type_tag import TypeTag

    module_event = reader.uleb128() == 1
    creation, where, sequence = (0, "0x0", 0) if module_event else (reader.u64(), address(reader), reader.u64())
    return {
        "guid": {"creation_number": str(creation), "account_address": where},
        "sequence_number": str(sequence),
        "type": str(reader.struct(TypeTag)),
        "data": reader.to_bytes(),
    }


def write_set(reader: Any) -> list[tuple[str, str, bytes]]:
    """(hash of the state key, operation, value)"""
    assert reader.uleb128() == 0
    found = []
    for _ in range(reader.uleb128()):
        kind = reader.uleb128()
        where = reader.fixed_bytes(32)
        rest = reader.to_bytes()
        path = bytes([len(rest) & 0x7F | 0x80, len(rest) >> 7]) if len(rest) > 127 else bytes([len(rest)])
        key = bytes([kind]) + where + (path if kind == 0 else b"") + rest
        operation = reader.uleb128()
        found.append((digest("StateKey", key), "delete" if operation == 2 else "write", b""))
        if operation != 2:
            found[-1] = (*found[-1][:2], reader.to_bytes())
    return found


def on_chain(reader: Any) -> dict[str, Any]:
    version, (kind, body), told = reader.u64(), transaction(reader), info(reader)
    events, root = reader.sequence(event), reader.to_bytes()
    return told | {
        "version": str(version),
        "type": kind,
        "body": body,
        "events": events,
        "accumulator_root_hash": hexadecimal(root),
        "changes": write_set(reader),
    }


def found(reader: Any) -> Any:
    """What by_hash and by_version answer: one that is committed, or a SignedTransaction that waits."""
    from aptos_sdk.transactions import SignedTransaction

    return on_chain(reader) if reader.uleb128() == 0 else reader.struct(SignedTransaction)


def agree(shown: dict[str, Any], read: dict[str, Any]) -> None:
    """That both tell of the same transaction, and its body is what the hash is of."""
    for name in ("version", "type", "gas_used", "success", "accumulator_root_hash", "hash"):
        assert shown[name] == read[name], name
    for name in ("event_root_hash", "state_change_hash", "state_checkpoint_hash"):
        assert shown[name] == read[name], name
    assert [one["state_key_hash"] for one in shown["changes"]] == [key for key, _, _ in read["changes"]]
    assert [one["type"].partition("_")[0] for one in shown["changes"]] == [how for _, how, _ in read["changes"]]
    for one, other in zip(shown.get("events", ()), read["events"], strict=True):
        same = {name: one[name] for name in ("sequence_number", "type")}
        assert same == {name: other[name] for name in same}
        assert one["guid"]["creation_number"] == other["guid"]["creation_number"]
        if "amount" in one["data"]:
            assert int(one["data"]["amount"]) == int.from_bytes(other["data"], "little")
    body = read["body"]
    if read["type"] == "user_transaction":
        assert digest("Transaction", b"\0" + body.bytes()) == shown["hash"]
        # (What the SDK has read of a SingleKey or a MultiKey it does not verify.)
        assert body.verify() or body.authenticator.variant == 4
        assert REQUESTS.signed(Part(shown), 4) == body.bytes()  # and JSON says as much as BCS
    elif read["type"] == "block_metadata_transaction":
        assert {name: shown[name] for name in body} == body
    elif read["type"] == "genesis_transaction":
        assert body[0] == read["changes"]


REQUESTS = Requests(installed_functions())


# --- a ledger with all kinds of transactions ---------------------------------------------------------------------------


class Chain:
    def __init__(self, client: Any) -> None:
        from coincurve import PrivateKey

        self.client = client
        self.edwards = [SigningKey(bytes([201 + at]) * 32) for at in range(3)]
        self.koblitz = PrivateKey(hashlib.sha256(b"k").digest())

    def get(self, path: str, read: Callable[[Any], Any], **params: Any) -> Any:
        """In BCS."""
        return whole(self.answer("GET", path, params=params or None).content, read)

    def answer(self, method: str, path: str, status: int = 200, **how: Any) -> Any:
        how["headers"] = {"Accept": BCS} | how.pop("headers", {})
        answer = self.client.http.request(method, path, **how)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == (BCS if status < 300 else "application/json")
        assert answer.headers.get("x-aptos-chain-id") == ("4" if status < 300 else None)
        return answer

    def send(self, kind: str, number: int, **changes: Any) -> tuple[bytes, Any]:
        """A transfer of 5 octas, signed in some way: its bytes, and what was answered."""
        ed = [(0, bytes(key.verify_key)) for key in self.edwards]
        secp = (1, self.koblitz.public_key.format(compressed=False))
        make: Callable[[bytes], Any] = {
            "ed25519": lambda message: ed25519_authenticator(ed[0][1], self.edwards[0].sign(message).signature),
            "single": lambda message: single_key_authenticator(secp, self.compact(message)),
            "multi": lambda message: multi_key_authenticator(
                (*ed[:2], secp), 2, ((1, self.edwards[1].sign(message).signature), (2, self.compact(message)))
            ),
            "sponsored": lambda message: ed25519_authenticator(ed[1][1], self.edwards[1].sign(message).signature),
        }[kind]
        sender = make(b"").authentication_key
        fields = {"max_gas": 10_000, "gas_price": 100, "expires_at": int(time.time()) + 300, "chain_id": 4} | changes
        arguments = (bytes(30) + b"\x5e\x9d", (5).to_bytes(8, "little"))
        call = EntryFunction.of(bytes(31) + b"\1", "aptos_account", "transfer", (), arguments)
        raw = RawTransaction(sender, number, call, **fields)
        if number == 0:
            self.client.fund(hexadecimal(sender), 100_000_000)
        if kind == "sponsored":
            payer = ed25519_authenticator(ed[0][1], b"").authentication_key
            message = signing_message(raw.encode(), (), payer)
            paying = ed25519_authenticator(ed[0][1], self.edwards[0].sign(message).signature)
            whole = signed_transaction(raw, make(message), (), (), payer, paying)
        else:
            whole = signed_transaction(raw, make(signing_message(raw.encode())))
        return whole, self.answer("POST", "/transactions", 202, content=whole, headers=SIGNED)

    def compact(self, message: bytes) -> bytes:
        return self.koblitz.sign_recoverable(hashlib.sha3_256(message).digest(), hasher=None)[:64]


SIGNED = {"Content-Type": "application/x.aptos.signed_transaction+bcs"}


@pytest.fixture(scope="module")
def alice() -> str:
    from aptos_sdk.account import Account

    return str(Account.load_key((bytes([201]) * 32).hex()).address())


@pytest.fixture
def chain(client: Any) -> Chain:
    return Chain(client)


def test_every_transaction_of_a_ledger_in_bcs(chain: Chain, client: Any, alice: str) -> None:
    for kind in ("ed25519", "single", "multi", "sponsored"):
        whole, answer = chain.send(kind, 0)
        assert answer.content == b"", "who wrote the transaction knows its hash"
        hash = digest("Transaction", b"\0" + whole)
        waiting_or_done = chain.get(f"/transactions/by_hash/{hash}", found)
        client.committed(hash)
        assert not isinstance(waiting_or_done, dict) or waiting_or_done["hash"] == hash
    too_much = chain.send("ed25519", 1, max_gas=5)[0]  # out of gas
    failed = client.committed(digest("Transaction", b"\0" + too_much))
    assert not failed["success"]

    last = int(failed["version"])
    kinds = set()
    for start in range(0, last + 1, 50):
        limit = min(50, last + 1 - start)
        shown = client.get("/transactions", start=start, limit=limit)
        read = chain.get("/transactions", many(on_chain), start=start, limit=limit)
        for one, other in zip(shown, read, strict=True):
            agree(one, other)
            kinds.add((other["type"], getattr(getattr(other["body"], "authenticator", None), "variant", None)))
    assert {kind for kind, _ in kinds} == {
        *("user_transaction", "genesis_transaction"),
        *("block_metadata_transaction", "state_checkpoint_transaction"),
    }
    assert {variant for _, variant in kinds} >= {0, 3, 4}

    for path in (f"/transactions/by_version/{last}", f"/transactions/by_hash/{failed['hash']}"):
        agree(client.get(path), chain.get(path, found))
    agree(client.get(f"/transactions/wait_by_hash/{failed['hash']}"), chain.get(path, found))
    mine = chain.get(f"/accounts/{alice}/transactions", many(on_chain))
    for one, other in zip(client.get(f"/accounts/{alice}/transactions"), mine, strict=True):
        agree(one, other)
    waiting, _ = chain.send("ed25519", 9, expires_at=int(time.time()) + 500)
    pending = chain.get(f"/transactions/by_hash/{digest('Transaction', bytes(1) + waiting)}", found)
    assert pending.bytes() == waiting


def test_blocks_in_bcs(chain: Chain, client: Any, alice: str) -> None:
    client.fund(alice, 5)

    def block(reader: Any) -> dict[str, Any]:
        height, id, timestamp = reader.u64(), reader.fixed_bytes(33), reader.u64()
        assert id[0] == 32
        first, last = reader.u64(), reader.u64()
        return {
            "block_height": str(height),
            "block_hash": hexadecimal(id[1:]),
            "block_timestamp": str(timestamp),
            "first_version": str(first),
            "last_version": str(last),
            "transactions": option(reader, lambda: reader.sequence(on_chain)),
        }

    for path in ("/blocks/by_height/0", "/blocks/by_height/1", "/blocks/by_version/2"):
        assert chain.get(path, block) == client.get(path) | {"transactions": None}
        shown, read = client.get(path, with_transactions="true"), chain.get(path, block, with_transactions="true")
        for one, other in zip(shown.pop("transactions"), read.pop("transactions"), strict=True):
            agree(one, other)
        assert shown == read


def test_accounts_and_state_in_bcs(chain: Chain, client: Any, alice: str) -> None:
    from aptos_sdk.account_address import AccountAddress
    from aptos_sdk.type_tag import StructTag

    client.fund(alice, 7)
    at = {"ledger_version": client.get("")["ledger_version"]}
    key, sequence, *_ = account = chain.get(
        f"/accounts/{alice}", lambda reader: [reader.to_bytes(), reader.u64(), reader.fixed_bytes(reader.remaining())], **at
    )
    assert len(account[2]) == 147 - 41
    assert client.get(f"/accounts/{alice}", **at) == {
        "sequence_number": str(sequence),
        "authentication_key": hexadecimal(key),
    }
    octas = client.get(f"/accounts/{alice}/balance/{APT}", **at)
    assert chain.get(f"/accounts/{alice}/balance/{APT}", lambda reader: reader.u64(), **at) == octas

    def entry(reader: Any) -> tuple[str, bytes]:
        return str(reader.struct(StructTag)), reader.to_bytes()

    resources = chain.get(f"/accounts/{alice}/resources", many(entry), **at)
    shown = client.get(f"/accounts/{alice}/resources", **at)
    assert sorted(name for name, _ in resources) == sorted(one["type"] for one in shown)
    assert int.from_bytes(dict(resources)[STORE][:8], "little") == octas
    for name, value in resources:
        assert chain.answer("GET", f"/accounts/{alice}/resource/{name}", params=at).content == value
    one = chain.answer("GET", f"/accounts/{alice}/resources", params={"limit": 1})
    assert one.headers["x-aptos-cursor"] and whole(one.content, many(entry))[0] in resources

    events = client.get(f"/accounts/{alice}/events/{STORE}/deposit_events")
    read = chain.get(f"/accounts/{alice}/events/2", many(lambda reader: (reader.u64(), event(reader))))
    assert read == chain.get(
        f"/accounts/{alice}/events/{STORE}/deposit_events", many(lambda reader: (reader.u64(), event(reader)))
    )
    for told, (version, other) in zip(events, read, strict=True):
        assert (told["version"], told["guid"]) == (str(version), other["guid"])
        assert int(told["data"]["amount"]) == int.from_bytes(other["data"], "little")

    # The supply of coins is an item of a table.
    info = client.get(f"/accounts/0x1/resource/0x1::coin::CoinInfo<{APT}>")["data"]
    table = info["supply"]["vec"][0]["aggregator"]["vec"][0]
    handle, item = table["handle"], table["key"]
    asked = {"key_type": "address", "value_type": "u128", "key": item}
    supply = client.http.post(f"/tables/{handle}/item", json=asked, params=at).json()
    raw = {"json": {"key": item}, "params": at}
    for path, how in ((f"/tables/{handle}/item", {"json": asked, "params": at}), (f"/tables/{handle}/raw_item", raw)):
        answer = chain.answer("POST", path, **how)
        assert str(whole(answer.content, lambda reader: reader.u128())) == supply
    state_key = "0x01" + handle[2:] + "20" + item[2:]
    answer = chain.answer("POST", "/experimental/state_values/raw", json={"key": state_key}, params=at)
    assert answer.content == b"\0\x10" + int(supply).to_bytes(16, "little")
    path = b"\1" + AccountAddress.from_str("0x1").address + b"\x07account\x07Account\0"
    named = "0x00" + AccountAddress.from_str(alice).address.hex() + f"{len(path):02x}" + path.hex()
    answer = chain.answer("POST", "/experimental/state_values/raw", json={"key": named}, params=at)
    assert whole(answer.content, lambda reader: (reader.u8(), reader.to_bytes()))[1][:33] == b"\x20" + key

    for path, body in (("/tables/0x1/raw_item", {"key": "0x00"}), ("/experimental/state_values/raw", {"key": named})):
        assert client.http.post(path, json=body).json()["error_code"] == "api_disabled"
        for wrong in ({}, {"key": 5}, {"key": "0x0"}, {"key": "text"}):
            assert chain.answer("POST", path, 400, json=wrong).json()["message"].startswith("key: ")
    for code, path, key in (
        ("table_item_not_found", "/tables/0x1/raw_item", "0x"),
        ("table_item_not_found", "/tables/0x1/raw_item", "00" * 9000),
        ("state_value_not_found", "/experimental/state_values/raw", "0x01" + "00" * 32 + "b403" + "00" * 436),
        ("state_value_not_found", "/experimental/state_values/raw", "0x00" + "00" * 32 + "0100"),
        ("state_value_not_found", "/experimental/state_values/raw", named[:4] + "11" * 32 + named[68:]),
        ("invalid_input", "/experimental/state_values/raw", "0x02"),
        ("invalid_input", "/experimental/state_values/raw", "0x00" + "00" * 32 + "0101"),
        ("invalid_input", "/experimental/state_values/raw", named + "00"),
    ):
        status = 404 if "found" in code else 400
        assert chain.answer("POST", path, status, json={"key": key}).json()["error_code"] == code


def test_views_the_index_and_small_things_in_bcs(chain: Chain, client: Any, alice: str) -> None:
    client.fund(alice, 3)
    for function, types, arguments, read in (
        ("0x1::coin::balance", [APT], [alice], lambda reader: str(reader.u64())),
        ("0x1::coin::name", [APT], [], lambda reader: reader.str()),
        ("0x1::coin::decimals", [APT], [], lambda reader: reader.u8()),
        ("0x1::account::exists_at", [], [alice], lambda reader: reader.bool()),
        ("0x1::account::get_authentication_key", [], [alice], lambda reader: hexadecimal(reader.to_bytes())),
        ("0x1::coin::supply", [APT], [], lambda reader: {"vec": reader.sequence(lambda inner: str(inner.u128()))}),
    ):
        call = {"function": function, "type_arguments": types, "arguments": arguments}
        at = {"ledger_version": client.get("")["ledger_version"]}
        (shown,) = client.http.post("/view", json=call, params=at).json()
        answer = chain.answer("POST", "/view", json=call, params=at)
        (value,) = whole(answer.content, many(lambda reader: reader.to_bytes()))
        assert whole(value, read) == shown, function

    answer = chain.answer("GET", "")
    numbers = whole(
        answer.content,
        lambda reader: [reader.u8(), *(reader.str() for _ in range(4)), reader.uleb128(), reader.str(), reader.str()],
    )
    names = ("Chain-Id", "Epoch", "Ledger-Version", "Ledger-Oldest-Version", "Ledger-TimestampUsec")
    told = [answer.headers[f"X-Aptos-{name}"] for name in (*names, "Oldest-Block-Height", "Block-Height")]
    assert [str(one) for one in (*numbers[:5], *numbers[6:])] == told and numbers[5] == 1
    assert chain.get("/-/healthy", lambda reader: reader.str()) == "aptos-node:ok"
    assert (
        chain.get("/estimate_gas_price", lambda reader: reader.u64()) == client.get("/estimate_gas_price")["gas_estimate"]
    )


def test_simulations_and_batches_in_bcs(chain: Chain, client: Any, wallet: Any) -> None:
    frank = wallet(206)
    client.fund(frank.text, 100_000_000)
    blank = frank.transfer(0, frank.address, 5, bad_signature=True)
    read = whole(chain.answer("POST", "/transactions/simulate", content=blank, headers=SIGNED).content, on_chain)
    (shown,) = client.http.post("/transactions/simulate", content=blank, headers=SIGNED).json()
    assert read["body"].bytes() == blank and read["success"]
    for name in ("version", "hash", "gas_used", "success", "type"):
        assert read[name] == shown[name]

    batch = b"\2" + blank + frank.transfer(0, frank.address, 5)
    answer = chain.answer("POST", "/transactions/batch", 206, content=batch, headers=SIGNED)

    def failure(reader: Any) -> tuple[str, str, int | None, int]:
        return reader.str(), ERROR_CODES[reader.uleb128()], option(reader, reader.u64), reader.u64()

    ((message, code, number, place),) = whole(answer.content, many(failure))
    assert "INVALID_SIGNATURE" in message and (code, number, place) == ("vm_error", 1, 0)
    more = b"\1" + frank.transfer(1, frank.address, 5)
    assert chain.answer("POST", "/transactions/batch", 202, content=more, headers=SIGNED).content == b"\0"


def test_what_is_not_told_in_bcs_and_who_asks_for_neither(chain: Chain, client: Any) -> None:
    for path in ("/accounts/0x1/modules", "/accounts/0x1/module/coin"):
        told = chain.answer("GET", path, 400).json()
        assert told["error_code"] == "bcs_not_supported" and "bytecode" in told["message"]
    encode = "/transactions/encode_submission"
    assert chain.answer("POST", encode, 400, json={}).json()["error_code"] == "bcs_not_supported"
    missing = chain.answer("GET", "/accounts/0xdead", 404).json()
    assert missing["error_code"] == "account_not_found"
    for accept, type in (
        ("application/x-bcs", BCS),
        ("application/json", "application/json"),
        ("application/json, application/x-bcs", "application/json"),
        ("application/x-bcs, application/json", BCS),
        ("application/json;q=0.5, Application/X-BCS;q=0.9", BCS),
        ("application/x-bcs;q=0, */*", "application/json"),
        ("application/x-bcs;q=much", "application/json"),
        ("image/png", "application/json"),  # as upstream: who wants neither gets JSON
        ("*/*", "application/json"),
        ("", "application/json"),
        (",;;q=,;" * 20, "application/json"),
    ):
        answer = client.http.get("/estimate_gas_price", headers={"Accept": accept})
        assert answer.status_code == 200 and answer.headers["content-type"] == type, accept
