"""One benchmark run: a genesis with accounts, a node or a network, signed transfers, load, blocks until all of them ran.

Invariant of the account: submitted = committed + refused + lost; ``lost`` are transfers that were taken and did not run in
final blocks, and must be 0.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from nodewright import genesis
from nodewright.bench.load import run_load, write_batches
from nodewright.bench.processes import usable_cores
from nodewright.bench.report import percentile
from nodewright.errors import NodewrightError
from nodewright.kernels.signatures import LANES
from nodewright.kernels.switch import warm_up
from nodewright.kernels.yardstick import ed25519_verify_us
from nodewright_near.generated import Generated, read_generated
from nodewright_near.genesis import shard_of
from nodewright_near.parameters import Parameters
from nodewright_near.primitives import parse_hash
from nodewright_near.ways import KERNELS
from nodewright_near_api.batches import join
from nodewright_near_api.bench.load import Transfers, section
from nodewright_near_api.bench.network import LOAD_SLOT, Nodes
from nodewright_near_api.bench.watch import FinalBlocks, transfer_gas
from nodewright_nightshade.config import NightshadeConfig
from nodewright_nightshade.local import boundaries, complete

POLL_SECONDS: Final = 0.25
# Reading a genesis and building its trie, beside an ordinary start; and what signing takes at most.
START_SECONDS_PER_ACCOUNT: Final = 0.001
SIGNING_SECONDS_PER_TRANSFER: Final = 0.002
SEED_TPS_PER_CORE: Final = 893  # of NEAR's own benchmark: 1 M transfers a second on 140 validators of 8 cores

Progress = Callable[[str, int, int], None]


@frozen
class Plan:
    """``load``: ``node`` (a generator in each node) or ``http`` (a process that posts). ``hold``: seconds between blocks
    that the generators hold, 0 for as fast as is taken; ``rate``: transfers a second at the end of the ramp, in all."""

    profile: str
    count: int
    shards: int
    accounts: int
    batch: int
    connections: int
    seed: int
    settings: Mapping[str, str] = field(factory=dict)
    data_dir: Path | None = None
    load: str = "node"
    nodes: int = 1
    hold: float = 1.5
    rate: float = 4000.0
    ramp: float = 3.0
    stall_seconds: float = 60.0


@frozen
class Taken:
    """What the load came to. ``sent`` and ``accepted`` by shard of the sender."""

    sent: Counter[int]
    accepted: Counter[int]
    began: float
    loading_seconds: float
    loading_cpu: float
    latencies_ms: tuple[float, float]
    busy: int
    signing_cpu: float
    rate: float = 0.0


def run(plan: Plan, progress: Progress) -> dict[str, Any]:
    """The figures of one run (names as in ``EXPLAIN`` of the command)."""
    if plan.load == "http" and plan.nodes > 1:
        raise NodewrightError("a network is loaded by the generators in its nodes: leave --load http away, or --nodes")
    with tempfile.TemporaryDirectory(prefix="nodewright-bench-") as scratch:
        folder = plan.data_dir or Path(scratch) / "nodes"
        if folder.exists() and any(folder.iterdir()):
            raise NodewrightError(f"{folder} is not empty: a benchmark starts from genesis; name a new folder")
        file = Path(scratch) / "genesis.json"
        file.write_text(_genesis(plan))
        nodes = Nodes(plan.profile, folder, plan.nodes, plan.shards, {"genesis.file": str(file), **_settings(plan)})
        progress("kernels", 0, 1)
        # Once on this machine it takes a minute: then a node has them in a second, before what is measured.
        warm_up(LANES, KERNELS)
        progress("starting", 0, plan.nodes)
        try:
            began = time.perf_counter()
            limit = 120 + START_SECONDS_PER_ACCOUNT * plan.accounts
            nodes.start(limit, lambda done: progress("starting", done, plan.nodes))
            started = time.perf_counter() - began
            return {**_measured(plan, nodes, Path(scratch), progress), "start_seconds": started}
        finally:
            nodes.stop()


def _settings(plan: Plan) -> dict[str, str]:
    settings = dict(plan.settings)
    if plan.load == "node":
        load = {
            "use": "near_load",
            "start": "file",
            "count": plan.count,
            "seed": plan.seed,
            "batch": plan.batch,
            "streams": plan.connections,
            "rate": plan.rate / plan.nodes,
            "ramp_seconds": plan.ramp,
            "target_block_seconds": plan.hold,
            "max_waiting": max(plan.batch, 5000 * plan.shards),
        }
        settings = {f"{LOAD_SLOT}.{key}": str(value) for key, value in load.items()} | settings
    return settings


def _genesis(plan: Plan) -> str:
    """Of the local network, with the accounts; the gas price stands still, so that the final state follows from the seed
    however the transfers fall into blocks."""
    document = genesis.builtin("localnet").document()
    document["execution"]["generated_accounts"] = [section(plan.accounts, plan.seed)]
    document["consensus"]["max_gas_price"] = 0
    config = NightshadeConfig(shards=plan.shards, local_validators=plan.nodes)
    return genesis.build(complete(config, document)).dump()


def _accounts(plan: Plan) -> Generated:
    return read_generated({"generated_accounts": [section(plan.accounts, plan.seed)]})[0]


def _measured(plan: Plan, nodes: Nodes, scratch: Path, progress: Progress) -> dict[str, Any]:
    rpc = nodes.rpcs[0]
    cores = usable_cores()
    if plan.load == "node":
        limit = 60 + SIGNING_SECONDS_PER_TRANSFER * plan.count
        nodes.reports("signed", limit, lambda done: progress("signing", done * plan.count // plan.nodes, plan.count))
        paths: list[Path] = []
        sent: Counter[int] = Counter()
    else:
        paths, sent = _write(plan, parse_hash(rpc("status")["genesis_hash"]), scratch, progress)
    yardstick = ed25519_verify_us(cores)
    finals = FinalBlocks(rpc, rpc.final_height())
    before = nodes.cpu_seconds()
    taken = _in_nodes(plan, nodes, progress) if plan.load == "node" else _posted(plan, nodes, paths, sent, progress)
    accepted = taken.accepted.total()
    ended, cpu_then, ran = _wait(plan, nodes, finals, accepted, progress)
    seconds, cpu = ended - taken.began, cpu_then - before
    memory, witnesses = nodes.rss_mb(), nodes.metric("near_witness_bytes")
    included = finals.included(nodes.rpcs, progress)
    done = min(included.total(), accepted, ran)
    times, roots, missed = finals.times(), finals.roots(), finals.missed()
    return {
        "submitted": taken.sent.total(),
        "accepted": accepted,
        "committed": done,
        "lost": accepted - done,
        "tps": done / seconds,
        "seconds": seconds,
        "node_cpu_seconds": cpu,
        "node_cpu_loading_seconds": taken.loading_cpu,
        "signing_cpu_seconds": taken.signing_cpu,
        "accepted_per_second": accepted / taken.loading_seconds,
        "verify_us": yardstick,
        "efficiency": done * yardstick / 1e6 / cpu,
        "p50_ms": taken.latencies_ms[0],
        "p95_ms": taken.latencies_ms[1],
        "rss_mb": memory,
        "cores": cores,
        "tps_per_core": done / seconds / cores,
        "tps_per_busy_core": done / cpu,
        "seed_tps_per_core": SEED_TPS_PER_CORE,
        "busy": taken.busy,
        "blocks": len(finals.blocks),
        "block_p50_ms": percentile(times, 0.5) * 1000,
        "block_p95_ms": percentile(times, 0.95) * 1000,
        "missed_chunks": sum(missed),
        "witness_bytes": witnesses,
        "held_rate": taken.rate,
        "load": plan.load,
        "nodes": plan.nodes,
        "batch": plan.batch,
        "connections": plan.connections,
        "shards": plan.shards,
        "accounts": plan.accounts,
        "seed": plan.seed,
        "count": plan.count,
        "digest": " ".join(roots),
        "per_shard": [
            {
                "shard": shard,
                "submitted": taken.sent[shard],
                "accepted": taken.accepted[shard],
                "committed": included[shard],
                "lost": taken.accepted[shard] - included[shard],
                "tps": included[shard] / seconds,
                "missed_chunks": missed[shard],
                "digest": root,
            }
            for shard, root in enumerate(roots)
        ],
    }


# --- two ways to load -------------------------------------------------------------------------------------------------


def _in_nodes(plan: Plan, nodes: Nodes, progress: Progress) -> Taken:
    began, before = time.perf_counter(), nodes.cpu_seconds()
    nodes.go()
    limit = plan.stall_seconds + plan.ramp + plan.count / 50
    reports = nodes.reports("sent", limit, lambda done: progress("loading", done, plan.nodes))
    loading_cpu = nodes.cpu_seconds() - before

    def by_shard(name: str) -> Counter[int]:
        counted: Counter[int] = Counter()
        for one in reports:
            counted.update({int(shard): count for shard, count in one[name].items()})
        return counted

    return Taken(
        by_shard("sent"),
        by_shard("accepted"),
        began,
        max(one["began"] + one["seconds"] for one in reports) - min(one["began"] for one in reports),
        loading_cpu,
        (max(one["p50_ms"] for one in reports), max(one["p95_ms"] for one in reports)),
        sum(one["busy"] for one in reports),
        sum(one["signing_cpu_seconds"] for one in reports),
        sum(one["rate"] for one in reports),
    )


def _write(plan: Plan, block_hash: bytes, scratch: Path, progress: Progress) -> tuple[list[Path], Counter[int]]:
    """A file for each connection. All of a sender go through one connection, in order."""
    streams: list[list[bytes]] = [[] for _ in range(plan.connections)]
    accounts, sent, lines = _accounts(plan), Counter[int](), boundaries(plan.shards)
    for done, one in enumerate(Transfers(accounts, plan.seed).sign(plan.count, block_hash)):
        assert one is not None  # there is one part
        streams[one.sender % plan.connections].append(one.raw)
        sent[shard_of(accounts.name(one.sender), lines)] += 1
        if (done + 1) % 1000 == 0 or done + 1 == plan.count:
            progress("signing", done + 1, plan.count)
    paths = []
    for number, raws in enumerate(streams):
        paths.append(scratch / f"batches-{number}")
        write_batches(paths[-1], (join(raws[at : at + plan.batch]) for at in range(0, len(raws), plan.batch)))
    return paths, sent


def _posted(plan: Plan, nodes: Nodes, paths: Sequence[Path], sent: Counter[int], progress: Progress) -> Taken:
    began, before = time.perf_counter(), nodes.cpu_seconds()
    url = nodes.processes[0].service("near_api")
    result = run_load(url, "txs", 1, paths, lambda done: progress("loading", done, -(-plan.count // plan.batch)))
    loading_cpu = nodes.cpu_seconds() - before
    if refused := result["refusals"]:
        raise NodewrightError(f"the node refused {len(refused)} transfers that are good: {refused[0]}")
    return Taken(
        sent,
        sent.copy(),
        began,
        float(result["seconds"]),
        loading_cpu,
        (percentile(result["latencies"], 0.5) * 1000, percentile(result["latencies"], 0.95) * 1000),
        int(result["busy"]),
        0.0,
    )


# --- until all ran ----------------------------------------------------------------------------------------------------


def _wait(plan: Plan, nodes: Nodes, finals: FinalBlocks, accepted: int, progress: Progress) -> tuple[float, float, int]:
    """Until all have run in final blocks, or nothing more does: when that was, the nodes' CPU time then, how many ran.

    While it lasts the nodes are asked for little: how many are not final, then whether the blocks that run their receipts
    are. Whole blocks, which say how much ran, are read once that is so."""
    each, rpc = 2 * transfer_gas(Parameters()), finals.rpc
    left, moved = accepted, time.monotonic()
    while left and time.monotonic() < moved + plan.stall_seconds:
        time.sleep(POLL_SECONDS)
        now = nodes.waiting()
        if now < left:
            moved = time.monotonic()
        left = now
        progress("executing", max(accepted - left, 0), accepted)
    moved = time.monotonic()
    while True:
        head = int(rpc("status")["sync_info"]["latest_block_height"])
        while rpc.final_height() < head and time.monotonic() < moved + plan.stall_seconds:
            time.sleep(POLL_SECONDS)
        ended, cpu, before = time.perf_counter(), nodes.cpu_seconds(), finals.gas_used
        while finals.last < head + 1 and time.monotonic() < moved + plan.stall_seconds:  # its header says what it ran
            time.sleep(POLL_SECONDS)
            finals.follow()
        if finals.gas_used > before:
            moved = time.monotonic()
        ran = finals.gas_used // each
        if ran >= accepted or time.monotonic() >= moved + plan.stall_seconds:
            return ended, cpu, ran
