"""One running node of the local network, and what a client of it needs: calls, keys, signed transactions."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from nacl.signing import SigningKey

from nodewright.bench.node import NodeProcess
from nodewright_near.primitives import base58, key_text, parse_hash
from nodewright_near.transactions import Action, SignedTransaction, Transaction

# The documented key of the local network's root account: its seed is the account's name, filled up with spaces.
ROOT = SigningKey(b"sandbox".ljust(32))


class Client:
    """Of one node. ``sign`` counts the root account's nonces by itself."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname or "", parts.port)
        self.nonce = self.query("view_access_key", account_id="sandbox", public_key=key_text(public(ROOT)))["nonce"]

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.request(method, path, body=body or None, headers=headers or {})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, response.read(), found
        finally:
            connection.close()

    def post(self, document: Any) -> tuple[int, Any]:
        status, body, _ = self.request("POST", "/", json.dumps(document).encode())
        return status, json.loads(body)

    def call(self, method: str, params: Any = None) -> tuple[int, dict[str, Any]]:
        status, answer = self.post({"jsonrpc": "2.0", "id": "x", "method": method, "params": params})
        assert answer["jsonrpc"] == "2.0" and answer["id"] == "x"
        return status, answer

    def result(self, method: str, params: Any = None) -> Any:
        status, answer = self.call(method, params)
        assert status == 200 and "error" not in answer, answer
        return answer["result"]

    def error(self, method: str, params: Any = None) -> tuple[int, dict[str, Any]]:
        status, answer = self.call(method, params)
        assert "result" not in answer and set(answer["error"]) == {"name", "cause", "code", "message", "data"}, answer
        return status, answer["error"]

    def query(self, kind: str, finality: str = "optimistic", **named: Any) -> Any:
        return self.result("query", {"request_type": kind, "finality": finality, **named})

    def sign(
        self, receiver: str, *actions: Action, signer: str = "sandbox", key: SigningKey = ROOT, **changes: Any
    ) -> SignedTransaction:
        if key is ROOT and "nonce" not in changes:
            self.nonce += 1
        block = changes.get("block") or parse_hash(self.result("block", {"finality": "final"})["header"]["hash"])
        nonce = changes.get("nonce", self.nonce)
        transaction = Transaction(signer, public(key), nonce, receiver, block, actions)
        return SignedTransaction.of(transaction, b"\0" + key.sign(transaction.hash()).signature)

    def send(self, signed: SignedTransaction, wait_until: str = "EXECUTED_OPTIMISTIC") -> Any:
        return self.result("send_tx", {"signed_tx_base64": text(signed), "wait_until": wait_until})


def public(key: SigningKey) -> bytes:
    return b"\0" + bytes(key.verify_key)


def text(signed: SignedTransaction) -> str:
    return base64.b64encode(signed.raw).decode()


SETTINGS = {
    "services.near_api.listen": "127.0.0.1:0",
    "services.near_api.unknown_seconds": "0.2",
    "services.near_api.sandbox": "false",
    "services.near_api.max_body_bytes": "2500000",
    "consensus.endorsement_seconds": "0.05",
}


def started(folder: Path, **changes: str) -> Iterator[Client]:
    pytest.importorskip("wasmtime")
    process = NodeProcess("near", folder / "node", SETTINGS | changes)
    try:
        process.start()
        yield Client(process.service("near_api"))
    finally:
        process.kill()


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    changes = {"services.near_api.allowed_origins": '["http://localhost:1234"]'}
    yield from started(tmp_path_factory.mktemp("near"), **changes)


@pytest.fixture
def still(tmp_path: Path) -> Iterator[Client]:
    """A node that follows and signs nothing: it stays at its genesis."""
    yield from started(tmp_path, **{"consensus.local_validator": "-1", "services.near_api.wait_seconds": "0.5"})


@pytest.fixture(scope="session")
def helpers() -> Any:
    """What test modules share, which import nothing of each other."""

    class Helpers:
        root = ROOT
        public = staticmethod(public)
        text = staticmethod(text)
        hash = staticmethod(base58)
        started = staticmethod(started)

    return Helpers
