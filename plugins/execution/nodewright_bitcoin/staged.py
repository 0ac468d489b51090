"""How outputs look with staged reservations on top of the store: what they create, and what they spend."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from nodewright.interfaces.storage import UtxoOutput
from nodewright_bitcoin.columns import output_at
from nodewright_bitcoin.state import Reservations


def staged_outputs(
    state: Reservations, outpoints: Sequence[bytes], stored: Sequence[UtxoOutput | None]
) -> list[UtxoOutput | None]:
    answers: list[UtxoOutput | None] = []
    for point, output in zip(outpoints, stored, strict=True):
        reserved = state.get(point[:32])
        if output is None and reserved is not None:
            found = output_at(reserved.effect.outputs, int.from_bytes(point[32:], "little"))
            output = UtxoOutput(found[0], found[1], reserved.height) if found is not None else None
        if output is not None and output.spender is None and point in state.spenders:
            spender = state.spenders[point]
            holder = state.get(spender)
            index = holder.effect.spends.index(point) if holder is not None else 0
            output = attrs.evolve(output, spender=spender + index.to_bytes(4, "little"))
        answers.append(output)
    return answers
