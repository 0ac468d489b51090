"""A sub-block in a shard: the state that it knows, what waits, and what may run now. No link, no clock.

What runs next is every waiting transaction that has what it needs and conflicts with none that waits before it: one whose
version of a key has not come holds up only those that touch its keys. These run together, in block order, as an executor's
one block.

Invariants: a transaction reads of each key that it declares the version that ``plan`` gave it: those it needs from other
parts are put into the state before it runs, and nobody who runs in between touches that key. Conflicting transactions of
one part run in block order. Aggregators stand at a base of their own that no sum of deltas leaves: what a transaction adds
is in its output, and the coordinator sums it up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from attrs import define

from nodewright.interfaces.environment import Environment
from nodewright_aptos.columnar.calls import read_call
from nodewright_aptos.executors import WORTH_A_HOP, Executor
from nodewright_aptos.functions import Functions
from nodewright_aptos.resources import SUPPLY_KEY
from nodewright_aptos.runtime import run_transaction
from nodewright_aptos.shards.messages import MAX_BATCH, UNSENT, Batch, Version
from nodewright_aptos.state import KEPT, Absent, BlockEnvironment, Output
from nodewright_aptos.transactions import UserTransaction, decode_transaction

AGGREGATOR_BASE: Final = (1 << 127).to_bytes(16, "little")


@define(eq=False)
class Entry:
    """A transaction that waits or runs; see ``messages.Item``."""

    position: int
    transaction: UserTransaction
    keys: tuple[bytes, ...]
    written: int
    needs: tuple[tuple[bytes, int], ...]
    sends: tuple[bytes, ...]


class Part:
    def __init__(self, number: int, block: BlockEnvironment, aggregators: Iterable[bytes]) -> None:
        self.number = number
        self.block = block
        self.aggregators = frozenset((*aggregators, SUPPLY_KEY))
        self.state: dict[bytes, bytes | None] = dict.fromkeys(self.aggregators, AGGREGATOR_BASE)
        self.waiting: list[Entry] = []
        self._versions: dict[tuple[bytes, int], bytes | None] = {}

    def add(self, batch: Batch) -> None:
        """Raises Malformed."""
        keys, state = batch.keys, self.state
        for key, (told, value) in zip(keys, batch.values, strict=True):
            if told != UNSENT:
                state.setdefault(key, value)
        for item in batch.items:
            entry = Entry(
                item.position,
                decode_transaction(item.raw),
                tuple([keys[place] for place in item.keys]),
                item.written,
                tuple([(keys[place], position) for place, position in item.needs]),
                tuple([keys[place] for place in item.sends]),
            )
            self.waiting.append(entry)

    def learn(self, versions: Iterable[Version]) -> None:
        self._versions.update({(key, position): value for key, position, value in versions})

    def know(self, values: Iterable[tuple[bytes, bytes | None]]) -> None:
        for key, value in values:
            self.state.setdefault(key, value)

    def take(self) -> list[Entry]:
        """Those that run now, in block order: no longer waiting, and what they need is in the state."""
        versions, state = self._versions, self.state
        chosen: list[Entry] = []
        left: list[Entry] = []
        touched: set[bytes] = set()
        held: set[bytes] = set()  # touched by those that are left
        changing: set[bytes] = set()  # of these the keys that get another value
        for at, entry in enumerate(self.waiting):
            if len(chosen) == MAX_BATCH:
                left += self.waiting[at:]
                break
            needs = entry.needs
            free = not needs or all([need in versions and need[0] not in touched for need in needs])
            if free and held:
                free = changing.isdisjoint(entry.keys) and held.isdisjoint(entry.keys[: entry.written])
                free = free and held.isdisjoint([key for key, _ in needs])
            if free:
                chosen.append(entry)
                touched.update(entry.keys)
            else:
                left.append(entry)
                held.update(entry.keys)
                changing.update(entry.keys[: entry.written], [key for key, _ in needs])
        self.waiting = left
        for entry in chosen:
            for need in entry.needs:
                state[need[0]] = versions[need]
        return chosen

    def unknown(self, entries: Iterable[Entry]) -> tuple[bytes, ...]:
        """Declared keys whose values have not come."""
        state = self.state
        return tuple(dict.fromkeys([key for entry in entries for key in entry.keys if key not in state]))

    def finish(self, entries: Sequence[Entry], outputs: Sequence[Output]) -> list[Version]:
        """The state after them, and what other parts need of it."""
        state = self.state
        versions: list[Version] = []
        for entry, output in zip(entries, outputs, strict=True):
            if output.kind == KEPT:
                state.update(output.writes)
            for key in entry.sends:
                versions.append((key, entry.position, state[key]))
        return versions

    def get(self, key: bytes) -> bytes | None:
        """Raises Absent."""
        try:
            return self.state[key]
        except KeyError:
            raise Absent((key,)) from None


class Prefetch(Protocol):
    async def __call__(self, keys: Iterable[bytes]) -> None:
        """Have these in ``Part.state``."""


class OneByOne:
    """Runs entries one after the other and notes exactly which keys were read by one that does not declare them."""

    def __init__(self, functions: Functions, part: Part) -> None:
        self._functions = functions
        self._part = part
        self._changed: dict[bytes, bytes | None] = {}
        self._declared: tuple[bytes, ...] = ()
        self.outputs: list[Output] = []
        self.undeclared: dict[bytes, None] = {}

    def knows(self, key: bytes) -> bool:
        return key in self._changed or key in self._part.state

    def get(self, key: bytes) -> bytes | None:
        """Raises Absent."""
        changed = self._changed
        return changed[key] if key in changed else self._part.get(key)

    def _read(self, key: bytes) -> bytes | None:
        if key not in self._declared:
            self.undeclared[key] = None
        return self.get(key)

    def go_on(self, entries: Sequence[Entry]) -> None:
        """Raises Absent: call again when it is known."""
        for entry in entries[len(self.outputs) :]:
            self._declared = entry.keys
            self.accept([run_transaction(self._read, entry.transaction, self._part.block, self._functions)])

    def accept(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if output.kind == KEPT:
                self._changed.update(output.writes)
        self.outputs += outputs


class Shown:
    """``executors.Base``: the state that a run has come to."""

    def __init__(self, run: OneByOne, prefetch: Prefetch) -> None:
        self._prefetch = prefetch
        self._knows = run.knows
        self.get = run.get

    async def load(self, keys: Iterable[bytes]) -> None:
        wanted = [key for key in keys if not self._knows(key)]
        if wanted:
            await self._prefetch(wanted)


async def execute(
    functions: Functions,
    environment: Environment,
    executor: Executor | None,
    part: Part,
    entries: Sequence[Entry],
    prefetch: Prefetch,
) -> tuple[Sequence[Output], Iterable[bytes]]:
    """Outputs in order, and keys read that were not declared. ``executor`` is for native transfers, which read what they
    declare and nothing else; of all others each read is looked at, so that none can be missed."""
    run = OneByOne(functions, part)
    native = [executor is not None and read_call(entry.transaction, functions) is not None for entry in entries]
    while (begin := len(run.outputs)) < len(entries):
        end = begin + 1
        while end < len(entries) and native[end] == native[begin]:
            end += 1
        if executor is not None and native[begin]:
            own = [entry.transaction for entry in entries[begin:end]]
            run.accept(await executor.run(Shown(run, prefetch), own, part.block))
            continue
        try:
            if end - begin < WORTH_A_HOP:
                run.go_on(entries[:end])
            else:
                await environment.offload(run.go_on, entries[:end])
        except Absent as absent:
            await prefetch(absent.keys)
    return run.outputs, run.undeclared
