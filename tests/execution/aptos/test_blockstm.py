"""Block-STM's scheduler and memory: whichever worker goes next, a block's result is that of running it in order.

Workers here are generators that stop at every read, at every step of a validation and between recording an incarnation and
telling of it; a schedule says which of them goes next. Programs read and write where what they read before leads them, add
to an aggregator, fail, and raise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright_aptos.blockstm.memory import Blocked, MultiVersionMemory
from nodewright_aptos.blockstm.run import BlockRun, Outcome
from nodewright_aptos.blockstm.scheduler import COMMITTED, Scheduler, Task
from nodewright_aptos.state import DISCARDED, KEPT, Absent, Output, aggregate

KEYS = [bytes([number]) * 4 for number in range(6)]
SUPPLY = b"supply"
MAX_STEPS = 200_000

# read a key, or one that what was read leads to; write; add; refuse; raise; read the aggregator
Op = tuple[str, int]
OPS = ("read", "follow", "write", "lead", "add", "refuse", "raise", "sum")
Program = tuple[Op, ...]


class Broken(Exception):
    """What a function raises that is no Abort: the same for the same state alone."""


def interpret(program: Program) -> Generator[bytes, bytes | None, Output]:
    """Yields the keys that it reads."""
    seen = 1
    output = Output(KEPT)
    for name, number in program:
        if name in ("read", "follow"):
            value = yield KEYS[(number + (seen if name == "follow" else 0)) % len(KEYS)]
            seen = (seen * 31 + int.from_bytes(value or b"", "little") + number) % 65521
        elif name == "sum":
            value = yield SUPPLY
            seen = (seen * 37 + int.from_bytes(value or b"", "little")) % 65521
        elif name in ("write", "lead"):
            key = KEYS[(number + (seen if name == "lead" else 0)) % len(KEYS)]
            output.writes[key] = None if seen % 7 == 0 else seen.to_bytes(2, "little")
        elif name == "add":
            output.deltas[SUPPLY] = output.deltas.get(SUPPLY, 0) + number - 3
        elif name == "refuse" and seen % 3 == number % 3:
            return Output(DISCARDED, code="REFUSED", message=str(seen))
        elif name == "raise" and seen % 5 == number % 5:
            raise Broken(seen)
    output.gas_used = seen
    return output


Result = tuple[list[Output], str | None]
State = dict[bytes, bytes | None]


def in_order(programs: Sequence[Program], before: State) -> Result:
    """The reference, which shares nothing with what is tested."""
    state = dict(before)
    outputs: list[Output] = []
    for program in programs:
        running = interpret(program)
        answer: bytes | None = None
        try:
            key = next(running)
            while True:
                answer = state.get(key)
                key = running.send(answer)
        except StopIteration as stop:
            output = stop.value
        except Broken as error:
            return outputs, repr(error)
        if output.kind == KEPT:
            state.update(output.writes)
            for key, delta in output.deltas.items():
                try:
                    state[key] = aggregate(state.get(key), delta)
                except OverflowError:
                    return outputs, "OverflowError"
        outputs.append(output)
    return outputs, None


class Workers:
    """A block and virtual workers on it. ``state`` is loaded when it is asked for."""

    def __init__(self, programs: Sequence[Program], state: State, count: int) -> None:
        self.programs = programs
        self.loaded: State = {}
        self.state = state
        self.run = BlockRun(len(programs), self._base)
        self.error: str | None = None
        self.stopped = False
        self.workers = [self._work() for _ in range(count)]

    def _base(self, key: bytes) -> bytes | None:
        if key not in self.loaded:
            raise Absent([key])
        return self.loaded[key]

    def _work(self) -> Iterator[None]:
        scheduler = self.run.scheduler
        while not scheduler.done:
            task = scheduler.next()
            yield
            while task is not None:
                task = yield from (self._execute(task) if task.wave is None else self.run.validate_steps(task))
                yield
                try:
                    self.run.commit()
                except Broken as error:
                    self.error, self.stopped = repr(error), True
                except OverflowError:
                    self.error, self.stopped = "OverflowError", True

    def _execute(self, task: Task) -> Generator[None, None, Task | None]:
        reads: dict[bytes, bytes | None] = {}
        running = interpret(self.programs[task.place])
        try:
            key = next(running)
            while True:
                yield
                while key not in reads:
                    try:
                        reads[key] = self.run.memory.read(key, task.place)
                    except Blocked as blocked:
                        yield  # the writer may be done before this one says that it waits
                        if self.run.suspend(task, blocked.writer):
                            return None
                    except Absent as absent:
                        yield  # others go on while it is loaded
                        self.loaded.update({one: self.state.get(one) for one in absent.keys})
                key = running.send(reads[key])
        except StopIteration as stop:
            outcome = Outcome(reads, stop.value)
        except Broken as error:
            outcome = Outcome(reads, None, error)
        self._load(outcome)
        return (yield from self.run.finish_steps(task, outcome))

    def _load(self, outcome: Outcome) -> None:
        for key in outcome.output.deltas if outcome.output is not None else ():
            self.loaded.setdefault(key, self.state.get(key))

    def advance(self, worker: int) -> bool:
        """One step of it; False where the block is done."""
        before = self.run.scheduler.commit_index
        next(self.workers[worker], None)
        assert self.run.scheduler.commit_index >= before
        return not (self.run.scheduler.done or self.stopped)

    def result(self, schedule: Iterator[int]) -> Result:
        for _, worker in zip(range(MAX_STEPS), schedule, strict=False):
            if not self.advance(worker % len(self.workers)):
                break
        else:
            raise AssertionError("no worker finds anything to do, and the block is not done")
        committed = self.run.scheduler.commit_index - (1 if self.stopped else 0)
        return [one.output for one in self.run.outcomes[:committed] if one and one.output is not None], self.error


def shown(result: Result) -> Any:
    outputs, error = result
    return [(one, list(one.writes.items()), list(one.deltas.items())) for one in outputs], error


programs_of = st.lists(
    st.lists(st.tuples(st.sampled_from(OPS), st.integers(0, 6)), max_size=6).map(tuple), min_size=1, max_size=9
)


@st.composite
def schedules(draw: Any) -> Iterator[int]:
    """Stretches of one worker each, and then all in turn."""
    stretches = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), max_size=60))

    def steps() -> Iterator[int]:
        for worker, length in stretches:
            yield from [worker] * length
        while True:
            yield from range(4)

    return steps()


@settings(max_examples=60)
@given(programs_of, schedules(), st.integers(1, 4), st.sampled_from([0, 3, 1000]))
def test_any_schedule_gives_the_sequential_result(
    programs: list[Program], schedule: Iterator[int], workers: int, supply: int
) -> None:
    state: State = {SUPPLY: supply.to_bytes(16, "little"), KEYS[0]: b"\7", KEYS[3]: b"\2\1"}
    assert shown(Workers(programs, state, workers).result(schedule)) == shown(in_order(programs, state))


def random_program(rng: random.Random, keys: int, odd: float) -> Program:
    def op() -> Op:
        name = rng.choice(OPS if rng.random() < odd else ("read", "write", "read", "follow", "lead", "add"))
        return name, rng.randrange(keys)

    return tuple(op() for _ in range(rng.randrange(7)))


def bursts(rng: random.Random, workers: int) -> Iterator[int]:
    """Some workers sleep for long, as threads do that the system does not run."""
    longest = rng.choice([1, 3, 40])
    while True:
        yield from [rng.randrange(workers)] * rng.randint(1, longest)


def test_random_blocks_give_the_sequential_result(budget: int) -> None:
    """250 blocks; ``--budget 40`` runs 10,000."""
    totals = [0, 0, 0]
    errors = 0
    for seed in range(250 * budget):
        rng = random.Random(seed)
        keys, odd = rng.choice([1, 3, 6]), rng.choice([0.0, 0.0, 0.1, 0.5])
        programs = [random_program(rng, keys, odd) for _ in range(rng.choice([1, 5, 20, 40]))]
        state: State = {SUPPLY: rng.choice([0, 40, 10**6]).to_bytes(16, "little"), KEYS[1]: b"\5"}
        workers = rng.choice([1, 2, 4, 8])
        virtual = Workers(programs, state, workers)
        result = virtual.result(bursts(rng, workers))
        assert shown(result) == shown(in_order(programs, state)), seed
        run = virtual.run
        totals = [one + other for one, other in zip(totals, (run.aborts, run.suspensions, run.executions), strict=True)]
        errors += result[1] is not None
    # Not vacuous: incarnations were aborted, readers waited, and some blocks ended in an exception.
    assert all(totals) and errors, (totals, errors)


def test_one_worker_runs_each_transaction_once() -> None:
    rng = random.Random(1)
    programs = [random_program(rng, 3, 0.0) for _ in range(50)]
    virtual = Workers(programs, {SUPPLY: (10**9).to_bytes(16, "little")}, 1)
    virtual.result(iter(lambda: 0, 1))
    assert (virtual.run.executions, virtual.run.aborts, virtual.run.suspensions) == (50, 0, 0)


def test_only_adding_to_an_aggregator_conflicts_with_nothing() -> None:
    """However four workers interleave; one that reads the sum is right all the same."""
    for seed in range(20):
        rng = random.Random(seed)
        programs: list[Program] = [(("add", 4),)] * 30
        state: State = {SUPPLY: (5).to_bytes(16, "little")}
        virtual = Workers(programs, state, 4)
        virtual.result(bursts(rng, 4))
        assert (virtual.run.executions, virtual.run.aborts) == (30, 0)
        programs[17] = (("sum", 0), ("write", 0))
        assert shown(Workers(programs, state, 4).result(bursts(rng, 4))) == shown(in_order(programs, state))


def test_a_committed_transaction_is_never_handed_out_again() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        virtual = Workers([random_program(rng, 2, 0.0) for _ in range(12)], {SUPPLY: (99).to_bytes(16, "little")}, 3)
        scheduler = virtual.run.scheduler
        handed: Callable[[], Task | None] = scheduler.next

        def checked() -> Task | None:
            task = handed()  # noqa: B023 (used within the turn of the loop)
            assert task is None or scheduler.statuses[task.place] != COMMITTED  # noqa: B023
            return task

        scheduler.next = checked  # type: ignore[method-assign]
        virtual.result(bursts(rng, 3))


# --- the memory by itself ------------------------------------------------------------------------------------------------


def test_reads_see_the_version_below() -> None:
    memory = MultiVersionMemory(5, {b"a": b"base"}.get)
    assert memory.record(1, {b"a": b"one"}, {})
    assert memory.record(3, {b"a": None}, {})
    assert [memory.read(b"a", place) for place in range(5)] == [b"base", b"base", b"one", b"one", None]
    assert not memory.record(1, {b"a": b"again"}, {})
    assert memory.record(1, {b"b": b"elsewhere"}, {})
    assert memory.read(b"a", 3) == b"base" and memory.read(b"b", 2) == b"elsewhere"


def test_an_estimate_names_whom_to_wait_for() -> None:
    memory = MultiVersionMemory(5, lambda key: None)
    memory.record(1, {b"a": b"one"}, {})
    memory.record(2, {}, {b"a": 1})
    memory.estimate(2)
    assert memory.read(b"a", 2) == b"one"
    with pytest.raises(Blocked) as blocked:
        memory.read(b"a", 4)
    assert blocked.value.writer == 2


def test_deltas_are_summed_and_settle_in_order() -> None:
    base: State = {b"a": (10).to_bytes(16, "little")}
    memory = MultiVersionMemory(5, base.get)
    memory.record(0, {}, {b"a": -4})
    memory.record(2, {}, {b"a": -9})
    memory.record(3, {b"a": (1).to_bytes(16, "little")}, {b"a": 2})
    assert memory.read(b"a", 1) == (6).to_bytes(16, "little")
    assert memory.read(b"a", 3) == ((1 << 128) - 3).to_bytes(16, "little")  # speculative: it does not raise
    assert memory.read(b"a", 4) == (3).to_bytes(16, "little")
    memory.settle(0)
    base.clear()  # what is committed is a value: nobody walks below it any more
    assert memory.read(b"a", 1) == (6).to_bytes(16, "little")
    with pytest.raises(OverflowError):
        memory.settle(2)


def test_an_answer_for_an_incarnation_that_has_gone_is_passed_over() -> None:
    scheduler = Scheduler(2)
    first = scheduler.next()
    assert first == Task(0, 0)
    assert scheduler.next() == Task(1, 0)  # there was nothing to validate
    old = scheduler.executed(first, True)
    assert old == Task(0, 0, 0)  # the counter had passed it
    assert scheduler.abort(old) and not scheduler.abort(old)
    again = scheduler.aborted(old)
    assert again == Task(0, 1)
    scheduler.executed(again, False)
    scheduler.passed(old)
    assert scheduler.commit() is None
    scheduler.passed(Task(0, 1, scheduler.wave))
    assert scheduler.commit() == 0
