"""The API of one running node: shapes, errors by name, wait levels, proofs, and input that is none of what was asked."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nodewright_near.accounts import FULL_ACCESS, AccessKey, FunctionCallPermission
from nodewright_near.merkle import Left, MerkleStep, Right, climb
from nodewright_near.outcomes import Outcome, SuccessReceiptId, SuccessValue
from nodewright_near.primitives import base58, hash256, key_text, parse_hash
from nodewright_near.transactions import AddKey, CreateAccount, DeleteKey, DeployContract, FunctionCall, Transfer
from nodewright_near_api.batches import join

NEAR = 10**24
NOBODY = "nobody.sandbox"
NO_HASH = "1" * 32


def made(client: Any, name: str, key: SigningKey, amount: int = 10 * NEAR) -> str:
    account = f"{name}.sandbox"
    actions = (CreateAccount(), Transfer(amount), AddKey(b"\0" + bytes(key.verify_key), AccessKey(0, FULL_ACCESS)))
    answer = client.send(client.sign(account, *actions), "FINAL")
    assert "SuccessValue" in answer["status"], answer
    return account


# --- blocks and the node ----------------------------------------------------------------------------------------------


def test_blocks_by_every_reference(client: Any) -> None:
    client.send(client.sign("validator0", Transfer(1)), "FINAL")  # not the genesis alone
    final = client.result("block", {"finality": "final"})
    header = final["header"]
    assert final["author"] == "validator0"
    assert header["hash"] == client.result("block", [header["hash"]])["header"]["hash"]
    assert header["hash"] == client.result("block", {"block_id": header["height"]})["header"]["hash"]
    assert client.result("block", {"finality": "near-final"})["header"]["height"] >= header["height"]
    assert client.result("block", {"sync_checkpoint": "genesis"})["header"]["height"] == 0
    chunk = final["chunks"][0]
    by_hash = client.result("chunk", [chunk["chunk_hash"]])
    by_place = client.result("chunk", {"block_id": header["height"], "shard_id": 0})
    assert by_hash == by_place
    assert by_hash["header"] == chunk and chunk["height_included"] == header["height"]
    assert by_hash["header"]["chunk_hash"] == chunk["chunk_hash"]
    first = client.result("chunk", [0, 0])
    assert (first["header"]["height_included"], first["transactions"], first["receipts"]) == (0, [], [])
    assert client.result("gas_price", [None]) == client.result("gas_price", [header["hash"]]) == {"gas_price": "100000000"}


def test_the_node_tells_of_itself(client: Any) -> None:
    key = client.result("validators", [None])["current_validators"][0]["public_key"]
    # One client asks for the status with parameters that have no meaning there.
    for params in ({"finality": "final"}, [], None):
        status = client.result("status", params)
        assert status["chain_id"] == "localnet" and not status["sync_info"]["syncing"]
        assert (status["validator_account_id"], status["validator_public_key"]) == ("validator0", key)
    code, body, _ = client.request("GET", "/status")
    assert code == 200 and json.loads(body)["genesis_hash"] == status["genesis_hash"]
    code, body, _ = client.request("GET", "/health")
    assert code == 200 and json.loads(body)["ready"]
    code, body, _ = client.request("GET", "/metrics")
    assert code == 200 and b"near_http_rpc_requests_total" in body
    assert client.result("health") is None
    assert client.result("network_info")["num_active_peers"] == 0
    (validator,) = client.result("validators", [None])["current_validators"]
    assert validator["account_id"] == "validator0" and validator["stake"] == str(50_000 * NEAR)
    (by_epoch,) = client.result("validators", {"epoch_id": status["sync_info"]["epoch_id"]})["current_validators"]
    # What it has made and was to make grows from one call to the next.
    assert {name for name in validator if validator[name] != by_epoch[name]} <= {
        f"num_{done}_{what}" for done in ("produced", "expected") for what in ("blocks", "chunks")
    }
    config = client.result("EXPERIMENTAL_protocol_config", {"finality": "final"})
    assert config["runtime_config"]["storage_amount_per_byte"] == str(10**19)
    transfer = config["runtime_config"]["transaction_costs"]["action_creation_config"]["transfer_cost"]
    assert transfer == {"send_sir": 115123062500, "send_not_sir": 115123062500, "execution": 115123062500}


def test_pages_of_allowed_origins_may_call(client: Any) -> None:
    asked = {"origin": "http://localhost:1234", "access-control-request-method": "POST"}
    code, _, headers = client.request("OPTIONS", "/", headers=asked)
    assert code == 200 and headers["access-control-allow-origin"] == asked["origin"]
    code, _, headers = client.request("OPTIONS", "/", headers=asked | {"origin": "http://elsewhere"})
    assert "access-control-allow-origin" not in headers


# --- accounts and keys ------------------------------------------------------------------------------------------------


def test_queries_by_path_and_by_name_are_the_same(client: Any, helpers: Any) -> None:
    key = key_text(helpers.public(helpers.root))
    by_path = client.result("query", ["account/validator0", ""])
    by_name = client.query("view_account", account_id="validator0")
    places = {"block_height", "block_hash"}
    assert by_path["locked"] == by_name["locked"] == str(50_000 * NEAR)
    assert set(by_path) == {"amount", "locked", "code_hash", "storage_usage", "storage_paid_at"} | places
    bare = client.query("view_access_key", account_id="sandbox", public_key=key.removeprefix("ed25519:"))
    assert set(bare) == {"nonce", "permission"} | places and bare["permission"] == "FullAccess"
    assert client.result("query", [f"access_key/sandbox/{key}", ""])["permission"] == "FullAccess"
    assert client.result("query", ["access_key/sandbox", ""])["keys"][0]["public_key"] == key


def test_keys_are_added_and_deleted(client: Any) -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    account = made(client, "keys", key)
    public = b"\0" + bytes(other.verify_key)
    permission = FunctionCallPermission(5, "sandbox", ("greet",))
    nonce = client.query("view_access_key_list", account_id=account)["keys"][0]["access_key"]["nonce"]
    add = client.sign(account, AddKey(public, AccessKey(0, permission)), signer=account, key=key, nonce=nonce + 1)
    client.send(add)
    found = client.query("view_access_key", account_id=account, public_key=key_text(public))
    call = {"allowance": "5", "receiver_id": "sandbox", "method_names": ["greet"]}
    assert found["permission"] == {"FunctionCall": call}
    client.send(client.sign(account, DeleteKey(public), signer=account, key=key, nonce=nonce + 2))
    for finality in ("optimistic", "final"):
        gone = client.query("view_access_key", finality, account_id=account, public_key=key_text(public))
        assert gone["error"] == f"access key {key_text(public)} does not exist while viewing"
        assert gone["logs"] == [] and set(gone) == {"error", "logs", "block_height", "block_hash"}


def test_what_is_not_there_has_a_name(client: Any, helpers: Any) -> None:
    key = key_text(helpers.public(helpers.root))
    named = {"request_type": "view_account", "account_id": NOBODY, "finality": "final"}
    status, error = client.error("query", named)
    assert (status, error["name"], error["cause"]["name"], error["code"]) == (
        200,
        "HANDLER_ERROR",
        "UNKNOWN_ACCOUNT",
        -32000,
    )
    assert error["cause"]["info"]["requested_account_id"] == NOBODY and error["data"].startswith("account nobody")
    # The key of an account that is not there is told from a key that is not there.
    missing = client.query("view_access_key", account_id=NOBODY, public_key=key)
    assert missing["error"] == f"account {NOBODY} does not exist while viewing"
    for method, params, cause in [
        ("query", {"request_type": "view_code", "account_id": "sandbox", "finality": "final"}, "NO_CONTRACT_CODE"),
        ("query", {"request_type": "view_account", "account_id": "sandbox", "block_id": 10**9}, "UNKNOWN_BLOCK"),
        ("query", {"request_type": "view_account", "account_id": "sandbox", "block_id": 0}, "GARBAGE_COLLECTED_BLOCK"),
        ("block", {"block_id": 10**9}, "UNKNOWN_BLOCK"),
        ("block", [NO_HASH], "UNKNOWN_BLOCK"),
        ("chunk", [NO_HASH], "UNKNOWN_CHUNK"),
        ("chunk", [0, 7], "INVALID_SHARD_ID"),
        ("gas_price", [10**9], "UNKNOWN_BLOCK"),
        ("validators", {"epoch_id": base58(bytes([1] * 32))}, "UNKNOWN_EPOCH"),
        ("EXPERIMENTAL_receipt", [NO_HASH], "UNKNOWN_RECEIPT"),
        ("tx", [NO_HASH, "sandbox"], "UNKNOWN_TRANSACTION"),
    ]:
        status, error = client.error(method, params)
        assert (status, error["name"], error["cause"]["name"], error["code"]) == (200, "HANDLER_ERROR", cause, -32000)
        assert error["message"] == "Server error" and isinstance(error["data"], str)
    block = client.error("query", {"request_type": "view_account", "account_id": "sandbox", "block_id": 10**9})[1]
    assert block["cause"]["info"] == {"block_reference": {"block_id": 10**9}}
    assert block["data"] == "DB Not Found Error: BLOCK HEIGHT: 1000000000 \n Cause: Unknown"


# --- transactions -----------------------------------------------------------------------------------------------------


def test_levels_that_a_send_may_wait_for(client: Any) -> None:
    enough = {
        "INCLUDED": {"INCLUDED", "INCLUDED_FINAL", "EXECUTED_OPTIMISTIC", "EXECUTED", "FINAL"},
        "EXECUTED_OPTIMISTIC": {"EXECUTED_OPTIMISTIC", "EXECUTED", "FINAL"},
        "INCLUDED_FINAL": {"INCLUDED_FINAL", "EXECUTED", "FINAL"},
        "EXECUTED": {"EXECUTED", "FINAL"},
        "FINAL": {"FINAL"},
    }
    for level, reached in enough.items():
        answer = client.send(client.sign("validator0", Transfer(1)), level)
        assert answer["final_execution_status"] in reached
        if level != "INCLUDED":
            outcome = answer["transaction_outcome"]["outcome"]
            assert outcome["gas_burnt"] == 223_182_562_500 and outcome["tokens_burnt"] == "22318256250000000000"
    assert client.send(client.sign("validator0", Transfer(1)), "NONE") == {"final_execution_status": "NONE"}


def test_a_transaction_is_sent_twice_and_asked_for_in_every_way(client: Any, helpers: Any) -> None:
    signed = client.sign("validator0", Transfer(7))
    raw, id = helpers.text(signed), base58(signed.id)
    assert client.result("broadcast_tx_async", [raw]) == id
    first = client.result("broadcast_tx_commit", [raw])
    assert first["status"] == {"SuccessValue": ""} and first["transaction"]["hash"] == id
    assert first["transaction"]["actions"] == [{"Transfer": {"deposit": "7"}}]
    assert client.send(signed, "FINAL")["status"] == first["status"]
    for params in ([id, "sandbox"], [raw], {"tx_hash": id, "sender_account_id": "sandbox", "wait_until": "FINAL"}):
        again = client.result("tx", params)
        assert again["transaction_outcome"]["id"] == id and again["final_execution_status"] == "FINAL"
    told = client.result("EXPERIMENTAL_tx_status", [id, "sandbox"])
    (receipt,) = told["receipts"]
    assert receipt["receiver_id"] == "validator0"
    assert receipt["receipt"]["Action"]["actions"] == [{"Transfer": {"deposit": "7"}}]
    assert receipt == client.result("EXPERIMENTAL_receipt", {"receipt_id": receipt["receipt_id"]})


def test_refusals_are_named(client: Any, helpers: Any) -> None:
    stranger = SigningKey.generate()
    root = {"account_id": "sandbox", "public_key": key_text(b"\0" + bytes(stranger.verify_key))}
    cases = [
        (client.sign("validator0", Transfer(1), nonce=1), "InvalidNonce"),
        (client.sign("validator0", Transfer(1), nonce=10**18), "NonceTooLarge"),
        (
            client.sign("validator0", Transfer(1), key=stranger, nonce=1),
            {"InvalidAccessKeyError": {"AccessKeyNotFound": root}},
        ),
        (client.sign("sandbox", Transfer(1), signer=NOBODY, key=stranger, nonce=1), "SignerDoesNotExist"),
        (client.sign("validator0", Transfer(10**36), nonce=client.nonce + 1), "NotEnoughBalance"),
        (client.sign("validator0", Transfer(1), nonce=client.nonce + 1, block=bytes([7] * 32)), "Expired"),
        (client.sign("a.sandbox", FunctionCall("m", b"", 0, 0), nonce=client.nonce + 1), "ActionsValidation"),
    ]
    for signed, expected in cases:
        status, error = client.error("send_tx", {"signed_tx_base64": helpers.text(signed)})
        assert (status, error["name"], error["cause"]) == (
            200,
            "HANDLER_ERROR",
            {"name": "INVALID_TRANSACTION", "info": {}},
        )
        refused = error["data"]["TxExecutionError"]["InvalidTxError"]
        if isinstance(expected, dict):
            assert refused == expected
        else:
            assert refused == expected or set(refused) == {expected}, refused
        # What is not waited for is not told.
        assert client.result("broadcast_tx_async", [helpers.text(signed)]) == base58(signed.id)
    bad = client.sign("validator0", Transfer(1), nonce=client.nonce + 1)
    raw = bad.raw[:-1] + bytes([bad.raw[-1] ^ 1])
    _, error = client.error("send_tx", [base64.b64encode(raw).decode()])
    assert error["data"] == {"TxExecutionError": {"InvalidTxError": "InvalidSignature"}}
    limit = 1_572_864
    large = client.sign("sandbox", DeployContract(bytes(limit)), nonce=client.nonce + 1)
    for method in ("send_tx", "broadcast_tx_commit", "broadcast_tx_async"):
        _, error = client.error(method, [helpers.text(large)])
        size = {"TransactionSizeExceeded": {"size": len(large.raw), "limit": limit}}
        assert error["data"] == {"TxExecutionError": {"InvalidTxError": size}}


def test_many_transactions_in_one_request(client: Any, helpers: Any) -> None:
    def post(body: bytes, kind: str = "application/octet-stream") -> tuple[int, str]:
        status, answer, _ = client.request("POST", "/txs", body, {"content-type": kind})
        return status, answer.decode()

    good = [client.sign("validator0", Transfer(1)) for _ in range(3)]
    batch = join([signed.raw for signed in good])
    assert post(batch) == (200, "OK")
    for signed in good:
        asked = {"tx_hash": base58(signed.id), "sender_account_id": "sandbox", "wait_until": "FINAL"}
        assert "SuccessValue" in client.result("tx", asked)["status"]
    assert post(batch) == (200, "OK"), "sent again is known"
    used = client.sign("validator0", Transfer(1), nonce=1)
    old = client.sign("validator0", Transfer(1), nonce=client.nonce + 1, block=bytes([7] * 32))
    last = client.sign("validator0", Transfer(1))
    status, text = post(join([b"junk", used.raw, old.raw, last.raw, b"junk"]))
    told = dict(line.split(": ", 1) for line in text.splitlines())
    assert status == 400 and set(told) == {"#0", base58(used.id), base58(old.id), "#4"}
    assert set(json.loads(told[base58(used.id)])) == {"InvalidNonce"} and told[base58(old.id)] == '"Expired"'
    assert "SuccessValue" in client.send(last, "FINAL")["status"]
    assert post(batch, "text/plain")[0] == 415
    for body in (b"", bytes(4), batch[:-1], batch + b"x", (5000).to_bytes(4, "little") * 6000, b"\xff" * 9):
        status, text = post(body)
        assert status == 400 and text.startswith("malformed: "), body[:20]


def test_what_is_refused_after_it_was_taken_in_has_its_object_too(client: Any) -> None:
    """Two calls that a key's allowance has room for, but not together; and a nonce that a later one passes."""
    key, limited = SigningKey.generate(), SigningKey.generate()
    account, public = made(client, "late", key), b"\0" + bytes(limited.verify_key)
    of = {"signer": account, "key": key}
    permission = FunctionCallPermission(2 * 10**21, "sandbox", ())
    nonce = client.query("view_access_key_list", account_id=account)["keys"][0]["access_key"]["nonce"]
    client.send(client.sign(account, AddKey(public, AccessKey(0, permission)), nonce=nonce + 1, **of), "FINAL")
    first = client.query("view_access_key", account_id=account, public_key=key_text(public))["nonce"]
    call = FunctionCall("greet", b"", 10**13, 0)
    calls = [client.sign("sandbox", call, signer=account, key=limited, nonce=first + 1 + at) for at in range(2)]
    headers = {"content-type": "application/octet-stream"}
    assert client.request("POST", "/txs", join([one.raw for one in calls]), headers)[0] == 200
    asked = {"tx_hash": base58(calls[1].id), "sender_account_id": account}
    error = client.error("tx", asked)[1]["data"]["TxExecutionError"]["InvalidTxError"]
    fields = error["InvalidAccessKeyError"]["NotEnoughAllowance"]
    assert fields["account_id"] == account and fields["public_key"] == key_text(public)
    assert 0 < int(fields["allowance"]) < int(fields["cost"])
    for at in range(4):
        later, earlier = (client.sign("sandbox", Transfer(1), nonce=nonce + 9 * at + more, **of) for more in (9, 5))
        client.send(later, "NONE")
        _, answer = client.call("send_tx", {"signed_tx_base64": base64.b64encode(earlier.raw).decode()})
        if "error" in answer:  # not where both came into one chunk
            told = answer["error"]["data"]["TxExecutionError"]["InvalidTxError"]["InvalidNonce"]
            assert told == {"tx_nonce": earlier.nonce, "ak_nonce": later.nonce}
        assert "SuccessValue" in client.send(later)["status"]


