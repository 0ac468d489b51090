"""The plugin as the core opens it, its configuration, and the records it writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewright.errors import ConfigurationError, StoreCorrupt
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.execution import Execution
from nodewright.interfaces.storage import UtxoTransaction
from nodewright.kernels import plugin as core
from nodewright.plugins.specs import Dependencies
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.environment import LocalEnvironment
from nodewright_bitcoin import coinbase, plugin
from nodewright_bitcoin.config import BitcoinConfig, check
from nodewright_bitcoin.network import LOCAL
from nodewright_bitcoin.undo import Undo
from nodewright_memory.plugin import MemoryConfig, open_memory


@pytest.mark.parametrize("kernels", ["auto", "off"])
async def test_the_core_can_open_it(tmp_path, kernels):
    (spec,) = plugin.register_execution()
    (verifiers,) = core.register_verifiers()
    assert {requirement.slot for requirement in spec.requires} == {"stores.utxo", "verifier"}
    environment = LocalEnvironment(tmp_path)
    async with (
        open_memory(MemoryConfig(), Dependencies(), environment) as store,
        open_utxo(store, environment) as utxo,
        verifiers.open(core.NativeVerifierConfig(kernels), Dependencies(), environment) as verifier,
    ):
        slots = Dependencies({"stores.utxo": utxo, "verifier": verifier})
        async with spec.open(BitcoinConfig(kernels=kernels), slots, environment) as engine:
            assert isinstance(engine, Execution) and engine.format == "bitcoin-1"
            assert engine.capabilities <= spec.provides and await engine.applied() is None
            assert await engine.genesis({"execution": {}}, BlockRef(0, bytes(32))) is None
            assert await engine.applied() == BlockRef(0, bytes(32))
            assert await engine.admit([], BlockRef(0, bytes(32)), 0) == []


def test_configuration():
    assert check(BitcoinConfig()) == []
    config = BitcoinConfig(network="mainnet", genesis_height=5, coinbase_maturity=150)
    assert config.parameters().name == "main" and config.parameters().genesis_height == 5
    assert config.parameters().coinbase_maturity == 150
    assert check(BitcoinConfig(payout_address="1", payout_script="51")) and check(BitcoinConfig(payout_script="5"))
    assert check(BitcoinConfig(payout_address="1BoatSLRHtKNngkdXEeobR76b53LETtpyT"))  # another network's
    assert check(BitcoinConfig(network="regtest", genesis_height=20_000))
    assert BitcoinConfig().payout(LOCAL) == b"\x51"
    assert BitcoinConfig(payout_script="76a9").payout(LOCAL) == bytes.fromhex("76a9")


@pytest.mark.parametrize(
    "rows",
    [5, [5], [{}], [{"satoshis": -1, "script": ""}], [{"satoshis": 1, "script": "x"}], [{"satoshis": 1, "address": "x"}]],
)
def test_bad_allocations_are_named(rows):
    with pytest.raises(ConfigurationError, match="allocation"):
        coinbase.allocation({"allocations": rows}, LOCAL)
    assert coinbase.allocation({}, LOCAL) is None


IDS = st.binary(min_size=1, max_size=64)


@given(st.integers(0, 2**40), IDS, st.lists(IDS, max_size=20), st.none() | st.binary(min_size=33, max_size=90))
def test_undo_records(height, parent, bundles, made):
    effect = None if made is None else UtxoTransaction(made[:32], (), made[32:], coinbase=True)
    undo = Undo(BlockRef(height, parent), effect, bundles)
    row = undo.encode()
    assert Undo.decode(row) == undo
    with pytest.raises(StoreCorrupt):
        Undo.decode(b"\x09" + row[1:])
    if made is None:
        for cut in range(1, min(len(row), 40)):
            try:
                Undo.decode(row[:-cut])
            except StoreCorrupt:
                continue
