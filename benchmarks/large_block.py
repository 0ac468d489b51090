"""A subtree of 1,048,576 leaves sealed, and a block of a million known transactions accepted: CPU and wall time by stage.

    python benchmarks/large_block.py [--leaves 1048576] [--profile STAGE]

The node's real parts over LevelDB and files: pool, engine, chain, assembly. Its transactions are put where admission would
have left them (pending in the pool, reserved and stored in the engine), because admission has a benchmark of its own and
a block of known transactions reads none of their bytes. CPU is the whole process's, threads included.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import hashlib
import pstats
import tempfile
import time
from collections.abc import Awaitable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import trio

from nodewright import kernels
from nodewright.interfaces import Admitted, Bundle, BundleRef, UtxoTransaction
from nodewright.kernels.signatures import NativeVerifier
from nodewright.node.events import Events
from nodewright.node.metrics import Registry
from nodewright.node.pool import Pool, PoolLimits
from nodewright.node.process import COLLECTOR_THRESHOLDS
from nodewright.plugins.specs import Dependencies
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.environment import LocalEnvironment
from nodewright_bitcoin import columns
from nodewright_bitcoin.engine import BitcoinEngine
from nodewright_bitcoin.network import LOCAL
from nodewright_bitcoin.policy import Policy
from nodewright_bitcoin.state import Reservation
from nodewright_files.plugin import FilesConfig, open_files
from nodewright_leveldb.plugin import LevelDBConfig, open_leveldb
from nodewright_nakamoto import subtree
from nodewright_nakamoto.config import NakamotoConfig
from nodewright_nakamoto.consensus import Nakamoto

OUTPUTS = b"\x02" + 2 * (b"\x10" * 8 + b"\x19" + bytes.fromhex("76a914") + b"\x07" * 20 + bytes.fromhex("88ac"))
BODY_BYTES = 226
GENESIS: dict[str, Any] = {
    "network": "bench",
    "time": 1_700_000_000,
    "consensus": {"version": 1, "bits": "207fffff", "nonce": 0},
    "execution": {},
    "protocol_versions": {"0": 1},
}


class Stages:
    def __init__(self, profiled: str) -> None:
        self.profiled = profiled
        self.rows: list[tuple[str, float, float]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        profile = cProfile.Profile() if name == self.profiled else None
        cpu, wall = time.process_time(), time.perf_counter()
        if profile is not None:
            profile.enable()
        try:
            yield
        finally:
            if profile is not None:
                profile.disable()
                pstats.Stats(profile).sort_stats("tottime").print_stats(20)
            row = (name, time.process_time() - cpu, time.perf_counter() - wall)
            self.rows.append(row)
            print(f"{name:<46} {row[1]:8.2f} s CPU {row[2]:8.2f} s", flush=True)

    def timed(self, owner: Any, method: str, name: str) -> None:
        real = getattr(owner, method)

        async def call(*arguments: Any, **named: Any) -> Any:
            with self.stage(name):
                return await real(*arguments, **named)

        setattr(owner, method, call)


async def fill(count: int, pool: Pool, engine: BitcoinEngine) -> None:
    rules, items = engine.rules_at(1), []
    for number in range(count):
        txid = hashlib.sha256(number.to_bytes(8, "little")).digest()
        effect = UtxoTransaction(txid, (hashlib.sha256(txid).digest() + bytes(4),), OUTPUTS)
        engine.state.add(Reservation(effect, 100, BODY_BYTES, 1, stored=True, rules=rules))
        items.append(Admitted(txid, txid * 7 + b"\0\0", 100))
    pool._held.hold(items)


async def run(leaves: int, profiled: str) -> None:
    warmed: Any = kernels.warm_up(columns.KERNELS)
    if warmed is not None:
        print("kernels are not available: measuring the plain path")
    gc.freeze()  # as a node's process does
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    stages = Stages(profiled)
    count = leaves - 1
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environment = LocalEnvironment(folder)

        async def store(name: str) -> Any:
            config = LevelDBConfig(path=str(folder / name))
            return await stack.enter_async_context(open_leveldb(config, Dependencies(), environment))

        utxo = await stack.enter_async_context(open_utxo(await store("utxo"), environment))
        chain = await store("chain")
        (folder / "blobs").mkdir()
        blobs = await stack.enter_async_context(
            open_files(FilesConfig(path=str(folder / "blobs")), Dependencies(), environment)
        )
        engine = BitcoinEngine(utxo, NativeVerifier(), environment, LOCAL, Policy(), b"\x51", 1 << 20)
        await engine.load()
        events = await stack.enter_async_context(Events.open(environment, folder / "events"))
        limits = PoolLimits(max_bytes=1 << 40, status_max_count=2_000_000)
        pool = await stack.enter_async_context(
            Pool.open(environment, folder / "pool", engine, events, Registry(), limits, lambda id: id[::-1].hex())
        )
        nakamoto = await Nakamoto.create(
            NakamotoConfig(subtree_size=leaves, max_subtree_data_bytes=1 << 40),
            genesis=GENESIS,
            chain=chain,
            blobs=blobs,
            execution=engine,
            pool=pool,
            events=events,
            environment=environment,
        )
        pool.attach(nakamoto.head, nakamoto.locate)
        await nakamoto.recover()
        await pool.recovered()
        await fill(count, pool, engine)
        await measure(stages, nakamoto, pool, engine, utxo, count)


async def measure(stages: Stages, nakamoto: Nakamoto, pool: Pool, engine: BitcoinEngine, utxo: Any, count: int) -> None:
    chain, assembly = nakamoto.chain, nakamoto.assembly
    taken = 0
    with stages.stage("assembled, 2,000 at a time"):
        while taken < count:
            candidates = await pool.take(2000)
            taken += len(candidates)
            async with chain.lock:
                await assembly._insert(candidates)
    (sealed,) = chain.assembler.sealed
    before = len(stages.rows)
    with stages.stage("sealed: root, fees, sizes"):
        built = await assembly.keeper.build(sealed)
        sum(built.fees)
        sum(built.sizes)
    with stages.stage("sealed: the subtree's file"):
        await stages_offload(assembly, subtree.encode, built)
    seal = sum(cpu for _, cpu, _ in stages.rows[before:])
    with stages.stage("validated, before any block names it"):
        ref = BundleRef(built.root, built.count, sum(built.sizes))
        await engine.validate_bundle(Bundle(ref, built.ids), chain.tip.ref)
    with stages.stage("stored with all bodies and the index"):
        await assembly.publish_now()
        await settled_down()
    with stages.stage("template"):
        template = await assembly.template()
    solved = await assembly.solve(template)
    assert solved is not None
    stages.timed(chain, "store_block", "  block stored")
    stages.timed(engine, "execute", "  executed")
    stages.timed(engine, "commit", "  committed")
    stages.timed(pool, "settle", "  settled in the pool")
    stages.timed(chain.store, "ids", "    ids read")
    stages.timed(utxo, "replace", "    written")
    stages.timed(utxo, "assign_bundle", "    bundle named")
    cpu, wall = time.process_time(), time.perf_counter()
    await assembly.submit(template, *solved)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert nakamoto.head().height == 1 and not len(pool)
    print(f"{'block accepted, ' + format(count, ',') + ' known transactions':<46} {cpu:8.2f} s CPU {wall:8.2f} s")
    print(f"{'subtree sealed':<46} {seal:8.2f} s CPU")


async def settled_down() -> None:
    """LevelDB goes on merging what was written: that is the writing's cost, not that of what comes after."""
    while True:
        before = time.process_time()
        await trio.sleep(0.5)
        if time.process_time() - before < 0.02:
            return


def stages_offload(assembly: Any, function: Any, *arguments: Any) -> Awaitable[Any]:
    offloaded: Awaitable[Any] = assembly.chain.environment.offload(function, *arguments)
    return offloaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leaves", type=int, default=1 << 20)
    parser.add_argument("--profile", default="", help="name of a stage to profile, as printed")
    arguments = parser.parse_args()
    trio.run(run, arguments.leaves, arguments.profile)


if __name__ == "__main__":
    main()