def test_a_failed_action_is_an_outcome(client: Any) -> None:
    answer = client.send(client.sign(NOBODY, Transfer(1)), "FINAL")
    expected = {"ActionError": {"index": 0, "kind": {"AccountDoesNotExist": {"account_id": NOBODY}}}}
    assert answer["status"] == {"Failure": expected}
    assert len(answer["receipts_outcome"]) == 2, "the receipt, and the deposit on its way back"


def test_a_wait_that_runs_out_says_how_far_it_is(client: Any, helpers: Any, still: Any) -> None:
    """On a node that makes no blocks. Asking again, and sending again, is safe."""
    signed = still.sign("validator0", Transfer(1))
    for _ in range(2):
        status, error = still.error("send_tx", {"signed_tx_base64": helpers.text(signed), "wait_until": "INCLUDED"})
        assert (status, error["name"], error["cause"]) == (408, "HANDLER_ERROR", {"name": "TIMEOUT_ERROR"})
        assert "it waits in the pool" in error["data"] and base58(signed.id) in error["data"]
    assert still.result("tx", {**_asked(signed), "wait_until": "NONE"}) == {"final_execution_status": "NONE"}


def _asked(signed: Any) -> dict[str, str]:
    return {"tx_hash": base58(signed.id), "sender_account_id": "sandbox"}


