"""Nodes that one block changed, as columns: most are replaced by the next blocks before anybody asks for one of them, and
then were never objects."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, Sequence
from typing import Any


class Layer(Mapping[bytes, bytes | None]):
    """By path. ``steps``: their numbers, each once, of which ``paths`` (which may grow) has the paths; node i is the
    ``sizes[i]`` bytes of ``blob`` before ``ends[i]``. The columns are arrays of int64."""

    def __init__(self, paths: Sequence[bytes], steps: Any, sizes: Any, ends: Any, blob: bytes) -> None:
        self.paths = paths
        self.steps = steps
        self.sizes = sizes
        self.ends = ends
        self.size = len(blob)
        self._blob = blob
        self._made: dict[bytes, bytes | None] | None = None

    def _nodes(self) -> dict[bytes, bytes | None]:
        if self._made is None:
            self._made = dict(self.picked(self.steps >= 0))
            self._blob = b""
        return self._made

    def picked(self, chosen: Any) -> Iterator[tuple[bytes, bytes | None]]:
        """Path and bytes of those that ``chosen`` (a flag for each) names."""
        paths = self.paths
        if self._made is not None:
            for step in self.steps[chosen].tolist():
                yield paths[step], self._made[paths[step]]
            return
        blob, starts = self._blob, self.ends - self.sizes
        columns = self.steps[chosen].tolist(), starts[chosen].tolist(), self.ends[chosen].tolist()
        for step, start, end in zip(*columns, strict=True):
            yield paths[step], blob[start:end]

    def __getitem__(self, path: bytes) -> bytes | None:
        return self._nodes()[path]

    def get(self, path: bytes, default: Any = None) -> Any:
        return self._nodes().get(path, default)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._nodes())

    def __len__(self) -> int:
        return len(self.steps)

    def items(self) -> ItemsView[bytes, bytes | None]:
        return self._nodes().items()
