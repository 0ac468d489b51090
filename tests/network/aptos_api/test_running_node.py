"""The REST API and the faucet of a running node: what SDKs do not try."""

from __future__ import annotations

import concurrent.futures
import json
import random
from typing import Any

import httpx
import pytest

from nodewright_aptos import bcs
from nodewright_aptos.addresses import ONE
from nodewright_aptos.transactions import EntryFunction

BCS = {"Content-Type": "application/x.aptos.signed_transaction+bcs"}


def test_the_ledger_is_told_in_every_header(client: Any) -> None:
    answer = client.http.get("")
    document = answer.json()
    assert document["chain_id"] == 4 and document["node_role"] == "full_node"
    for name, key in {
        "X-Aptos-Chain-Id": "chain_id",
        "X-Aptos-Epoch": "epoch",
        "X-Aptos-Ledger-Version": "ledger_version",
        "X-Aptos-Ledger-Oldest-Version": "oldest_ledger_version",
        "X-Aptos-Ledger-TimestampUsec": "ledger_timestamp",
        "X-Aptos-Block-Height": "block_height",
        "X-Aptos-Oldest-Block-Height": "oldest_block_height",
    }.items():
        assert answer.headers[name] == str(document[key])
    client.fund("0x5", 1)  # there is a block, made now
    assert client.get("/-/healthy", duration_secs=600)["message"] == "aptos-node:ok"
    assert client.get("/estimate_gas_price")["gas_estimate"] == 100


def test_what_was_answered_202_is_followed_to_its_end(client: Any, wallet: Any) -> None:
    alice, bob = wallet(1), wallet(2)
    client.fund(alice.text, 1_000_000_000)
    pending = client.submit(alice.transfer(0, bob.address, 5))
    assert pending["type"] == "pending_transaction" and pending["sequence_number"] == "0"
    assert client.submit(alice.transfer(0, bob.address, 6), 400)["error_code"] == "invalid_transaction_update"
    told = client.committed(pending["hash"])
    assert told["success"] and told["payload"] == pending["payload"] and told["signature"] == pending["signature"]
    assert {event["type"] for event in told["events"]} >= {"0x1::coin::WithdrawEvent", "0x1::coin::DepositEvent"}
    assert client.get(f"/accounts/{bob.text}/balance/0x1::aptos_coin::AptosCoin") == 5
    assert client.get(f"/accounts/{bob.text}/balance/0xa") == 5
    before = int(told["version"]) - 2
    assert client.get(f"/accounts/{bob.text}/balance/0xa", ledger_version=before) == 0
    store = "0x1::coin::CoinStore<0x1::aptos_coin::AptosCoin>"
    (event,) = client.get(f"/accounts/{bob.text}/events/{store}/deposit_events")
    assert event["version"] == told["version"] and event["data"] == {"amount": "5"}
    assert client.get(f"/accounts/{bob.text}/events/2") == [event]
    assert int(told["timestamp"]) % 1_000_000 > 1000, "the clock has microseconds"
    block = client.get(f"/blocks/by_version/{told['version']}", with_transactions="true")
    kinds = [one["type"] for one in block["transactions"]]
    assert kinds[0] == "block_metadata_transaction" and kinds[-1] == "state_checkpoint_transaction"
    assert told["hash"] in [one["hash"] for one in block["transactions"]]
    last = block["transactions"][-1]
    assert int(block["last_version"]) == int(last["version"]) and last["state_checkpoint_hash"]
    # One that expires before its turn: 404 at the end, and the message says why.
    late = client.submit(alice.transfer(7, bob.address, 1, expires_at=_now(client) + 3))
    assert client.get(f"/transactions/by_hash/{late['hash']}")["type"] == "pending_transaction"
    for _ in range(60):
        answer = client.http.get(f"/transactions/wait_by_hash/{late['hash']}")
        if answer.status_code == 404:
            break
        assert answer.json()["type"] == "pending_transaction"
    assert answer.json()["error_code"] == "transaction_not_found" and "expired" in answer.json()["message"]


def _now(client: Any) -> int:
    return int(client.get("")["ledger_timestamp"]) // 1_000_000


