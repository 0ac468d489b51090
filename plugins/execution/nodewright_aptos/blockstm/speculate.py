"""What a worker does: run a batch of incarnations, each on the values it was given. Pure, in any thread or process.

Within a batch, transactions come in block order and see what those before them in the batch wrote: a chain of transactions
on one account is one batch and not as many round trips. Whether that was right is for whoever validates to say.

A function may swallow what a read raises: ``asks`` is looked at, not what the function made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import define

from nodewright_aptos.functions import Functions
from nodewright_aptos.runtime import run_transaction
from nodewright_aptos.state import KEPT, MAX_AGGREGATOR, Absent, BlockEnvironment, Output
from nodewright_aptos.transactions import UserTransaction

_ABSENT: Final = b"\0absent"  # compared by identity


@define
class Item:
    """A transaction to be run. ``values`` are put over what was known in the batch before."""

    place: int
    incarnation: int
    transaction: UserTransaction
    values: dict[bytes, bytes | None]


@define
class Answer:
    """``asks``: keys that it lacked, and nothing else is said then but what it read before. ``error``: what it raised;
    ``failed`` alone where that cannot be carried: it is to be run once more where it can."""

    place: int
    reads: dict[bytes, bytes | None]
    output: Output | None = None
    asks: tuple[bytes, ...] = ()
    error: Exception | None = None
    failed: bool = False


class _Reader:
    """Each key is answered once: a function never sees two values of one."""

    __slots__ = ("_known", "asks", "reads")

    def __init__(self, known: dict[bytes, bytes | None]) -> None:
        self._known = known
        self.reads: dict[bytes, bytes | None] = {}
        self.asks: list[bytes] = []

    def __call__(self, key: bytes) -> bytes | None:
        reads = self.reads
        if key in reads:
            return reads[key]
        value = self._known.get(key, _ABSENT)
        if value is _ABSENT:
            if not isinstance(key, bytes):
                raise TypeError("a state key is bytes")
            self.asks.append(key)
            raise Absent([key])
        reads[key] = value
        return value


def speculate(functions: Functions, block: BlockEnvironment, items: Sequence[Item]) -> list[Answer]:
    known: dict[bytes, bytes | None] = {}
    answers: list[Answer] = []
    for item in items:
        known.update(item.values)
        read = _Reader(known)
        output: Output | None = None
        error: Exception | None = None
        try:
            output = run_transaction(read, item.transaction, block, functions)
        except Exception as raised:  # of an inconsistent state, perhaps: it is raised if the incarnation is committed
            error = raised
        if read.asks:
            answers.append(Answer(item.place, read.reads, asks=tuple(read.asks)))
            continue
        answers.append(Answer(item.place, read.reads, output, error=error, failed=error is not None))
        if output is not None and output.kind == KEPT:
            known.update(output.writes)
            for key, delta in output.deltas.items():
                if key in known:
                    value = (int.from_bytes(known[key] or b"", "little") + delta) & MAX_AGGREGATOR
                    known[key] = value.to_bytes(16, "little")
    return answers
