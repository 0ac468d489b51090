"""Shared options: ``--budget`` scales the slow suites (crash points, seeds), ``NODEWRIGHT_VECTORS`` finds real data."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from nodewright.testing.simulation import deterministic_scheduling

EXAMPLES = 50  # of a property that does not say how many, times --budget


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--budget",
        type=int,
        default=1,
        help="how many times the default number of crash points, seeds and rounds the slow suites run (default 1)",
    )


def pytest_configure(config: pytest.Config) -> None:
    budget = config.getoption("--budget")
    settings.register_profile(
        "nodewright",
        deadline=None,
        max_examples=EXAMPLES * budget,
        derandomize=budget < 2,  # what every change must pass tries the same each time, larger budgets new examples
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    settings.load_profile("nodewright")
    if budget < 2:
        os.environ.setdefault("NODEWRIGHT_KERNELS", "off")  # half of what a node's start costs; see the fixture below


@pytest.fixture(scope="module")
def kernels() -> Iterator[None]:
    """Nodes that the module's tests start load their compiled kernels, as they do outside of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NODEWRIGHT_KERNELS", raising=False)
        yield


@pytest.fixture(autouse=True)
def schedule(request: pytest.FixtureRequest) -> Iterator[None]:
    """With the default budget trio's tasks take turns in an order that the test's name gives, else in a random one."""
    if request.config.getoption("--budget") > 1:
        yield
        return
    with deterministic_scheduling(zlib.crc32(request.node.nodeid.encode())):
        yield


# Whole files go to one worker: those that take long begin first, so that none is left over at the end.
LONG_FIRST = ("tests/consensus/", "tests/e2e/", "tests/integration/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG_FIRST))
    if config.getoption("--budget") < 2:
        for item in items:
            if item.get_closest_marker("long") is not None:
                item.add_marker(pytest.mark.skip(reason="long, and others hold most of it: run with --budget 2"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("seeds")
    if marker is not None:
        metafunc.parametrize("seed", range(marker.args[0] * metafunc.config.getoption("--budget")))


@pytest.fixture(scope="session")
def budget(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--budget"))


@pytest.fixture(scope="session")
def vectors() -> Path:
    folder = os.environ.get("NODEWRIGHT_VECTORS")
    if not folder:
        pytest.skip("NODEWRIGHT_VECTORS is not set: see docs/vectors.md")
    return Path(folder)