def test_refusals_have_their_numbers(client: Any, wallet: Any) -> None:
    carol, stranger = wallet(3), wallet(4)
    client.fund(carol.text, 100_000_000)
    script = EntryFunction.of(ONE, "no_such", "thing", (), ())

    def number(raw: bytes) -> int:
        document = client.submit(raw, 400)
        assert document["error_code"] == "vm_error", document
        return int(document["vm_error_code"])

    assert number(carol.transfer(0, stranger.address, 1, bad_signature=True)) == 1
    assert number(carol.transfer(1 << 60, stranger.address, 1)) == 4
    assert number(carol.transfer(0, stranger.address, 1, max_gas=2_000_000)) == 5
    assert number(carol.transfer(0, stranger.address, 1, expires_at=1)) == 6
    assert number(stranger.transfer(0, carol.address, 1)) == 7
    assert number(carol.transfer(0, stranger.address, 1, chain_id=1)) == 23
    assert number(carol.transfer(0, stranger.address, 1, call=script)) == 12
    assert client.submit(b"garbage", 400)["error_code"] == "invalid_input"
    assert client.submit(b"\0" * 70_000, 413)["error_code"] == "invalid_input"
    wrong = client.http.post("/transactions", content=b"text", headers={"Content-Type": "text/plain"})
    assert wrong.status_code == 415 and "application/x.aptos.signed_transaction+bcs" in wrong.json()["message"]

    good, bad = carol.transfer(0, stranger.address, 1), carol.transfer(1, stranger.address, 1, bad_signature=True)
    answer = client.http.post("/transactions/batch", content=bcs.uleb(2) + good + bad, headers=BCS)
    assert answer.status_code == 206
    (failure,) = answer.json()["transaction_failures"]
    assert failure["transaction_index"] == 1 and failure["error"]["vm_error_code"] == 1
    simulated = client.http.post("/transactions/simulate", content=carol.transfer(1, stranger.address, 1), headers=BCS)
    assert simulated.status_code == 400 and "must not have a valid signature" in simulated.json()["message"]


def test_what_is_not_there_is_named(client: Any) -> None:
    def code(path: str, status: int = 404, **params: Any) -> str:
        document = client.get(path, status, **params)
        assert set(document) == {"message", "error_code", "vm_error_code"}
        return str(document["error_code"])

    assert code("/accounts/0xdead") == "account_not_found"
    assert code("/accounts/0x1/resource/0x1::coin::Nothing") == "resource_not_found"
    assert code("/accounts/0x1/module/nothing") == "module_not_found"
    assert code("/transactions/by_hash/0x" + "00" * 32) == "transaction_not_found"
    assert code("/transactions/by_version/99999999999") == "version_not_found"
    assert code("/blocks/by_height/99999999999") == "block_not_found"
    assert code("/accounts/0x1", ledger_version=99999999999) == "version_not_found"
    assert code("/accounts/0x1/events/0x1::account::Account/nothing") == "struct_field_not_found"
    assert code("/nothing") == "web_framework_error"
    for bad in (
        "/accounts/0xxyz",
        "/accounts/0x1/resource/bad",
        "/transactions/by_hash/12",
        "/transactions/by_version/-1",
        "/blocks/by_height/9" + "9" * 30,
        "/transactions?limit=x",
        "/transactions?start=1e3",
        "/accounts/0x1/resources?start=00",
    ):
        assert code(bad, 400) == "invalid_input"
    for text in (
        b'{"function": "0x1::coin::\\ud800", "type_arguments": [], "arguments": []}',
        b'{"key_type": "0x1::string::String", "value_type": "u8", "key": "\\ud800"}',
        b'{"key_type": "vector<u8>", "value_type": "u8", "key": 5}',
    ):
        for path in ("/view", "/tables/0x1/item"):
            assert client.http.post(path, content=text).status_code == 400, (path, text)
    long = {"key_type": "vector<u8>", "value_type": "u8", "key": "0x" + "00" * 100_000}
    assert client.http.post("/tables/0x1/item", json=long).status_code == 404
    for start in ({"params": {"start_version": str(2**64 - 1)}}, {"headers": {"Last-Event-ID": str(2**64 - 1)}}):
        assert client.http.get("/transactions/stream", **start).status_code == 404
    assert code("/accounts/0x1/resources?limit=0", 400) == "invalid_input"
    answer = client.http.post("/view", json={"function": "0x1::coin::nothing", "type_arguments": [], "arguments": []})
    assert answer.status_code == 400 and "Move VM" in answer.json()["message"]


