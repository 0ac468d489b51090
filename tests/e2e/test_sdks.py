"""Unmodified wallet libraries against a running node: bsv-sdk (Python) and @bsv/sdk (TypeScript)."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess
from nodewright_bsv_api.client import BsvClient

pytestmark = pytest.mark.usefixtures("kernels")

bsv = pytest.importorskip("bsv")


class SdkWallet:
    """A key of the SDK, with a mined coin fanned out over ``count`` outputs by the SDK itself."""

    def __init__(self, client: BsvClient, count: int) -> None:
        from bsv.constants import Network

        self.key = bsv.PrivateKey()
        self.address = self.key.address(network=Network.TESTNET)
        client.rpc("generatetoaddress", 101, self.address)
        coinbase = client.rpc("getblockbyheight", 1, 1)["tx"][0]
        source = bsv.Transaction.from_hex(client.rpc("getrawtransaction", coinbase))
        self.share = (source.outputs[0].satoshis - 100_000) // count
        self.fan = self.spend(source, 0, [self.share] * count)
        assert client.post_tx(self.fan.to_ef()) == (200, self.fan.txid())

    def spend(self, source: Any, index: int, amounts: list[int], sign: bool = True) -> Any:
        coin = bsv.TransactionInput(
            source_transaction=source,
            source_output_index=index,
            unlocking_script_template=bsv.P2PKH().unlock(self.key),
        )
        tx = bsv.Transaction([coin], [bsv.TransactionOutput(bsv.P2PKH().lock(self.address), value) for value in amounts])
        if sign:
            tx.sign()
        else:
            tx.inputs[0].unlocking_script = bsv.Script("")
        return tx


def _broadcast(broadcaster: Any, tx: Any) -> Any:
    import asyncio

    return asyncio.run(broadcaster.broadcast(tx))


def test_python_sdk(node: Callable[..., NodeProcess], client_of: Callable[[NodeProcess], BsvClient]) -> None:
    alpha = node()
    client = client_of(alpha)
    wallet = SdkWallet(client, 4)
    url = alpha.service("bsv_api")
    teranode, arc = bsv.Teranode(url + "/tx"), bsv.ARC(url)

    first = wallet.spend(wallet.fan, 0, [wallet.share - 500])
    assert _broadcast(teranode, first).status == "success"
    assert _broadcast(teranode, first).status == "success", "posting the same transaction again is success"
    answer = _broadcast(arc, wallet.spend(wallet.fan, 1, [wallet.share - 500]))
    assert answer.status == "success", answer
    assert "SEEN_ON_NETWORK" in answer.message

    for broadcaster in (teranode, arc):
        answer = _broadcast(broadcaster, wallet.spend(wallet.fan, 0, [wallet.share - 900]))
        assert answer.status != "success"
        assert answer.code == "409"
        assert first.txid() in answer.description

        answer = _broadcast(broadcaster, wallet.spend(wallet.fan, 2, [wallet.share - 500], sign=False))
        assert answer.code == "400"
        assert "script" in answer.description

    orphan = wallet.spend(wallet.spend(wallet.fan, 3, [wallet.share - 500]), 0, [wallet.share - 900])
    assert _broadcast(teranode, orphan).code == "422"

    client.rpc("generatetoaddress", 1, wallet.address)
    status = arc.check_transaction_status(first.txid())
    assert status["txStatus"] == "MINED"
    path = bsv.MerklePath.from_hex(status["merklePath"])
    header = client.rpc("getblockheader", status["blockHash"])
    assert path.compute_root(first.txid()) == header["merkleroot"]


SCRIPT = """
import { ARC, P2PKH, PrivateKey, Teranode, Transaction } from '@bsv/sdk'
const [url, wif, fanHex, amount] = process.argv.slice(2)
const key = PrivateKey.fromWif(wif), fan = Transaction.fromHex(fanHex), out = []
const spend = async (index, fee) => {
  const tx = new Transaction(1,
    [{ sourceTransaction: fan, sourceOutputIndex: index, sequence: 0xffffffff,
       unlockingScriptTemplate: new P2PKH().unlock(key) }],
    [{ lockingScript: new P2PKH().lock(key.toAddress()), satoshis: Number(amount) - fee }])
  await tx.sign()
  return tx
}
const first = await spend(0, 500)
out.push(await new Teranode(url + '/tx').broadcast(first))
out.push(await new ARC(url).broadcast(await spend(1, 500)))
out.push(await new Teranode(url + '/tx').broadcast(await spend(0, 900)))
out.push(await new ARC(url).broadcast(await spend(0, 901)))
const unsigned = await spend(2, 500)
unsigned.inputs[0].unlockingScript = new P2PKH().lock(key.toAddress())
out.push(await new Teranode(url + '/tx').broadcast(unsigned))
console.log(JSON.stringify({ first: first.id('hex'), out }))
"""


@pytest.fixture(scope="module")
def typescript_sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed: the TypeScript SDK cannot run")
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "package.json").write_text('{"type": "module"}')
    done = subprocess.run([npm, "install", "--silent", "@bsv/sdk"], cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"npm could not install @bsv/sdk: {done.stderr.strip()[-300:]}")
    (folder / "broadcast.js").write_text(SCRIPT)
    return folder


def test_typescript_sdk(
    node: Callable[..., NodeProcess], client_of: Callable[[NodeProcess], BsvClient], typescript_sdk: Path
) -> None:
    alpha = node()
    wallet = SdkWallet(client_of(alpha), 3)
    command = ["node", "broadcast.js", alpha.service("bsv_api"), wallet.key.wif(), wallet.fan.hex(), str(wallet.share)]
    done = subprocess.run(command, cwd=typescript_sdk, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    teranode, arc, double_spend, arc_double_spend, unsigned = result["out"]
    assert teranode["status"] == "success"
    assert arc["status"] == "success"
    for answer in (double_spend, arc_double_spend):
        assert answer["status"] == "error"
        assert answer["code"] == "409"
        assert result["first"] in json.dumps(answer)
    assert unsigned["code"] == "400"
    assert "script" in json.dumps(unsigned)
