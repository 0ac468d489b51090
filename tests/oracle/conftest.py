"""A real SV Node for these tests. They are skipped where ``NODEWRIGHT_BITCOIND`` does not name one (docs/svnode.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from nodewright.bench.node import NodeProcess
from nodewright_bsv_api.client import BsvClient
from nodewright_bsv_p2p.testing.svnode import VARIABLE, SvNode, program


@pytest.fixture(scope="session")
def bitcoind() -> Path:
    found = program()
    if found is None:
        pytest.skip(f"{VARIABLE} is not set: see docs/svnode.md")
    return found


@pytest.fixture
def svnode(bitcoind: Path, tmp_path: Path) -> Iterator[Callable[..., SvNode]]:
    """Start one: ``svnode("theirs", genesisactivationheight=100)``; all are ended after the test."""
    with ExitStack() as stack:

        def start(name: str = "svnode", **options: object) -> SvNode:
            node = SvNode(bitcoind, tmp_path / name, **options)
            stack.callback(node.kill)
            node.start()
            return node

        yield start


PROFILE = """
profile = "beside-svnode"
extends = "teranode"

[execution]
network = "regtest"
genesis_height = 1

[services.bsv_p2p]
listen = "127.0.0.1:0"
connect = [{connect}]
stall_seconds = 3.0
retry_most_seconds = 2.0
"""


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Start a node of this project beside SV Nodes: ``ours("name", connect=["127.0.0.1:18444"])``."""
    if "bsv_p2p" not in {point.name for point in entry_points(group="nodewright")}:
        pytest.skip("bsv_p2p is not installed as a plugin: install the project again")
    with ExitStack() as stack:

        def start(name: str = "ours", connect: Sequence[str] = (), **settings: str) -> NodeProcess:
            profile = tmp_path / f"{name}.toml"
            profile.write_text(PROFILE.format(connect=", ".join(f'"{address}"' for address in connect)))
            fixed = {"services.bsv_api.listen": "127.0.0.1:0", "transport.listen": "127.0.0.1:0", "consensus.mine": "false"}
            node = NodeProcess(str(profile), tmp_path / name, fixed | settings)
            stack.callback(node.kill)
            node.start()
            return node

        yield start


@pytest.fixture
def client_of() -> Iterator[Callable[[NodeProcess], BsvClient]]:
    with ExitStack() as stack:

        def connect(node: NodeProcess) -> BsvClient:
            return stack.enter_context(BsvClient(node.service("bsv_api"), node.data_dir / ".cookie"))

        yield connect


@pytest.fixture
def until() -> Callable[..., None]:
    """Looks again until it is so; what is waited for lies in other processes."""

    def look(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
            time.sleep(0.05)

    return look
