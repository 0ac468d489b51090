"""Whole nodes that know one another by Bitcoin's wire alone, and strangers that do not keep to it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from nodewright.bench.node import NodeProcess
from nodewright_bitcoin.encoding import sha256d
from nodewright_bitcoin.network import REGTEST, address_of_pubkey
from nodewright_bsv_api.bench.wallet import Coin, Key, fan_out, payments, spend
from nodewright_bsv_api.client import BsvClient
from nodewright_bsv_p2p import framing, messages
from nodewright_bsv_p2p.framing import MAGIC
from nodewright_bsv_p2p.messages import Version

NETWORK = MAGIC["regtest"]
MINER = Key(5, 0)
ADDRESS = address_of_pubkey(MINER.public, REGTEST)
PROFILE = """
profile = "wire"
extends = "teranode"

[execution]
network = "regtest"
genesis_height = 1

[services.bsv_p2p]
listen = "127.0.0.1:0"
connect = [{connect}]
retry_most_seconds = 1.0
max_inbound_per_host = 3
handshake_seconds = 1.0
ban_seconds = 60.0
"""

pytestmark = pytest.mark.skipif(
    "bsv_p2p" not in {point.name for point in entry_points(group="nodewright")},
    reason="bsv_p2p is not installed as a plugin",
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., tuple[NodeProcess, BsvClient]]]:
    with ExitStack() as stack:

        def start(name: str, *connect: str) -> tuple[NodeProcess, BsvClient]:
            profile = tmp_path / f"{name}.toml"
            profile.write_text(PROFILE.format(connect=", ".join(f'"{address}"' for address in connect)))
            settings = {"services.bsv_api.listen": "127.0.0.1:0", "transport.listen": "127.0.0.1:0"}
            process = NodeProcess(str(profile), tmp_path / name, settings)
            stack.callback(process.kill)
            process.start()
            client = BsvClient(process.service("bsv_api"), process.data_dir / ".cookie")
            return process, stack.enter_context(client)

        yield start


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def wire(process: NodeProcess) -> str:
    return process.service("bsv_p2p").removeprefix("tcp://")


def test_two_nodes_by_the_wire_alone(node: Callable[..., tuple[NodeProcess, BsvClient]]) -> None:
    one, first = node("one")
    first.rpc("generatetoaddress", 110, ADDRESS)
    _, second = node("two", wire(one))

    def same() -> bool:
        return bool(first.rpc("getbestblockhash") == second.rpc("getbestblockhash"))

    until(same, "the second has the first's chain")
    txid = first.rpc("getblockbyheight", 1, 1)["tx"][0]
    coin = Coin(bytes.fromhex(txid)[::-1] + bytes(4), 50 * 100_000_000, MINER)
    raw, coins = fan_out(coin, [Key(5, n) for n in range(1, 200)], 10_000)
    assert second.post_tx(raw)[0] == 200
    until(lambda: first.rpc("getmininginfo")["pooledtx"] == 1, "a transaction goes from the second to the first")
    assert first.post_txs(b"".join(payments(coins[:-1], 5)))[0] == 200
    until(lambda: second.rpc("getmininginfo")["pooledtx"] == 200, "transactions go from the first to the second")
    while second.rpc("getmininginfo")["pooledtx"]:
        second.rpc("generatetoaddress", 1, ADDRESS)
    until(same, "blocks go from the second to the first")
    assert first.rpc("gettxoutsetinfo")["hash_serialized"] == second.rpc("gettxoutsetinfo")["hash_serialized"]
    assert not first.rpc("getmininginfo")["pooledtx"]
    # A block that goes away on one side, for a longer chain without it.
    tip = first.rpc("getbestblockhash")
    first.rpc("invalidateblock", tip)
    first.rpc("generatetoaddress", 3, ADDRESS)
    until(same, "the second follows the first's other chain")
    assert first.rpc("gettxoutsetinfo")["hash_serialized"] == second.rpc("gettxoutsetinfo")["hash_serialized"]


class Stranger:
    """A socket that says what it is told to."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)

    def say(self, command: str, payload: bytes = b"") -> None:
        self.socket.sendall(framing.encode(NETWORK, command, payload))

    def introduce(self) -> None:
        self.say("version", Version(nonce=1, agent="/stranger/").encode())
        self.say("verack")

    def is_cut_off(self) -> bool:
        """Reads until it is hung up upon."""
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


