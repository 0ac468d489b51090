"""kill -9 at random instants under load: what was answered 200 is known, the UTXO set is the recomputed one.

The recomputation is another implementation, written here: it replays the raw blocks and the pending transactions that the
node serves over its API into a dictionary of outputs.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess
from nodewright_bitcoin.transaction import Transaction
from nodewright_bsv_api.bench.wallet import Coin, payments, sha256d
from nodewright_bsv_api.client import BsvClient

KILLS = 4


def recomputed(client: BsvClient) -> dict[str, Any]:
    """Number and digest of the unspent outputs from raw blocks and pending transactions alone (genesis pays nobody)."""
    unspent: dict[bytes, tuple[int, bytes]] = {}
    raws: list[str] = []
    for height in range(1, client.rpc("getblockcount") + 1):
        raws += [client.rpc("getrawtransaction", txid) for txid in client.rpc("getblockbyheight", height, 1)["tx"]]
    raws += [client.rpc("getrawtransaction", txid) for txid in client.rpc("getrawmempool")]
    transactions = [Transaction.parse(bytes.fromhex(raw)) for raw in raws]
    assert len({tx.txid for tx in transactions}) == len(transactions), "a transaction stands in the chain twice"
    for tx in transactions:
        for index, output in enumerate(tx.outputs):
            unspent[tx.txid + index.to_bytes(4, "little")] = (output.satoshis, output.script)
    for tx in transactions:
        if not tx.is_coinbase:
            for item in tx.inputs:
                assert item.outpoint in unspent, "an output is spent twice, or never was"
                del unspent[item.outpoint]
    return {"txouts": len(unspent), "total": sum(value for value, _ in unspent.values())}


class Load(threading.Thread):
    """Posts one payment per request and remembers those answered 200, until the node goes away."""

    def __init__(self, url: str, coins: list[Coin], seed: int) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.raws = list(payments(coins, seed))
        self.acknowledged: list[str] = []
        self.unexpected: list[str] = []

    def run(self) -> None:
        try:
            with BsvClient(self.url, timeout_seconds=30) as client:
                for at in range(0, len(self.raws), 10):
                    batch = self.raws[at : at + 10]
                    status, text = client.post_txs(b"".join(batch))
                    if status == 200:
                        self.acknowledged += [sha256d(raw)[::-1].hex() for raw in batch]
                    else:
                        self.unexpected.append(text)
        except OSError:
            pass  # the node was killed
        except Exception as error:  # http.client's own: a response cut in the middle
            if "http" not in type(error).__module__:
                raise


@pytest.mark.slow
def test_kill_at_random_instants_under_load(
    node: Callable[..., NodeProcess],
    client_of: Callable[[NodeProcess], BsvClient],
    wallet_of: Callable[[NodeProcess], Any],
    budget: int,
) -> None:
    kills = KILLS * budget
    dice = random.Random(20)
    alpha = node(**{"consensus.mine": "true", "consensus.block_interval_seconds": "0.3"})
    wallet = wallet_of(alpha)
    coins = wallet.coins(200 * kills)
    known: list[str] = []
    for round_ in range(kills):
        load = Load(alpha.service("bsv_api"), coins[200 * round_ : 200 * (round_ + 1)], round_)
        load.start()
        time.sleep(dice.uniform(0.02, 1.2))  # the instant of the kill is the point of the test
        alpha.kill()
        load.join()
        assert not load.unexpected
        known += load.acknowledged
        alpha.start()
        client = client_of(alpha)
        for txid in known:
            document = client.get_json(f"/v1/tx/{txid}")
            assert document["txStatus"] in ("SEEN_ON_NETWORK", "MINED"), (round_, document)
        _same_set(client)
    client = client_of(alpha)
    assert known, "no transaction was acknowledged: the load never reached the node"
    Wallet = type(wallet)
    Wallet(client).mine(2)
    assert client.rpc("getmininginfo")["pooledtx"] == 0
    statuses = {client.get_json(f"/v1/tx/{txid}")["txStatus"] for txid in known}
    assert statuses == {"MINED"}
    assert alpha.stop() == 0


def _same_set(client: BsvClient) -> None:
    """The miner goes on meanwhile: compare between two looks at the same tip and pool."""
    for _ in range(50):
        before = client.rpc("getbestblockhash")
        ours, theirs = client.rpc("gettxoutsetinfo"), recomputed(client)
        if client.rpc("getbestblockhash") == before:
            assert ours["txouts"] == theirs["txouts"]
            assert round(ours["total_amount"] * 100_000_000) == theirs["total"]
            return
    pytest.fail("the tip never stood still")


def test_a_digest_is_sixty_four_hex_digits(node: Callable[..., NodeProcess], wallet_of: Callable[..., Any]) -> None:
    wallet = wallet_of(node())
    wallet.mine(1)
    document = wallet.client.rpc("gettxoutsetinfo")
    assert document["txouts"] == 1
    assert len(document["hash_serialized"]) == 64
    assert hashlib.sha256(b"").hexdigest() != document["hash_serialized"]
