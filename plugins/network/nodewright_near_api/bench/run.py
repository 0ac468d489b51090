"""One benchmark run: a genesis with accounts, a node, signed transfers, load, and blocks until all of them ran.

Invariant of the account: submitted = committed + refused + lost; ``lost`` are transfers answered with success that did not
run in final blocks, and must be 0.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from nodewright import genesis
from nodewright.bench.load import run_load, write_batches
from nodewright.bench.node import NodeProcess
from nodewright.bench.processes import cpu_seconds, peak_rss_mb, usable_cores
from nodewright.bench.report import percentile
from nodewright.errors import NodewrightError
from nodewright.kernels.yardstick import ed25519_verify_us
from nodewright_near.parameters import Parameters
from nodewright_near.primitives import base58, parse_hash
from nodewright_near_api.batches import join
from nodewright_near_api.bench.load import Account, Sent, Transfers
from nodewright_near_api.bench.watch import FinalBlocks, Rpc, transfer_gas
from nodewright_nightshade.config import NightshadeConfig
from nodewright_nightshade.local import complete

POLL_SECONDS = 0.25
# Reading a genesis and building its trie, beside an ordinary start.
START_SECONDS_PER_ACCOUNT = 0.002

Progress = Callable[[str, int, int], None]


@frozen
class Plan:
    profile: str
    count: int
    shards: int
    accounts: int
    batch: int
    connections: int
    seed: int
    settings: Mapping[str, str]
    data_dir: Path | None = None
    stall_seconds: float = 60.0


def run(plan: Plan, progress: Progress) -> dict[str, Any]:
    """The figures of one run (names as in ``EXPLAIN`` of the command)."""
    with tempfile.TemporaryDirectory(prefix="nodewright-bench-") as scratch:
        data_dir = plan.data_dir or Path(scratch) / "node"
        if data_dir.exists() and any(data_dir.iterdir()):
            raise NodewrightError(f"{data_dir} is not empty: a benchmark starts from genesis; name a new folder")
        accounts = [Account(plan.seed, number) for number in range(plan.accounts)]
        file = Path(scratch) / "genesis.json"
        file.write_text(_genesis(plan, accounts, progress))
        settings = {
            "services.near_api.listen": "127.0.0.1:0",
            "transport.listen": "127.0.0.1:0",
            "genesis.file": str(file),
            **plan.settings,
        }
        node = NodeProcess(plan.profile, data_dir, settings)
        progress("starting", 0, 1)
        try:
            node.start(120 + START_SECONDS_PER_ACCOUNT * plan.accounts)
            progress("starting", 1, 1)
            return _measured(plan, node, accounts, Path(scratch), progress)
        finally:
            if node.alive():
                node.stop()


def _genesis(plan: Plan, accounts: Sequence[Account], progress: Progress) -> str:
    """Of the local network, with the accounts; the gas price stands still, so that the final state follows from the seed
    however the transfers fall into blocks."""
    document = genesis.builtin("localnet").document()
    records = document["execution"]["accounts"]
    for number, account in enumerate(accounts):
        records.append(account.record())
        if (number + 1) % 1000 == 0 or number + 1 == len(accounts):
            progress("accounts", number + 1, len(accounts))
    document["consensus"]["max_gas_price"] = 0
    return genesis.build(complete(NightshadeConfig(shards=plan.shards), document)).dump()


def _measured(plan: Plan, node: NodeProcess, accounts: list[Account], scratch: Path, progress: Progress) -> dict[str, Any]:
    url = node.service("near_api")
    rpc = Rpc(url)
    try:
        genesis_hash = parse_hash(rpc("status")["genesis_hash"])
        sent = list(
            Transfers(accounts, plan.seed).sign(
                plan.count, genesis_hash, lambda done: progress("signing", done, plan.count)
            )
        )
        paths, batches = _write(plan, sent, scratch)
        cores = usable_cores()
        yardstick = ed25519_verify_us(cores)
        finals = FinalBlocks(rpc, rpc.final_height())
        before = cpu_seconds(node.pid)
        started = time.perf_counter()
        result = run_load(url, "txs", 1, paths, lambda done: progress("loading", done, batches))
        loading_cpu = cpu_seconds(node.pid) - before
        refused = {line.partition(":")[0] for line in result["refusals"]}
        accepted = {id for one in sent if (id := base58(one.signed.id)) not in refused}
        ended, cpu_then, ran = _wait(plan, node, finals, len(accepted), progress)
        seconds, cpu = ended - started, cpu_then - before
        memory = peak_rss_mb(node.pid)
        done = min(len(accepted & _included(rpc, finals, progress)), ran)
        times = finals.times()
        return {
            "submitted": len(sent),
            "accepted": len(accepted),
            "committed": done,
            "lost": len(accepted) - done,
            "tps": done / seconds,
            "seconds": seconds,
            "node_cpu_seconds": cpu,
            "node_cpu_loading_seconds": loading_cpu,
            "accepted_per_second": len(accepted) / float(result["seconds"]),
            "verify_us": yardstick,
            "efficiency": done * yardstick / 1e6 / cpu,
            "p50_ms": percentile(result["latencies"], 0.5) * 1000,
            "p95_ms": percentile(result["latencies"], 0.95) * 1000,
            "rss_mb": memory,
            "cores": cores,
            "tps_per_core": done / seconds / cores,
            "busy": int(result["busy"]),
            "blocks": len(finals.blocks),
            "block_p50_ms": percentile(times, 0.5) * 1000,
            "block_p95_ms": percentile(times, 0.95) * 1000,
            "missed_chunks": finals.missed(),
            "batch": plan.batch,
            "connections": plan.connections,
            "shards": plan.shards,
            "accounts": plan.accounts,
            "seed": plan.seed,
            "count": plan.count,
            "digest": " ".join(finals.roots()),
        }
    finally:
        rpc.close()


def _write(plan: Plan, sent: Sequence[Sent], scratch: Path) -> tuple[list[Path], int]:
    """A file for each connection, and how many batches there are. All of a sender go through one connection, in order."""
    streams: list[list[bytes]] = [[] for _ in range(plan.connections)]
    for one in sent:
        streams[one.sender % plan.connections].append(one.signed.raw)
    paths, batches = [], 0
    for number, raws in enumerate(streams):
        paths.append(scratch / f"batches-{number}")
        batches += write_batches(paths[-1], (join(raws[at : at + plan.batch]) for at in range(0, len(raws), plan.batch)))
    return paths, batches


def _wait(
    plan: Plan, node: NodeProcess, finals: FinalBlocks, accepted: int, progress: Progress
) -> tuple[float, float, int]:
    """Until all have run in final blocks, or nothing more does: when that was, the node's CPU time then, and how many ran.

    While it lasts the node is asked for little: how many are not final, then whether the blocks that run their receipts
    are. Whole blocks, which say how much ran, are read once that is so."""
    each, rpc = 2 * transfer_gas(Parameters()), finals.rpc
    left, moved = accepted, time.monotonic()
    while left and time.monotonic() < moved + plan.stall_seconds:
        time.sleep(POLL_SECONDS)
        now = rpc.metric("nodewright_pool_transactions")
        if now < left:
            moved = time.monotonic()
        left = now
        progress("executing", max(accepted - left, 0), accepted)
    while True:
        head = int(rpc("status")["sync_info"]["latest_block_height"])
        while rpc.final_height() < head and time.monotonic() < moved + plan.stall_seconds:
            time.sleep(POLL_SECONDS)
        ended, cpu = time.perf_counter(), cpu_seconds(node.pid)
        while finals.last < head + 1 and time.monotonic() < moved + plan.stall_seconds:  # its header says what it ran
            time.sleep(POLL_SECONDS)
            finals.follow()
        ran = finals.gas_used // each
        if ran >= accepted or time.monotonic() >= moved + plan.stall_seconds:
            return ended, cpu, ran


def _included(rpc: Rpc, finals: FinalBlocks, progress: Progress) -> set[str]:
    found: set[str] = set()
    hashes = finals.chunks()
    for number, chunk in enumerate(hashes):
        found.update(one["hash"] for one in rpc("chunk", chunk_id=chunk)["transactions"])
        progress("accounting", number + 1, len(hashes))
    return found
