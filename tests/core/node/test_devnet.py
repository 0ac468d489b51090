"""A local network: real processes, one log, all stopped together, none left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewright.cli.devnet import MergedLog

PLUGINS = Path(__file__).parent / "plugins"
TIMEOUT = 120


class Network:
    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "nodewright", "devnet", "toy", "--plugins-dir", str(PLUGINS)]
        self.log = (folder.parent / "log").open("w+")
        self.process = subprocess.Popen(
            [*command, "--data-dir", str(folder), *arguments], stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline()
        self.document: dict[str, Any] = {}
        if "are ready" in self.first and "--for" not in arguments:  # with it the file may be gone again
            self.document = json.loads((folder / "devnet.json").read_text())
        self.pids = [node["pid"] for node in self.document.get("nodes", [])]
        self.descriptors = [os.pidfd_open(pid) for pid in self.pids]

    def nodes_end(self) -> bool:
        """Whether all the nodes' processes end."""
        return all(select.select([descriptor], [], [], TIMEOUT)[0] for descriptor in self.descriptors)

    def wait(self) -> int:
        assert self.process.stdout is not None
        self.output = self.first + self.process.stdout.read()
        code = self.process.wait(TIMEOUT)
        self.log.seek(0)
        self.text = self.log.read()
        return code

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Callable[..., Network]]:
    started: list[Network] = []

    def start(*arguments: str) -> Network:
        started.append(Network(tmp_path / "net", *arguments))
        return started[-1]

    yield start
    for item in started:
        item.close()


def ask(node: dict[str, Any], request: str) -> str:
    host, port = node["services"]["line"].removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as connection:
        connection.sendall(request.encode() + b"\n")
        return connection.makefile().readline().strip()


def test_runs_for_a_time_and_stops(network: Callable[..., Network]) -> None:
    two = network("--nodes", "2", "--for", "0")
    assert two.wait() == 0, two.text
    assert "2 nodes are ready" in two.output and two.output.count("tcp://127.0.0.1:") == 2
    assert "node0 │ " in two.text and "node1 │ " in two.text and "stopped" in two.text
    assert not (two.folder / "devnet.json").exists()
    assert (two.folder / "node1" / "network.json").exists()


def test_interrupt_stops_all_and_data_stays(network: Callable[..., Network]) -> None:
    first = network("--nodes", "2", "--set-node", "1:node.name=other")
    assert [node["name"] for node in first.document["nodes"]] == ["node0", "other"]
    assert ask(first.document["nodes"][1], "submit " + bytes(45).hex()).startswith("ok ")
    first.process.send_signal(signal.SIGINT)
    assert first.wait() == 0, first.text
    assert first.nodes_end()
    again = network("--nodes", "2")
    assert [ask(node, "count") for node in again.document["nodes"]] == ["0", "1"]


def test_a_node_that_dies_is_named_and_all_stop(network: Callable[..., Network]) -> None:
    two = network("--nodes", "2")
    assert ask(two.document["nodes"][1], "die consensus") == "dying"
    assert two.wait() == 1
    assert "node1 ended with exit code 1: consensus: told to die" in two.text
    assert two.nodes_end()


def test_keep_going(network: Callable[..., Network]) -> None:
    two = network("--nodes", "2", "--keep-going")
    os.kill(two.pids[1], signal.SIGKILL)
    assert select.select([two.descriptors[1]], [], [], TIMEOUT)[0]
    assert ask(two.document["nodes"][0], "count") == "0"
    two.process.send_signal(signal.SIGTERM)
    assert two.wait() == 0, two.text
    assert "the others go on" in two.text


def test_no_node_outlives_a_killed_network(network: Callable[..., Network]) -> None:
    two = network("--nodes", "2")
    two.process.kill()
    assert two.nodes_end()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--nodes", "0"), "--nodes"),
        (("--set-node", "7:a=b"), "--set-node 7"),
        (("--set-node", "nonsense"), "NUMBER:key=value"),
        (("--set-node", "0:services.line.fail=true"), "told to fail"),
        (("--set", "consensus.mien=true"), "mien"),
    ],
)
def test_mistakes_are_sentences(network: Callable[..., Network], arguments: tuple[str, ...], words: str) -> None:
    wrong = network(*arguments)
    assert wrong.wait() in (1, 2)
    assert words in wrong.text and "Traceback" not in wrong.text


def test_merged_log_shows_what_is_no_json_as_it_is(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+", encoding="utf-8") as out:
        log = MergedLog(out, ["a", "bb"], colors=False)
        log.show(
            "a", '{"event": "sealed", "slot": "pool", "level": "info", "timestamp": "2011-02-02T23:16:42.400000Z", "n": 3}'
        )
        log.show("bb", '{"event": "slow disk", "level": "warning", "why": "two words"}')
        log.show("bb", "error: told to fail")
        log.show("a", '["not", "an", "event"]')
        out.seek(0)
        assert out.read().splitlines() == [
            "a  │ 23:16:42.400 [pool] sealed n=3",
            'bb │ WARNING slow disk why="two words"',
            "bb │ error: told to fail",
            'a  │ ["not", "an", "event"]',
        ]
