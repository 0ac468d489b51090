"""One shard as its coordinator has it: connected, greeted, listened to; lost, and connected again.

Invariants:
- ``ready`` is true from the greeting on until the link is lost, and never for a shard that has other transaction functions.
- A shard that says nothing for ``silent_seconds`` is lost, whatever its link says.
- A part that was registered is told exactly once: of each message for it, or that the shard is lost, after which it is told
  nothing. What comes for a part that is not registered is dropped.
- What the shard says is bounded and parsed here; a message that cannot be read loses the shard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import trio

from nodewright.interfaces.environment import Environment
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.shards import messages
from nodewright_aptos.shards.links import Link, LinkLost, leaves
from nodewright_aptos.shards.messages import Ask, Failed, Hello, Message, Ping, Pong, Ready, Results, Values

HELLO_SECONDS: Final = 120.0  # until a process that was started has imported what it needs
BACK_OFF_SECONDS: Final = (0.2, 10.0)
PINGS: Final = 4  # within the silence that is suffered


class Placement(Protocol):
    """Where a shard is, and how to reach it."""

    name: str

    def connect(self) -> AbstractAsyncContextManager[Link]:
        """Waits until it is there. Raises LinkLost. Leaving it ends what was started for it."""


class Told(Protocol):
    def take(self, message: Results | Values | Ask | Failed) -> None:
        """Raises Malformed: the shard is lost."""

    def lose(self, reason: str) -> None: ...


class Shard:
    """``on_change`` is called whenever ``ready`` changed."""

    def __init__(
        self,
        placement: Placement,
        environment: Environment,
        hello: Hello,
        silent_seconds: float,
        on_change: Callable[[], None],
    ) -> None:
        self.name = placement.name
        self.ready = False
        self.refused = ""  # why it is not used, where that does not pass by itself
        self.parts: dict[int, Told] = {}
        self.losses = 0
        self.placement = placement
        self._environment = environment
        self._hello = hello
        self._silent_seconds = silent_seconds
        self._on_change = on_change
        self._outbox: deque[Message] = deque()
        self._more = trio.Event()
        self._heard = 0.0
        self._said = ""

    # For the coordinator -----------------------------------------------------------------------------------------------

    def post(self, message: Message) -> None:
        """Sent in order, in the background. Nothing happens where the shard is lost: its parts were told."""
        if self.ready:
            self._outbox.append(message)
            self._more.set()

    # Its task ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        wait = BACK_OFF_SECONDS[0]
        while True:
            losses = self.losses
            reason = await self._once()
            self._lose(reason)
            if self.losses > losses:
                wait = BACK_OFF_SECONDS[0]
            if not self.refused and reason != self._said:
                told = "lost and is connected again" if self.losses > losses else "not there yet"
                self._environment.logger.warning(f"an executor shard is {told}", shard=self.name, reason=reason)
            self._said = reason if self.losses == losses else ""
            await self._environment.sleep(wait)
            wait = min(2 * wait, BACK_OFF_SECONDS[1])

    async def _once(self) -> str:
        """One connection from its beginning to its end; why it ended."""
        reason = ""
        try:
            async with self.placement.connect() as link:
                with trio.fail_after(HELLO_SECONDS):
                    await self._greet(link)
                self._set_ready(True)
                self._environment.logger.info("an executor shard is ready", shard=self.name)
                await self._attend(link)
        except* trio.TooSlowError:
            reason = f"it does not greet within {HELLO_SECONDS:.0f} s"
        except* (LinkLost, Malformed) as lost:
            reason = "; ".join(dict.fromkeys(map(str, leaves(lost))))
        return reason

    async def _greet(self, link: Link) -> None:
        await link.send(messages.encode(self._hello))
        while not isinstance(ready := messages.decode(await link.receive()), Ready):
            pass  # left over from a connection before
        if ready.fingerprint != self._hello.fingerprint:
            self._refuse("it has other transaction functions: give it the same --functions as execution.functions names")
        if ready.executor != self._hello.executor:
            self._refuse(
                f"it runs {ready.executor!r}, where shard_executor is {self._hello.executor!r}: start it with that"
            )
        self.refused = ""

    def _refuse(self, reason: str) -> None:
        if reason != self.refused:
            self._environment.logger.error("an executor shard cannot be used", shard=self.name, reason=reason)
        self.refused = reason
        self._on_change()
        raise LinkLost(reason)

    def _set_ready(self, ready: bool) -> None:
        self.ready = ready
        self._heard = self._environment.monotonic()
        self._on_change()

    def _lose(self, reason: str) -> None:
        if not self.ready:
            return
        self.losses += 1
        self._outbox.clear()
        parts, self.parts = list(self.parts.values()), {}
        self._set_ready(False)
        for part in parts:
            part.lose(reason)

    async def _attend(self, link: Link) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, link)
            nursery.start_soon(self._watch)
            await self._read(link)

    async def _read(self, link: Link) -> None:
        while True:
            message = messages.decode(await link.receive())
            self._heard = self._environment.monotonic()
            if isinstance(message, Results | Values | Ask | Failed):
                part = self.parts.get(message.part)
                if part is not None:
                    part.take(message)
            elif not isinstance(message, Pong | Ready):
                raise Malformed("it speaks as a coordinator does")

    async def _write(self, link: Link) -> None:
        while True:
            while self._outbox:
                await link.send(messages.encode(self._outbox.popleft()))
            self._more = trio.Event()
            await self._more.wait()

    async def _watch(self) -> None:
        number = 0
        while True:
            await self._environment.sleep(self._silent_seconds / PINGS)
            silent = self._environment.monotonic() - self._heard
            if silent > self._silent_seconds:
                raise LinkLost(f"it has said nothing for {silent:.0f} s")
            number += 1
            self._outbox.append(Ping(number))
            self._more.set()
