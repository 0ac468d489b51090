"""An outside miner: ``getminingcandidate``, a nonce found here, ``submitminingsolution``."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess
from nodewright_bsv_api.bench.wallet import payments
from nodewright_bsv_api.client import BsvClient, RpcFailure


def _sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def _header(candidate: dict[str, Any], nonce: int) -> bytes:
    root = _sha256d(bytes.fromhex(candidate["coinbase"]))
    for sibling in candidate["merkleProof"]:
        root = _sha256d(root + bytes.fromhex(sibling)[::-1])
    previous = bytes.fromhex(candidate["prevhash"])[::-1]
    bits = int(candidate["nBits"], 16)
    return struct.pack("<i32s32sIII", candidate["version"], previous, root, candidate["time"], bits, nonce)


def test_a_block_found_outside(node: Callable[..., NodeProcess], wallet_of: Callable[..., Any]) -> None:
    wallet = wallet_of(node())
    client: BsvClient = wallet.client
    coins = wallet.coins(5)
    status, text = client.post_txs(b"".join(payments(coins, 1)))
    assert status == 200, text
    for _ in range(1000):  # assembly takes up what the pool accepted in a moment of its own
        candidate = client.rpc("getminingcandidate", True)
        if candidate["num_tx"] == 6:
            break
    assert candidate["prevhash"] == client.rpc("getbestblockhash")
    assert candidate["num_tx"] == 6
    target = (int(candidate["nBits"], 16) & 0xFFFFFF) << 8 * ((int(candidate["nBits"], 16) >> 24) - 3)

    def nonce_that(meets: bool) -> int:
        hashes = ((n, int.from_bytes(_sha256d(_header(candidate, n)), "little")) for n in range(1 << 16))
        return next(n for n, value in hashes if (value <= target) is meets)

    work = {meets: nonce_that(meets) for meets in (True, False)}
    with pytest.raises(RpcFailure, match="high-hash"):
        client.rpc("submitminingsolution", {"id": candidate["id"], "nonce": work[False]})
    assert client.rpc("submitminingsolution", {"id": candidate["id"], "nonce": work[True]}) is True
    assert client.rpc("getbestblockhash") == _sha256d(_header(candidate, work[True]))[::-1].hex()
    assert client.rpc("getmininginfo")["pooledtx"] == 0
    with pytest.raises(RpcFailure):
        client.rpc("submitminingsolution", {"id": "00" * 16, "nonce": 1})
