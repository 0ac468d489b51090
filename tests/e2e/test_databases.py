"""A whole node of every family on every database, by ``--set`` alone: the same digest of unspent outputs, the same root
of the state, nothing lost.

Real nodes, real transactions over their sockets: ``nodewright bench teranode`` with few of them, transfers posted to
NEAR's JSON-RPC, and coins of Aptos's faucet, whose blocks a second node runs anew on the database that is tried. Wherever a
plugin with a key-value store lands, it has to be named here.
"""

from __future__ import annotations

import base64
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nodewright.bench.node import NodeProcess
from nodewright.plugins.host import PluginHost
from nodewright.plugins.specs import KEY_VALUE
from nodewright.testing import postgres_server
from nodewright_bsv_api.bench.run import Plan, run
from nodewright_near.primitives import hash_text, parse_hash
from nodewright_near.transactions import SignedTransaction, Transaction, Transfer
from nodewright_nightshade import local

COUNT = 300
TRANSFERS = 40
PATIENCE_CALLS = 12  # of ten seconds each
SLOTS = {"teranode": ("utxo", "chain", "blobs"), "near": ("state", "chain"), "aptos": ("state", "chain")}
Settings = dict[str, str]


def _quiet(stage: str, done: int, of: int) -> None:
    pass


def _digest(settings: Settings, profile: str = "teranode") -> str:
    figures = run(Plan(profile, COUNT, 100, 2, 3, settings), _quiet)
    assert (figures["committed"], figures["lost"]) == (COUNT, 0)
    return str(figures["digest"])


@pytest.fixture(scope="module")
def expected() -> str:
    """On the profile as it is shipped."""
    return _digest({})


@pytest.fixture(scope="module")
def postgres() -> Iterator[Settings]:
    """What the slot of a store has to say of the server."""
    missing = postgres_server.missing()
    if missing is not None:
        pytest.skip(f"no PostgreSQL: {missing}")
    patch = pytest.MonkeyPatch()
    with postgres_server.postgres_server() as server:
        patch.setenv("NODEWRIGHT_TEST_DATABASES", server.password)
        yield {"use": "postgres", "port": str(server.port), "password_secret": "test_databases"}
    patch.undo()


@pytest.fixture(scope="module")
def aerospike() -> Settings:
    address = os.environ.get("NODEWRIGHT_AEROSPIKE")
    if not address:
        pytest.skip("no Aerospike: NODEWRIGHT_AEROSPIKE does not name a server (host:port)")
    pytest.importorskip("aerospike", reason="aerospike is not installed: pip install 'nodewright[aerospike]'")
    host, _, port = address.rpartition(":")
    return {"use": "aerospike", "host": host, "port": port, "namespace": _namespace(host, int(port)), "sets": "e2e"}


def _namespace(host: str, port: int) -> str:
    """The first that keeps its data on a device."""
    import aerospike

    client = aerospike.client({"hosts": [(host, port)]})
    try:
        ((_, names),) = client.info_all("namespaces").values()
        for name in str(names).strip().split(";"):
            ((_, about),) = client.info_all(f"namespace/{name}").values()
            if "storage-engine=device" in str(about):
                return name
    finally:
        client.close()
    pytest.skip("the Aerospike server has no namespace with storage-engine device")


def _in(slot: str, settings: Settings) -> Settings:
    return {f"stores.{slot}.{key}": value for key, value in settings.items()}


def _everywhere(slots: Iterable[str], settings: Settings) -> Settings:
    return {key: value for slot in slots for key, value in _in(slot, settings).items()}


def _over_leveldb(slots: Iterable[str], settings: Settings) -> Settings:
    chosen: Settings = {}
    for slot in slots:
        chosen |= _in(slot, settings | {"inner": f"{slot}-disk"}) | _in(f"{slot}-disk", {"use": "leveldb"})
    return chosen


def _own(slots: Iterable[str], of: Callable[[str], Settings]) -> Settings:
    """What each slot has for itself alone."""
    return {key: value for slot in slots for key, value in _in(slot, of(slot)).items()}


# By the name of the component that is tested: settings of these slots, given what the servers among the fixtures say.
ON: dict[str, Callable[[tuple[str, ...], Callable[[str], Settings]], Settings]] = {
    "leveldb": lambda slots, server: _everywhere(slots, {"use": "leveldb"}),
    "memory": lambda slots, server: _everywhere(slots, {"use": "memory"}),
    "postgres": lambda slots, server: (
        _everywhere(slots, server("postgres")) | _own(slots, lambda slot: {"schema": f"{slots[0]}_{slot}"})
    ),
    "aerospike": lambda slots, server: (
        _everywhere(slots, server("aerospike")) | _own(slots, lambda slot: {"store": f"{slot} {secrets.token_hex(8)}"})
    ),
    "cached": lambda slots, server: _over_leveldb(slots, {"use": "cached", "max_mib": "1"}),
    "write_behind": lambda slots, server: _over_leveldb(slots, {"use": "write_behind", "max_mib": "1"}),
    "faulty": lambda slots, server: _over_leveldb(
        slots, {"use": "faulty", "allow_faults": "true", "delay_rate": "0.1", "lose_unsynced": "true"}
    ),
}


# The wrappers stand under every family alike: the first tries them always, the others with a larger budget, as they do
# LevelDB, which is what they are shipped on and so what the others are compared with.
FEWER = [
    pytest.param(one, marks=pytest.mark.long) if one in ("leveldb", "cached", "write_behind", "faulty") else one
    for one in ON
]


