"""A Teranode-shaped node on this machine, spoken to by an unmodified wallet library; a second node follows it.

Run ``bin/demo``, or this file where ``nodewright[demo]`` is installed. Arguments ``--set key=value`` reach both nodes, so
that ``--set stores.utxo.use=memory`` shows the same on another store; ``--plugins-dir`` likewise, for a profile that names
a plugin of one file.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsv import ARC, P2PKH, PrivateKey, Teranode, Transaction, TransactionInput, TransactionOutput
from bsv.constants import Network

from nodewright.bench.node import NodeProcess
from nodewright_bsv_api.client import BsvClient

STARTED = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:5.1f} s] {text}", flush=True)


def check(condition: bool, text: str, detail: Any = "") -> None:
    if not condition:
        sys.exit(f"the demo failed: {text} {detail}")
    say(f"  ok: {text}")


def spend(
    source: Transaction, index: int, key: PrivateKey, amounts: list[tuple[int, str]], sign: bool = True
) -> Transaction:
    """A transaction of one input, signed by the wallet library."""
    coin = TransactionInput(
        source_transaction=source, source_output_index=index, unlocking_script_template=P2PKH().unlock(key)
    )
    outputs = [TransactionOutput(P2PKH().lock(address), satoshis) for satoshis, address in amounts]
    tx = Transaction([coin], outputs)
    if sign:
        tx.sign()
    return tx


@dataclass(frozen=True)
class Nodes:
    """What both nodes are started with."""

    folder: Path
    profile: str
    settings: dict[str, str]
    arguments: tuple[str, ...]

    def make(self, name: str, **settings: str) -> NodeProcess:
        fixed = {"services.bsv_api.listen": "127.0.0.1:0", "transport.listen": "127.0.0.1:0", "consensus.mine": "false"}
        more = {key.replace("__", "."): value for key, value in settings.items()}
        return NodeProcess(self.profile, self.folder / name, fixed | self.settings | more, self.arguments)


def wait_for(what: str, condition: Any, timeout_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"the demo failed: {what} did not happen within {timeout_seconds:.0f} s")
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="teranode", help="profile name or TOML file")
    parser.add_argument("--set", dest="pairs", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--plugins-dir", type=Path, action="append", default=[], help="folder of one-file plugins")
    parser.add_argument("--count", type=int, default=200, help="payments the wallet makes")
    arguments = parser.parse_args()
    settings = dict(pair.split("=", 1) for pair in arguments.pairs)
    passed_on = tuple(part for folder in arguments.plugins_dir for part in ("--plugins-dir", str(folder)))
    with tempfile.TemporaryDirectory(prefix="nodewright-demo-") as scratch:
        run(Nodes(Path(scratch), arguments.profile, settings, passed_on), arguments.count)


def run(nodes: Nodes, count: int) -> None:
    say(f"starting a node from the profile {nodes.profile!r}")
    with nodes.make("alpha") as alpha:
        url = alpha.service("bsv_api")
        say(f"  alpha is ready: API {url}, peers at {alpha.info['transport']}, data in {alpha.data_dir}")
        with BsvClient(url, alpha.data_dir / ".cookie") as client:
            key = PrivateKey()
            address = key.address(network=Network.TESTNET)
            say(f"a wallet (bsv-sdk) makes a key; the node mines 101 blocks to {address}")
            client.rpc("generatetoaddress", 101, address)
            block = client.rpc("getblockbyheight", 1, 1)
            coinbase = Transaction.from_hex(client.rpc("getrawtransaction", block["tx"][0]))
            payments(client, url, key, address, coinbase, count)
            tip = client.rpc("getbestblockhash")
            follow(nodes, alpha, client, tip)
    say("both nodes have stopped cleanly")


def payments(client: BsvClient, url: str, key: PrivateKey, address: str, coinbase: Transaction, count: int) -> None:
    total = coinbase.outputs[0].satoshis
    share = (total - 100_000) // count
    fan = spend(coinbase, 0, key, [(share, address)] * count)
    answer = asyncio.run(Teranode(url + "/tx").broadcast(fan))
    check(answer.status == "success", "the SDK's Teranode class posted the first spend (extended format)", answer)

    unsigned = spend(fan, 0, key, [(share - 500, address)], sign=False)
    unsigned.inputs[0].unlocking_script = P2PKH().lock(address)
    answer = asyncio.run(Teranode(url + "/tx").broadcast(unsigned))
    check(answer.status == "error" and answer.code == "400", "an unsigned spend is refused with 400", answer)
    say(f"      {answer.description}")

    first = spend(fan, 0, key, [(share - 500, address)])
    answer = asyncio.run(ARC(url).broadcast(first))
    check(answer.status == "success", "the SDK's ARC class posted a payment", answer)
    second = spend(fan, 0, key, [(share - 900, address)])
    answer = asyncio.run(Teranode(url + "/tx").broadcast(second))
    check(
        answer.status == "error" and answer.code == "409" and first.txid() in answer.description,
        "a double spend is refused with 409 and names the winner",
        answer,
    )
    say(f"      {answer.description}")

    say(f"the wallet signs {count - 1} more payments and posts them as one batch")
    batch = b"".join(spend(fan, index, key, [(share - 500, address)]).to_ef() for index in range(1, count))
    status, text = client.post_txs(batch)
    check(status == 200, "all are accepted", text)
    (mined,) = client.rpc("generatetoaddress", 1, address)
    block = client.rpc("getblock", mined, 1)
    check(
        len(block["tx"]) == count + 2,
        f"block {block['height']} holds all {count + 1} transactions in {len(block['subtrees'])} subtree(s)",
        len(block["tx"]),
    )
    document = client.get_json(f"/v1/tx/{first.txid()}")
    check(document["txStatus"] == "MINED", "ARC reports the payment as MINED with a Merkle path", document)


def follow(nodes: Nodes, alpha: NodeProcess, client: BsvClient, tip: str) -> None:
    say("a second node with its own database joins over the network")
    peers = alpha.info["transport"].removeprefix("tcp://")
    with (
        nodes.make("beta", transport__peers=f'["{peers}"]') as beta,
        BsvClient(beta.service("bsv_api"), beta.data_dir / ".cookie") as other,
    ):
        wait_for("the second node's catch-up", lambda: other.rpc("getbestblockhash") == tip)
        say(f"  beta has caught up to block {other.rpc('getblockcount')}")
        (tip,) = client.rpc("generatetoaddress", 1, PrivateKey().address(network=Network.TESTNET))
        wait_for("the new block", lambda: other.rpc("getbestblockhash") == tip)
        ours, theirs = client.rpc("gettxoutsetinfo"), other.rpc("gettxoutsetinfo")
        check(ours == theirs, "both have the same tip and the same UTXO set", (ours, theirs))
        say(f"      tip {tip}")
        say(f"      {ours['txouts']} unspent outputs, digest {ours['hash_serialized']}")


if __name__ == "__main__":
    main()