# --- proofs -----------------------------------------------------------------------------------------------------------


def _path(steps: list[dict[str, str]]) -> list[MerkleStep]:
    return [MerkleStep(parse_hash(one["hash"]), Left() if one["direction"] == "Left" else Right()) for one in steps]


def _block_hash(lite: dict[str, Any]) -> bytes:
    inner = lite["inner_lite"]
    hashes = [parse_hash(inner[name]) for name in ("epoch_id", "next_epoch_id", "prev_state_root", "outcome_root")]
    last = [parse_hash(inner[name]) for name in ("next_bp_hash", "block_merkle_root")]
    raw = inner["height"].to_bytes(8, "little") + b"".join(hashes)
    raw += int(inner["timestamp_nanosec"]).to_bytes(8, "little") + b"".join(last)
    return hash256(hash256(hash256(raw) + parse_hash(lite["inner_rest_hash"])) + parse_hash(lite["prev_block_hash"]))


def _outcome(told: dict[str, Any]) -> Outcome:
    outcome = told["outcome"]
    ((kind, value),) = outcome["status"].items()
    status = SuccessValue(base64.b64decode(value)) if kind == "SuccessValue" else SuccessReceiptId(parse_hash(value))
    return Outcome(
        parse_hash(told["id"]),
        tuple(parse_hash(id) for id in outcome["receipt_ids"]),
        outcome["gas_burnt"],
        int(outcome["tokens_burnt"]),
        outcome["executor_id"],
        status,
        tuple(outcome["logs"]),
    )


