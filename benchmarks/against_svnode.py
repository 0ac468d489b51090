"""The same signed transactions into a real SV Node and into this node, by turns, on one machine in one run.

    python benchmarks/against_svnode.py --bitcoind PATH [--count 40000] [--rounds 3] [--json out.json]

Both stand on one chain: the SV Node mines it, this node follows it by Bitcoin's wire, and every round starts from copies of
both folders. A round posts ``count`` one-input two-output transactions with a key each (1,000 in a batch, four connections:
``sendrawtransactions`` there, ``POST /txs`` here), then mines until nothing is pending, and counts what is in blocks. CPU
time is user and system time of the process and its children, from the first post until nothing is pending. A warm-up of
``--warm`` transactions comes first on both sides and is not counted, nor what a process still does for itself after it
(this node loads its compiled kernels behind its start): a round begins when it is quiet. What sends runs on the same cores
and is not counted either.

SV Node runs as it comes but for room (regtest, Genesis rules from block 1, block size, no wallet). Compared is what each
needs until a transaction is checked and in a block. This node syncs its journal before it answers, SV Node keeps its pool
in memory: nothing is put in for that.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import queue
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nodewright.bench.node import NodeProcess
from nodewright.bench.processes import cpu_seconds, peak_rss_mb, until_quiet, usable_cores
from nodewright.bench.report import table, write_json
from nodewright.kernels.yardstick import verify_us
from nodewright_bitcoin.network import REGTEST, address_of_pubkey
from nodewright_bsv_api.bench.wallet import Coin, Key, fan_out, payments, sha256d
from nodewright_bsv_api.client import BsvClient
from nodewright_bsv_p2p.testing.svnode import PASSWORD, USER, SvNode

MATURITY = 100
FAN_OUT = 1000
COIN_SATOSHIS = 10_000
TIP_AGE_SECONDS = 10 * 365 * 86400

PROFILE = """
profile = "against-svnode"
extends = "teranode"

