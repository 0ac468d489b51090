"""A server of one application, with what it needs of an environment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from nodewright.services.http import HttpServer, HttpSettings


class Surroundings:
    """The parts of an environment that the server uses."""

    slot = "services.web"
    node_name = "test"
    data_dir = Path()
    random = random.Random(0)
    logger: Any = structlog.get_logger()

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> float:
        return time.time()


@pytest.fixture
def server_of() -> Callable[..., HttpServer]:
    """``server_of(app, **settings)``."""
    return lambda app, **settings: HttpServer(app, HttpSettings(**settings), Surroundings())  # type: ignore[arg-type]
