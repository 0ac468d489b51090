"""The two contracts of the main network's genesis, compiled by the SDKs of their day, run here as they ran there."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from nodewright.interfaces.execution import HEAD
from nodewright_near.outcomes import Failure, SuccessReceiptId
from nodewright_near.primitives import key_text
from nodewright_near.transactions import DeployContract, FunctionCall

NEAR = 10**24
TERA = 10**12
World = Callable[..., Any]


@pytest.fixture(scope="module")
def codes(vectors: Path) -> dict[str, bytes]:
    document = json.loads((vectors / "near" / "mainnet_genesis.json").read_text())
    contracts = [record["Contract"] for record in document["records"] if "Contract" in record]
    return {one["account_id"]: base64.b64decode(one["code"]) for one in contracts}


async def test_the_contract_of_the_top_account_creates_accounts(world: World, codes: dict[str, bytes]) -> None:
    """A call, a batch of actions on a new account, and a callback. The callback of this first version of the contract asks
    for an argument that its caller does not give it, and says so; what came before stands all the same."""
    w = await world({"near": 100 * NEAR, "alice.near": 100 * NEAR}).open()
    before = await w.supply()
    await w.settle(w.sign("near", "near", DeployContract(codes["near"])))
    key = b"\0" + bytes(range(32))

    def create(name: str, deposit: int) -> Any:
        args = json.dumps({"new_account_id": name, "new_public_key": key_text(key)}).encode()
        return w.sign("alice.near", "near", FunctionCall("create_account", args, 300 * TERA, deposit))

    made = create("new.near", 5 * NEAR)
    await w.block(made, witness=True)
    for _ in range(3):
        await w.block(witness=True)
    await w.settle()
    status = w.fate(made)[1].status
    assert isinstance(status, SuccessReceiptId), w.fate(made)[1]
    callback = w.outcomes[status.receipt_id]
    assert callback.status == Failure() and "missing field `predecessor_account_id`" in str(callback.error)
    assert await w.amount("new.near") == 5 * NEAR
    assert list(await w.engine.query(HEAD, "access_keys", account_id="new.near")) == [key]
    assert await w.supply() == before
    bad = create("Not A Name", NEAR)
    await w.settle(bad)
    outcome = w.fate(bad)[1]
    assert outcome.status == Failure()
    assert "Smart contract panicked" in outcome.error["ActionError"]["kind"]["FunctionCallError"]["ExecutionError"]
    assert await w.supply() == before


async def test_a_link_that_gives_away_money_is_claimed(world: World, codes: dict[str, bytes]) -> None:
    """``send`` adds a key to the contract's own account that may only claim; ``claim`` is signed by that key."""
    w = await world({"near": 100 * NEAR, "alice.near": 100 * NEAR, "bob.near": 10 * NEAR}).open()
    await w.settle(w.sign("near", "near", DeployContract(codes["near"])))
    link = b"\0" + SigningKey(sha256(b"link").digest()).verify_key.encode()
    sent = w.sign(
        "alice.near",
        "near",
        FunctionCall("send", json.dumps({"public_key": key_text(link)}).encode(), 100 * TERA, 3 * NEAR),
    )
    await w.settle(sent)
    access = await w.engine.query(HEAD, "access_key", account_id="near", public_key=link)
    assert access.permission.receiver_id == "near" and "claim" in access.permission.method_names
    claim = FunctionCall("claim", json.dumps({"account_id": "bob.near"}).encode(), 8 * TERA, 0)
    claimed = w.sign("near", "near", claim, key="link", nonce=w.height * 1_000_000)
    await w.settle(claimed)
    assert 12 * NEAR < await w.amount("bob.near") <= 13 * NEAR, w.fate(claimed)
    assert await w.engine.query(HEAD, "access_key", account_id="near", public_key=link) is None


async def test_a_contract_written_in_assembly_script_says_where_it_gave_up(world: World, codes: dict[str, bytes]) -> None:
    w = await world({"pulse.near": 100 * NEAR, "alice.near": 100 * NEAR}).open()
    await w.settle(w.sign("pulse.near", "pulse.near", DeployContract(codes["pulse.near"])))
    called = w.sign("alice.near", "pulse.near", FunctionCall("heartbeat", b"{}", 100 * TERA, 0))
    await w.settle(called)
    outcome = w.fate(called)[1]
    reason = 'Smart contract panicked: type u64 cannot be null., filename: "node_modules/near-sdk-as/assembly/bindgen.ts"'
    error = outcome.error["ActionError"]["kind"]["FunctionCallError"]["ExecutionError"]
    assert error == f"{reason} line: 167 col: 8"
