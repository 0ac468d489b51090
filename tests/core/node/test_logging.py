"""The log's stream may fail or be gone: that ends nothing."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
import structlog

from nodewright.logging import configure


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


def test_a_stream_that_was_closed_ends_nothing() -> None:
    stream = io.StringIO()
    logger = configure("node", "json", stream=stream)
    logger.info("said")
    assert "said" in stream.getvalue()
    stream.close()
    logger.info("said to nobody")
    logging.getLogger("library").warning("nor this")