def test_a_light_client_is_shown_outcomes_and_blocks(client: Any) -> None:
    """Every root is computed here from the proof alone, up to the head that the client trusts."""
    answer = client.send(client.sign("validator0", Transfer(3)), "FINAL")
    ids = [("transaction", "transaction_hash", "sender_id", answer["transaction_outcome"]["id"])]
    ids += [("receipt", "receipt_id", "receiver_id", one["id"]) for one in answer["receipts_outcome"]]
    client.send(client.sign("validator0", Transfer(3)), "FINAL")
    head = client.result("block", {"finality": "final"})["header"]
    root = parse_hash(head["block_merkle_root"])
    for kind, name, owner, id in ids:
        proof = client.result(
            "light_client_proof", {"type": kind, name: id, owner: "sandbox", "light_client_head": head["hash"]}
        )
        outcome = proof["outcome_proof"]
        shard = climb(_outcome(outcome).leaf(), _path(outcome["proof"]))
        lite = proof["block_header_lite"]
        assert climb(hash256(shard), _path(proof["outcome_root_proof"])) == parse_hash(lite["inner_lite"]["outcome_root"])
        assert climb(_block_hash(lite), _path(proof["block_proof"])) == root
    assert head["height"] > 8
    for height in range(head["height"]):
        block = client.result("block", [height])["header"]["hash"]
        proof = client.result("EXPERIMENTAL_light_client_block_proof", [block, head["hash"]])
        assert _block_hash(proof["block_header_lite"]) == parse_hash(block)
        assert climb(parse_hash(block), _path(proof["block_proof"])) == root
    _, error = client.error(
        "EXPERIMENTAL_light_client_proof",
        {"type": "receipt", "receipt_id": NO_HASH, "receiver_id": "sandbox", "light_client_head": head["hash"]},
    )
    assert error["cause"]["name"] == "UNKNOWN_TRANSACTION_OR_RECEIPT"


