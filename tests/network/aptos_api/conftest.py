"""One running node of Aptos's shape, and what a client of it needs: requests, keys, signed transactions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from nacl.signing import SigningKey

from nodewright.bench.node import NodeProcess
from nodewright_aptos import bcs
from nodewright_aptos.addresses import ED25519, ONE, authentication_key
from nodewright_aptos.authenticators import ed25519_authenticator
from nodewright_aptos.transactions import EntryFunction, RawTransaction, signed_transaction, signing_message

BCS = {"Content-Type": "application/x.aptos.signed_transaction+bcs"}
SETTINGS = {
    "services.aptos_api.listen": "127.0.0.1:0",
    "services.aptos_api.max_streams": "2",
    "services.aptos_api.max_body_bytes": "400000",
    "services.faucet.listen": "127.0.0.1:0",
    "services.faucet.max_octas": "1000000000",
    "execution.functions": '["nodewright_aptos.shards.testing"]',  # as of a third party
}


class Wallet:
    def __init__(self, seed: int) -> None:
        self.key = SigningKey(seed.to_bytes(32, "big"))
        self.public = bytes(self.key.verify_key)
        self.address = authentication_key(self.public, ED25519)

    @property
    def text(self) -> str:
        return "0x" + self.address.hex()

    def transfer(self, number: int, to: bytes, octas: int, **changes: Any) -> bytes:
        call = EntryFunction.of(ONE, "aptos_account", "transfer", (), (to, bcs.u64(octas)))
        fields = {"max_gas": 10_000, "gas_price": 100, "expires_at": int(time.time()) + 60, "chain_id": 4}
        bad = changes.pop("bad_signature", False)
        raw = RawTransaction(self.address, number, changes.pop("call", call), **(fields | changes))
        signature = self.key.sign(signing_message(raw.encode())).signature
        signature = bytes(64) if bad else signature
        return signed_transaction(raw, ed25519_authenticator(self.public, signature))


class Client:
    def __init__(self, process: NodeProcess) -> None:
        self.process = process
        self.url = process.service("aptos_api")
        self.faucet = process.service("faucet")
        self.http = httpx.Client(base_url=f"{self.url}/v1", timeout=60)

    def get(self, path: str, status: int = 200, **params: Any) -> Any:
        answer = self.http.get(path, params=params or None)
        assert answer.status_code == status, answer.text
        return answer.json()

    def submit(self, raw: bytes, status: int = 202) -> Any:
        answer = self.http.post("/transactions", content=raw, headers=BCS)
        assert answer.status_code == status, answer.text
        return answer.json()

    def committed(self, hash: str) -> Any:
        for _ in range(60):
            answer = self.http.get(f"/transactions/wait_by_hash/{hash}")
            assert answer.status_code == 200, answer.text
            if answer.json()["type"] != "pending_transaction":
                return answer.json()
        raise AssertionError(f"{hash} is still pending")

    def fund(self, address: str, octas: int) -> Any:
        answer = httpx.post(f"{self.faucet}/fund", json={"address": address, "amount": octas}, timeout=60)
        assert answer.status_code == 200, answer.text
        return self.committed(answer.json()["txn_hashes"][0])


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    process = NodeProcess("aptos", tmp_path_factory.mktemp("aptos") / "node", SETTINGS)
    try:
        process.start()
        yield process
    finally:
        process.kill()


@pytest.fixture
def client(process: NodeProcess) -> Client:
    return Client(process)


@pytest.fixture
def wallet() -> type[Wallet]:
    return Wallet
