"""A whole node on every database, by ``--set`` alone: the same digest of unspent outputs everywhere, nothing lost.

A real node, real transactions over its socket: ``nodewright bench teranode`` with few of them. Wherever a plugin with a
key-value store lands, it has to be named here.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nodewright.plugins.host import PluginHost
from nodewright.plugins.specs import KEY_VALUE
from nodewright.testing import postgres_server
from nodewright_bsv_api.bench.run import Plan, run

COUNT = 300
SLOTS = ("utxo", "chain", "blobs")
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


def _everywhere(settings: Settings) -> Settings:
    return {key: value for slot in SLOTS for key, value in _in(slot, settings).items()}


def _over_leveldb(settings: Settings) -> Settings:
    chosen: Settings = {}
    for slot in SLOTS:
        chosen |= _in(slot, settings | {"inner": f"{slot}-disk"}) | _in(f"{slot}-disk", {"use": "leveldb"})
    return chosen


def _own(of: Callable[[str], Settings]) -> Settings:
    """What each slot has for itself alone."""
    return {key: value for slot in SLOTS for key, value in _in(slot, of(slot)).items()}


# By the name of the component that is tested: settings, given what the servers among the fixtures have to say.
ON: dict[str, Callable[[Callable[[str], Settings]], Settings]] = {
    "leveldb": lambda server: _everywhere({"use": "leveldb"}),
    "memory": lambda server: _everywhere({"use": "memory"}),
    "postgres": lambda server: _everywhere(server("postgres")),
    "aerospike": lambda server: (
        _everywhere(server("aerospike")) | _own(lambda slot: {"store": f"{slot} {secrets.token_hex(8)}"})
    ),
    "cached": lambda server: _over_leveldb({"use": "cached", "max_mib": "1"}),
    "write_behind": lambda server: _over_leveldb({"use": "write_behind", "max_mib": "1"}),
    "faulty": lambda server: _over_leveldb(
        {"use": "faulty", "allow_faults": "true", "delay_rate": "0.1", "lose_unsynced": "true"}
    ),
}


@pytest.mark.parametrize("name", ON)
def test_one_digest_on(name: str, expected: str, request: pytest.FixtureRequest) -> None:
    assert _digest(ON[name](request.getfixturevalue)) == expected


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
