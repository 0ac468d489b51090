"""Unmodified NEAR client libraries against a running node: near-kit and its pytest fixtures, py-near, near-api-js.

Each makes an account, moves money, reads balances and keys, adds and deletes a key, deploys a contract, calls it, reads its
state, and is told by its own exceptions of a wrong nonce, a missing key and too little balance.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess

pytestmark = pytest.mark.usefixtures("kernels")

near = pytest.importorskip("near")
wasmtime = pytest.importorskip("wasmtime")

YOCTO = 10**24
# ``set`` writes what it is given under "entry" and logs, ``get`` returns it, ``fail`` panics.
CONTRACT = r"""
(module
  (import "env" "input" (func $input (param i64)))
  (import "env" "storage_write" (func $write (param i64 i64 i64 i64 i64) (result i64)))
  (import "env" "storage_read" (func $read (param i64 i64 i64) (result i64)))
  (import "env" "value_return" (func $return (param i64 i64)))
  (import "env" "log_utf8" (func $log (param i64 i64)))
  (import "env" "panic_utf8" (func $panic (param i64 i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "entry")
  (data (i32.const 16) "written")
  (data (i32.const 32) "on purpose")
  (func (export "set")
    (call $input (i64.const 1))
    (drop (call $write (i64.const 5) (i64.const 0) (i64.const -1) (i64.const 1) (i64.const 2)))
    (call $log (i64.const 7) (i64.const 16)))
  (func (export "get")
    (drop (call $read (i64.const 5) (i64.const 0) (i64.const 1)))
    (call $return (i64.const -1) (i64.const 1)))
  (func (export "fail") (call $panic (i64.const 10) (i64.const 32))))
"""


@pytest.fixture(scope="module")
def contract() -> bytes:
    return bytes(wasmtime.wat2wasm(CONTRACT))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = {
        "services.near_api.listen": "127.0.0.1:0",
        "services.near_api.sandbox": "true",
        "consensus.endorsement_seconds": "0.05",
        "execution.save_state_changes": "true",
    }
    node = NodeProcess("near", tmp_path_factory.mktemp("near") / "node", settings)
    try:
        node.start()
        yield node.service("near_api")
    finally:
        node.kill()


# --- near-kit ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(url: str) -> Iterator[Any]:
    from near.testing import sandbox_signer

    with near.Near(rpc_url=url, signer=sandbox_signer()) as client:
        yield client


def named(root: Any, name: str, amount: str = "10 NEAR") -> Any:
    """A client of a new account below the root account."""
    from near import actions

    key = near.generate_key()
    account = f"{name}.sandbox"
    root.send_transaction(
        account, [actions.create_account(), actions.transfer(amount), actions.add_full_access_key(key.public_key)]
    )
    return near.Near(rpc_url=root.rpc_url, signer=near.KeyPairSigner(account_id=account, key_pair=key))


def test_near_kit_accounts_keys_and_errors(root: Any) -> None:
    from near import actions

    with named(root, "kit") as kit:
        assert kit.balance() == 10 * YOCTO
        result = kit.send("sandbox", "1 NEAR")
        burnt = [int(one.outcome["tokens_burnt"]) for one in (result.transaction_outcome, *result.receipts_outcome)]
        assert result.transaction_outcome.gas_burnt == 223_182_562_500
        assert burnt == [22318256250000000000] * 2
        assert kit.balance() == 9 * YOCTO - sum(burnt)
        assert kit.transaction_status(result.transaction_hash).success_value == b""

        other = near.generate_key()
        kit.send_transaction("kit.sandbox", [actions.add_function_call_key(other.public_key, "sandbox", ["greet"])])
        held = {one.public_key: one.access_key for one in kit.access_keys()}
        assert len(held) == 2
        granted = held[str(other.public_key)].permission
        assert granted["FunctionCall"]["receiver_id"] == "sandbox"
        assert granted["FunctionCall"]["method_names"] == ["greet"]
        assert not kit.access_key("kit.sandbox", other.public_key).is_full_access
        kit.send_transaction("kit.sandbox", [actions.delete_key(other.public_key)])
        with pytest.raises(near.AccessKeyNotFoundError):
            kit.access_key("kit.sandbox", other.public_key)

        with pytest.raises(near.InsufficientBalanceError) as poor:
            kit.send("sandbox", "1000 NEAR")
        assert poor.value.required > poor.value.available > 0
        assert not kit.account_exists("nobody.sandbox")
        with pytest.raises(near.AccountNotFoundError):
            kit.account("nobody.sandbox")
        with pytest.raises(near.ContractPanicError, match="AccountDoesNotExist"):
            kit.send("nobody.sandbox", "1 NEAR")


def test_near_kit_is_told_of_an_old_nonce(root: Any) -> None:
    from near import _core

    with named(root, "nonce") as kit:
        block = kit.rpc("block", {"finality": "final"})
        transaction = _core.build_transaction(
            kit.signer, "sandbox", [near.actions.transfer("1 yocto")], 1, _core.block_hash_of(block)
        )
        _, raw = near.client.sign_transaction(transaction, kit.signer)
        with pytest.raises(near.InvalidNonceError) as told:
            kit.rpc("send_tx", {"signed_tx_base64": base64.b64encode(raw).decode()})
        assert told.value.ak_nonce == kit.access_key("nonce.sandbox", kit.signer.public_key).nonce > 1


def test_near_kit_contracts(root: Any, contract: bytes) -> None:
    from near import actions

    with named(root, "book") as book:
        with pytest.raises(near.ContractNotFoundError):
            book.contract_code()
        book.send_transaction("book.sandbox", [actions.deploy_contract(contract)])
        assert book.contract_code().code == contract
        result = root.call("book.sandbox", "set", {"text": "hello"})
        assert result.logs == ["written"]
        assert book.view("book.sandbox", "get") == {"text": "hello"}
        with pytest.raises(near.ContractPanicError, match="on purpose"):
            root.call("book.sandbox", "fail")
        with pytest.raises(near.ContractPanicError, match="MethodNotFound"):
            book.view("book.sandbox", "nothing")
        values = book.rpc(
            "query",
            {"request_type": "view_state", "account_id": "book.sandbox", "prefix_base64": "", "finality": "optimistic"},
        )["values"]
        assert [(base64.b64decode(one["key"]), json.loads(base64.b64decode(one["value"]))) for one in values] == [
            (b"entry", {"text": "hello"})
        ]


FIXTURES = """
from near import generate_key
from near.actions import add_full_access_key, create_account, transfer
from near.testing import fast_forward, patch_state


def test_found(near_sandbox, sandbox_near):
    assert not near_sandbox.started
    assert sandbox_near.balance("sandbox") > 0


def test_makes_accounts(sandbox_near):
    key = generate_key()
    made = [create_account(), transfer("3 NEAR"), add_full_access_key(key.public_key)]
    sandbox_near.send_transaction("fixture.sandbox", made)
    assert sandbox_near.balance("fixture.sandbox") == 3 * 10**24
"""

SANDBOX = """

def test_writes_state(sandbox_near):
    account = {
        "amount": "123450000000000000000000000",
        "locked": "0",
        "code_hash": "11111111111111111111111111111111",
        "storage_usage": 182,
    }
    patch_state(sandbox_near, [{"Account": {"account_id": "rich.sandbox", "account": account}}])
    assert sandbox_near.balance("rich.sandbox") == 123450000000000000000000000


def test_goes_forward(sandbox_near):
    fast_forward(sandbox_near, 100)
"""


@pytest.mark.parametrize("text", [FIXTURES, pytest.param(SANDBOX, id="sandbox")])
def test_near_kit_fixtures(url: str, tmp_path: Path, text: str) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "test_it.py").write_text(text if text is FIXTURES else FIXTURES.partition("\n\n\n")[0] + text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "NEAR_SANDBOX_URL": url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


# --- py-near ----------------------------------------------------------------------------------------------------------


async def _py_near(url: str, secret: str, contract: bytes) -> None:
    from base58 import b58decode
    from py_near.account import Account, ViewFunctionError
    from py_near.exceptions.provider import InvalidNonce, NotEnoughBalance, UnknownAccount
    from py_near.transactions import create_transfer_action, sign_and_serialize_transaction

    root = Account("sandbox", secret, url)
    await root.startup()
    key, other = near.generate_key(), near.generate_key()
    mine, public = str(key.secret_key), str(key.public_key)
    seed = b58decode(mine.removeprefix("ed25519:"))
    made = await root.create_account("py.sandbox", b58decode(public.removeprefix("ed25519:")), 5 * YOCTO)
    assert "SuccessValue" in made.status, made.status

    account = Account("py.sandbox", mine, url)
    await account.startup()
    assert await account.get_balance() == 5 * YOCTO
    sent = await account.send_money("sandbox", YOCTO)
    assert sent.transaction.actions[0].deposit == str(YOCTO)
    assert sent.transaction_outcome.gas_burnt == 223_182_562_500
    assert await account.get_balance() < 4 * YOCTO
    again = await account.provider.get_tx(sent.transaction.hash, "sandbox")
    assert again.status == sent.status
    (first,) = await account.get_access_key_list()
    assert first.public_key == public
    assert (await account.get_access_key(seed)).permission == "FullAccess"

    added = b58decode(str(other.public_key).removeprefix("ed25519:"))
    await account.add_full_access_public_key(added)
    assert len(await account.get_access_key_list()) == 2
    await account.delete_public_key(added)
    assert len(await account.get_access_key_list()) == 1

    await account.deploy_contract(contract)
    called = await account.function_call("py.sandbox", "set", {"text": "py"}, included=False)
    assert called.logs == ["written"]
    assert (await account.view_function("py.sandbox", "get", {})).result == {"text": "py"}
    with pytest.raises(ViewFunctionError, match="on purpose"):
        await account.view_function("py.sandbox", "fail", {})

    with pytest.raises(NotEnoughBalance) as poor:
        await account.send_money("sandbox", 1000 * YOCTO)
    assert int(poor.value.cost) > int(poor.value.balance)
    with pytest.raises(UnknownAccount):
        await account.get_balance("nobody.sandbox")
    stranger = Account("py.sandbox", str(other.secret_key), url)
    await stranger.startup()
    with pytest.raises(ValueError, match=r"access key .* does not exist"):
        await stranger.send_money("sandbox", 1)
    block = b58decode((await account.provider.get_status())["sync_info"]["latest_block_hash"])
    old = sign_and_serialize_transaction("py.sandbox", seed, "sandbox", 1, [create_transfer_action(1)], block)
    with pytest.raises(InvalidNonce) as told:
        await account.provider.send_tx_and_wait(old)
    assert told.value.ak_nonce > told.value.tx_nonce == 1
    failed = await account.send_money("nobody.sandbox", 1)
    assert "AccountDoesNotExist" in json.dumps(failed.status)
    for one in (root, account, stranger):
        await one.shutdown()


def test_py_near(url: str, contract: bytes) -> None:
    pytest.importorskip("py_near")
    import asyncio

    from near.keys import key_from_test_seed

    asyncio.run(_py_near(url, str(key_from_test_seed("sandbox").secret_key), contract))


# --- near-api-js ------------------------------------------------------------------------------------------------------

SCRIPT = """
import { readFileSync } from 'node:fs'
import { Account, JsonRpcProvider, KeyPair, actions, baseDecode, createTransaction } from 'near-api-js'
const [url, secret, wasm] = process.argv.slice(2)
const provider = new JsonRpcProvider({ url }), out = {}
const fails = async call => {
  try { await call() } catch (error) { return { name: error.constructor.name, message: String(error.message) } }
  return null
}
const root = new Account('sandbox', provider, secret)
const key = KeyPair.fromRandom('ed25519'), other = KeyPair.fromRandom('ed25519')
await root.createSubAccount({
  accountOrPrefix: 'js', publicKey: key.getPublicKey(), nearToTransfer: 6n * 10n ** 24n })
const js = new Account('js.sandbox', provider, key.toString())
out.balance = String(await js.getBalance())
const sent = await js.transfer({ receiverId: 'sandbox', amount: 10n ** 24n })
out.sent = [sent.status, sent.transaction_outcome.outcome.gas_burnt, sent.final_execution_status]
out.state = { ...await js.getState() }
out.known = (await provider.viewTransactionStatus({ txHash: sent.transaction.hash, accountId: 'js.sandbox' })).status
out.withReceipts = (await provider.viewTransactionStatusWithReceipts(
  { txHash: sent.transaction.hash, accountId: 'js.sandbox', waitUntil: 'FINAL' })).receipts.length
await js.addFunctionCallAccessKey(
  { publicKey: other.getPublicKey(), contractId: 'sandbox', methodNames: ['greet'], allowance: 10n ** 23n })
out.keys = (await js.getAccessKeyList()).keys
await js.deleteKey(other.getPublicKey())
out.keysLeft = (await js.getAccessKeyList()).keys.length
await js.deployContract(readFileSync(wasm))
await js.callFunction({ contractId: 'js.sandbox', methodName: 'set', args: { text: 'js' } })
out.view = await provider.callFunction({ contractId: 'js.sandbox', method: 'get', args: {} })
out.contractState = (await js.getContractState()).values
out.codeLength = (await js.getContractCode()).code.length
out.poor = await fails(() => js.transfer({ receiverId: 'sandbox', amount: 10n ** 30n }))
out.noKey = await fails(() => js.getAccessKey(other.getPublicKey()))
out.stranger = await fails(() => new Account('js.sandbox', provider, other.toString())
  .transfer({ receiverId: 'sandbox', amount: 1n }))
out.nobody = await fails(() => provider.viewAccount({ accountId: 'nobody.sandbox' }))
out.noMethod = await fails(() => provider.callFunction({ contractId: 'js.sandbox', method: 'nothing', args: {} }))
out.noContract = await fails(() => provider.callFunction({ contractId: 'sandbox', method: 'get', args: {} }))
out.noBlock = await fails(() => provider.viewBlock({ blockId: 10 ** 9 }))
out.panic = await fails(() => js.callFunction({ contractId: 'js.sandbox', methodName: 'fail', args: {} }))
out.notThere = await fails(() => js.transfer({ receiverId: 'nobody.sandbox', amount: 1n }))
const header = (await provider.viewBlock({ finality: 'final' })).header
const signer = js.getSigner()
const stale = await createTransaction('js.sandbox', key.getPublicKey(), 'sandbox', 1,
  [actions.transfer(1n)], baseDecode(header.hash))
const { signedTransaction } = await signer.signTransaction(stale)
out.nonce = await fails(() => provider.sendTransaction(signedTransaction))
out.chunk = (await provider.viewChunk((await provider.viewBlock({ finality: 'final' })).chunks[0].chunk_hash)).author
out.validators = (await provider.viewValidators()).current_validators.length
out.network = await provider.getNetworkId()
const final = await js.transfer({ receiverId: 'sandbox', amount: 2n })
await provider.viewTransactionStatus({ txHash: final.transaction.hash, accountId: 'js.sandbox', waitUntil: 'FINAL' })
const at = { blockId: final.transaction_outcome.block_hash }
out.touched = (await provider.blockChanges(at)).changes.map(one => one.type + ' ' + one.account_id)
out.accountChanges = (await provider.accountChanges(['js.sandbox'], at)).changes
out.keyChanges = (await provider.accessKeyChanges(['js.sandbox'], at)).changes
out.codeChanges = (await provider.contractCodeChanges(['js.sandbox'], at)).changes.length
let next = {} // until a later block is final: an empty object, and light clients ask again
while (!next.inner_lite) next = await provider.nextLightClientBlock({ last_block_hash: at.blockId })
out.next = [next.inner_lite.height > 0, next.approvals_after_next.length, next.next_bps.length]
const later = await js.transfer({ receiverId: 'sandbox', amount: 3n })
await provider.viewTransactionStatus({ txHash: later.transaction.hash, accountId: 'js.sandbox', waitUntil: 'FINAL' })
const head = (await provider.viewBlock({ finality: 'final' })).header.hash
out.proof = Object.keys(await provider.lightClientProof({ type: 'transaction', light_client_head: head,
  transaction_hash: final.transaction.hash, sender_id: 'js.sandbox' })).sort()
console.log(JSON.stringify(out, (_, value) => typeof value === 'bigint' ? String(value) : value))
"""


@pytest.fixture(scope="module")
def near_api_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed: near-api-js cannot run")
    folder = tmp_path_factory.mktemp("javascript")
    (folder / "package.json").write_text('{"type": "module"}')
    command = [npm, "install", "--silent", "near-api-js@7"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"npm could not install near-api-js: {done.stderr.strip()[-300:]}")
    (folder / "all.js").write_text(SCRIPT)
    return folder


def test_near_api_js(url: str, contract: bytes, near_api_js: Path) -> None:
    from near.keys import key_from_test_seed

    (near_api_js / "book.wasm").write_bytes(contract)
    secret = str(key_from_test_seed("sandbox").secret_key)
    done = subprocess.run(
        ["node", "all.js", url, secret, "book.wasm"], cwd=near_api_js, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert out["balance"] == str(6 * YOCTO - 182 * 10**19), "what is not bound by storage"
    assert out["sent"][:2] == [{"SuccessValue": ""}, 223_182_562_500]
    assert out["known"] == {"SuccessValue": ""}
    assert out["withReceipts"] >= 1
    assert int(out["state"]["balance"]["total"]) < 5 * YOCTO
    assert {"FullAccess"} < {json.dumps(one["access_key"]["permission"]).strip('"') for one in out["keys"]}
    assert out["keysLeft"] == 1
    assert out["view"] == {"text": "js"}
    assert base64.b64decode(out["contractState"][0]["key"]) == b"entry"
    assert out["codeLength"] == len(contract)
    names = {name: told["name"] for name, told in out.items() if isinstance(told, dict) and "message" in told}
    assert names == {
        "poor": "NotEnoughBalanceError",
        "noKey": "AccessKeyDoesNotExistError",
        "stranger": "AccessKeyDoesNotExistError",
        "nobody": "AccountDoesNotExistError",
        "noMethod": "ContractMethodNotFoundError",
        "noContract": "ContractCodeDoesNotExistError",
        "noBlock": "UnknownBlockError",
        "panic": "ContractExecutionError",
        "notThere": "AccountDoesNotExistActionError",
        "nonce": "InvalidNonceError",
    }
    assert (out["chunk"], out["validators"], out["network"]) == ("validator0", 1, "localnet")
    assert {"account_touched js.sandbox", "access_key_touched js.sandbox"} <= set(out["touched"])
    assert out["accountChanges"][0]["change"]["account_id"] == "js.sandbox"
    assert out["accountChanges"][0]["cause"]["type"] in ("transaction_processing", "receipt_processing")
    assert out["keyChanges"][0]["type"] == "access_key_update" and out["codeChanges"] == 0
    assert out["next"] == [True, 1, 1]
    assert out["proof"] == ["block_header_lite", "block_proof", "outcome_proof", "outcome_root_proof"]
