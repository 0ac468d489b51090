"""What blocks changed, asked as NEAR's clients ask it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from nacl.signing import SigningKey

from nodewright_near.accounts import FULL_ACCESS, AccessKey
from nodewright_near.primitives import base58, key_text
from nodewright_near.transactions import AddKey, CreateAccount, DeleteKey, DeployContract, FunctionCall, Transfer

NEAR = 10**24
BOOK = r"""
(module
  (import "env" "input" (func $input (param i64)))
  (import "env" "storage_write" (func $write (param i64 i64 i64 i64 i64) (result i64)))
  (memory 1)
  (data (i32.const 0) "entry")
  (func (export "set")
    (call $input (i64.const 1))
    (drop (call $write (i64.const 5) (i64.const 0) (i64.const -1) (i64.const 1) (i64.const 2)))))
"""


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory, helpers: Any) -> Iterator[Any]:
    yield from helpers.started(tmp_path_factory.mktemp("changes"), **{"execution.save_state_changes": "true"})


def test_rows_that_a_block_changed_and_why(recorder: Any) -> None:
    wasmtime = pytest.importorskip("wasmtime")
    key, code = SigningKey.generate(), bytes(wasmtime.wat2wasm(BOOK))
    public = b"\0" + bytes(key.verify_key)
    made = (CreateAccount(), Transfer(10 * NEAR), AddKey(public, AccessKey(0, FULL_ACCESS)), DeployContract(code))
    first = recorder.sign("kid.sandbox", *made, FunctionCall("set", b"hello", 10**13, 0))
    receipt = recorder.send(first, "FINAL")["receipts_outcome"][0]
    block = {"block_id": receipt["block_hash"]}
    cause = {"type": "receipt_processing", "receipt_hash": receipt["id"]}
    kid = {"account_ids": ["kid.sandbox"]}

    def asked(kind: str, **named: Any) -> Any:
        answer = recorder.result("EXPERIMENTAL_changes", {"changes_type": kind, **named, **block})
        assert answer["block_hash"] == block["block_id"]
        assert all(set(one) == {"cause", "type", "change"} for one in answer["changes"])
        return answer["changes"]

    (account,) = asked("account_changes", **kid)
    assert account["cause"] == cause and account["type"] == "account_update"
    viewed = recorder.query("view_account", account_id="kid.sandbox")
    fields = ("amount", "locked", "code_hash", "storage_usage", "storage_paid_at")
    assert account["change"] == {"account_id": "kid.sandbox", **{name: viewed[name] for name in fields}}
    (added,) = asked("all_access_key_changes", **kid)
    assert (added["type"], added["change"]["public_key"]) == ("access_key_update", key_text(public))
    assert added["change"]["access_key"]["permission"] == "FullAccess"
    assert asked("single_access_key_changes", keys=[{"account_id": "kid.sandbox", "public_key": key_text(public)}]) == [
        added
    ]
    (deployed,) = asked("contract_code_changes", **kid)
    assert base64.b64decode(deployed["change"]["code_base64"]) == code
    (written,) = asked("data_changes", **kid, key_prefix_base64="")
    assert written["type"] == "data_update" and written["cause"] == cause
    row = {"account_id": "kid.sandbox", "key_base64": "ZW50cnk=", "value_base64": "aGVsbG8="}
    assert written["change"] == row
    assert asked("data_changes", **kid, key_prefix_base64="ZW8=") == asked("account_changes", account_ids=["other"]) == []
    touched = recorder.result("EXPERIMENTAL_changes_in_block", block)["changes"]
    kinds = {"account_touched", "access_key_touched", "contract_code_touched", "data_touched"}
    assert {one["type"] for one in touched if one["account_id"] == "kid.sandbox"} == kinds

    nonce = added["change"]["access_key"]["nonce"] + 1
    gone = recorder.sign("kid.sandbox", DeleteKey(public), signer="kid.sandbox", key=key, nonce=nonce)
    block["block_id"] = recorder.send(gone, "FINAL")["transaction_outcome"]["block_hash"]
    (deleted,) = asked("all_access_key_changes", **kid)
    assert deleted["type"] == "access_key_deletion"
    assert deleted["change"] == {"account_id": "kid.sandbox", "public_key": key_text(public)}

    sent = recorder.sign("validator0", Transfer(1))
    block["block_id"] = recorder.send(sent, "FINAL")["transaction_outcome"]["block_hash"]
    (paid,) = asked("account_changes", account_ids=["sandbox"])
    assert paid["cause"] == {"type": "transaction_processing", "tx_hash": base58(sent.id)}


def test_what_is_asked_wrongly_or_not_kept_is_named(recorder: Any, client: Any) -> None:
    for params in (
        {"changes_type": "account_changes", "finality": "final"},
        {"changes_type": "account_changes", "account_ids": "sandbox", "finality": "final"},
        {"changes_type": "account_changes", "account_ids": ["Not One"], "finality": "final"},
        {"changes_type": "nothing", "account_ids": [], "finality": "final"},
        {"changes_type": "account_changes", "account_ids": ["sandbox"]},
        {"changes_type": "single_access_key_changes", "keys": [1], "finality": "final"},
        {"account_ids": ["sandbox"], "finality": "final"},
    ):
        status, error = recorder.error("EXPERIMENTAL_changes", params)
        assert (status, error["cause"]["name"], error["code"]) == (400, "PARSE_ERROR", -32700)
    asked = {"changes_type": "account_changes", "account_ids": ["sandbox"]}
    assert recorder.error("changes", asked | {"block_id": 10**9})[1]["cause"]["name"] == "UNKNOWN_BLOCK"
    block = client.send(client.sign("validator0", Transfer(1)), "FINAL")["transaction_outcome"]["block_hash"]
    status, error = client.error("changes", asked | {"block_id": block})
    assert (status, error["cause"]["name"]) == (200, "NOT_SYNCED_YET") and "save_state_changes = true" in error["data"]