[execution]
network = "regtest"
genesis_height = 1
"""
WIRE = """
[services.bsv_p2p]
listen = "127.0.0.1:0"
connect = [{connect}]
"""

EXPLAIN = {
    "svnode_us": "CPU microseconds of SV Node for a transaction accepted and mined, median of the rounds",
    "node_us": "the same of this node",
    "ratio": "svnode_us / node_us",
    "svnode_accept_us": "the part of it until the last one was accepted",
    "node_accept_us": "",
    "svnode_accepted_per_second": "with what sends on the same cores",
    "node_accepted_per_second": "",
    "svnode_mined_per_second": "accepted and mined, first post to nothing pending",
    "node_mined_per_second": "",
    "speed_ratio": "node_mined_per_second / svnode_mined_per_second",
    "svnode_rss_mb": "peak resident memory (MiB), largest of the rounds",
    "node_rss_mb": "",
    "verify_us": "one correct libsecp256k1 check here, all cores busy, median",
    "efficiency": "verify_us / node_us",
    "lost": "accepted and in no block, all rounds and both sides",
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- one chain for both -----------------------------------------------------------------------------------------------


def svnode(program: Path, data_dir: Path) -> SvNode:
    return SvNode(program, data_dir, whitelist="127.0.0.1", maxtipage=TIP_AGE_SECONDS, txindex=1, rpcthreads=8)


def node(scratch: Path, data_dir: Path, wire: bool, connect: Sequence[str] = ()) -> NodeProcess:
    profile = scratch / f"{data_dir.name}.toml"
    addresses = ", ".join(f'"{one}"' for one in connect)
    profile.write_text(PROFILE + (WIRE.format(connect=addresses) if wire else ""))
    settings = {"services.bsv_api.listen": "127.0.0.1:0", "transport.listen": "127.0.0.1:0", "consensus.mine": "false"}
    return NodeProcess(str(profile), data_dir, settings)


def fund(theirs: SvNode, count: int, seed: int) -> list[Coin]:
    """``count`` coins with a key each, in blocks."""
    miner = Key(seed, 0)
    address = address_of_pubkey(miner.public, REGTEST)
    purses = -(-count // FAN_OUT // 200) + 1
    theirs.mine(MATURITY + purses, address)
    coins: list[Coin] = []
    raws: list[bytes] = []
    height = 0
    spare: Coin | None = None
    while len(coins) < count:
        keys = [Key(seed, 1 + len(coins) + index) for index in range(min(FAN_OUT, count - len(coins)))]
        if spare is None or spare.satoshis < (COIN_SATOSHIS + 40) * (FAN_OUT + 1):
            height += 1
            txid = theirs.rpc("getblockbyheight", height, 1)["tx"][0]
            satoshis = round(theirs.rpc("getrawtransaction", txid, True)["vout"][0]["value"] * 100_000_000)
            spare = Coin(bytes.fromhex(txid)[::-1] + bytes(4), satoshis, miner)
        raw, made = fan_out(spare, keys, COIN_SATOSHIS)
        spare = made.pop()
        coins += made
        raws.append(raw)
    for start in range(0, len(raws), 20):
        answer = theirs.rpc("sendrawtransactions", [{"hex": raw.hex()} for raw in raws[start : start + 20]])
        if answer.get("invalid"):
            raise SystemExit(f"a funding transaction was refused: {answer['invalid'][:1]}")
    while theirs.rpc("getmempoolinfo")["size"]:
        theirs.mine(1, address)
    theirs.mine(1, address)
    return coins


def prepare(program: Path, scratch: Path, count: int, seed: int) -> list[bytes]:
    """Both templates, at one tip; the signed transactions."""
    with svnode(program, scratch / "svnode") as theirs:
        coins = fund(theirs, count, seed)
        tip = theirs.rpc("getbestblockhash")
        with node(scratch, scratch / "node", True, [theirs.address]) as ours, client_of(ours) as client:
            deadline = time.monotonic() + 600
            while client.rpc("getbestblockhash") != tip:
                if time.monotonic() > deadline:
                    raise SystemExit("this node did not follow the SV Node's chain in 600 s")
                time.sleep(0.2)
    say(f"one chain with {len(coins):,} coins on both sides; signing")
    return list(payments(coins, seed))


def client_of(ours: NodeProcess) -> BsvClient:
    return BsvClient(ours.service("bsv_api"), ours.data_dir / ".cookie", timeout_seconds=600)


# --- doors ------------------------------------------------------------------------------------------------------------


def batches(raws: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(raws), size):
        yield raws[start : start + size]


def post_all(bodies: Sequence[bytes], send: Callable[[], Callable[[bytes], str]], connections: int) -> list[str]:
    """Every body once, by this many threads; what was refused."""
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for body in bodies:
        waiting.put(body)
    refused: list[str] = []

    def work() -> None:
        post = send()
        while True:
            try:
                body = waiting.get_nowait()
            except queue.Empty:
                return
            answer = post(body)
            if answer:
                refused.append(answer)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return refused


def to_svnode(theirs: SvNode) -> Callable[[], Callable[[bytes], str]]:
    token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}

    def connect() -> Callable[[bytes], str]:
        connection = http.client.HTTPConnection("127.0.0.1", theirs.rpc_port, timeout=600)

        def post(body: bytes) -> str:
            connection.request("POST", "/", body, headers)
            answer = json.loads(connection.getresponse().read())
            problem = answer.get("error") or answer["result"].get("invalid")
            return json.dumps(problem)[:300] if problem else ""

        return post

    return connect


def rpc_body(raws: Sequence[bytes]) -> bytes:
    asked = [{"hex": raw.hex()} for raw in raws]
    return json.dumps({"id": 1, "method": "sendrawtransactions", "params": [asked]}).encode()


def to_node(ours: NodeProcess) -> Callable[[], Callable[[bytes], str]]:
    def connect() -> Callable[[bytes], str]:
        client = client_of(ours)

        def post(body: bytes) -> str:
            while True:
                status, text = client.post_txs(body)
                if status != 503:
                    return "" if status == 200 else text[:300]
                time.sleep(0.2)

        return post

    return connect


# --- one round --------------------------------------------------------------------------------------------------------


def measured(
    pid: int, count: int, accept: Callable[[], list[str]], mine: Callable[[], None], pending: Callable[[], int]
) -> dict[str, Any]:
    before, began = cpu_seconds(pid), time.perf_counter()
    refused = accept()
    accepted_at, accept_cpu = time.perf_counter() - began, cpu_seconds(pid) - before
    while pending():
        mine()
    seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - before
    return {
        "refused": refused[:3],
        "us": cpu / count * 1e6,
        "accept_us": accept_cpu / count * 1e6,
        "accepted_per_second": count / accepted_at,
        "mined_per_second": count / seconds,
        "rss_mb": peak_rss_mb(pid),
    }


def in_blocks(block_of: Callable[[int], dict[str, Any]], first: int, last: int) -> set[str]:
    return {txid for height in range(first, last + 1) for txid in block_of(height)["tx"]}


def round_svnode(program: Path, folder: Path, warm: Sequence[bytes], raws: Sequence[bytes]) -> dict[str, Any]:
    address = address_of_pubkey(Key(0, 0).public, REGTEST)
    with svnode(program, folder) as theirs:

        def pending() -> int:
            return int(theirs.rpc("getmempoolinfo")["size"])

        def mine() -> None:
            theirs.mine(1, address)

        def accept(some: Sequence[bytes]) -> list[str]:
            return post_all([rpc_body(part) for part in batches(some, 1000)], to_svnode(theirs), 4)

        measured(theirs.pid, len(warm), lambda: accept(warm), mine, pending)
        until_quiet(theirs.pid)
        first = int(theirs.rpc("getblockcount")) + 1
        bodies = [rpc_body(part) for part in batches(raws, 1000)]
        figures = measured(theirs.pid, len(raws), lambda: post_all(bodies, to_svnode(theirs), 4), mine, pending)
        last = int(theirs.rpc("getblockcount"))
        found = in_blocks(lambda height: dict(theirs.rpc("getblockbyheight", height, 1)), first, last)
    return figures | {"lost": lost(raws, found)}


def round_node(scratch: Path, folder: Path, warm: Sequence[bytes], raws: Sequence[bytes]) -> dict[str, Any]:
    address = address_of_pubkey(Key(0, 0).public, REGTEST)
    with node(scratch, folder, False) as ours, client_of(ours) as client:

        def pending() -> int:
            return int(client.rpc("getmininginfo")["pooledtx"])

        def mine() -> None:
            client.rpc("generatetoaddress", 1, address)

        def accept(some: Sequence[bytes]) -> list[str]:
            return post_all([b"".join(part) for part in batches(some, 1000)], to_node(ours), 4)

        measured(ours.pid, len(warm), lambda: accept(warm), mine, pending)
        until_quiet(ours.pid)
        first = int(client.rpc("getblockcount")) + 1
        figures = measured(ours.pid, len(raws), lambda: accept(raws), mine, pending)
        found = in_blocks(
            lambda height: dict(client.rpc("getblockbyheight", height, 1)), first, int(client.rpc("getblockcount"))
        )
    return figures | {"lost": lost(raws, found)}


def lost(raws: Sequence[bytes], found: set[str]) -> int:
    return sum(sha256d(raw)[::-1].hex() not in found for raw in raws)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, Any]]] = {"svnode": [], "node": []}
    checks: list[float] = []
    with tempfile.TemporaryDirectory(prefix="against-svnode-") as text:
        scratch = Path(text)
        raws = prepare(arguments.bitcoind, scratch, arguments.count + arguments.warm, arguments.seed)
        warm, raws = raws[: arguments.warm], raws[arguments.warm :]
        for number in range(arguments.rounds):
            sides = ("svnode", "node") if number % 2 == 0 else ("node", "svnode")
            for side in sides:
                folder = scratch / f"{side}-{number}"
                shutil.copytree(scratch / side, folder)
                if side == "svnode":
                    figures = round_svnode(arguments.bitcoind, folder, warm, raws)
                else:
                    figures = round_node(scratch, folder, warm, raws)
                shutil.rmtree(folder)
                rounds[side].append(figures)
                say(f"round {number + 1} {side}: " + ", ".join(
                    f"{name} {value:,.1f}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in figures.items()
                ))  # fmt: skip
            checks.append(verify_us(usable_cores()))
    return summary(rounds, checks)


def summary(rounds: dict[str, list[dict[str, Any]]], checks: Sequence[float]) -> dict[str, Any]:
    def median(side: str, name: str) -> float:
        return float(statistics.median(one[name] for one in rounds[side]))

    figures: dict[str, Any] = {}
    for name in ("us", "accept_us", "accepted_per_second", "mined_per_second"):
        for side in ("svnode", "node"):
            figures[f"{side}_{name}"] = median(side, name)
    for side in ("svnode", "node"):
        figures[f"{side}_rss_mb"] = max(one["rss_mb"] for one in rounds[side])
    figures["ratio"] = figures["svnode_us"] / figures["node_us"]
    figures["speed_ratio"] = figures["node_mined_per_second"] / figures["svnode_mined_per_second"]
    figures["verify_us"] = float(statistics.median(checks))
    figures["efficiency"] = figures["verify_us"] / figures["node_us"]
    figures["lost"] = sum(one["lost"] for side in rounds.values() for one in side)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="This node and a real SV Node on the same transactions, by turns.")
    parser.add_argument("--bitcoind", type=Path, required=True, help="the SV Node's program (docs/svnode.md)")
    parser.add_argument("--count", type=int, default=40_000, help="transactions of a round")
    parser.add_argument("--warm", type=int, default=4_000, help="transactions before each round, not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    figures = run(arguments)
    ordered = {name: figures[name] for name in EXPLAIN}
    print(table(f"against an SV Node, {arguments.count:,} transactions", ordered, EXPLAIN))
    if arguments.json is not None:
        write_json(arguments.json, {**ordered, "count": arguments.count, "rounds": arguments.rounds})
    if figures["lost"]:
        raise SystemExit(f"{figures['lost']} transactions are in no block")


if __name__ == "__main__":
    main()
