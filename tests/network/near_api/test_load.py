"""The load of ``nodewright bench near``: what it signs, whom it draws, how it finds the rate that holds a block time."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.kernels.signatures import NativeVerifier
from nodewright_near.generated import read_generated
from nodewright_near.genesis import shard_of
from nodewright_near.transactions import SignedTransaction, Transfer
from nodewright_near_api.bench.ablation import SWITCHES, ablation_table
from nodewright_near_api.bench.config import LoadConfig, check
from nodewright_near_api.bench.load import Transfers, section
from nodewright_near_api.bench.pid import Controller, Gains
from nodewright_near_api.bench.watch import Rpc
from nodewright_nightshade.local import boundaries

BLOCK = bytes(range(32))


def transfers(accounts: int, seed: int = 1) -> Transfers:
    return Transfers(read_generated({"generated_accounts": [section(accounts, seed)]})[0], seed)


def test_what_is_sent_is_what_the_formats_say_and_well_signed() -> None:
    load = transfers(50)
    raws = [one.raw for one in load.sign(60, BLOCK) if one is not None]
    read = [SignedTransaction.decode(raw) for raw in raws]
    for one in read:
        assert SignedTransaction.of(one.transaction, one.signature).raw == one.raw
        assert one.transaction.actions == (Transfer(1),)
        assert one.transaction.block_hash == BLOCK
        assert one.transaction.signer_id != one.transaction.receiver_id
    good = NativeVerifier().ed25519(
        [one.transaction.public_key[1:] for one in read], [one.id for one in read], [one.signature[1:] for one in read]
    )
    assert all(good)
    nonces: dict[str, list[int]] = {}
    for one in read:
        nonces.setdefault(one.transaction.signer_id, []).append(one.transaction.nonce)
    assert all(given == list(range(1, len(given) + 1)) for given in nonces.values())


def test_parts_are_the_whole_and_a_sender_has_one() -> None:
    whole = [one.raw for one in transfers(40).sign(200, BLOCK) if one is not None]
    parts = [list(transfers(40).sign(200, BLOCK, part, 3)) for part in range(3)]
    together = [next(one for one in drawn if one is not None) for drawn in zip(*parts, strict=True)]
    assert [one.raw for one in together] == whole
    assert {raw: None for raw in whole} != {one.raw: None for one in transfers(40, 2).sign(200, BLOCK) if one is not None}


def test_draws_follow_the_law_and_every_shard_gets_its_share() -> None:
    load = transfers(1000)
    assert sorted(map(load.number, range(1000))) == list(range(1000))
    sources = Counter(source for source, _ in load.draws(20_000))
    weights = [1 / (rank + 3.7) for rank in range(1000)]
    for rank in (0, 1, 5):
        share = weights[rank] / sum(weights)
        assert sources[load.number(rank)] / 20_000 == pytest.approx(share, rel=0.2)
    lines = boundaries(4)
    shards = Counter(shard_of(load.accounts.name(source), lines) for source in sources.elements())
    assert min(shards.values()) > 20_000 / 8


def test_the_rate_ramps_and_then_follows_the_error() -> None:
    controller = Controller(1.5, Gains(100.0), start=1000.0, ramp_seconds=10.0, window=2)
    assert [controller.rate(at) for at in (0.0, 5.0, 10.0)] == [10.0, 500.0, 1000.0]
    controller.block(9.0, 9.0)
    controller.block(10.0, 10.0)  # a second apart: half a second too fast
    assert controller.rate(10.0) == 1050.0
    controller.block(13.0, 13.0)  # now two on average
    assert controller.block_seconds == 2.0
    assert controller.rate(13.0) == 1000.0


@settings(max_examples=50)
@given(st.floats(200, 20_000), st.floats(50, 5_000))
def test_a_node_that_slows_with_load_is_held_at_the_target(capacity: float, start: float) -> None:
    """A model of a node: blocks come a second apart, and later the more is asked beyond half of what it can do."""
    controller = Controller(1.5, Gains(0.1 * capacity), start=start, ramp_seconds=0.0)
    at = 0.0
    for _ in range(400):
        at += max(1.0, 2 * controller.rate(at) / capacity)
        controller.block(at, at)
    assert controller.block_seconds == pytest.approx(1.5, abs=0.1)


@given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=60), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_the_rate_stays_within_its_bounds(times: list[float], integral: float, derivative: float) -> None:
    controller = Controller(1.5, Gains(1e6, integral, derivative), 100.0, 0.0, least=5.0, most=500.0)
    at = 0.0
    for seconds in times:
        at += seconds
        controller.block(at, at)
        assert 5.0 <= controller.rate(at) <= 500.0


def test_settings_that_cannot_be_meant_are_sentences() -> None:
    assert check(LoadConfig()) == []
    assert "numbered from 0 to 1" in check(LoadConfig(part=2, parts=2))[0]
    assert "no room" in check(LoadConfig(max_waiting=10))[0]


def test_every_switch_is_turned_both_ways_and_has_a_row() -> None:
    for switch in SWITCHES:
        assert set(switch.on) <= set(switch.off)
        assert all(switch.off[key] != value for key, value in switch.on.items())
    for way in ("on", "off"):
        pairs = [f"{key}={value}" for switch in SWITCHES for key, value in getattr(switch, way).items()]
        command = [sys.executable, "-m", "nodewright", "check", "near"]
        done = subprocess.run(
            [*command, *(word for pair in pairs for word in ("--set", pair))], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    row = dict.fromkeys(("cpu_us", "against_all_on", "efficiency", "tps", "block_p50_ms", "p50_ms"), 1.0)
    rows = [{**row, "variant": "all on", "cpu_us_range": [1.0, 2.0]}]
    told = ablation_table({"rows": rows, "left_out": ["sockets"]})
    assert told.splitlines()[-1].endswith("sockets.")
    assert told.splitlines()[2].startswith("| all on | 1 \u00b5s (1 \u2013 2) |")


def test_a_connection_that_the_node_closed_is_opened_again() -> None:
    """As it does with one that was idle for long: the benchmark asks little while it loads."""
    answer = b'{"result": 7}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer)

    def serve(listening: socket.socket) -> None:
        for _ in range(2):
            with listening.accept()[0] as one:
                one.recv(65536)
                one.sendall(head + answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        rpc = Rpc(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_seconds=60)
        assert [rpc("status"), rpc("status")] == [7, 7]
        thread.join()
        rpc.close()
