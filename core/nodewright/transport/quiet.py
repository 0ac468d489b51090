"""How many lines strangers may cause in the log: a bucket of lines for each host. A line that is told says how many of
that host were not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from attrs import define


@define
class _Host:
    lines: float
    at: float
    untold: int = 0


class LinesPerHost:
    """``clock`` gives seconds. At most ``remembered`` hosts are known, the one heard of longest ago is forgotten."""

    def __init__(self, clock: Callable[[], float], burst: int, seconds_a_line: float, remembered: int = 1024) -> None:
        self._clock = clock
        self._burst = burst
        self._seconds_a_line = seconds_a_line
        self._remembered = remembered
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hosts)

    def take(self, host: str) -> dict[str, int] | None:
        """None: say nothing. Else what the line has to say beside itself."""
        now = self._clock()
        its = self._hosts.setdefault(host, _Host(self._burst, now))
        self._hosts.move_to_end(host)
        if len(self._hosts) > self._remembered:
            self._hosts.popitem(last=False)
        its.lines = min(float(self._burst), its.lines + (now - its.at) / self._seconds_a_line)
        its.at = now
        if its.lines < 1:
            its.untold += 1
            return None
        its.lines -= 1
        untold, its.untold = its.untold, 0
        return {"untold": untold} if untold else {}
