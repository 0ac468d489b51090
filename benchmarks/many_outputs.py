"""Resident memory and speed of a node whose store holds millions of unspent outputs.

    python benchmarks/many_outputs.py [--outputs 10000000] [--count 60000] [--dir /tmp/somewhere] [--json out.json]

A node of the profile ``teranode`` is started, mines past the maturity of its coinbases and is stopped. Transactions of two
pay-to-public-key-hash outputs each, as many as asked for, are then put into its UTXO store as coinbases of the genesis
block (the rows that the ``utxo`` adapter writes, 20,000 a commit). The node is started again on it, and
``count`` transactions that spend outputs all over the store, a key each, are posted (1,000 in a ``POST /txs``, four
connections) and mined. CPU time and memory are the node's; making the store is not counted. The folder is removed.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import structlog
import trio

from nodewright.bench.load import run_load, write_batches
from nodewright.bench.node import NodeProcess
from nodewright.bench.processes import cpu_seconds, peak_rss_mb, until_quiet, usable_cores
from nodewright.bench.report import table, write_json
from nodewright.cli.common import ProfileRequest
from nodewright.db.stopped import stopped_node
from nodewright.interfaces.storage import WriteBatch
from nodewright.kernels.yardstick import verify_us
from nodewright.storage.utxo_records import TX, encode_transaction
from nodewright_bitcoin.network import REGTEST, address_of_pubkey
from nodewright_bsv_api.bench.wallet import Coin, Key, payments, sha256d
from nodewright_bsv_api.client import BsvClient

PROFILE = "teranode"
SATOSHIS = 10_000
MATURITY = 100
COMMIT = 20_000
BATCH = 1000
CONNECTIONS = 4
LOCKING = bytes.fromhex("76a914"), bytes.fromhex("88ac")

EXPLAIN = {
    "outputs": "unspent outputs put into the store",
    "fill_seconds": "until they were in it",
    "store_mib": "the store on the disk",
    "ready_seconds": "from the node's start on it until it answered",
    "ready_rss_mib": "resident memory then",
    "accepted": "transactions answered with success",
    "lost": "accepted and in no block",
    "rss_mib": "peak resident memory of the node",
    "node_us": "CPU microseconds of the node for a transaction accepted and mined",
    "verify_us": "one correct libsecp256k1 check, all cores busy",
    "efficiency": "verify_us / node_us",
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def node(data_dir: Path) -> NodeProcess:
    settings = {"services.bsv_api.listen": "127.0.0.1:0", "transport.listen": "127.0.0.1:0", "consensus.mine": "false"}
    return NodeProcess(PROFILE, data_dir, settings)


def client_of(running: NodeProcess) -> BsvClient:
    return BsvClient(running.service("bsv_api"), running.data_dir / ".cookie", timeout_seconds=600)


def rows(transactions: int, coins: int, seed: int, made: list[Coin]) -> Iterator[tuple[bytes, bytes]]:
    """(txid, row) of each. ``coins`` of them, evenly spread, pay their first output to a key of its own, appended to
    ``made``."""
    every = transactions // coins
    amount = struct.pack("<q", SATOSHIS)
    for number in range(transactions):
        txid = hashlib.sha256(b"output %d %d" % (seed, number)).digest()
        first = LOCKING[0] + txid[:20] + LOCKING[1]
        if number % every == 0 and len(made) < coins:
            key = Key(seed, 1 + number // every)
            first = key.script
            made.append(Coin(txid + bytes(4), SATOSHIS, key))
        outputs = b"\2" + amount + b"\x19" + first + amount + b"\x19" + LOCKING[0] + txid[12:] + LOCKING[1]
        yield txid, encode_transaction(0, True, (), outputs)[0]


async def fill(data_dir: Path, transactions: int, coins: int, seed: int) -> list[Coin]:
    """Into the UTXO store of a stopped node."""
    _, plan = ProfileRequest(PROFILE).compose()
    made: list[Coin] = []
    async with AsyncExitStack() as stack:
        stopped = await stack.enter_async_context(stopped_node(plan, data_dir, structlog.get_logger()))
        slot = next(one for one in stopped.stores if one.keeps_outputs)
        store = slot.rows
        assert store is not None
        left = rows(transactions, coins, seed, made)
        done = 0
        while part := dict(islice(left, COMMIT)):
            batch = WriteBatch()
            batch.put_many(TX, part)
            await store.commit(batch)
            done += len(part)
            if done % 500_000 < COMMIT:
                say(f"{2 * done:,} outputs")
    return made


def mine(client: BsvClient, count: int) -> None:
    address = address_of_pubkey(Key(0, 0).public, REGTEST)
    for _ in range(count):
        client.rpc("generatetoaddress", 1, address)


def rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def run(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    data_dir = scratch / "node"
    with node(data_dir) as running, client_of(running) as client:
        mine(client, MATURITY + 1)
    began = time.perf_counter()
    transactions = max(arguments.count, arguments.outputs // 2)
    coins = trio.run(fill, data_dir, transactions, arguments.count, arguments.seed)
    figures: dict[str, Any] = {"outputs": 2 * transactions, "fill_seconds": time.perf_counter() - began}
    raws = list(payments(coins, arguments.seed))
    batches = scratch / "batches"
    count = write_batches(batches, (b"".join(raws[at : at + BATCH]) for at in range(0, len(raws), BATCH)))
    say(f"{len(raws):,} transactions signed")
    sizes = [path.stat().st_size for path in (data_dir / "stores" / "utxo").rglob("*") if path.is_file()]
    figures["store_mib"] = sum(sizes) / 2**20
    running = node(data_dir)
    began = time.perf_counter()
    running.start(timeout_seconds=1800)
    try:
        figures["ready_seconds"] = time.perf_counter() - began
        with client_of(running) as client:
            mine(client, 1)
            until_quiet(running.pid)
            figures["ready_rss_mib"] = rss_mib(running.pid)
            figures |= load(client, running, raws, batches, count)
    finally:
        if running.alive():
            running.stop(600)
    return figures


def load(client: BsvClient, running: NodeProcess, raws: list[bytes], batches: Path, count: int) -> dict[str, Any]:
    first = int(client.rpc("getblockcount")) + 1
    verify = verify_us(usable_cores())
    before = cpu_seconds(running.pid)
    url = running.service("bsv_api")
    result = run_load(url, "txs", CONNECTIONS, [batches], lambda done: None)
    while int(client.rpc("getmininginfo")["pooledtx"]):
        mine(client, 1)
    spent = cpu_seconds(running.pid) - before
    found: set[str] = set()
    for height in range(first, int(client.rpc("getblockcount")) + 1):
        found.update(client.rpc("getblockbyheight", height, 1)["tx"])
    refused = {line.partition(":")[0] for line in result["refusals"]}
    accepted = [txid for txid in (sha256d(raw)[::-1].hex() for raw in raws) if txid not in refused]
    node_us = spent / len(raws) * 1e6
    return {
        "accepted": len(accepted),
        "lost": len(set(accepted) - found),
        "rss_mib": peak_rss_mb(running.pid),
        "node_us": node_us,
        "verify_us": verify,
        "efficiency": verify / node_us,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outputs", type=int, default=10_000_000)
    parser.add_argument("--count", type=int, default=60_000, help="transactions to post")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, help="where the folder is made; else the system's folder for such")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="many-outputs-", dir=arguments.dir) as text:
        figures = run(arguments, Path(text))
    ordered = {name: figures[name] for name in EXPLAIN}
    print(table(f"{figures['outputs']:,} outputs in the store", ordered, EXPLAIN))
    if arguments.json is not None:
        write_json(arguments.json, ordered)
    if figures["lost"] or figures["accepted"] != arguments.count:
        raise SystemExit(f"{figures['lost']} lost, {arguments.count - figures['accepted']} refused")


if __name__ == "__main__":
    main()
