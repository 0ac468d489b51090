"""A real SV Node for these tests. They are skipped where ``NODEWRIGHT_BITCOIND`` does not name one (docs/svnode.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

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
