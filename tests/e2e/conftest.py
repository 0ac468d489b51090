"""Whole nodes as processes, and a deterministic wallet for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess
from nodewright_bitcoin.network import REGTEST, address_of_pubkey
from nodewright_bsv_api.bench.wallet import Coin, Key, fan_out
from nodewright_bsv_api.client import BsvClient

LOCAL = {"services.bsv_api.listen": "127.0.0.1:0", "transport.listen": "127.0.0.1:0", "consensus.mine": "false"}


class Wallet:
    """Keys and coins of a test: key 0 is paid by the miner."""

    def __init__(self, client: BsvClient, seed: int = 7) -> None:
        self.client = client
        self.seed = seed
        self.miner = Key(seed, 0)
        self.address = address_of_pubkey(self.miner.public, REGTEST)

    def mine(self, count: int = 1) -> list[str]:
        return list(self.client.rpc("generatetoaddress", count, self.address))

    def coinbase(self, height: int) -> Coin:
        txid = self.client.rpc("getblockbyheight", height, 1)["tx"][0]
        value = self.client.rpc("getrawtransaction", txid, True)["vout"][0]["value"]
        return Coin(bytes.fromhex(txid)[::-1] + bytes(4), round(value * 100_000_000), self.miner)

    def coins(self, count: int, satoshis: int = 10_000, first_key: int = 1) -> list[Coin]:
        """Mines to maturity if need be, and fans one coinbase out into ``count`` coins, mined."""
        height = self.client.rpc("getblockcount")
        if height < 101:
            self.mine(101 - height)
        raw, coins = fan_out(self.coinbase(1), [Key(self.seed, first_key + n) for n in range(count)], satoshis)
        status, text = self.client.post_tx(raw)
        assert status == 200, text
        self.mine()
        return coins[:-1]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Start nodes by name: ``node("alpha", **{"consensus.mine": "true"})``; all are ended after the test."""
    with ExitStack() as stack:

        def start(
            name: str = "alpha", profile: str = "teranode", arguments: tuple[str, ...] = (), **settings: Any
        ) -> NodeProcess:
            process = NodeProcess(profile, tmp_path / name, LOCAL | settings, arguments)
            stack.callback(process.kill)
            process.start()
            return process

        yield start


@pytest.fixture
def client_of() -> Iterator[Callable[[NodeProcess], BsvClient]]:
    with ExitStack() as stack:

        def connect(process: NodeProcess) -> BsvClient:
            return stack.enter_context(BsvClient(process.service("bsv_api"), process.data_dir / ".cookie"))

        yield connect


@pytest.fixture
def wallet_of(client_of: Callable[[NodeProcess], BsvClient]) -> Callable[[NodeProcess], Wallet]:
    return lambda process: Wallet(client_of(process))
