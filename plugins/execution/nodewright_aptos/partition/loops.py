"""The inner loops, in plain Python over arrays; ``kernels`` compiles these very functions.

None calls another, so that each compiles by itself. Sums of floats are in one order everywhere: compiled and plain give the
same bits, and a partition does not say who computed it. Shapes: n transactions, V senders, K keys, E shared keys
(hyperedges), S shards.
"""

from nodewright_aptos.partition.blockloops import (
    components,
    group,
    messages,
    owned_round,
    pins,
    scores,
    span,
    spread,
    touches,
)
from nodewright_aptos.partition.searchloops import adopt, even, objective, pack, spill, swap, sweep, tally

__all__ = [
    "adopt",
    "components",
    "even",
    "group",
    "messages",
    "objective",
    "owned_round",
    "pack",
    "pins",
    "scores",
    "span",
    "spill",
    "spread",
    "swap",
    "sweep",
    "tally",
    "touches",
]