@pytest.mark.parametrize("name", ON)
def test_one_digest_on(name: str, expected: str, request: pytest.FixtureRequest) -> None:
    assert _digest(ON[name](SLOTS["teranode"], request.getfixturevalue)) == expected


class NearClient:
    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=60)

    def call(self, method: str, params: Any) -> Any:
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        reply = self.http.post("/", json=asked)
        while (
            reply.status_code == httpx.codes.REQUEST_TIMEOUT
        ):  # not final within one call's time: asked again, as clients do
            reply = self.http.post("/", json=asked)
        answer = reply.json()
        assert "error" not in answer, answer
        return answer["result"]

    def transfers(self) -> None:
        """From a validator of the local network to accounts of its own; each is waited for to its end."""
        signer = local.signer(0)
        block = parse_hash(self.call("block", {"finality": "final"})["header"]["hash"])
        sent = []
        for nonce in range(1, TRANSFERS + 1):
            target = "sandbox" if nonce % 2 else signer.account
            tx = Transaction(signer.account, signer.public, nonce, target, block, (Transfer(nonce),))
            signed = SignedTransaction.of(tx, signer.sign(tx.hash()))
            raw = base64.b64encode(signed.raw).decode()
            sent.append(self.call("send_tx", {"signed_tx_base64": raw, "wait_until": "NONE"}) and signed.id)
        for id in sent:
            params = {"tx_hash": hash_text(id), "sender_account_id": signer.account, "wait_until": "FINAL"}
            assert "SuccessValue" in self.call("tx", params)["status"]

    def root(self) -> str:
        """Of the state after everything that was sent: what a chunk two blocks on says of it."""
        height = self.call("block", {"finality": "final"})["header"]["height"]
        while True:
            block = self.call("block", {"finality": "final"})
            if block["header"]["height"] >= height + 2:
                return str(block["chunks"][0]["prev_state_root"])


def _root(settings: Settings, folder: Path) -> str:
    listening = {"services.near_api.listen": "127.0.0.1:0", "transport.listen": "127.0.0.1:0"}
    node = NodeProcess("near", folder, listening | settings)
    try:
        node.start()
        client = NearClient(node.service("near_api"))
        client.transfers()
        return client.root()
    finally:
        node.kill()


@pytest.fixture(scope="module")
def expected_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("wasmtime", reason="wasmtime is not installed: pip install 'nodewright[near]'")
    return _root({}, tmp_path_factory.mktemp("near"))


@pytest.mark.parametrize("name", FEWER)
def test_one_root_on(name: str, expected_root: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    assert _root(ON[name](SLOTS["near"], request.getfixturevalue), tmp_path / "node") == expected_root


APTOS = {"services.aptos_api.listen": "127.0.0.1:0", "services.faucet.listen": "127.0.0.1:0"}


@pytest.fixture(scope="module")
def aptos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    """A validator's address, and what its ledger says of the last transaction of a block after all that were sent."""
    node = NodeProcess("aptos", tmp_path_factory.mktemp("aptos") / "node", APTOS)
    try:
        node.start()
        for number in range(1, 13):
            query = {"address": f"0x{number % 5 + 100:x}", "amount": str(number)}
            httpx.post(f"{node.service('faucet')}/mint", params=query, timeout=60).raise_for_status()
        ledger = httpx.get(f"{node.service('aptos_api')}/v1").json()
        block = _aptos(node, f"blocks/by_version/{ledger['ledger_version']}")
        yield str(node.info["transport"]), _aptos(node, f"transactions/by_version/{block['last_version']}")
    finally:
        node.kill()


def _aptos(node: NodeProcess, path: str) -> dict[str, Any]:
    """Once the node has it."""
    for _ in range(600):
        answer = httpx.get(f"{node.service('aptos_api')}/v1/{path}", timeout=60)
        if answer.status_code == 200:
            return dict(answer.json())
        assert answer.status_code == 404, answer.text
        time.sleep(0.1)
    raise AssertionError(f"the node never came to {path}")


@pytest.mark.parametrize("name", FEWER)
def test_one_ledger_on(
    name: str, aptos: tuple[str, dict[str, Any]], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    validator, expected = aptos
    follows = {"consensus.local_validator": "-1", "transport.peers": f'["{validator}"]'}
    settings = ON[name](SLOTS["aptos"], request.getfixturevalue)
    if name == "postgres":
        settings |= _own(SLOTS["aptos"], lambda slot: {"schema": f"aptos_{slot}"})
    node = NodeProcess("aptos", tmp_path / "node", APTOS | follows | settings)
    try:
        node.start()
        told = _aptos(node, f"transactions/by_version/{expected['version']}")
        assert told["state_checkpoint_hash"] is not None
        assert told == expected
    finally:
        node.kill()


def test_one_digest_on_the_cluster(expected: str, aerospike: Settings, postgres: Settings) -> None:
    """Unspent outputs, the chain and blobs on three different stores: the shipped profile, told where its servers are."""
    utxo = aerospike | {"store": f"cluster {secrets.token_hex(8)}"}
    settings = _in("utxo", utxo) | _in("chain", postgres | {"schema": "cluster"})
    settings.pop("stores.utxo.use"), settings.pop("stores.chain.use")
    assert _digest(settings, "teranode-cluster") == expected


def test_every_database_is_tried() -> None:
    registered: list[Any] = PluginHost(()).registry.of_kind("storage")
    shipped = {
        one.name for one in registered if KEY_VALUE in one.value.provides and one.provider.distribution == "nodewright"
    }
    assert shipped == set(ON)
