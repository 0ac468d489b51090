"""Health reports and the Prometheus text format."""

from __future__ import annotations

import json

import pytest

from nodewright.interfaces import Metrics
from nodewright.node.health import Health
from nodewright.node.metrics import MAX_CHILDREN, Registry, add_process_metrics


def test_health_names_what_fails() -> None:
    now = 10.0
    health = Health(lambda: now)
    assert not health.ready and health.live
    health.set("stores.utxo", True)
    health.enter("ready")
    assert health.ready and health.report()["healthy"]
    now = 20.0
    health.set("services.api", False, "crashed three times")
    health.watch("consensus", lambda: {"head": (1, b"x"), "state": "running"})
    report = json.loads(json.dumps(health.report()))
    assert report["ready"] and not report["healthy"]
    assert report["components"]["services.api"] == {"ok": False, "detail": "crashed three times", "since": 20.0}
    assert report["status"]["consensus"]["state"] == "running"
    now = 30.0
    health.set("services.api", False, "crashed three times")
    assert health.report()["components"]["services.api"]["since"] == 20.0
    health.set("consensus", False, "its log is damaged", fatal=True)
    assert not health.live and not health.ready
    health.enter("stopping")
    assert health.report()["state"] == "stopping"


def test_text_format() -> None:
    registry = Registry()
    _: Metrics = registry
    registry.counter("a_total", 'Help with "quotes"\nand lines').inc(2.5)
    registry.gauge("b", "Labelled").labels(shard=1, name='x"\\\n').set(3)
    seconds = registry.histogram("c_seconds", "Timed", (0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7):
        seconds.observe(value)
    assert registry.render().splitlines() == [
        '# HELP a_total Help with "quotes"\\nand lines',
        "# TYPE a_total counter",
        "a_total 2.5",
        "# HELP b Labelled",
        "# TYPE b gauge",
        'b{name="x\\"\\\\\\n",shard="1"} 3',
        "# HELP c_seconds Timed",
        "# TYPE c_seconds histogram",
        'c_seconds_bucket{le="0.1"} 2',
        'c_seconds_bucket{le="1"} 3',
        'c_seconds_bucket{le="+Inf"} 4',
        "c_seconds_sum 7.65",
        "c_seconds_count 4",
    ]


def test_a_name_is_one_metric() -> None:
    registry = Registry()
    assert registry.counter("a", "x") is registry.counter("a", "y")
    with pytest.raises(ValueError, match="counter already"):
        registry.gauge("a", "x")
    with pytest.raises(ValueError):
        registry.counter("no spaces", "x")
    with pytest.raises(ValueError):
        registry.counter("a", "x").inc(-1)


def test_labels_are_bounded() -> None:
    counter = Registry().counter("peers", "x")
    for number in range(3 * MAX_CHILDREN):
        counter.labels(peer=number).inc()
    assert len(list(counter.lines())) <= MAX_CHILDREN + 4
    assert counter.labels(peer="new").value == 2 * MAX_CHILDREN


def test_process_metrics() -> None:
    registry = Registry()
    add_process_metrics(registry, 5.0)
    values = {line.split()[0]: float(line.split()[1]) for line in registry.render().splitlines() if line[0] != "#"}
    assert values["process_start_time_seconds"] == 5.0
    assert values["process_cpu_seconds_total"] > 0
    assert values["process_resident_memory_bytes"] > 1_000_000
    assert values["process_open_fds"] > 2 and values["process_threads"] >= 1
