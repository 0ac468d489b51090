"""How long-running work tells how far it is, without knowing of terminals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
# Called with what is being done and how many steps that has (None: not known); gives what to call with steps done.
Progress = Callable[[str, int | None], AbstractContextManager[Advance]]


@contextmanager
def silent(label: str, length: int | None) -> Iterator[Advance]:
    yield lambda steps: None
