"""The unmodified SDKs of Aptos, Python and TypeScript, against a running node and its faucet."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess

SDK = "@aptos-labs/ts-sdk@6.3.1"
SETTINGS = {"services.aptos_api.listen": "127.0.0.1:0", "services.faucet.listen": "127.0.0.1:0"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    node = NodeProcess("aptos", tmp_path_factory.mktemp("aptos") / "node", SETTINGS)
    try:
        node.start()
        yield node
    finally:
        node.kill()


# --- aptos-sdk --------------------------------------------------------------------------------------------------------


def test_aptos_sdk(node: NodeProcess) -> None:
    pytest.importorskip("aptos_sdk")
    asyncio.run(_story(f"{node.service('aptos_api')}/v1", node.service("faucet")))


async def _story(url: str, faucet_url: str) -> None:
    from aptos_sdk.account import Account
    from aptos_sdk.async_client import FaucetClient, RestClient

    rest = RestClient(url)
    faucet = FaucetClient(faucet_url, rest)
    try:
        assert await faucet.healthy()
        assert await rest.chain_id() == 4
        alice, bob, poor = Account.generate(), Account.generate_secp256k1_ecdsa(), Account.generate()
        await faucet.fund_account(alice.address(), 100_000_000)
        await faucet.fund_account(bob.address(), 0)
        await faucet.fund_account(poor.address(), 99_000)
        assert await rest.account_balance(alice.address()) == 100_000_000
        assert await rest.account_balance(bob.address()) == 0
        assert await rest.account_sequence_number(Account.generate().address()) == 0

        paid = await rest.bcs_transfer(alice, bob.address(), 30_000_000)
        await rest.wait_for_transaction(paid)
        told = await rest.transaction_by_hash(paid)
        assert told["type"] == "user_transaction" and told["success"]
        assert told["payload"]["arguments"] == [str(bob.address()), "30000000"]
        fee = int(told["gas_used"]) * int(told["gas_unit_price"])
        assert await rest.account_balance(alice.address()) == 70_000_000 - fee
        assert await rest.account_balance(bob.address()) == 30_000_000
        assert await rest.account_sequence_number(alice.address()) == 1
        assert (await rest.transaction_by_version(int(told["version"])))["hash"] == paid
        assert [one["hash"] for one in await rest.transactions_by_account(alice.address())] == [paid]
        call = await rest.create_bcs_transaction(alice, _transfer(bob.address(), 1))
        (told,) = await rest.simulate_transaction(call, alice, estimate_gas_usage=True)
        most = await rest.account_balance(alice.address()) // 100
        assert told["success"] and (told["gas_unit_price"], told["max_gas_amount"]) == ("100", str(most))

        back = await rest.transfer_coins(bob, alice.address(), "0x1::aptos_coin::AptosCoin", 5)
        await rest.wait_for_transaction(back)
        await _refusals(rest, alice, bob, poor)
        store = await rest.account_resource(bob.address(), "0x1::coin::CoinStore<0x1::aptos_coin::AptosCoin>")
        assert int(store["data"]["coin"]["value"]) == await rest.account_balance(bob.address())
        block = await rest.blocks_by_height(1) if hasattr(rest, "blocks_by_height") else None
        assert block is None or block["block_height"] == "1"
    finally:
        await faucet.close()
        await rest.close()


def _transfer(to: Any, octas: int) -> Any:
    from aptos_sdk.bcs import Serializer
    from aptos_sdk.transactions import EntryFunction, TransactionArgument, TransactionPayload

    arguments = [TransactionArgument(to, Serializer.struct), TransactionArgument(octas, Serializer.u64)]
    return TransactionPayload(EntryFunction.natural("0x1::aptos_account", "transfer", [], arguments))


async def _refusals(rest: Any, alice: Any, bob: Any, poor: Any) -> None:
    from aptos_sdk.account import Account
    from aptos_sdk.async_client import ApiError
    from aptos_sdk.authenticator import AccountAuthenticator, Authenticator, Ed25519Authenticator
    from aptos_sdk.transactions import RawTransaction, SignedTransaction

    def transfer(sender: Any, number: int, expires: float, amount: int = 1, gas: int = 100_000) -> Any:
        call = _transfer(bob.address(), amount)
        return RawTransaction(sender.address(), number, call, gas, 100, int(expires), 4)

    async def refused(transaction: SignedTransaction) -> str:
        with pytest.raises(ApiError) as error:
            await rest.submit_bcs_transaction(transaction)
        assert error.value.status_code == 400
        return str(error.value)

    def signed(raw: Any, signer: Any) -> SignedTransaction:
        return SignedTransaction(raw, signer.sign_transaction(raw))

    soon = time.time() + 60
    assert "SEQUENCE_NUMBER_TOO_OLD" in await refused(signed(transfer(alice, 0, soon), alice))
    assert "SEQUENCE_NUMBER_TOO_NEW" in await refused(signed(transfer(alice, 1 << 62, soon), alice))
    assert "TRANSACTION_EXPIRED" in await refused(signed(transfer(alice, 1, time.time() - 60), alice))
    assert "INSUFFICIENT_BALANCE" in await refused(signed(transfer(poor, 0, soon, gas=1000), poor))
    assert "INVALID_AUTH_KEY" in await refused(signed(transfer(alice, 1, soon), poor))
    stranger = Account.generate()
    assert "SENDING_ACCOUNT_DOES_NOT_EXIST" in await refused(signed(transfer(stranger, 0, soon), stranger))
    raw = transfer(alice, 1, soon)
    other = alice.sign(transfer(alice, 1, soon + 1).keyed())
    forged = AccountAuthenticator(Ed25519Authenticator(alice.public_key(), other))
    assert "INVALID_SIGNATURE" in await refused(SignedTransaction(raw, Authenticator(forged.authenticator)))

    # Too much to send: it is taken, runs, and fails; the number is used up and the gas paid.
    much = await rest.submit_bcs_transaction(signed(transfer(alice, 1, soon, amount=10**15, gas=1000), alice))
    with pytest.raises(AssertionError):
        await rest.wait_for_transaction(much)
    told = await rest.transaction_by_hash(much)
    assert not told["success"] and "EINSUFFICIENT_BALANCE" in told["vm_status"]
    assert await rest.account_sequence_number(alice.address()) == 2


# --- the TypeScript SDK ------------------------------------------------------------------------------------------------

STORY = """
import { Account, Aptos, AptosConfig, Ed25519PrivateKey, Network, SigningSchemeInput } from "@aptos-labs/ts-sdk";
import assert from "node:assert";

