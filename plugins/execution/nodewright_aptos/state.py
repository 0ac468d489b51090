"""What one transaction sees of the state, and what it leaves: the interface between transaction functions and executors.

Keys are state keys (``statekeys``: the preimage that H_StateKey hashes), values the raw bytes of a resource or table item.

- ``Read``: ``read(key) -> bytes | None``, the value before this transaction (that is: after all earlier ones of the block).
  It may raise ``Absent(keys)`` where the value is not in memory; whoever runs the transaction loads it and runs it again.
- ``TransactionView``: an overlay over a ``Read``. ``get``, ``set`` (None deletes), ``add`` (an aggregator's delta),
  ``emit``, ``charge``. ``mark`` and ``reset`` take back what a function did before it aborted.
- ``Output``: what ``runtime.run_transaction(read, transaction, block, functions)`` answers: a pure function of what
  ``read`` answered. ``writes`` and ``deltas`` are the whole effect on the state; nothing is applied by running.

Aggregators (the total supply): 16-byte little-endian u128 under a table item's key. A transaction changes one by ``add``
only, which reads nothing: so all transactions of a block may change it and none conflicts. ``read`` of such a key must
answer the value with the deltas of earlier transactions in it; no function of this package reads one while a block runs.
``materialise`` turns deltas into writes, in block order.

An executor may run transactions in any order, many times, as long as the outputs it answers are those of running them
one after the other, each on the writes and deltas of all earlier ones that are KEPT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from attrs import define, field, frozen

from nodewright_aptos.ledger import EXECUTED, Event, ExecutionStatus

Read = Callable[[bytes], bytes | None]
KEPT: Final = 0
DISCARDED: Final = 1
RETRY: Final = 2
MAX_AGGREGATOR: Final = (1 << 128) - 1


class Absent(Exception):
    """These keys must be loaded before the transaction can run."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        super().__init__(f"{len(keys)} keys of the state are to be loaded")
        self.keys = tuple(keys)


class Abort(Exception):
    """A transaction function ends without effect: a Move abort in ``module`` (address, name) with ``code`` (category in the
    third byte, reason in the lower two), the reason's name and a sentence; ``code`` None is another failure of execution,
    named by ``reason``."""

    def __init__(self, module: tuple[bytes, str], code: int | None, reason: str = "", description: str = "") -> None:
        super().__init__(reason or str(code))
        self.module = module
        self.code = code
        self.reason = reason
        self.description = description


class OutOfGas(Exception):
    """More was charged than the transaction allows."""


@frozen
class BlockEnvironment:
    """What all transactions of a block may look at besides the state. ``timestamp`` in microseconds."""

    height: int
    timestamp: int
    epoch: int
    chain_id: int
    proposer: bytes = bytes(32)

    @property
    def seconds(self) -> int:
        return self.timestamp // 1_000_000


# Made once per transaction: a frozen class costs three times as much to build. Nobody assigns to one.
@define
class Output:
    """Of one transaction. Where it is not KEPT it has no effect at all: ``code`` is the name of the VM status (DISCARDED)
    or why it is to be ordered again (RETRY). ``created`` are the keys written that had no value before."""

    kind: int
    gas_used: int = 0
    status: ExecutionStatus = EXECUTED
    writes: dict[bytes, bytes | None] = field(factory=dict)
    deltas: dict[bytes, int] = field(factory=dict)
    events: tuple[Event, ...] = ()
    created: tuple[bytes, ...] = ()
    code: str = ""
    message: str = ""
    fee: int = 0


class TransactionView:
    """State as one transaction sees it while it runs."""

    __slots__ = ("_read", "deltas", "events", "gas", "gas_limit", "writes")

    def __init__(self, read: Read, gas_limit: int = 1 << 62) -> None:
        self._read = read
        self.writes: dict[bytes, bytes | None] = {}
        self.deltas: dict[bytes, int] = {}
        self.events: list[Event] = []
        self.gas = 0
        self.gas_limit = gas_limit

    def get(self, key: bytes) -> bytes | None:
        writes = self.writes
        if key in writes:
            return writes[key]
        value = self._read(key)
        if key in self.deltas:
            return (int.from_bytes(value or b"", "little") + self.deltas[key]).to_bytes(16, "little")
        return value

    def before(self, key: bytes) -> bytes | None:
        """The value before this transaction."""
        return self._read(key)

    def set(self, key: bytes, value: bytes | None) -> None:
        self.writes[key] = value

    def add(self, key: bytes, delta: int) -> None:
        """Change an aggregator. Nobody ``set``s its key."""
        self.deltas[key] = self.deltas.get(key, 0) + delta

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def charge(self, units: int) -> None:
        """Execution gas of a function. Raises OutOfGas."""
        self.gas += units
        if self.gas > self.gas_limit:
            raise OutOfGas

    def mark(self) -> tuple[dict[bytes, bytes | None], dict[bytes, int], int]:
        return dict(self.writes), dict(self.deltas), len(self.events)

    def reset(self, mark: tuple[dict[bytes, bytes | None], dict[bytes, int], int]) -> None:
        """Back to ``mark`` (the gas charged stays charged)."""
        self.writes, self.deltas = dict(mark[0]), dict(mark[1])
        del self.events[mark[2] :]


def apply(state: dict[bytes, bytes | None], output: Output) -> None:
    """Put a kept output's writes over ``state``; deltas over the aggregators that ``state`` must hold."""
    if output.kind != KEPT:
        return
    state.update(output.writes)
    for key, delta in output.deltas.items():
        state[key] = aggregate(state[key], delta)


def aggregate(value: bytes | None, delta: int) -> bytes:
    """The u128 ``value`` (None is 0) and a delta. Raises OverflowError out of its range: a broken invariant of whoever
    changes it."""
    return (int.from_bytes(value or b"", "little") + delta).to_bytes(16, "little")


def materialise(
    outputs: Sequence[Output], aggregators: Mapping[bytes, bytes | None]
) -> tuple[list[dict[bytes, bytes | None]], dict[bytes, bytes | None]]:
    """Per output all its writes with the values of aggregators after it, and the writes of the whole block. ``aggregators``
    holds the value before the block of every key that has a delta."""
    running = dict(aggregators)
    whole: dict[bytes, bytes | None] = {}
    each: list[dict[bytes, bytes | None]] = []
    for output in outputs:
        writes = output.writes
        if output.kind == KEPT:
            if output.deltas:
                writes = dict(writes)
                for key, delta in output.deltas.items():
                    running[key] = writes[key] = aggregate(running[key], delta)
            whole.update(writes)
        each.append(writes)
    return each, whole