def test_garbage_is_refused_and_nothing_breaks(client: Any) -> None:
    dice = random.Random(5)
    paths = ["/transactions", "/transactions/batch", "/transactions/simulate", "/view", "/tables/0x1/item"]
    types = [BCS["Content-Type"], "application/x.aptos.view_function+bcs", "application/json", "text/plain"]
    for _ in range(60):
        body = dice.randbytes(dice.randrange(300))
        answer = client.http.post(dice.choice(paths), content=body, headers={"Content-Type": dice.choice(types)})
        assert answer.status_code in (400, 413, 415), (answer.status_code, answer.text)
    deep = b"[" * 100_000
    assert client.http.post("/view", content=deep, headers={"Content-Type": "application/json"}).status_code == 400
    assert client.http.post("/transactions", content=bytes(500_000), headers=BCS).status_code == 413
    assert httpx.get(f"{client.url}/health").json()["ready"]


def test_the_stream_gives_each_transaction_once_and_goes_on_where_it_was_left(client: Any, wallet: Any) -> None:
    dora = wallet(5)

    def read(count: int, **how: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        with client.http.stream("GET", "/transactions/stream", **how) as answer:
            assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    found.append(json.loads(line[6:]))
                    if len(found) == count:
                        return found
        raise AssertionError("the stream ended")

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(read, 6, params={"start_version": "0"})
        funded = client.fund(dora.text, 10)
        versions = [int(one["version"]) for one in first.result()]
    assert versions == list(range(6))
    rest = read(int(funded["version"]) - 5, headers={"Last-Event-ID": "5"})
    assert [int(one["version"]) for one in rest] == list(range(6, int(funded["version"]) + 1))
    assert rest[-1]["hash"] == funded["hash"]


def test_the_faucet_says_what_it_does_not_give(client: Any) -> None:
    assert httpx.get(client.faucet).text == "tap:ok"
    for body in ({"address": "0xbad address", "amount": 1}, {"amount": 1}, {"address": "0x1", "amount": -1}, [1]):
        assert httpx.post(f"{client.faucet}/fund", json=body).status_code == 400
    much = httpx.post(f"{client.faucet}/mint", params={"address": "0x77", "amount": 10**12})
    assert much.status_code == 400 and "at most 1000000000 octas" in much.json()["message"]


def test_what_the_faucet_could_not_give_is_no_200(client: Any) -> None:
    answer = httpx.post(f"{client.faucet}/mint", params={"address": "0x0", "amount": "9"}, timeout=60)
    assert answer.status_code == 400 and "ECANNOT_RESERVED_ADDRESS" in answer.json()["message"]


def test_many_ask_the_faucet_at_once(client: Any) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda at: client.fund(f"0x{4096 + at:x}", at), range(24)))
    assert all(one["success"] for one in told)
    numbers = sorted(int(one["sequence_number"]) for one in told)
    assert numbers == list(range(numbers[0], numbers[0] + 24))


@pytest.mark.slow
def test_a_killed_node_knows_what_it_had_answered(process: Any, client: Any, wallet: Any, budget: int) -> None:
    erin, frank = wallet(6), wallet(7)
    client.fund(erin.text, 1_000_000_000)
    number = 0
    for _ in range(2 * budget):
        hashes = []
        for _ in range(40):
            hashes.append(client.submit(erin.transfer(number, frank.address, 1))["hash"])
            number += 1
        process.kill()
        process.start()
        client = type(client)(process)
        assert all(client.committed(hash)["success"] for hash in hashes)
        assert client.get(f"/accounts/{frank.text}/balance/0xa") == number