const [url, faucet] = process.argv.slice(2);
const aptos = new Aptos(new AptosConfig({ network: Network.CUSTOM, fullnode: url, faucet }));
const alice = Account.generate();
const bob = Account.generate({ scheme: SigningSchemeInput.Ed25519, legacy: false });
const payer = Account.generate();
const options = { timeoutSecs: 20, checkSuccess: true };

const fund = async ({ accountAddress }, amount) =>
  await aptos.fundAccount({ accountAddress, amount, options: { waitForIndexer: false } });
await fund(alice, 1_000_000_000);
await fund(bob, 0);
await fund(payer, 200_000_000);
assert.equal((await aptos.getLedgerInfo()).chain_id, 4);

const APT = "0x1::aptos_coin::AptosCoin";
const balance = async ({ accountAddress }) => await aptos.getBalance({ accountAddress, asset: APT });
assert.equal(await balance(alice), 1_000_000_000);
assert.equal(await balance(bob), 0);

const [sender, recipient] = [alice.accountAddress, bob.accountAddress];
const transfer = await aptos.transferCoinTransaction({ sender, recipient, amount: 400_000_000 });
const [simulated] = await aptos.transaction.simulate.simple({ signerPublicKey: alice.publicKey, transaction: transfer });
assert.ok(simulated.success, simulated.vm_status);
const sent = await aptos.signAndSubmitTransaction({ signer: alice, transaction: transfer });
const done = await aptos.waitForTransaction({ transactionHash: sent.hash, options });
assert.ok(done.success);
assert.equal(await balance(bob), 400_000_000);

