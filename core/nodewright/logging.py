"""Logging for a node: structlog, one line an event, as readable text or as JSON, on standard error.

Loggers come from the environment (``environment.logger``), bound to the node's name and the slot. What libraries log
through the standard ``logging`` module comes out in the same form. Nothing here is called per transaction.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import Any, Literal, TextIO

import structlog

from nodewright.errors import ConfigurationError

Format = Literal["console", "json"]
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
MAX_TEXT = 4096


class _Bridge(logging.Handler):
    """Hands records of the standard ``logging`` module to structlog."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        try:
            name = logging.getLevelName(record.levelno).lower()
            method = name if name in LEVELS else "error" if record.levelno >= logging.ERROR else "info"
            extra: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
            getattr(self._logger, method)(record.getMessage(), library=record.name, **extra)
        except Exception:
            self.handleError(record)


class _Unfailing:
    """A stream whose failing is nobody's affair: a log on a full disk, or whose reader is gone, must not end a node."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: the stream was closed
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _hex_bytes(_: Any, __: str, event: Any) -> Any:
    """Bytes as hex, and no value long enough to flood the log (peers choose some of them)."""
    for key, value in event.items():
        if isinstance(value, bytes | bytearray):
            event[key] = value[: MAX_TEXT // 2].hex()
        elif isinstance(value, str) and len(value) > MAX_TEXT and key != "exception":
            event[key] = value[:MAX_TEXT] + "…"
    return event


def renderer(format: Format, colors: bool) -> list[Any]:
    """The processors that turn an event into text, after level and time are in it."""
    if format == "json":
        return [
            structlog.processors.format_exc_info,
            _hex_bytes,
            structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
        ]
    return [
        _hex_bytes,
        structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=32, sort_keys=False
        ),
    ]


def wants_colors(stream: TextIO) -> bool:
    """Colours on a terminal, unless NO_COLOR is set; forced by FORCE_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def configure(
    node_name: str, format: Format = "console", level: str = "info", stream: TextIO | None = None, **bound: Any
) -> Any:
    """Set up logging for this process and return the node's logger (bound: ``node`` and what else is given).

    Raises ConfigurationError for an unknown level or format."""
    if level not in LEVELS:
        raise ConfigurationError(f"log level {level!r} is not one of {', '.join(LEVELS)}")
    if format not in ("console", "json"):
        raise ConfigurationError(f"log format {format!r} is not one of console, json")
    out = stream if stream is not None else sys.stderr
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer(format, wants_colors(out)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=_Unfailing(out)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    logger = structlog.get_logger().bind(node=node_name, **bound)
    root = logging.getLogger()
    root.handlers[:] = [_Bridge(logger)]
    root.setLevel(max(LEVELS[level], logging.INFO))
    return logger
