"""A simulated world: virtual time, seeded scheduling, randomness and entropy, and a trace that proves two runs identical.

Under ``simulate`` the same function and seed give the same run, task step for task step. What would break it is anything
that does not come from the environment: the wall clock, ``random``, hash order of objects, real threads and sockets.

``deterministic_scheduling`` is the only place that touches private names of trio; ``tests/transport/test_simulation.py``
fails when a release of trio moves them.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog
import trio
import trio.testing
from attrs import define, field, frozen

from nodewright.errors import NodewrightError
from nodewright.interfaces.environment import Process

T = TypeVar("T")

EPOCH_SECONDS = 1_700_000_000.0  # Unix time at which virtual time starts, unless told otherwise: any fixed number does
LOG_LINES = 10_000


@contextmanager
def deterministic_scheduling(seed: int) -> Iterator[None]:
    """Within this block trio orders tasks that are ready together by creation, then shuffles them by ``seed``."""
    import trio._core._run as scheduler  # private: see the module's docstring

    module: Any = scheduler
    before, state = module._ALLOW_DETERMINISTIC_SCHEDULING, module._r.getstate()
    module._ALLOW_DETERMINISTIC_SCHEDULING = True
    module._r.seed(seed)
    try:
        yield
    finally:
        module._ALLOW_DETERMINISTIC_SCHEDULING = before
        module._r.setstate(state)


class Trace(trio.abc.Instrument):
    """A running hash over every task step (virtual time, task name) and everything recorded; ``events`` keeps what was
    recorded, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[float, tuple[Any, ...]]] = []
        self._hash = blake2b(digest_size=32)
        self._start: float | None = None

    def _elapsed(self) -> float:
        now = trio.current_time()
        if self._start is None:
            self._start = now
        return now - self._start

    def record(self, *what: Any) -> None:
        """``what`` must have a ``repr`` that is the same in every run: no object addresses."""
        self.events.append((self._elapsed(), what))
        self._hash.update(repr((self._elapsed(), what)).encode())

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._hash.update(f"{self._elapsed()!r} {task.name}\n".encode())

    def digest(self) -> bytes:
        return self._hash.digest()


class SimulatedEnvironment:
    """Implements ``Environment`` in virtual time. ``offload`` runs inline, for the virtual clock would run away from a
    real thread; no child process can be spawned. ``log`` holds the last lines logged, as dictionaries."""

    def __init__(
        self,
        seed: int = 0,
        name: str = "node",
        data_dir: Path | None = None,
        *,
        secrets: Mapping[str, str] | None = None,
        epoch_seconds: float = EPOCH_SECONDS,
        slot: str = "",
        trace: Trace | None = None,
        log: deque[dict[str, Any]] | None = None,
    ) -> None:
        self.node_name = name
        self.slot = slot
        self.data_dir = data_dir if data_dir is not None else Path("simulated") / name
        self.random = random.Random(f"{seed} {name} {slot}")
        self.log: deque[dict[str, Any]] = log if log is not None else deque(maxlen=LOG_LINES)
        self.logger: Any = structlog.wrap_logger(
            None, processors=[self._keep], wrapper_class=structlog.BoundLogger, node=name, slot=slot
        )
        self._seed = seed
        self._secrets = dict(secrets or {})
        self._epoch = epoch_seconds
        self._trace = trace
        self._entropy = random.Random(f"entropy {seed} {name} {slot}")

    def _keep(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        self.log.append({"level": method, **event})
        raise structlog.DropEvent

    def monotonic(self) -> float:
        """Virtual seconds since the run began, as trio counts them."""
        return trio.current_time()

    def now(self) -> float:
        return self._epoch + trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    def entropy(self, count: int) -> bytes:
        return self._entropy.randbytes(count)

    async def offload(self, function: Callable[..., T], *arguments: Any) -> T:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    async def spawn(self, command: Sequence[str], **options: Any) -> Process:
        raise NodewrightError(f"a simulated node starts no child process: {' '.join(command)}")

    def secret(self, name: str) -> str | None:
        return self._secrets.get(name)

    def for_slot(self, slot: str) -> SimulatedEnvironment:
        return SimulatedEnvironment(
            self._seed,
            self.node_name,
            self.data_dir / slot if slot else self.data_dir,
            secrets=self._secrets,
            epoch_seconds=self._epoch,
            slot=slot,
            trace=self._trace,
            log=self.log,
        )


@define
class Simulation:
    """What a simulated function is given."""

    seed: int
    trace: Trace
    clock: trio.testing.MockClock
    random: random.Random = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.random = random.Random(f"simulation {self.seed}")

    def environment(self, name: str, data_dir: Path | None = None, **options: Any) -> SimulatedEnvironment:
        return SimulatedEnvironment(self.seed, name, data_dir, trace=self.trace, **options)


@frozen
class SimulationResult(Generic[T]):
    """``digest`` is equal for two runs if and only if they took the same steps; ``seconds`` are virtual."""

    value: T
    digest: bytes
    events: list[tuple[float, tuple[Any, ...]]]
    seconds: float


def simulate(
    function: Callable[[Simulation], Awaitable[T]], seed: int = 0, *, limit_seconds: float = 1e7
) -> SimulationResult[T]:
    """Run ``await function(simulation)`` to its end in virtual time, from ordinary (not async) code. A run that would
    take more than ``limit_seconds`` of virtual time raises ``trio.TooSlowError``."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    trace = Trace()
    simulation = Simulation(seed, trace, clock)

    async def main() -> tuple[T, float]:
        start = trio.current_time()
        with trio.fail_after(limit_seconds):
            value = await function(simulation)
        return value, trio.current_time() - start

    with deterministic_scheduling(seed):
        value, seconds = trio.run(main, clock=clock, instruments=[trace])
    return SimulationResult(value, trace.digest(), trace.events, seconds)
