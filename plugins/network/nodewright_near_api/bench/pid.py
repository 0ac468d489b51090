"""How many transfers a second to send so that blocks come a target time apart. Pure.

While ramping the rate grows evenly to its start value. Then, at each block, it changes by the controller's answer to the
error (target less the mean time of the last ``window`` blocks): with a proportional gain alone, as NEAR's own benchmark has
it, the rate rises while blocks come faster than the target and falls while they come slower. No error leaves it as it is.

Invariant: the rate is never below ``least`` nor above ``most``, and what the integral part holds never exceeds what would
drive the rate from the one to the other.
"""

from __future__ import annotations

from collections import deque

from attrs import define, field, frozen


@frozen
class Gains:
    """Transfers a second, for each second of error; of its sum over blocks; of its change from block to block."""

    proportional: float
    integral: float = 0.0
    derivative: float = 0.0


@define
class Controller:
    target_seconds: float
    gains: Gains
    start: float
    ramp_seconds: float
    window: int = 6
    least: float = 10.0
    most: float = 1_000_000.0
    _times: deque[float] = field(init=False)
    _last_block: float | None = None
    _sum: float = 0.0
    _last_error: float | None = None
    _held: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._times = deque(maxlen=self.window)
        self._held = self.start

    def rate(self, since_start: float) -> float:
        """``since_start`` in seconds."""
        if since_start < self.ramp_seconds:
            return max(self.least, self.start * since_start / self.ramp_seconds)
        return self._held

    @property
    def block_seconds(self) -> float:
        """Mean of the last blocks; 0 before the second."""
        return sum(self._times) / len(self._times) if self._times else 0.0

    def block(self, at: float, since_start: float) -> None:
        """A block came at the time ``at``."""
        if self._last_block is not None:
            self._times.append(at - self._last_block)
        self._last_block = at
        if since_start >= self.ramp_seconds and self._times:
            self._correct()

    def _correct(self) -> None:
        gains, error = self.gains, self.target_seconds - self.block_seconds
        if gains.integral:
            bound = (self.most - self.least) / abs(gains.integral)
            self._sum = max(-bound, min(bound, self._sum + error))
        change = 0.0 if self._last_error is None else error - self._last_error
        self._last_error = error
        step = gains.proportional * error + gains.integral * self._sum + gains.derivative * change
        self._held = max(self.least, min(self.most, self._held + step))
