"""Which version of which key each transaction reads, when every one runs as if all had run one after the other.

The order is given: it is the block's. For each key the last transaction before this one that *may* write it (declares so)
makes the version that this one reads. Where that is in another part, its value after that transaction has to come from
there: one message for each (key, version, part that needs it), however many transactions there read it. That it may write
and does not changes nothing: then its value after it is the one before it, which that part knows, for what may be written
is among what is read.

Invariant: needs point backwards only. So of all transactions that are not done the first has all it needs, and there is
progress whatever the parts are, as long as each part runs its own first whenever that has what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import define, field

from nodewright_aptos.functions import Accesses
from nodewright_aptos.transactions import UserTransaction

Need = tuple[bytes, int]  # key, position that it is needed after
_NOTHING: Final[tuple[()]] = ()


@define
class Task:
    """One transaction. The first ``written`` of ``keys`` it may write, the others it may only read."""

    position: int
    raw: bytes
    part: int
    keys: tuple[bytes, ...]
    written: int
    needs: Sequence[Need] = _NOTHING
    sends: dict[bytes, None] | None = None  # whose value after it other parts need


@define
class Plan:
    tasks: list[Task]
    parts: list[list[Task]]
    dependents: dict[Need, dict[int, None]] = field(factory=dict)  # the parts that need a version
    keys: dict[bytes, int] = field(factory=dict)  # every declared key, and the parts that touch it as bits

    @property
    def messages(self) -> int:
        return sum(map(len, self.dependents.values()))

    @property
    def fanout(self) -> int:
        """Sum over all keys of the parts that touch it."""
        return sum(map(int.bit_count, self.keys.values()))

    @property
    def imbalance(self) -> float:
        """Transactions of the largest part over the mean."""
        return max(map(len, self.parts)) * len(self.parts) / max(len(self.tasks), 1)


def make_plan(
    transactions: Sequence[UserTransaction], accesses: Sequence[Accesses], part_of: Sequence[int], parts: int
) -> Plan:
    """``part_of``, from 0, beside the transactions. None of them declares an aggregator."""
    plan = Plan([], [[] for _ in range(parts)])
    tasks, keys, dependents = plan.tasks, plan.keys, plan.dependents
    last: dict[bytes, int] = {}
    for position, (transaction, access, part) in enumerate(zip(transactions, accesses, part_of, strict=True)):
        task = Task(position, transaction.raw, part, access.reads, len(access.writes))
        bit = 1 << part
        needs: list[Need] = []
        for key in access.reads:
            keys[key] = keys.get(key, 0) | bit
            writer = last.get(key)
            if writer is not None and tasks[writer].part != part:
                need = (key, writer)
                needs.append(need)
                wanted = dependents.get(need)
                if wanted is None:
                    dependents[need] = {part: None}
                    source = tasks[writer]
                    if source.sends is None:
                        source.sends = {}
                    source.sends[key] = None
                else:
                    wanted[part] = None
        if needs:
            task.needs = needs
        for key in access.writes:
            last[key] = position
        tasks.append(task)
        plan.parts[part].append(task)
    return plan