# --- input that is none of what was asked -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("block", {}),
        ("block", {"finality": "soon"}),
        ("block", {"block_id": -1}),
        ("block", {"block_id": 2**64}),
        ("block", {"block_id": True}),
        ("block", {"block_id": "0OIl"}),
        ("block", [1, 2]),
        ("block", 7),
        ("chunk", []),
        ("query", {"request_type": "view_account", "account_id": "sandbox"}),
        ("query", {"request_type": "view_moon", "account_id": "sandbox", "finality": "final"}),
        ("query", {"request_type": "view_account", "account_id": "No One", "finality": "final"}),
        ("query", {"request_type": "view_access_key", "account_id": "sandbox", "public_key": "rsa:1", "finality": "final"}),
        ("query", {"request_type": "call_function", "account_id": "a.b", "args_base64": "", "finality": "final"}),
        ("query", {"request_type": "view_state", "account_id": "a.b", "prefix_base64": "%", "finality": "final"}),
        ("query", ["moon/sandbox", ""]),
        ("query", ["account", ""]),
        ("send_tx", []),
        ("send_tx", ["!"]),
        ("send_tx", ["AAAA"]),
        ("send_tx", ["AAAA", "FINAL"]),
        ("send_tx", {"signed_tx_base64": "A" * 2_200_000}),
        ("tx", [NO_HASH]),
        ("tx", [NO_HASH, "sandbox", "FINAL"]),
        ("tx", {"tx_hash": NO_HASH, "sender_account_id": "sandbox", "wait_until": "LATER"}),
        ("light_client_proof", {"type": "block"}),
    ],
)
def test_what_cannot_be_read_is_a_parse_error(client: Any, method: str, params: Any) -> None:
    status, error = client.error(method, params)
    assert (status, error["name"], error["code"], error["message"]) == (
        400,
        "REQUEST_VALIDATION_ERROR",
        -32700,
        "Parse error",
    )
    assert error["cause"]["name"] == "PARSE_ERROR" and error["cause"]["info"]["error_message"] == error["data"]


