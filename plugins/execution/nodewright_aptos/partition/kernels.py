"""``loops``, compiled. Import through ``nodewright.kernels.warm_up`` only."""

from __future__ import annotations

from typing import Any, Final

from nodewright.kernels.compiled.tools import njit, types
from nodewright_aptos.partition import loops

_L: Final = types.int64
_LONGS: Final = types.int64[::1]
_INTS: Final = types.int32[::1]
_FLOATS: Final = types.float64[::1]
_LONG_TABLE: Final = types.int64[:, ::1]
_INT_TABLE: Final = types.int32[:, ::1]
_ACCESS: Final = (_LONGS, _LONGS, _LONGS, _LONGS)  # read_starts, reads, write_starts, writes
_GRAPH: Final = (_LONGS, _LONGS, _LONGS)  # pin_starts, out, weights
_SEARCH: Final = (*_GRAPH, _INTS, _INT_TABLE, _LONGS, _L, _FLOATS)  # and shard, counts, loads, cap, power


def _compiled(loop: Any, returns: Any, *arguments: Any) -> Any:
    return njit(returns(*arguments), nogil=True, cache=True)(loop)


group = _compiled(loops.group, types.void, _LONGS, _LONGS, _LONGS)
pins = _compiled(loops.pins, _L, _LONGS, _LONGS, *_ACCESS, _LONGS, _LONGS, _LONGS, _LONGS)
pack = _compiled(loops.pack, types.void, _LONGS, _LONGS, _INTS, _LONGS)
adopt = _compiled(loops.adopt, _L, _LONGS, _LONGS, _LONGS, _LONGS, _LONGS, _LONGS, _LONGS, _L, _LONGS)
even = _compiled(loops.even, types.void, _LONGS, _INTS, _LONGS, _L, _L)
spill = _compiled(loops.spill, types.void, _LONGS, _LONGS, _INTS, _LONGS, _L, _LONGS)
tally = _compiled(loops.tally, types.void, *_GRAPH, _INTS, _INT_TABLE, _LONGS)
objective = _compiled(loops.objective, types.float64, _INT_TABLE, _FLOATS)
sweep = _compiled(loops.sweep, _L, _LONGS, *_SEARCH, _FLOATS, _LONG_TABLE, _FLOATS, _FLOATS)
swap = _compiled(loops.swap, types.void, _LONGS, _LONGS, *_SEARCH, _FLOATS)
touches = _compiled(loops.touches, types.void, _LONGS, *_ACCESS, _LONGS, _INTS, _LONGS, _INT_TABLE)
scores = _compiled(loops.scores, types.void, _LONGS, _LONGS, _INT_TABLE, _INTS, _FLOATS)
components = _compiled(loops.components, types.void, _LONGS, _LONGS, _LONGS, _LONGS, _L)
owned_round = _compiled(
    loops.owned_round, _L, _LONGS, _LONGS, _INTS, *_ACCESS, _LONGS, _INT_TABLE, _LONGS, _LONGS, _L, _INTS, _LONGS
)
messages = _compiled(loops.messages, _L, _LONGS, _INTS, *_ACCESS, _LONGS, _LONG_TABLE, _LONGS, _LONG_TABLE)
span = _compiled(loops.span, _L, _LONGS, _INTS, *_ACCESS, _LONGS, _LONGS, _LONGS, _L)
spread = _compiled(loops.spread, _L, _INTS, _LONGS, _LONGS, _LONG_TABLE)
