"""Environments for tests: the real one in a folder of the test's own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from nodewright.environment import NodeEnvironment


class LocalEnvironment(NodeEnvironment):
    """A node's environment (real clock, real threads) whose data folder is ``data_dir`` itself and whose ``random`` is
    seeded: for tests of one component."""

    def __init__(
        self, data_dir: Path, node_name: str = "test", seed: int = 0, logger: Any = None, threads: int = 4
    ) -> None:
        super().__init__(node_name, data_dir, logger, threads)
        self.random = random.Random(seed)
