"""Sentences about names: the nearest known one, and lists a person can read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like this one, if any is alike."""
    choices = sorted(set(known))
    lowered = {choice.lower(): choice for choice in reversed(choices)}
    found = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` with a leading semicolon, or all that is known, or nothing at all."""
    choices = sorted(set(known))
    near = nearest(name, choices)
    if near is not None:
        return f"; did you mean {near!r}?"
    return f"; known are {listed(choices)}" if choices else ""


def listed(names: Iterable[str]) -> str:
    """Sorted, comma-separated, at most twenty."""
    choices = sorted(set(names))
    more = f" and {len(choices) - 20} more" if len(choices) > 20 else ""
    return ", ".join(choices[:20]) + more
