"""One benchmark run: start a node, fund, sign, load, wait for blocks, account for every transaction, read the digest.

Invariant of the account: submitted = committed + refused + lost; ``lost`` are transactions answered with success that
are in no block at the end, and must be 0.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from nodewright.bench.load import run_load, write_batches
from nodewright.bench.node import NodeProcess
from nodewright.bench.processes import cpu_seconds, peak_rss_mb, usable_cores
from nodewright.bench.report import percentile
from nodewright.errors import NodewrightError
from nodewright.kernels.signatures import ECDSA_LANES
from nodewright.kernels.switch import warm_up
from nodewright.kernels.yardstick import verify_us
from nodewright_bitcoin.columns import KERNELS
from nodewright_bitcoin.network import REGTEST, address_of_pubkey
from nodewright_bsv_api.bench.wallet import Coin, Key, fan_out, payments, sha256d
from nodewright_bsv_api.client import BsvClient

MATURITY = 100
OUTPUTS_PER_FAN_OUT = 1000
COIN_SATOSHIS = 10_000

Progress = Callable[[str, int, int], None]


@frozen
class Plan:
    profile: str
    count: int
    batch: int
    connections: int
    seed: int
    settings: Mapping[str, str]
    data_dir: Path | None = None
    block_every: int = 0  # transactions; 0: blocks at the end alone
    commit_timeout_seconds: float = 600.0


def run(plan: Plan, progress: Progress) -> dict[str, Any]:
    """The figures of one run (names as in ``EXPLAIN`` of the command)."""
    with tempfile.TemporaryDirectory(prefix="nodewright-bench-") as scratch:
        data_dir = plan.data_dir or Path(scratch) / "node"
        if data_dir.exists() and any(data_dir.iterdir()):
            raise NodewrightError(f"{data_dir} is not empty: a benchmark starts from genesis; name a new folder")
        settings = {
            "services.bsv_api.listen": "127.0.0.1:0",
            "transport.listen": "127.0.0.1:0",
            "consensus.mine": "false",
            **plan.settings,
        }
        progress("kernels", 0, 1)
        # Once on this machine it takes a minute: then a node has them in a second, before what is measured.
        warm_up(ECDSA_LANES, KERNELS)
        with NodeProcess(plan.profile, data_dir, settings) as node:
            return _measured(plan, node, Path(scratch), progress)


def _measured(plan: Plan, node: NodeProcess, scratch: Path, progress: Progress) -> dict[str, Any]:
    url = node.service("bsv_api")
    with BsvClient(url, node.data_dir / ".cookie", timeout_seconds=600) as client:
        coins = _fund(client, plan, progress)
        raws = []
        for raw in payments(coins, plan.seed):
            raws.append(raw)
            if len(raws) % 1000 == 0:
                progress("signing", len(raws), plan.count)
        first_block = int(client.rpc("getblockcount")) + 1
        path = scratch / "batches"
        batches = write_batches(path, (b"".join(raws[at : at + plan.batch]) for at in range(0, len(raws), plan.batch)))
        cores = usable_cores()
        yardstick = verify_us(cores)
        before = cpu_seconds(node.pid)
        started = time.perf_counter()
        route = "tx" if plan.batch == 1 else "txs"
        miner = _Miner(client, plan)

        def loaded(done: int) -> None:
            progress("loading", done, batches)
            miner.after(done * plan.batch)

        result = run_load(url, route, plan.connections, [path], loaded)
        loading_cpu = cpu_seconds(node.pid) - before
        refused = {line.partition(":")[0] for line in result["refusals"]}
        accepted = [raw for raw in raws if sha256d(raw)[::-1].hex() not in refused]
        _commit(client, plan, len(accepted), progress)
        seconds = time.perf_counter() - started
        cpu = cpu_seconds(node.pid) - before
        committed = _committed(client, first_block)
        wanted = {sha256d(raw)[::-1].hex() for raw in accepted}
        done = len(wanted & committed)
        return {
            "submitted": len(raws),
            "accepted": len(accepted),
            "committed": done,
            "lost": len(wanted) - done,
            "tps": done / seconds,
            "seconds": seconds,
            "node_cpu_seconds": cpu,
            "node_cpu_loading_seconds": loading_cpu,
            "accepted_per_second": len(accepted) / float(result["seconds"]),
            "verify_us": yardstick,
            "efficiency": done * yardstick / 1e6 / cpu,
            "p50_ms": percentile(result["latencies"], 0.5) * 1000,
            "p95_ms": percentile(result["latencies"], 0.95) * 1000,
            "rss_mb": peak_rss_mb(node.pid),
            "cores": cores,
            "tps_per_core": done / seconds / cores,
            "busy": int(result["busy"]),
            "blocks": int(client.rpc("getblockcount")) - first_block + 1,
            "batch": plan.batch,
            "connections": plan.connections,
            "seed": plan.seed,
            "count": plan.count,
            "digest": _digest(client, raws, progress),
        }


class _Miner:
    """A block after every ``block_every`` transactions, while the load goes on: what is pending stays bounded."""

    def __init__(self, client: BsvClient, plan: Plan) -> None:
        self._client = client
        self._every = plan.block_every
        self._next = plan.block_every
        self._address = _address(Key(plan.seed, 0))

    def after(self, posted: int) -> None:
        if self._every and posted >= self._next:
            self._next = posted + self._every
            self._client.rpc("generatetoaddress", 1, self._address)


def _fund(client: BsvClient, plan: Plan, progress: Progress) -> list[Coin]:
    """``count`` coins of ``COIN_SATOSHIS``, each with a key of its own, in a block."""
    miner = Key(plan.seed, 0)
    fans = -(-plan.count // OUTPUTS_PER_FAN_OUT)
    need = fans * (OUTPUTS_PER_FAN_OUT * COIN_SATOSHIS + 40_000)
    blocks = -(-need // 2_000_000_000)  # fifty coins a block at first, with room for halvings of short intervals
    progress("mining", 0, MATURITY + blocks)
    address = _address(miner)
    for done in range(0, MATURITY + blocks, 20):
        client.rpc("generatetoaddress", min(20, MATURITY + blocks - done), address)
        progress("mining", min(done + 20, MATURITY + blocks), MATURITY + blocks)
    coins: list[Coin] = []
    purses = [_coinbase_coin(client, height, miner) for height in range(1, blocks + 1)]
    spare = purses.pop()
    while len(coins) < plan.count:
        amount = min(OUTPUTS_PER_FAN_OUT, plan.count - len(coins))
        keys = [Key(plan.seed, 1 + len(coins) + index) for index in range(amount)]
        try:
            raw, made = fan_out(spare, keys, COIN_SATOSHIS)
        except ValueError:
            spare = purses.pop()
            raw, made = fan_out(spare, keys, COIN_SATOSHIS)
        status, text = client.post_tx(raw)
        if status != 200:
            raise NodewrightError(f"a funding transaction was refused: {status} {text}")
        spare = made.pop()
        coins += made
        progress("funding", len(coins), plan.count)
    client.rpc("generatetoaddress", 1, address)
    while int(client.rpc("getmininginfo")["pooledtx"]):
        client.rpc("generatetoaddress", 1, address)
    return coins


def _address(key: Key) -> str:
    return address_of_pubkey(key.public, REGTEST)


def _coinbase_coin(client: BsvClient, height: int, key: Key) -> Coin:
    block = client.rpc("getblockbyheight", height, 1)
    txid = block["tx"][0]
    document = client.rpc("getrawtransaction", txid, True)
    satoshis = round(document["vout"][0]["value"] * 100_000_000)
    return Coin(bytes.fromhex(txid)[::-1] + bytes(4), satoshis, key)


def _commit(client: BsvClient, plan: Plan, accepted: int, progress: Progress) -> None:
    """Blocks until nothing is pending."""
    deadline = time.monotonic() + plan.commit_timeout_seconds
    address = _address(Key(plan.seed, 0))
    while pending := int(client.rpc("getmininginfo")["pooledtx"]):
        progress("committing", max(0, accepted - pending), accepted)
        if time.monotonic() > deadline:
            return
        client.rpc("generatetoaddress", 1, address)
    progress("committing", accepted, accepted)


def _committed(client: BsvClient, first: int) -> set[str]:
    found: set[str] = set()
    for height in range(first, int(client.rpc("getblockcount")) + 1):
        found.update(client.rpc("getblockbyheight", height, 1)["tx"])
    return found


def _digest(client: BsvClient, raws: Sequence[bytes], progress: Progress) -> str:
    """SHA-256 over every output of the submitted transactions as the node holds it: index, output, amount, script."""
    digest = hashlib.sha256()
    step = 500
    for at in range(0, len(raws), step):
        part = raws[at : at + step]
        wanted = [{"txid": sha256d(raw)[::-1].hex(), "n": n} for raw in part for n in (0, 1)]
        answers = client.rpc("gettxouts", wanted, ["value", "scriptPubKey"])["txouts"]
        for index, answer in enumerate(answers):
            row = (
                f"{at + index // 2} {index % 2} {answer.get('value')} {answer.get('scriptPubKey')} {answer.get('error')}\n"
            )
            digest.update(row.encode())
        progress("digest", at + len(part), len(raws))
    return digest.hexdigest()
