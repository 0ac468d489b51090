"""CPU per transaction of the Bitcoin engine over the real store: admit, confirm, validate, execute, commit.

    python benchmarks/admission.py [--count 20000] [--batch 1000] [--store memory|leveldb] [--profile]

Pre-signed transactions with one input and two outputs, pay-to-public-key-hash, a key of its own for each. CPU time is the
whole process's, so work on threads counts. ``verify`` is libsecp256k1's own time for as many checks, measured beside it.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import trio

from nodewright import kernels
from nodewright.interfaces.common import Admitted, BlockContext, BlockRef, Bundle, BundleRef
from nodewright.interfaces.execution import HEAD, ExecutionRequest
from nodewright.kernels import yardstick
from nodewright.kernels.signatures import ECDSA_LANES, NativeVerifier
from nodewright.node.process import COLLECTOR_THRESHOLDS
from nodewright.plugins.specs import Dependencies
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.environment import LocalEnvironment
from nodewright_bitcoin import admission, columns
from nodewright_bitcoin.config import BitcoinConfig
from nodewright_bitcoin.engine import BitcoinEngine
from nodewright_bitcoin.signing import build_transaction, derive_key, p2pkh_script, public_key, sign_p2pkh_inputs

SATOSHIS = 100_000


class Clock:
    """CPU microseconds by stage."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.spent[name] += time.process_time() - began


def funding(count: int) -> tuple[dict[str, object], list[bytes]]:
    keys = [derive_key(b"admission", index) for index in range(count)]
    rows = [{"satoshis": SATOSHIS, "script": p2pkh_script(public_key(key)).hex()} for key in keys]
    return {"execution": {"allocations": rows}}, keys


def spends(funded: bytes, keys: list[bytes]) -> list[bytes]:
    raws = []
    for index, key in enumerate(keys):
        script = p2pkh_script(public_key(key))
        to = p2pkh_script(hashlib.sha256(key).digest() + b"\2")
        tx = build_transaction([(funded, index, SATOSHIS, script)], [(60_000, to), (39_000, script)])
        raws.append(sign_p2pkh_inputs(tx, [key]).raw)
    return raws


async def run(count: int, batch: int, store: str, profile: bool) -> dict[str, object]:
    if kernels.warm_up(columns.KERNELS, ECDSA_LANES) is not None:
        print("kernels are not available: measuring the plain path")
    clock = Clock()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environment = LocalEnvironment(folder)
        if store == "memory":
            from nodewright_memory.plugin import MemoryConfig, open_memory

            database = await stack.enter_async_context(open_memory(MemoryConfig(), Dependencies(), environment))
        else:
            from nodewright_leveldb.plugin import LevelDBConfig, open_leveldb

            database = await stack.enter_async_context(open_leveldb(LevelDBConfig(), Dependencies(), environment))
        utxo = await stack.enter_async_context(open_utxo(database, environment))
        config = BitcoinConfig()
        parameters = config.parameters()
        engine = BitcoinEngine(
            utxo, NativeVerifier(), environment, parameters, config.policy(), config.payout(parameters), 1 << 26
        )
        await engine.load()
        document, keys = funding(count)
        await engine.genesis(document, BlockRef(0, bytes(32)))
        from nodewright_bitcoin import coinbase

        given = coinbase.allocation(document["execution"], parameters)  # type: ignore[arg-type]
        assert given is not None
        raws = spends(given.txid, keys)
        if profile:
            instrument(clock)
        gc.freeze()  # as a node's process does
        gc.set_threshold(*COLLECTOR_THRESHOLDS)
        ids: list[bytes] = []
        began = time.perf_counter()
        for start in range(0, count, batch):
            with clock.stage("admit"):
                answers = await engine.admit(raws[start : start + batch], BlockRef(0, bytes(32)), 0)
            accepted = [answer.id for answer in answers if isinstance(answer, Admitted)]
            assert len(accepted) == len(answers), next(a for a in answers if not isinstance(a, Admitted))
            with clock.stage("confirm"):
                await engine.confirm(accepted)
            ids += accepted
        wall = time.perf_counter() - began
        bundle = Bundle(BundleRef(b"bundle".ljust(32, b"\0"), count), b"".join(ids))
        with clock.stage("validate bundle"):
            await engine.validate_bundle(bundle, BlockRef(0, bytes(32)))
        block = BlockRef(1, b"\1" * 32)
        context = BlockContext(1, 0)
        prologue = await engine.prologue(context)
        request = ExecutionRequest(BlockRef(0, bytes(32)), block, context, [bundle], prologue.raw)
        with clock.stage("execute"):
            await engine.execute(request)
        with clock.stage("commit"):
            await engine.commit(block)
        digest = (await engine.query(HEAD, "unspent_digest"))["hash_serialized"]
    verify = yardstick.verify_us(cores=1)
    each = {name: round(seconds / count * 1e6, 2) for name, seconds in clock.spent.items()}
    total = each["admit"] + each["confirm"]
    return {
        "count": count,
        "batch": batch,
        "store": store,
        "cpu_us": each,
        "admit_and_confirm_us": round(total, 2),
        "verify_us": round(verify, 2),
        "efficiency": round(verify / total, 3),
        "wall_tps": round(count / wall),
        "digest": digest,
    }


def instrument(clock: Clock) -> None:
    """Time the off-loop stages one by one as well (they are part of ``admit``)."""

    def timed(module: object, name: str, label: str) -> None:
        inner = getattr(module, name)

        def outer(*arguments: object) -> object:
            with clock.stage(label):
                return inner(*arguments)

        setattr(module, name, outer)

    timed(admission, "parse_batch", "  parse and txids")
    timed(admission, "verify_batch", "  scripts")
    timed(NativeVerifier, "ecdsa", "    signatures")
    timed(admission.Admitter, "_judge", "  rules")
    timed(admission.Admitter, "_stage", "  stage")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--store", choices=("memory", "leveldb"), default="leveldb")
    parser.add_argument("--profile", action="store_true", help="also time the stages of admit")
    arguments = parser.parse_args()
    report = trio.run(run, arguments.count, arguments.batch, arguments.store, arguments.profile)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
