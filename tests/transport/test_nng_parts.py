"""The parts of the nng transport that need no peer: key file, addresses, knocks, strangers, the registered spec."""

import os
import stat
from pathlib import Path
from types import MappingProxyType

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.errors import AddressInUse, ConfigurationError
from nodewright.interfaces.transport import Transport
from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright.transport.handshake import HandshakeError, Mismatch, NodeKey
from nodewright.transport.link import LinkClosed, NetworkIdentity
from nodewright_nng import rendezvous
from nodewright_nng.addresses import Address, parse_address, parse_key, parse_ports
from nodewright_nng.keys import load_or_create
from nodewright_nng.plugin import NngConfig, check_config, register_transport
from nodewright_nng.rendezvous import Assigned, Busy, Strangers
from nodewright_nng.sockets import PairSocket

IDENTITY = NetworkIdentity("regtest", b"g" * 32, 1, 2)
GENESIS = MappingProxyType({"network": "regtest", "hash": b"g" * 32})


def open_node(folder: Path, **config):
    environment = LocalEnvironment(folder).for_slot("transport")
    (spec,) = register_transport()
    return spec.open(NngConfig(**config), Dependencies(genesis=GENESIS), environment)


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "node.key"
    key = load_or_create(path, os.urandom)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.stat().st_size == 32
    assert load_or_create(path, os.urandom) == key == NodeKey.from_seed(path.read_bytes())
    assert os.listdir(path.parent) == ["node.key"]
    assert key.secret.hex() not in repr(key)


def test_a_bad_key_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    load_or_create(path, os.urandom)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_or_create(path, os.urandom)
    path.chmod(0o600)
    for damage in (b"", b"x" * 31, b"x" * 33):
        path.write_bytes(damage)
        with pytest.raises(ConfigurationError, match="not the 32 bytes"):
            load_or_create(path, os.urandom)


def test_addresses() -> None:
    assert parse_address("127.0.0.1:80") == Address("127.0.0.1", 80)
    assert parse_address("tcp://[::1]:80").url == "tcp://[::1]:80"
    assert parse_address("ab" * 32 + "@host.example:1").node_key == b"\xab" * 32
    for bad in ("", "host", "host:", ":80", "host:99999", "host:-1", "::1:80", "a b:80", "x@host:80", "tcp://h/p:1", "*:1"):
        with pytest.raises(ValueError, match=r"is not a|the port"):
            parse_address(bad)
    assert list(parse_ports("5-7")) == [5, 6, 7] and not parse_ports("")
    for bad in ("5", "7-5", "0-5", "1-99999", "a-b"):
        with pytest.raises(ValueError, match="range of ports"):
            parse_ports(bad)
    with pytest.raises(ValueError, match="64 hex digits"):
        parse_key("abcd")


def test_the_configuration_names_every_problem() -> None:
    assert check_config(NngConfig()) == []
    bad = NngConfig(listen="nowhere", peers=["x"], allow=["y"], pair_ports="z", dead_seconds=1.0)
    assert len(check_config(bad)) == 5


@given(st.text(min_size=1, max_size=10), st.binary(min_size=32, max_size=32), st.integers(0, 99), st.binary(max_size=99))
@settings(max_examples=60)
def test_knocks_round_trip_and_garbage_is_refused(network: str, genesis: bytes, low: int, garbage: bytes) -> None:
    identity = NetworkIdentity(network, genesis, low, low + 1)
    knock = rendezvous.encode_knock(identity)
    assert rendezvous.decode_knock(knock) == identity and len(knock) <= rendezvous.MAX_BYTES
    for bad in (garbage, rendezvous.MAGIC + garbage, knock[:-1], knock + b"x"):
        with pytest.raises(HandshakeError):
            rendezvous.decode_knock(bad)
        with pytest.raises(HandshakeError):
            rendezvous.decode_answer(bad, identity)


def test_answers() -> None:
    assigned = Assigned(40000, b"t" * 16)
    assert rendezvous.decode_answer(rendezvous.encode_assigned(assigned), IDENTITY) == assigned
    with pytest.raises(Busy):
        rendezvous.decode_answer(bytes([rendezvous.BUSY]), IDENTITY)
    other = rendezvous.encode_knock(evolve(IDENTITY, network="main"))
    with pytest.raises(Mismatch, match=r"'regtest'.*'main'"):
        rendezvous.decode_answer(bytes([rendezvous.MISMATCH]) + other, IDENTITY)


def test_strangers_are_bounded_each_and_in_all() -> None:
    now = 0.0
    strangers = Strangers(lambda: now, per_second=1, burst=20, pending_each=2, pending_all=3, remembered=4)
    assert [strangers.charge("a", 10.0) for _ in range(3)] == [True, True, False]
    assert strangers.charge("b")
    now = 15.0
    assert strangers.charge("a")
    assert [strangers.begin(host) for host in "aaabb"] == [True, True, False, True, False]
    strangers.end("a", good=True)
    assert strangers.begin("b")
    assert strangers.first_offence("c") and not strangers.first_offence("c")
    for number in range(100):
        strangers.charge(f"host {number}")
    assert len(strangers._hosts) <= 4
    for host in "abb":
        strangers.end(host, good=False)
    assert all(strangers.begin(f"other {number}") for number in range(3))


async def test_the_spec_opens_a_transport_with_a_lasting_key(tmp_path: Path) -> None:
    async with open_node(tmp_path) as transport:
        assert isinstance(transport, Transport)
        node_id = transport.node_id
        assert transport.address.startswith("tcp://127.0.0.1:")
    assert (tmp_path / "transport" / "node.key").exists()
    async with open_node(tmp_path, listen="") as again:
        assert again.node_id == node_id and again.address == ""


async def test_a_taken_port_is_named_with_what_to_do(tmp_path: Path) -> None:
    async with open_node(tmp_path / "a") as transport:
        taken = transport.address.removeprefix("tcp://")
        with pytest.raises(AddressInUse, match=f"transport: .*{taken} is taken.*transport.listen="):
            async with open_node(tmp_path / "b", listen=taken):
                pass


async def test_an_address_of_another_machine_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1:0"):
        async with open_node(tmp_path, listen="192.0.2.1:0"):
            pass


async def test_a_connection_that_closes_as_its_handshake_ends_is_closed_and_no_more() -> None:
    pair = PairSocket(1024)
    pair.close()
    pair.trust()
    with pytest.raises(LinkClosed):
        await pair.receive()
