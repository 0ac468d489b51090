"""Garbage on every socket and endpoint: an error each, nothing lost, memory bounded, the node answers on."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess
from nodewright.bench.processes import peak_rss_mb
from nodewright_bsv_api.client import BsvClient

PATHS = [
    "/tx", "/txs", "/", "/v1/tx", "/v1/txs", "/v1/tx/zz", "/v1/tx/" + "00" * 32, "/api/v1/tx/zz", "/api/v1/tx/" + "00" * 32,
    "/api/v1/block/zz", "/api/v1/block/999999999999", "/api/v1/header/" + "ff" * 32, "/api/v1/headers/0?n=99999999",
    "/api/v1/blocks?limit=-1&offset=zz", "/api/v1/subtree/zz/json", "/api/v1/subtree_data/" + "00" * 32, "/api/v1/utxos/zz",
    "/api/v1/search?q=%00%ff", "/api/v1/search?q=" + "9" * 4000, "/api/v1/merkle_proof/" + "11" * 32, "/health", "/metrics",
    "/api/v1/txmeta/" + "22" * 32 + "/json", "/api/v1/blockstats", "/../../etc/passwd", "/api/v1/tx/" + "00" * 32 + "/exe",
]  # fmt: skip

CALLS: list[Any] = [
    None, 7, [], {}, {"method": 7}, {"method": "nosuch"}, {"method": "getblock"}, {"method": "getblock", "params": "x"},
    {"method": "getblock", "params": [{}]}, {"method": "getblock", "params": ["00" * 32, 9]},
    {"method": "getblockhash", "params": [-1]}, {"method": "getblockhash", "params": [True]},
    {"method": "getblockhash", "params": [2**70]}, {"method": "gettxout", "params": ["00" * 32, "x"]},
    {"method": "sendrawtransaction", "params": ["zz"]}, {"method": "sendrawtransaction", "params": [""]},
    {"method": "sendrawtransaction", "params": ["00" * 100]}, {"method": "sendrawtransactions", "params": [[1, 2]]},
    {"method": "submitminingsolution", "params": [{"id": "x", "nonce": 1}]},
    {"method": "submitminingsolution", "params": [5]},
    {"method": "generate", "params": [10**9]}, {"method": "generatetoaddress", "params": [1, "nowhere"]},
    {"method": "invalidateblock", "params": ["00" * 32]}, {"method": "freeze", "params": ["00" * 32, 0]},
    {"method": "setban", "params": ["zz", "add"]}, {"method": "reassign", "params": ["00" * 32, 0, "zz"]},
    {"method": "decoderawtransaction", "params": ["01"]}, {"method": "help", "params": [["nosuch"]]},
]  # fmt: skip


def test_garbage_everywhere(
    node: Callable[..., NodeProcess],
    client_of: Callable[[NodeProcess], BsvClient],
    wallet_of: Callable[..., Any],
) -> None:
    alpha = node()
    wallet, client = wallet_of(alpha), client_of(alpha)
    wallet.mine(3)
    tip = client.rpc("getbestblockhash")
    dice = random.Random(5)
    bodies = [b"", b"\0", b"\xff" * 9, dice.randbytes(5000), b"{" * 5000, b'{"rawTx":"00"}', b"\x01\0\0\0" + b"\xff" * 40]
    for path in PATHS:
        for method in ("GET", "POST", "PUT", "DELETE"):
            for body in bodies if method == "POST" else [b""]:
                kind = dice.choice(["application/json", "application/octet-stream", "text/plain", "nonsense"])
                status, _ = client.request(method, path.replace(" ", ""), body, {"content-type": kind})
                assert status < 500, (method, path, status)
    for call in CALLS:
        _rpc(client, alpha, call)
    _rpc(client, alpha, [{"method": "getblockcount", "id": n} for n in range(5000)])
    for service in (alpha.service("bsv_api"), alpha.info["transport"]):
        _pour(service, dice)
    try:
        oversized, _ = client.request("POST", "/tx", bytes(33 * 1024 * 1024), {"content-type": "application/octet-stream"})
        assert oversized == 413
    except ConnectionError:
        client.close()  # the node need not read the rest: it may hang up before a client that only writes sees the 413
    assert alpha.alive()
    assert client.rpc("getbestblockhash") == tip
    wallet.mine(1)
    assert client.rpc("getblockcount") == 4
    assert "Traceback" not in alpha.log.read_text()
    assert peak_rss_mb(alpha.pid) < 1500
    assert alpha.stop() == 0


def _rpc(client: BsvClient, alpha: NodeProcess, call: Any) -> None:
    import base64

    cookie = (alpha.data_dir / ".cookie").read_bytes().strip()
    headers = {"authorization": "Basic " + base64.b64encode(cookie).decode(), "content-type": "application/json"}
    status, body = client.request("POST", "/", json.dumps(call).encode(), headers)
    assert status in (200, 400, 404, 500), (call, status)
    answer = json.loads(body)
    if isinstance(answer, dict):
        assert answer["error"]["message"], call
        assert "internal error" not in answer["error"]["message"], (call, answer)


def _pour(url: str, dice: random.Random) -> None:
    """Random bytes, half-open requests and immediate resets on a socket."""
    host, port = url.rpartition("//")[2].rsplit(":", 1)
    for size in (0, 1, 7, 100, 10_000, 1_000_000):
        with socket.create_connection((host, int(port)), timeout=10) as stream:
            try:
                stream.sendall(dice.randbytes(size))
            except OSError:
                continue  # the node hung up first: as it should


@pytest.mark.parametrize("authorization", ["", "Basic AAAA", "Basic " + "A" * 5000, "Bearer x"])
def test_no_rpc_without_the_cookie(node: Callable[..., NodeProcess], authorization: str) -> None:
    alpha = node()
    with BsvClient(alpha.service("bsv_api")) as client:
        headers = {"authorization": authorization} if authorization else {}
        status, _ = client.request("POST", "/", b'{"method":"stop"}', headers)
        assert status == 401
    assert alpha.alive()
