"""``nodewright bench aptos`` on partitions: its table and JSON, what it refuses, and the curves it draws."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from nodewright.kernels import switch

np = pytest.importorskip("numpy")
pytest.importorskip("numba")

# ruff: noqa: E402
from nodewright_aptos.bench import partitions, runs, workloads
from nodewright_aptos.bench.command import aptos
from nodewright_aptos.bench.plot import round_up, svg
from nodewright_aptos.partition import PARTITIONERS, figures, partition

SMALL = ["--workload", "conflicting", "--block-size", "4000", "--accounts", "16000", "--blocks", "2"]


@pytest.fixture(scope="module", autouse=True)
def off_again() -> Iterator[None]:
    yield
    switch.disable()


def invoked(*arguments: str) -> Any:
    return CliRunner().invoke(aptos, [*SMALL, *arguments])


def test_partitioners_are_compared(tmp_path: Path) -> None:
    """The proof's line, small: 800 users of 400 clusters, joined by what one payment in seven does."""
    out = tmp_path / "out.json"
    result = invoked("--partitioner", "all", "--shards", "2,5", "--inside", "0.85", "--json", str(out))
    assert result.exit_code == 0, result.output
    rows = {(row["shards"], row["partitioner"]): row for row in json.loads(out.read_text())["partitions"]}
    assert set(rows) == {(shards, name) for shards in (2, 5) for name in PARTITIONERS}
    for shards in (2, 5):
        fanout, components, in_turn = (rows[shards, name] for name in ("fanout", "components", "round-robin"))
        assert fanout["fanout"] < min(components["fanout"], in_turn["fanout"])
        assert fanout["cross_shard_messages"] < min(components["cross_shard_messages"], in_turn["cross_shard_messages"])
        assert fanout["imbalance"] < 1.05
        assert fanout["span"] < min(components["span"], in_turn["span"])
        assert in_turn["rounds"] == fanout["rounds"] == 1 < components["rounds"]
    for word in ("fanout", "components", "round-robin", "imbalance"):
        assert word in result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--shards", "2,0"), "'2,0' is not a number from 1 to 256"),
        (("--shards", "two"), "'two' is not a number from 1 to 256"),
        (("--shards", "2", "--plot", "out.png"), "ends in .svg"),
        (("--executor", "sharded", "--plot", "out.png"), "ends in .svg"),
        (("--executor-set", "workers"), "is no KEY=VALUE"),
    ],
)
def test_what_it_refuses(arguments: tuple[str, ...], sentence: str) -> None:
    result = invoked(*arguments)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.replace("│", " ").split())


def test_a_partitioner_that_there_is_not_is_named() -> None:
    result = invoked("--partitioner", "metis")
    assert result.exit_code != 0
    assert "fanout, components, round-robin, and all" in f"{result.output} {result.exception}"


def test_settings_of_an_executor_are_values_where_they_can_be() -> None:
    assert runs.executor_settings(["workers=4", "placement=processes", 'list=["a"]']) == {
        "workers": 4,
        "placement": "processes",
        "list": ["a"],
    }


def test_an_account_is_a_key() -> None:
    """Numbered as they come; who pays to oneself, or nobody, touches one."""
    access = partitions.access_of(np.array([7, 3, 7, 5]), np.array([3, -1, 7, 9]))
    assert access.senders.tolist() == [0, 1, 0, 2]
    rows = [access.reads[access.read_starts[one] : access.read_starts[one + 1]].tolist() for one in range(4)]
    assert rows == [[0, 1], [1], [0], [2, 3]]
    assert (access.sender_count, access.key_count) == (3, 4)
    workload = workloads.make("non-conflicting", workloads.Sizes(block=50, accounts=60), 1)
    _, senders, recipients = workload.block()
    alone = partitions.access_of(senders, recipients)
    told = figures(alone, partition(alone, 3))
    assert (told["fanout"], told["cross_shard_messages"], told["imbalance"]) == (0.0, 0, pytest.approx(51 / 50))


def test_curves_are_where_their_figures_are() -> None:
    drawn = runs.curves(
        [
            {"partitioner": "fanout", "shards": 1, "tps": 1000.0},
            {"partitioner": "fanout", "shards": 4, "tps": 4000.0},
            {"partitioner": "components", "shards": 4, "tps": 2000.0},
        ]
    )
    picture = ElementTree.fromstring(svg("A <title>", "shards", "tx/s", drawn))
    lines = [line.attrib["points"] for line in picture.iter("{http://www.w3.org/2000/svg}polyline")]
    (first, last), (other,) = [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]
    assert first[0] * 1 < last[0] == other[0]
    assert last[1] < other[1] < first[1]
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A <title>", "fanout", "components", "5,000", "1", "4"} <= set(texts)
    assert len({line.attrib["stroke-dasharray"] for line in picture.iter("{http://www.w3.org/2000/svg}polyline")}) == 2
    crowded = ElementTree.fromstring(svg("", "", "", {"": [(1, 1), (2, 1), (4, 1), (128, 1), (256, 1)]}))
    numbers = [text for text in crowded.iter("{http://www.w3.org/2000/svg}text") if text.attrib.get("dy") == "18"]
    assert [text.text for text in numbers] == ["256", "128", "4"]  # 1 and 2 would stand on top of it
    assert [round_up(value) for value in (0.3, 1, 7, 12, 240, 4000)] == [0.5, 1, 10, 20, 250, 5000]
