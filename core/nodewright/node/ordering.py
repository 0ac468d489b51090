"""Which refused transactions of one call are worth a second try, and in what order: those whose missing parents came after
them in the same call. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nodewright.interfaces.common import Admission, Admitted, Refused


def waits_for(answer: Admission) -> tuple[bytes, ...]:
    """The ids a ``missing`` refusal names; empty for any other answer."""
    if isinstance(answer, Refused) and answer.kind == "missing":
        missing = answer.data.get("missing", ())
        return tuple(id for id in missing if isinstance(id, bytes)) if isinstance(missing, list | tuple) else ()
    return ()


def retry_order(answers: Sequence[Admission], ids: Mapping[int, bytes]) -> list[int]:
    """Positions to admit again, parents first. ``ids`` has the id of every position refused as ``missing``.

    A transaction is tried again only if each parent it misses was admitted in this call or is itself tried again. Ends for
    any input: circles and unknown parents are left out."""
    admitted = {answer.id for answer in answers if isinstance(answer, Admitted)}
    waiting = {position: set(waits_for(answers[position])) - admitted for position in ids}
    children: dict[bytes, list[int]] = {}
    for position, parents in waiting.items():
        for parent in parents:
            children.setdefault(parent, []).append(position)
    order = [position for position, parents in waiting.items() if not parents and waits_for(answers[position])]
    placed = set(order)
    for position in order:  # grows while it is walked
        for child in children.get(ids[position], ()):
            waiting[child].discard(ids[position])
            if not waiting[child] and child not in placed:
                placed.add(child)
                order.append(child)
    return order
