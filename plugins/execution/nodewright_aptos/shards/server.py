"""A shard: executes the parts that its coordinator gives it, and remembers nothing after them.

Five stages, each of another micro-batch at one time: micro-batches come in and are read; what is declared and did not come
with them is asked for, and what other parts must have left is waited for; what is ready is executed; what other parts need
of it is sent; the results are returned.

Invariants:
- Of what came over a link nothing outlives it: a coordinator that connects anew starts from nothing.
- A part that fails (its executor raises, or its coordinator talks nonsense about it) is answered with ``Failed`` and
  forgotten; other parts go on.
- It holds at most MAX_PARTS parts and MAX_HELD_BYTES of messages: a coordinator that sends more is cut off.
- Reading never waits for writing, so that no circle of full links can form.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha3_256
from typing import Final

import trio
from attrs import define, field

from nodewright.interfaces.environment import Environment
from nodewright_aptos import bcs
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.executors import Executor
from nodewright_aptos.functions import Functions
from nodewright_aptos.shards import messages
from nodewright_aptos.shards.links import Link, LinkLost, leaves
from nodewright_aptos.shards.messages import (
    Ask,
    Batch,
    Begin,
    End,
    Failed,
    Hello,
    Message,
    Ping,
    Pong,
    Ready,
    Results,
    State,
    Values,
    pieces,
)
from nodewright_aptos.shards.part import Part, execute
from nodewright_aptos.state import Output

MAX_PARTS: Final = 256
MAX_HELD_BYTES: Final = 2 << 30
_QUEUED: Final = 8
EXECUTORS: Final = ("sequential", "columnar")  # of a shard: others share no state with a part


def fingerprint_of(functions: Functions) -> bytes:
    """Of what can be called: a shard and its coordinator must have the same."""
    told = []
    for key, known in functions.entries.items():
        function = known.function
        body = bcs.vector(map(bcs.text, function.parameters)) + bcs.u64(function.gas) + bcs.u8(function.type_parameters)
        told.append(key + body + bcs.flag(function.accesses is not None))
    return sha3_256(b"transaction functions" + bcs.vector(sorted(told))).digest()


class ShardServer:
    """``executor`` is the one that sub-blocks are run by, None for one transaction after the other."""

    def __init__(self, functions: Functions, environment: Environment, executor: Executor | None = None) -> None:
        self.functions = functions
        self.environment = environment
        self.executor = executor
        self.fingerprint = fingerprint_of(functions)

    @property
    def executor_name(self) -> str:
        return "sequential" if self.executor is None else self.executor.name

    async def serve(self, link: Link) -> str:
        """Until the link is lost; answers why. Closes it."""
        session = _Session(self, link)
        ended = "it was told to end"
        try:
            async with trio.open_nursery() as nursery:
                session.nursery = nursery
                nursery.start_soon(session.write)
                await session.read()
        except* (LinkLost, Malformed) as lost:
            ended = "; ".join(dict.fromkeys(str(error) for error in leaves(lost)))
        finally:
            with trio.CancelScope(shield=True):
                await link.aclose()
        return ended


@define(eq=False)
class _Running:
    """A part and the task that runs it."""

    part: Part
    scope: trio.CancelScope
    changed: trio.Event
    answered: trio.Event
    held_bytes: int = 0
    seconds: list[float] = field(factory=lambda: [0.0] * 4)  # see ``messages.Results.micros``

    def since(self) -> tuple[int, int, int, int]:
        """What was spent since this was asked last, in microseconds."""
        told = tuple([int(one * 1e6) for one in self.seconds])
        self.seconds = [0.0] * 4
        return told[0], told[1], told[2], told[3]

    def change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class _Session:
    def __init__(self, server: ShardServer, link: Link) -> None:
        self._server = server
        self._link = link
        self._clock = server.environment.monotonic
        self._running: dict[int, _Running] = {}
        self._held_bytes = 0
        self._out, self._outbox = trio.open_memory_channel[Message](_QUEUED)
        self.nursery: trio.Nursery

    async def write(self) -> None:
        """Encodes what is sent, in order."""
        async for message in self._outbox:
            began = self._clock()
            await self._link.send(messages.encode(message))
            if isinstance(message, Values | Results):
                self._spent(message, self._clock() - began)

    def _spent(self, message: Values | Results, seconds: float) -> None:
        running = self._running.get(message.part)
        if running is not None:
            running.seconds[2 if isinstance(message, Values) else 3] += seconds

    async def read(self) -> None:
        while True:
            data = await self._link.receive()
            message = messages.decode(data)
            if isinstance(message, Ping):
                try:
                    self._out.send_nowait(Pong(message.number))
                except trio.WouldBlock:
                    pass  # what is on its way is as good a sign of life
            elif isinstance(message, Hello):
                for left in self._running.values():  # of a coordinator that gave this shard up and is back
                    self._forget(left)
                self._running.clear()
                self.nursery.start_soon(self._out.send, Ready(self._server.fingerprint, self._server.executor_name))
            elif isinstance(message, Begin):
                self._begin(message)
            elif isinstance(message, Batch | Values | State):
                self._held_bytes += len(data)
                if self._held_bytes > MAX_HELD_BYTES:
                    raise LinkLost(f"its coordinator gave it more than {MAX_HELD_BYTES} bytes to hold")
                self._take(message, len(data))
            elif isinstance(message, End):
                running = self._running.pop(message.part, None)
                if running is not None:
                    self._forget(running)
            else:
                raise LinkLost("its coordinator answered as a shard does")

    def _begin(self, message: Begin) -> None:
        if message.part in self._running or len(self._running) >= MAX_PARTS:
            raise LinkLost("its coordinator began a part twice, or too many")
        part = Part(message.part, message.block, self._server.functions.aggregators)
        running = _Running(part, trio.CancelScope(), trio.Event(), trio.Event())
        self._running[message.part] = running
        self.nursery.start_soon(self._run, running)

    def _forget(self, running: _Running) -> None:
        running.scope.cancel()
        self._held_bytes -= running.held_bytes

    def _take(self, message: Batch | Values | State, size: int) -> None:
        running = self._running.get(message.part)
        if running is None:  # it failed here, which its coordinator will have read soon
            self._held_bytes -= size
            return
        running.held_bytes += size
        if isinstance(message, Batch):
            running.part.add(message)
        elif isinstance(message, Values):
            running.part.learn(message.versions)
        else:
            running.part.know(message.values)
            running.answered.set()
            running.answered = trio.Event()
            return
        running.change()

    # Running ---------------------------------------------------------------------------------------------------------

    async def _run(self, running: _Running) -> None:
        part = running.part
        try:
            with running.scope:
                while True:
                    await self._step(running)
        except (LinkLost, trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception as error:  # a function's or an executor's own fault: whoever runs it next will say the same
            self._server.environment.logger.warning(
                "a sub-block failed in this shard", part=part.number, reason=repr(error)
            )
            if self._running.pop(part.number, None) is not None:
                self._forget(running)
            await self._out.send(Failed(part.number, f"{type(error).__name__}: {error}"[:1000]))

    async def _step(self, running: _Running) -> None:
        part, server, clock = running.part, self._server, self._clock
        began = clock()
        changed = running.changed
        while not (entries := part.take()):
            await changed.wait()
            changed = running.changed

        async def prefetch(keys: Iterable[bytes]) -> None:
            asked = clock()
            await self._ask(running, tuple(keys))
            waited[0] += clock() - asked

        waited = [0.0]
        unknown = part.unknown(entries)
        if unknown:
            await self._ask(running, unknown)
        started = clock()
        outputs, undeclared = await execute(server.functions, server.environment, server.executor, part, entries, prefetch)
        versions = part.finish(entries, outputs)
        ended = clock()
        running.seconds[0] += started - began + waited[0]
        running.seconds[1] += ended - started - waited[0]
        for some in pieces(versions, lambda version: len(version[0]) + len(version[2] or b"") + 16):
            await self._out.send(Values(part.number, tuple(some)))
        rows = [(entry.position, output) for entry, output in zip(entries, outputs, strict=True)]
        told = tuple(sorted(undeclared))
        for some in pieces(rows, lambda row: _size(row[1])):
            await self._out.send(Results(part.number, tuple(some), told, running.since()))
            told = ()

    async def _ask(self, running: _Running, keys: tuple[bytes, ...]) -> None:
        state = running.part.state
        await self._out.send(Ask(running.part.number, keys))
        while any([key not in state for key in keys]):
            await running.answered.wait()


def _size(output: Output) -> int:
    written = sum([len(key) + len(value or b"") for key, value in output.writes.items()])
    return written + sum([len(event.type) + len(event.data) + 64 for event in output.events]) + len(output.message) + 128
