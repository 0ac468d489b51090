"""Which target a block must meet: three rules, chosen by the genesis file (``consensus.difficulty``).

``regtest``: the genesis target for ever. ``fixed``: for local networks that want a block every
``target_interval_seconds`` whatever their hash rate; the ASERT schedule (absolutely scheduled exponentially rising
targets, aserti3-2d, BCH specification of 2020-11-15): the target depends only on how far the chain is ahead or behind
the ideal schedule, so it cannot oscillate and needs no window. Its anchor is block 1 rather than genesis, so that an
old genesis time does not count. ``classic``: the original rule, every 2,016 blocks, bounded by a factor of four.

Pure: the caller passes a chain to look at. Integer arithmetic only, so every machine agrees.
"""

from __future__ import annotations

from typing import Literal, Protocol

from attrs import frozen

from nodewright_nakamoto.header import bits_of, target_of

RuleName = Literal["regtest", "fixed", "classic"]
CLASSIC_WINDOW = 2016


class BlockView(Protocol):
    """What the rules read of a block: its height, time (Unix seconds) and compact target."""

    @property
    def height(self) -> int: ...

    @property
    def time(self) -> int: ...

    @property
    def bits(self) -> int: ...


class Ancestry(Protocol):
    def ancestor(self, height: int) -> BlockView:
        """The block of this height on the chain whose tip the next block extends."""


@frozen
class Difficulty:
    """``limit_bits`` is the easiest target ever due (that of genesis)."""

    rule: RuleName
    limit_bits: int
    target_interval_seconds: int = 600
    half_life_seconds: int = 3600

    def next_bits(self, parent: BlockView, chain: Ancestry) -> int:
        """The compact target due for a child of ``parent``."""
        if self.rule == "fixed" and parent.height >= 1:
            return self._asert(parent, chain.ancestor(1))
        if self.rule == "classic" and (parent.height + 1) % CLASSIC_WINDOW == 0:
            first = chain.ancestor(parent.height - (CLASSIC_WINDOW - 1))
            span = CLASSIC_WINDOW * self.target_interval_seconds
            actual = min(max(parent.time - first.time, span // 4), span * 4)
            return self._bounded(target_of(parent.bits) * actual // span)
        return parent.bits

    def _bounded(self, target: int) -> int:
        return bits_of(min(max(target, 1), target_of(self.limit_bits)))

    def _asert(self, parent: BlockView, anchor: BlockView) -> int:
        drift = parent.time - anchor.time - self.target_interval_seconds * (parent.height - anchor.height)
        exponent = drift * 65536 // self.half_life_seconds
        shifts, fraction = exponent >> 16, exponent & 0xFFFF
        # 2**fraction for 0 <= fraction < 1 in units of 2**-16, by the specification's cubic.
        factor = 65536 + (
            (195_766_423_245_049 * fraction + 971_821_376 * fraction**2 + 5_127 * fraction**3 + (1 << 47)) >> 48
        )
        if shifts > 256:
            return self.limit_bits
        target = target_of(anchor.bits) * factor
        target = target << shifts if shifts >= 0 else target >> min(-shifts, 300)
        return self._bounded(target >> 16)
