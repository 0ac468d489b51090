"""A running engine drops what was spent deep in the chain, and keeps its list of unmined transactions short."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from nodewright.interfaces.common import BlockContext, BlockRef, Bundle, BundleRef
from nodewright.interfaces.execution import HEAD, ExecutionRequest, Outcome
from nodewright.kernels.signatures import NativeVerifier
from nodewright.plugins.specs import Dependencies
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.environment import LocalEnvironment
from nodewright_bitcoin.config import BitcoinConfig
from nodewright_bitcoin.plugin import open_bitcoin
from nodewright_bitcoin.signing import build_transaction, derive_key, p2pkh_script, public_key, sign_p2pkh_inputs
from nodewright_memory.plugin import register_storage

KEY = derive_key(b"pruning", 0)
SCRIPT = p2pkh_script(public_key(KEY))


@asynccontextmanager
async def _engine(folder: Path) -> AsyncIterator[Any]:
    environment = LocalEnvironment(folder)
    (spec,) = register_storage()
    config = BitcoinConfig(payout_script=SCRIPT.hex(), retention_blocks=100, kernels="off")
    async with (
        spec.open(spec.config(), Dependencies(), environment) as raw,
        open_utxo(raw, environment) as store,
        open_bitcoin(config, Dependencies({"stores.utxo": store, "verifier": NativeVerifier()}), environment) as engine,
    ):
        await engine.genesis({"execution": {}}, BlockRef(0, bytes(32)))
        yield engine, store


async def _mine(engine: Any, raws: list[bytes]) -> bytes:
    """The next block, of these transactions; its coinbase's id."""
    parent = engine.applied_block
    height = parent.height + 1
    block = BlockRef(height, height.to_bytes(32, "big"))
    bundles = []
    if raws:
        ids = b"".join(await engine.identify(raws))
        bundles = [Bundle(BundleRef(b"bundle%d" % height, len(raws), sum(map(len, raws))), ids, raws)]
    context = BlockContext(height, 1_700_000_000 + height)
    prologue = await engine.prologue(context)
    outcome = await engine.execute(ExecutionRequest(parent, block, context, bundles, prologue.raw))
    assert isinstance(outcome, Outcome), outcome
    await engine.commit(block)
    return bytes(prologue.id)


def _pay(outpoint: bytes, satoshis: int) -> Any:
    tx = build_transaction([(outpoint[:32], 0, satoshis, SCRIPT)], [(satoshis - 1000, SCRIPT)])
    return sign_p2pkh_inputs(tx, [KEY])


async def test_spent_transactions_go_and_the_digest_stays(tmp_path: Path) -> None:
    async with _engine(tmp_path) as (engine, store):
        coinbase = await _mine(engine, [])
        for _ in range(100):
            await _mine(engine, [])
        satoshis = 50 * 100_000_000
        first = _pay(coinbase + bytes(4), satoshis)
        second = _pay(first.txid + bytes(4), satoshis - 1000)
        await _mine(engine, [first.serialize(), second.serialize()])
        assert await store.known([first.txid, second.txid]) == [True, True]
        for _ in range(100):
            await _mine(engine, [])
        before = await engine.query(HEAD, "unspent_digest")
        with trio.fail_after(20):
            while (await store.known([first.txid]))[0]:
                await trio.lowlevel.checkpoint()
        assert await store.known([first.txid, second.txid]) == [False, True]
        assert await engine.query(HEAD, "unspent_digest") == before
        assert [item async for item in store.iterate_unmined()] == []
