"""One block's parts over the shards there are, until every transaction has its output.

Each part is driven by a task of its own: it gives its micro-batches to one shard, a few at a time; where the shard is lost
or fails, what has no output yet goes to another one, or to this process itself. Values that parts leave for one another
pass through here: the coordinator has them when a shard is gone.

Invariants:
- An output is taken once, from the shard that has the part at that moment, and after all values that others need of it.
- What a part that moved starts from is the base, the values that its finished transactions read from others, and what they
  wrote: for those that are left that is the state they would have found (see ``part``: nothing ran before what it conflicts
  with).
- Of all transactions without an output the first has what it needs: whichever shard has it and does not return it within
  ``stuck_seconds`` fails that part, whatever else it says. Here there is no such bound.
- The result stands only if nobody touched what it did not declare in a way that another could have noticed, and no
  aggregator left its range; else ``Abandoned``, and whoever asked runs it one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import trio
from attrs import define

from nodewright.errors import NodewrightError
from nodewright.interfaces.environment import Environment
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.executors import Base
from nodewright_aptos.shards.figures import Meter
from nodewright_aptos.shards.links import leaves
from nodewright_aptos.shards.messages import (
    ABSENT,
    PRESENT,
    SPLIT_BYTES,
    UNSENT,
    Ask,
    Batch,
    Begin,
    End,
    Failed,
    Item,
    Results,
    State,
    Values,
    Version,
    pieces,
)
from nodewright_aptos.shards.options import Options
from nodewright_aptos.shards.plan import Need, Plan, Task
from nodewright_aptos.shards.supervisor import Shard
from nodewright_aptos.state import KEPT, MAX_AGGREGATOR, BlockEnvironment, Output

MAX_BATCH_KEYS: Final = 1 << 14


class Abandoned(Exception):
    """These transactions cannot be run in parts; the text says why."""


class Lost(Exception):
    """The shard that had a part is gone, or failed it."""


@define(eq=False)
class Work:
    """A part: ``failed`` are the shards that answered that they cannot run it, ``attempt`` the one under way."""

    number: int
    tasks: list[Task]
    failed: set[str]
    attempt: Attempt | None = None


class Run:
    """``shards`` beside the parts of ``plan``, ready at this moment; ``own`` is this process. ``numbers`` never repeat."""

    def __init__(
        self,
        plan: Plan,
        base: Base,
        block: BlockEnvironment,
        shards: Sequence[Shard],
        own: Shard,
        numbers: Iterator[int],
        meter: Meter,
        options: Options,
        environment: Environment,
    ) -> None:
        self.plan = plan
        self.base = base
        self.block = block
        self.meter = meter
        self.options = options
        self.outputs: list[Output | None] = [None] * len(plan.tasks)
        self.values: dict[Need, bytes | None] = {}
        self.loading = trio.Lock()
        self.nursery: trio.Nursery
        self._shards = shards
        self._own = own
        self._numbers = numbers
        self._environment = environment
        self._works = [Work(number, tasks, set()) for number, tasks in enumerate(plan.parts)]
        self._undeclared: set[bytes] = set()
        self._abandoned = ""

    async def all(self) -> list[Output]:
        """Outputs by position. Raises Abandoned, and what the base raises."""
        try:
            await self._drive_all()
        except BaseExceptionGroup as group:
            stores = group.subgroup(NodewrightError)
            if stores is None or group.split(NodewrightError)[1] is not None:
                raise
            raise leaves(stores)[0] from group
        if self._abandoned:
            raise Abandoned(self._abandoned)
        outputs = [output for output in self.outputs if output is not None]
        assert len(outputs) == len(self.outputs)
        await self._check(outputs)
        return outputs

    async def _drive_all(self) -> None:
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            async with trio.open_nursery() as parts:
                nursery.start_soon(self._watch)
                for work in self._works:
                    if work.tasks:
                        parts.start_soon(self._drive, work)
            nursery.cancel_scope.cancel()

    async def _watch(self) -> None:
        first = -1
        while True:
            await self._environment.sleep(self.options.stuck_seconds)
            last = first
            first = next((at for at, output in enumerate(self.outputs) if output is None), len(self.outputs))
            if first == last and first < len(self.outputs):
                attempt = self._works[self.plan.tasks[first].part].attempt
                if attempt is not None and attempt.shard is not self._own:
                    attempt.fail("it has everything that it needs and returns nothing")

    def abandon(self, reason: str) -> None:
        self._abandoned = self._abandoned or reason
        self.nursery.cancel_scope.cancel()

    async def _drive(self, work: Work) -> None:
        while True:
            shard = self._choose(work)
            if shard is None:
                self.abandon(f"part {work.number} failed in every shard and here")
                return
            attempt = work.attempt = Attempt(self, work, shard, next(self._numbers))
            try:
                await attempt.run()
                return
            except Lost as lost:
                work.attempt = None
                self.meter.moved += 1
                if str(lost):
                    work.failed.add(shard.name)

    def _choose(self, work: Work) -> Shard | None:
        first = self._shards[work.number]
        usable = [shard for shard in self._shards if shard.ready and shard.name not in work.failed]
        if first in usable:
            return first
        if usable:
            return min(usable, key=lambda shard: len(shard.parts))
        return None if self._own.name in work.failed or not self._own.ready else self._own

    def publish(self, versions: Sequence[Version]) -> None:
        """What one part left, to those that need it."""
        told: dict[int, list[Version]] = {}
        for version in versions:
            need = version[0], version[1]
            if need not in self.values:
                self.values[need] = version[2]
                for number in self.plan.dependents[need]:
                    told.setdefault(number, []).append(version)
        for number, some in told.items():
            self.meter.messages += len(some)
            attempt = self._works[number].attempt
            if attempt is not None:
                attempt.tell(some)

    def take(self, position: int, output: Output) -> None:
        self.outputs[position] = output
        task = self.plan.tasks[position]
        if not output.writes.keys() <= set(task.keys[: task.written]):
            self.abandon("a transaction function wrote what it does not declare")

    def note(self, undeclared: Iterable[bytes]) -> None:
        self._undeclared.update(undeclared)

    async def _check(self, outputs: Sequence[Output]) -> None:
        """Raises Abandoned."""
        deltas = dict.fromkeys(key for output in outputs for key in output.deltas)
        if self._undeclared:
            written = {key for output in outputs for key in output.writes}
            if not self._undeclared.isdisjoint(written) or not self._undeclared.isdisjoint(deltas):
                raise Abandoned("a transaction function read what it does not declare, and another one changed it")
        if any([key in self.plan.keys for key in deltas]):
            raise Abandoned("an aggregator is read as if it were none")
        await self.base.load(deltas)
        running = {key: int.from_bytes(self.base.get(key) or b"", "little") for key in deltas}
        for output in outputs:
            if output.kind == KEPT:
                for key, delta in output.deltas.items():
                    running[key] += delta
                    if not 0 <= running[key] <= MAX_AGGREGATOR:
                        raise Abandoned("an aggregator leaves its range")


class Attempt:
    """A part, or what is left of it, at one shard. ``Told`` of ``supervisor``."""

    def __init__(self, run: Run, work: Work, shard: Shard, number: int) -> None:
        self._run = run
        self.shard = shard
        self._number = number
        self._failed = False
        self._lost = False
        self._changed = trio.Event()
        self._sent = self._returned = 0
        self._tasks = {task.position: task for task in work.tasks if run.outputs[task.position] is None}
        self._needed = {need for task in self._tasks.values() for need in task.needs}
        self._told: set[bytes] = set()
        self._state: dict[bytes, bytes | None] = {}
        for task in work.tasks:
            output = run.outputs[task.position]
            if output is not None:
                self._state.update({need[0]: run.values[need] for need in task.needs})
                if output.kind == KEPT:
                    self._state.update(output.writes)

    async def run(self) -> None:
        """Until all has its output. Raises Lost, with a text where the shard is there and failed."""
        run, shard = self._run, self.shard
        await trio.lowlevel.checkpoint_if_cancelled()
        if not shard.ready:
            raise Lost
        shard.parts[self._number] = self
        try:
            options = run.options
            shard.post(Begin(self._number, run.block))
            self.tell([(*need, run.values[need]) for need in self._needed if need in run.values])
            total = len(self._tasks)
            for number, tasks in enumerate(_micro_batches(list(self._tasks.values()), options.micro_batch)):
                await self._until(lambda: self._sent - self._returned < options.window * options.micro_batch)
                with run.meter.stage(0):
                    await self._send(number, tasks)
            await self._until(lambda: self._returned == total)
        finally:
            shard.parts.pop(self._number, None)
            shard.post(End(self._number))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while True:
            if self._lost:
                raise Lost("failed" if self._failed else "")
            if condition():
                return
            await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # To the shard ------------------------------------------------------------------------------------------------------

    def tell(self, versions: Sequence[Version]) -> None:
        some = [version for version in versions if (version[0], version[1]) in self._needed]
        for piece in pieces(some, lambda version: len(version[0]) + len(version[2] or b"") + 16):
            self.shard.post(Values(self._number, tuple(piece)))

    async def _send(self, number: int, tasks: Sequence[Task]) -> None:
        places: dict[bytes, int] = {}
        fresh: dict[bytes, None] = {}
        items = []
        for task in tasks:
            own = tuple([places.setdefault(key, len(places)) for key in task.keys])
            needed = [key for key, _ in task.needs]
            fresh.update(dict.fromkeys([key for key in task.keys if key not in self._told and key not in needed]))
            self._told.update(task.keys)
            needs = tuple([(places[key], position) for key, position in task.needs])
            sends = tuple([places[key] for key in task.sends]) if task.sends else ()
            items.append(Item(task.position, task.raw, own, task.written, needs, sends))
        await self._load(fresh)
        told: list[tuple[int, bytes | None]] = []
        room = SPLIT_BYTES
        for key in places:
            value = self._value(key) if key in fresh and room > 0 else None
            if key not in fresh or room <= 0:
                told.append((UNSENT, None))
            else:
                room -= len(value or b"") + len(key)
                told.append((ABSENT, None) if value is None else (PRESENT, value))
        self._sent += len(items)
        self.shard.post(Batch(self._number, number, tuple(places), tuple(told), tuple(items)))

    async def _load(self, keys: Iterable[bytes]) -> None:
        wanted = [key for key in keys if key not in self._state]
        async with self._run.loading:
            await self._run.base.load(wanted)

    def _value(self, key: bytes) -> bytes | None:
        return self._state[key] if key in self._state else self._run.base.get(key)

    async def _answer(self, keys: Sequence[bytes]) -> None:
        await self._load(keys)
        self._run.meter.asked += len(keys)
        values = [(key, self._value(key)) for key in keys]
        for some in pieces(values, lambda row: len(row[0]) + len(row[1] or b"") + 8):
            self.shard.post(State(self._number, tuple(some)))

    # From the shard ----------------------------------------------------------------------------------------------------

    def lose(self, reason: str) -> None:
        self._lost = True
        self._change()

    def fail(self, reason: str) -> None:
        self._run.meter.last_failure = f"{self.shard.name}: {reason}"
        self._failed = True
        self.lose(reason)

    def take(self, message: Results | Values | Ask | Failed) -> None:
        """Raises Malformed."""
        if self._lost:
            return
        if isinstance(message, Values):
            for key, position, _ in message.versions:
                task = self._tasks.get(position)
                if task is None or not task.sends or key not in task.sends:
                    raise Malformed("it sends a value that nobody asked for")
            self._run.publish(message.versions)
        elif isinstance(message, Results):
            self._take_results(message)
        elif isinstance(message, Ask):
            self._run.nursery.start_soon(self._answer, message.keys)
        else:
            self.fail(message.reason)

    def _take_results(self, message: Results) -> None:
        run = self._run
        for position, output in message.outputs:
            task = self._tasks.get(position)
            if task is None or run.outputs[position] is not None:
                raise Malformed("it returns the result of a transaction that it was not given, or one twice")
            if task.sends and not all([(key, position) in run.values for key in task.sends]):
                raise Malformed("it returns a result before the values that others need of it")
            run.take(position, output)
        run.note(message.undeclared)
        run.meter.add(message.micros)
        self._returned += len(message.outputs)
        self._change()


def _micro_batches(tasks: Sequence[Task], count: int) -> Iterator[Sequence[Task]]:
    """At most ``count`` each, and of what a message can hold."""
    start = size = keys = 0
    for place, task in enumerate(tasks):
        size += len(task.raw)
        keys += len(task.keys)
        if place > start and (place - start == count or size > SPLIT_BYTES or keys > MAX_BATCH_KEYS):
            yield tasks[start:place]
            start, size, keys = place, len(task.raw), len(task.keys)
    if start < len(tasks):
        yield tasks[start:]