const simple = async (sender, extra = {}) => await aptos.transaction.build.simple({
  sender: sender.accountAddress,
  data: { function: "0x1::aptos_account::transfer", functionArguments: [alice.accountAddress, 7] },
  ...extra,
});
const from_bob = await aptos.signAndSubmitTransaction({ signer: bob, transaction: await simple(bob) });
assert.ok((await aptos.waitForTransaction({ transactionHash: from_bob.hash, options })).success);

// a fee payer who has exactly what the transaction may cost at most (the default of this SDK: 2,000,000 units)
const sponsored = await simple(bob, { withFeePayer: true });
const before = await balance(bob);
const pending = await aptos.transaction.submit.simple({
  transaction: sponsored,
  senderAuthenticator: aptos.transaction.sign({ signer: bob, transaction: sponsored }),
  feePayerAuthenticator: aptos.transaction.signAsFeePayer({ signer: payer, transaction: sponsored }),
});
assert.ok((await aptos.waitForTransaction({ transactionHash: pending.hash, options })).success);
assert.equal(await balance(bob), before - 7);

// views, resources, modules, blocks, transactions
const functionArguments = [recipient.toString()];
const payload = { function: "0x1::coin::balance", typeArguments: [APT], functionArguments };
const [seen] = await aptos.view({ payload });
assert.equal(Number(seen), await balance(bob));
assert.equal((await aptos.getAccountInfo({ accountAddress: alice.accountAddress })).sequence_number, "1");
assert.ok((await aptos.getAccountResources({ accountAddress: alice.accountAddress })).length >= 2);
const module = await aptos.getAccountModule({ accountAddress: "0x1", moduleName: "aptos_account" });
assert.ok(module.abi.exposed_functions.some((one) => one.name === "transfer"));
const block = await aptos.getBlockByVersion({ ledgerVersion: Number(done.version), options: { withTransactions: true } });
assert.ok(block.transactions.some((one) => one.hash === sent.hash));
assert.equal((await aptos.getTransactionByVersion({ ledgerVersion: Number(done.version) })).hash, sent.hash);
assert.equal((await aptos.getAccountTransactions({ accountAddress: alice.accountAddress }))[0].hash, sent.hash);

// refusals
const refused = async (code, sender, options, signer = sender) => {
  await assert.rejects(
    async () => await aptos.signAndSubmitTransaction({ signer, transaction: await simple(sender, { options }) }),
    (error) => error.status === 400 && error.data.error_code === "vm_error" && code.test(error.message),
  );
};
await refused(/SEQUENCE_NUMBER_TOO_OLD/, alice, { accountSequenceNumber: 0 });
await refused(/TRANSACTION_EXPIRED/, alice, { expireTimestamp: Math.floor(Date.now() / 1000) - 100 });
const stranger = Account.generate();
const { accountAddress } = stranger;
const resourceType = "0x1::account::Account";
await assert.rejects(aptos.getAccountResource({ accountAddress, resourceType }), (error) => error.status === 404);
await refused(/SENDING_ACCOUNT_DOES_NOT_EXIST/, stranger, { accountSequenceNumber: 0 });
console.log("all done");
"""


@pytest.fixture(scope="module")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("no npm here: the TypeScript SDK is not tried")
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", SDK], cwd=folder, capture_output=True, text=True, timeout=300
    )
    if done.returncode != 0:
        pytest.skip(f"{SDK} cannot be installed: {done.stderr[-200:]}")
    (folder / "story.js").write_text(STORY)
    return folder


def test_the_typescript_sdk(node: NodeProcess, typescript: Path) -> None:
    done = subprocess.run(
        ["node", "story.js", f"{node.service('aptos_api')}/v1", node.service("faucet")],
        cwd=typescript,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert "all done" in done.stdout