def test_children_before_their_parents(node: Callable[..., tuple[NodeProcess, BsvClient]]) -> None:
    """A chain of transactions, sent from its end to its beginning."""
    process, client = node("alone")
    client.rpc("generatetoaddress", 101, ADDRESS)
    txid = client.rpc("getblockbyheight", 1, 1)["tx"][0]
    coin = Coin(bytes.fromhex(txid)[::-1] + bytes(4), 50 * 100_000_000, MINER)
    chain: list[bytes] = []
    for number in range(1, 300):
        key = Key(5, number)
        raw = spend(coin, [(coin.satoshis - 200, key.script)])
        coin = Coin(sha256d(raw) + bytes(4), coin.satoshis - 200, key)
        chain.append(raw)
    stranger = Stranger(wire(process))
    stranger.introduce()
    for raw in reversed(chain):
        stranger.say("tx", raw)
    until(lambda: client.rpc("getmininginfo")["pooledtx"] == len(chain), "all of them are pending")
    while client.rpc("getmininginfo")["pooledtx"]:
        client.rpc("generatetoaddress", 1, ADDRESS)
    assert client.rpc("getrawtransaction", sha256d(chain[-1])[::-1].hex(), True)["confirmations"] > 0


HEAD = framing.Head

WRONG = {
    "another network": framing.encode(MAGIC["main"], "ping", bytes(8)),
    "a message without end": framing.encode_head(NETWORK, HEAD("headers", 0x7FFFFFFF, bytes(4))),
    "a block without end": framing.encode_head(NETWORK, HEAD("block", 1 << 50, None)),
    "no command": NETWORK + bytes(20),
    "headers that do not follow": framing.encode(NETWORK, "headers", messages.encode_headers([bytes(80), bytes(80)])),
    "headers without proof of work": b"",  # made below: it needs the genesis block
}


@pytest.mark.parametrize("what", WRONG)
def test_who_breaks_the_protocol_is_cut_off_and_refused(
    what: str, node: Callable[..., tuple[NodeProcess, BsvClient]]
) -> None:
    process, client = node("alone")
    address, raw = wire(process), WRONG[what]
    if not raw:
        header = bytearray(bytes.fromhex(client.rpc("getblockheader", client.rpc("getblockhash", 0), False)))
        parent = sha256d(bytes(header))
        easy = bytes(header[:4]) + parent + bytes(header[36:72]) + bytes.fromhex("ffff7f1f") + bytes(4)
        raw = framing.encode(NETWORK, "headers", messages.encode_headers([easy]))
    stranger = Stranger(address)
    stranger.introduce()
    stranger.socket.sendall(raw)
    assert stranger.is_cut_off()
    # The address is refused now; the node goes on.
    until(lambda: Stranger(address).is_cut_off(), "the address is refused")
    assert client.rpc("generatetoaddress", 1, ADDRESS)
    assert "node penalised" in process.log.read_text()


def test_who_says_nothing_or_comes_too_often_holds_nothing_up(node: Callable[..., tuple[NodeProcess, BsvClient]]) -> None:
    process, _ = node("alone")
    address = wire(process)
    silent = [Stranger(address) for _ in range(3)]
    assert Stranger(address).is_cut_off(), "one too many of one host"
    assert all(one.is_cut_off() for one in silent), "none introduced itself"
    polite = Stranger(address)
    polite.introduce()
    polite.say("ping", b"12345678")
    seen = b""
    while b"pong" not in seen:
        piece = polite.socket.recv(65536)
        assert piece
        seen += piece
    # Transactions that are none: each counts a little, until it is enough.
    for number in range(3):
        polite.say("tx", bytes((number,)) * 20)
    assert polite.is_cut_off()
