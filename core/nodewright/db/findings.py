"""What a verification did and found. Of one kind of damage the first few are told in full, all are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

TOLD = 10


class Findings:
    """``tell(line, damaged)`` is called as things are found."""

    def __init__(self, tell: Callable[[str, bool], None] = lambda line, damaged: None) -> None:
        self._tell = tell
        self.damage: Counter[str] = Counter()
        self.lines: list[str] = []

    @property
    def count(self) -> int:
        return self.damage.total()

    def say(self, line: str) -> None:
        self.lines.append(line)
        self._tell(line, False)

    def damaged(self, what: str, where: str) -> None:
        """``what`` names the kind of damage, ``where`` the one case."""
        self.damage[what] += 1
        if self.damage[what] <= TOLD:
            line = f"{what}: {where}"
            self.lines.append(line)
            self._tell(line, True)

    def close(self) -> None:
        """Tell how many more there were of each kind than were told in full."""
        for what, count in self.damage.items():
            if count > TOLD:
                line = f"{what}: {count - TOLD} more"
                self.lines.append(line)
                self._tell(line, True)