def test_methods_that_are_not_there(client: Any) -> None:
    for method in ("moon", "sandbox_patch_state", "sandbox_fast_forward"):
        status, error = client.error(method, {"records": [], "delta_height": 1})
        assert (status, error["code"], error["cause"]["name"]) == (400, -32601, "METHOD_NOT_FOUND")
        assert error["message"] == "Method not found"


@given(
    st.binary(max_size=200) | st.sampled_from([b"[", b"[]", b"{}", b"null", b"[" * 100_000, b'{"method":1}', b'{"a":NaN}'])
)
@settings(max_examples=50)
def test_any_body_is_answered(client: Any, body: bytes) -> None:
    status, answer, _ = client.request("POST", "/", body)
    assert status == 400 and json.loads(answer)["error"]["cause"]["name"] == "PARSE_ERROR"


def test_a_body_over_the_limit_is_not_read(client: Any) -> None:
    status, _, _ = client.request("POST", "/", b" " * 3_000_000)
    assert status == 413


# Whatever JSON a client gives as parameters is answered without a fault of the node.
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(["sandbox", NO_HASH, "final"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["block_id", "finality", "account_id", "request_type", "tx_hash", "wait_until", "shard_id", "type"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(
    st.sampled_from(["block", "chunk", "query", "send_tx", "tx", "gas_price", "validators", "light_client_proof"]), _json
)
@settings(max_examples=100)
def test_any_parameters_are_answered(client: Any, method: str, params: Any) -> None:
    status, answer = client.call(method, params)
    assert status in (200, 400), answer
    assert ("result" in answer) != ("error" in answer)


# --- configurations, load and duties ----------------------------------------------------------------------------------


def test_the_genesis_and_the_load_of_a_shard(client: Any) -> None:
    config = client.result("EXPERIMENTAL_genesis_config")
    protocol = client.result("EXPERIMENTAL_protocol_config", {"finality": "final"})
    same = set(config) & set(protocol)
    assert {"chain_id", "genesis_height", "genesis_time", "epoch_length", "shard_layout", "min_gas_price"} <= same
    assert all(config[name] == protocol[name] for name in same)
    assert (config["max_gas_price"], config["gas_limit"]) == (str(10**10), 10**15)
    assert [one["account_id"] for one in config["validators"]] == ["validator0"]
    first = client.result("block", {"block_id": config["genesis_height"]})
    assert config["total_supply"] == first["header"]["total_supply"]
    block = client.result("block", {"finality": "final"})
    by_hash = client.result("EXPERIMENTAL_congestion_level", {"chunk_id": block["chunks"][0]["chunk_hash"]})
    by_place = client.result("EXPERIMENTAL_congestion_level", {"block_id": block["header"]["height"], "shard_id": 0})
    assert by_hash == by_place == {"congestion_level": 0.0}
    assert client.error("EXPERIMENTAL_congestion_level", {"chunk_id": NO_HASH})[1]["cause"]["name"] == "UNKNOWN_CHUNK"


def test_heights_at_which_a_validator_makes_nothing(client: Any) -> None:
    assert client.result("EXPERIMENTAL_maintenance_windows", {"account_id": "validator0"}) == []
    epoch = client.result("validators", [None])["epoch_start_height"]
    length = client.result("EXPERIMENTAL_genesis_config")["epoch_length"]
    ((start, end),) = client.result("maintenance_windows", ["sandbox"])
    assert epoch <= start < end == epoch + length
    assert client.error("maintenance_windows", {})[1]["cause"]["name"] == "PARSE_ERROR"
