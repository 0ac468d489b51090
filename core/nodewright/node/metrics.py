"""Prometheus metrics in the text format 0.0.4: counters, gauges, histograms, and those of the process itself.

A metric is registered once by its full name and asked for again by the same name. ``labels(shard="1")`` gives a child with
its own value; the number of children is bounded, so that what peers say can never fill the memory.
"""

from __future__ import annotations

import bisect
import math
import os
import re
import resource
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
MAX_CHILDREN = 1000
DEFAULT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
M = TypeVar("M", bound="Metric")


class Metric:
    """One name. ``labelled`` children share name and help."""

    type = "untyped"

    def __init__(self, name: str, help: str, labels: tuple[tuple[str, str], ...] = ()) -> None:
        self.name = name
        self.help = help
        self._labels = labels
        self._children: dict[tuple[tuple[str, str], ...], Any] = {}

    def _child(self, labels: tuple[tuple[str, str], ...]) -> Metric:
        return type(self)(self.name, self.help, labels)

    def labels(self: M, **labels: object) -> M:
        """The child with these labels. Beyond MAX_CHILDREN all further ones share a child labelled ``other``."""
        key = tuple(sorted((name, str(value)) for name, value in labels.items()))
        child: Any = self._children.get(key)
        if child is None:
            if not all(LABEL.match(name) for name, _ in key):
                raise ValueError(f"{self.name}: not label names: {', '.join(name for name, _ in key)}")
            if len(self._children) >= MAX_CHILDREN:
                key = tuple((name, "other") for name, _ in key)
                child = self._children.get(key)
            if child is None:
                child = self._children[key] = self._child(key)
        return cast(M, child)

    def samples(self) -> Iterator[str]:
        raise TypeError("a metric is a Counter, a Gauge or a Histogram")

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {_escaped(self.help, quotes=False)}"
        yield f"# TYPE {self.name} {self.type}"
        if not self._children or self._touched():
            yield from self.samples()
        for child in self._children.values():
            yield from child.samples()

    def _touched(self) -> bool:
        return False

    def _line(self, value: float, suffix: str = "", *extra: tuple[str, str]) -> str:
        pairs = (*self._labels, *extra)
        labels = ",".join(f'{name}="{_escaped(text)}"' for name, text in pairs)
        return f"{self.name}{suffix}{{{labels}}} {_number(value)}" if pairs else f"{self.name}{suffix} {_number(value)}"


class Counter(Metric):
    type = "counter"

    def __init__(self, name: str, help: str, labels: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(name, help, labels)
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        if amount < 0:
            raise ValueError(f"{self.name}: a counter only grows")
        self.value += amount

    def samples(self) -> Iterator[str]:
        yield self._line(self.value)

    def _touched(self) -> bool:
        return bool(self.value)


class Gauge(Counter):
    type = "gauge"

    def __init__(self, name: str, help: str, labels: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(name, help, labels)
        self._function: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        self.value = value

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        self.value -= amount

    def set_function(self, function: Callable[[], float]) -> None:
        """Asked whenever the metrics are rendered."""
        self._function = function

    def samples(self) -> Iterator[str]:
        yield self._line(self.value if self._function is None else self._function())


class Histogram(Metric):
    """``buckets`` are upper bounds, ascending, without infinity."""

    type = "histogram"

    def __init__(
        self,
        name: str,
        help: str,
        labels: tuple[tuple[str, str], ...] = (),
        buckets: tuple[float, ...] = DEFAULT_BUCKETS,
    ) -> None:
        super().__init__(name, help, labels)
        if list(buckets) != sorted(set(buckets)):
            raise ValueError(f"{name}: buckets must ascend")
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self.sum: float = 0

    def _child(self, labels: tuple[tuple[str, str], ...]) -> Metric:
        return Histogram(self.name, self.help, labels, self._bounds)

    @property
    def count(self) -> int:
        return sum(self._counts)

    def observe(self, value: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self.sum += value

    def samples(self) -> Iterator[str]:
        total = 0
        for bound, count in zip(self._bounds, self._counts, strict=False):
            total += count
            yield self._line(total, "_bucket", ("le", _number(bound)))
        yield self._line(self.count, "_bucket", ("le", "+Inf"))
        yield self._line(self.sum, "_sum")
        yield self._line(self.count, "_count")

    def _touched(self) -> bool:
        return bool(self.count)


class Registry:
    """Implements ``nodewright.interfaces.Metrics``."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def _get(self, kind: type[M], name: str, make: Callable[[], M]) -> M:
        found = self._metrics.get(name)
        if found is None:
            if not NAME.match(name):
                raise ValueError(f"not a metric name: {name!r}")
            found = self._metrics[name] = make()
        if type(found) is not kind:
            raise ValueError(f"{name} is a {found.type} already")
        return found

    def counter(self, name: str, help: str) -> Counter:
        return self._get(Counter, name, lambda: Counter(name, help))

    def gauge(self, name: str, help: str) -> Gauge:
        return self._get(Gauge, name, lambda: Gauge(name, help))

    def histogram(self, name: str, help: str, buckets: tuple[float, ...] = ()) -> Histogram:
        return self._get(Histogram, name, lambda: Histogram(name, help, buckets=buckets or DEFAULT_BUCKETS))

    def render(self) -> str:
        lines: list[str] = []
        for name in sorted(self._metrics):
            lines += self._metrics[name].lines()
        return "\n".join(lines) + "\n" if lines else ""


def add_process_metrics(registry: Registry, started: float) -> None:
    """CPU time (this process and ended children), memory, threads, open files. ``started`` in Unix seconds."""
    gauge = registry.gauge
    gauge("process_start_time_seconds", "When the process started, Unix time").set(started)
    gauge("process_cpu_seconds_total", "User and system CPU time, ended children included").set_function(_cpu_seconds)
    gauge("process_resident_memory_bytes", "Memory in use").set_function(lambda: _status_kib("VmRSS") * 1024)
    gauge("process_resident_memory_max_bytes", "Most memory in use so far").set_function(
        lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    gauge("process_threads", "Threads").set_function(lambda: _status_kib("Threads"))
    gauge("process_open_fds", "Open files and sockets").set_function(_open_files)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _status_kib(name: str) -> int:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(name + ":"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def _escaped(text: str, quotes: bool = True) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1 << 53 else repr(float(value))
