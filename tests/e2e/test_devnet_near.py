"""``nodewright devnet near`` as an operator runs it: four processes, four shards, one killed, the others go on, all end."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

pytest.importorskip("wasmtime")

from nodewright_near.accounts import AccessKey
from nodewright_near.genesis import shard_of
from nodewright_near.primitives import hash_text, key_text, parse_hash
from nodewright_near.transactions import Action, AddKey, CreateAccount, SignedTransaction, Transaction, Transfer
from nodewright_nightshade.local import boundaries

PATIENCE_SECONDS = 180.0
NEAR = 10**24
ROOT = SigningKey(b"sandbox".ljust(32))
FEE = 2 * 223_182_562_500 * 10**8


def until(condition: Callable[[], bool], what: str) -> None:
    """Asks again and again: processes tell nobody when they have caught up."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.2)


@pytest.fixture
def devnet(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[dict[str, Any]]]]:
    command = [sys.executable, "-m", "nodewright", "devnet", "near", "--nodes", "4", "--set", "consensus.shards=4"]
    folder = tmp_path / "net"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--keep-going", "--data-dir", str(folder)], stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert "4 nodes are ready" in first, (tmp_path / "log").read_text()[-4000:]
            yield process, json.loads((folder / "devnet.json").read_text())["nodes"]
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def call(node: dict[str, Any], method: str, params: Any) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": "x", "method": method, "params": params}).encode()
    url = node["services"]["near_api"]
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        answer = json.loads(reply.read())
    assert "error" not in answer, answer
    return answer["result"]


def final(node: dict[str, Any]) -> dict[str, Any]:
    header: dict[str, Any] = call(node, "block", {"finality": "final"})["header"]
    return header


def balance(node: dict[str, Any], account: str) -> int:
    try:
        found = call(node, "query", {"request_type": "view_account", "finality": "final", "account_id": account})
    except AssertionError:
        return -1
    return int(found["amount"])


def send(node: dict[str, Any], name: str, key: SigningKey, receiver: str, *actions: Action) -> None:
    public = b"\0" + bytes(key.verify_key)
    asked = {
        "request_type": "view_access_key",
        "finality": "optimistic",
        "account_id": name,
        "public_key": key_text(public),
    }
    nonce = int(call(node, "query", asked)["nonce"]) + 1
    transaction = Transaction(name, public, nonce, receiver, parse_hash(final(node)["hash"]), actions)
    signed = SignedTransaction.of(transaction, b"\0" + key.sign(transaction.hash()).signature)
    call(node, "send_tx", {"signed_tx_base64": base64.b64encode(signed.raw).decode(), "wait_until": "NONE"})
    until(lambda: executed(node, signed), f"what {name} sent")


def executed(node: dict[str, Any], signed: SignedTransaction) -> bool:
    """Whether it is final; a node answers 408 when that takes longer than a call may, and is asked again, as clients do."""
    asked = {"tx_hash": hash_text(signed.id), "sender_account_id": signed.transaction.signer_id, "wait_until": "FINAL"}
    try:
        call(node, "tx", asked)
    except urllib.error.HTTPError as error:
        assert error.code == 408, error.read()
        return False
    return True


def test_a_network_of_four_processes(devnet: tuple[subprocess.Popen[str], list[dict[str, Any]]]) -> None:
    process, nodes = devnet
    descriptors = [os.pidfd_open(node["pid"]) for node in nodes]
    names = ["3m.sandbox", "zoe.sandbox"]
    assert [shard_of(name, boundaries(4)) for name in names] == [0, 3]
    keys = [SigningKey(name.encode().ljust(32)) for name in names]
    for name, key in zip(names, keys, strict=True):
        access = AddKey(b"\0" + bytes(key.verify_key), AccessKey(0))
        send(nodes[0], "sandbox", ROOT, name, CreateAccount(), Transfer(10 * NEAR), access)
    until(lambda: all(balance(node, name) == 10 * NEAR for node in nodes for name in names), "the accounts, everywhere")
    send(nodes[1], names[0], keys[0], names[1], Transfer(NEAR))
    until(lambda: all(balance(node, names[1]) == 11 * NEAR for node in nodes), "a transfer across shards, everywhere")

    os.kill(nodes[2]["pid"], signal.SIGKILL)
    left = [nodes[0], nodes[1], nodes[3]]
    before = max(final(node)["height"] for node in left)
    send(nodes[3], names[1], keys[1], names[0], Transfer(2 * NEAR))
    until(lambda: all(balance(node, names[0]) == 11 * NEAR - FEE for node in left), "a transfer without the killed node")
    until(lambda: min(final(node)["height"] for node in left) > before + 3, "finality without the killed node")
    validators = call(nodes[0], "validators", [None])
    assert len(validators["current_validators"]) == 4
    shared = min(final(node)["height"] for node in left)
    hashes = {call(node, "block", {"block_id": final(left[0])["last_final_block"]})["header"]["hash"] for node in left}
    assert len(hashes) == 1, shared
    assert process.poll() is None

    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], 60)[0], "a node is left behind"
        os.close(descriptor)
