"""Rows of a store that are not what was written to it: the store is to blame, never the peer or client that asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from nodewright.errors import StoreCorrupt

T = TypeVar("T")


def sound(slot: str, what: str, read: Callable[..., T], *arguments: Any) -> T:
    """``read(*arguments)`` of a row of the store in ``slot``. Raises StoreCorrupt, with the fix, where that raises a
    ValueError, such as Malformed."""
    try:
        return read(*arguments)
    except ValueError as error:
        raise StoreCorrupt(
            f"{slot}: {what} cannot be read ({error}): restore this store from a copy, or sync it anew"
        ) from error
