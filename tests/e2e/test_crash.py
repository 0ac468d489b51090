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
from nodewright.cli.app import invoke
from nodewright_bitcoin.transaction import Transaction
from nodewright_bsv_api.bench.wallet import Coin, payments, sha256d
from nodewright_bsv_api.client import BsvClient

KILLS = 3


def forgetful() -> dict[str, str]:
    """Stores that hold commits in memory, over ones that keep those that are not durable there as well: a killed process
    loses what it would at a power cut, and more."""
    settings = {}
    for slot in ("utxo", "chain", "blobs"):
        settings |= {
            f"stores.{slot}.use": "write_behind",
            f"stores.{slot}.inner": f"{slot}-losing",
            f"stores.{slot}-losing.use": "faulty",
            f"stores.{slot}-losing.allow_faults": "true",
            f"stores.{slot}-losing.lose_unsynced": "true",
            f"stores.{slot}-losing.inner": f"{slot}-disk",
            f"stores.{slot}-disk.use": "leveldb",
        }
    return settings


def recomputed(client: BsvClient) -> dict[str, Any]:
    """Number and digest of the unspent outputs from raw blocks and pending transactions alone (genesis pays nobody)."""
    unspent: dict[bytes, tuple[int, bytes]] = {}
    raws: list[str] = []
    for block in client.rpc_many("getblockbyheight", range(1, client.rpc("getblockcount") + 1)):
        raws += client.rpc_many("getrawtransaction", block["tx"])
    raws += client.rpc_many("getrawtransaction", client.rpc("getrawmempool"))
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
    """Posts batches of ten payments, mining now and then, and remembers those answered 200, until the node goes away."""

    def __init__(self, node: NodeProcess, wallet: Any, coins: list[Coin], seed: int) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.address = wallet.address
        self.raws = list(payments(coins, seed))
        self.acknowledged: list[str] = []
        self.unexpected: list[str] = []

    def run(self) -> None:
        try:
            with BsvClient(self.node.service("bsv_api"), self.node.data_dir / ".cookie") as client:
                for at in range(0, len(self.raws), 10):
                    if at % 50 == 0:
                        client.rpc("generatetoaddress", 1, self.address)
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
@pytest.mark.parametrize("stores", [{}, forgetful()], ids=["as shipped", "forgetful"])
def test_kill_at_random_instants_under_load(
    node: Callable[..., NodeProcess],
    client_of: Callable[[NodeProcess], BsvClient],
    wallet_of: Callable[[NodeProcess], Any],
    budget: int,
    stores: dict[str, str],
) -> None:
    kills = KILLS * budget
    dice = random.Random(20)
    alpha = node(**stores)
    wallet = wallet_of(alpha)
    coins = wallet.coins(200 * kills)
    known: list[str] = []
    for round_ in range(kills):
        load = Load(alpha, wallet, coins[200 * round_ : 200 * (round_ + 1)], round_)
        load.start()
        time.sleep(dice.uniform(0.02, 1.2))  # the instant of the kill is the point of the test
        alpha.kill()
        load.join()
        assert not load.unexpected
        known += load.acknowledged
        alpha.start()
        client = client_of(alpha)
        assert len(client.rpc_many("getrawtransaction", known)) == len(known)
        _same_set(client)
    client = client_of(alpha)
    assert known, "no transaction was acknowledged: the load never reached the node"
    Wallet = type(wallet)
    Wallet(client).mine(2)
    assert client.rpc("getmininginfo")["pooledtx"] == 0
    statuses = {client.get_json(f"/v1/tx/{txid}")["txStatus"] for txid in known}
    assert statuses == {"MINED"}
    assert alpha.stop() == 0
    chosen = [f"--set={key}={value}" for key, value in stores.items()]
    assert invoke(["db", "verify", "teranode", f"--data-dir={alpha.data_dir}", *chosen]) == 0


def _same_set(client: BsvClient) -> None:
    ours, theirs = client.rpc("gettxoutsetinfo"), recomputed(client)
    assert ours["txouts"] == theirs["txouts"]
    assert ours["total"] == theirs["total"]


def test_a_digest_is_sixty_four_hex_digits(node: Callable[..., NodeProcess], wallet_of: Callable[..., Any]) -> None:
    wallet = wallet_of(node())
    wallet.mine(1)
    document = wallet.client.rpc("gettxoutsetinfo")
    assert document["txouts"] == 1
    assert len(document["hash_serialized"]) == 64
    assert hashlib.sha256(b"").hexdigest() != document["hash_serialized"]
