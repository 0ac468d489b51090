"""The service ``near_load``: a load generator inside a node, for measuring it without clients and their wire.

It signs its transfers first, which is counted apart (``signing_cpu_seconds``), and then hands them to the node's pool as an
HTTP service would: each batch is answered once it is journalled. The rate grows over a ramp and is then held by a PID
controller, so that blocks come a target time apart. What it does and what came of it stands in ``report.json`` in its
folder: ``phase`` is ``signing``, ``signed`` or ``sent``.

Invariants: transfers of one sender go one after the other, in the order of their nonces; nothing is sent before ``start``
allows it; a batch that the node is too busy for is sent again, and everything else that is refused is counted, by reason;
memory: the transfers, some 250 bytes each, and eight bytes for each account.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

import trio
from attrs import define, field

from nodewright.bench.processes import cpu_seconds
from nodewright.bench.report import percentile
from nodewright.errors import ConfigurationError
from nodewright.interfaces.common import Refused
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import ChainEvent, NodeHandle
from nodewright.node.folder import write_whole
from nodewright_near.generated import read_generated
from nodewright_near.genesis import shard_of
from nodewright_near_api.bench.config import LoadConfig
from nodewright_near_api.bench.load import SUFFIX, Signed, Transfers
from nodewright_near_api.bench.pid import Controller, Gains

REPORT: Final = "report.json"
GO: Final = "go"
POLL_SECONDS: Final = 0.05
TICK_SECONDS: Final = 0.05
SIGNED_AT_ONCE: Final = 500
MAX_TRACE: Final = 10_000
MAX_REASONS: Final = 20


@define
class Sending:
    """What is on its way, and what came of what was sent. ``sent`` and ``accepted`` by shard of the sender."""

    streams: list[list[bytes]]
    shards: list[list[int]]
    began: float = 0.0
    allowed: float = 0.0
    more: trio.Event = field(factory=trio.Event)  # set when more is allowed
    sent: Counter[int] = field(factory=Counter)
    accepted: Counter[int] = field(factory=Counter)
    refused: Counter[str] = field(factory=Counter)
    busy: int = 0
    latencies: list[float] = field(factory=list)
    trace: list[dict[str, float]] = field(factory=list)


class NearLoad:
    url = ""

    def __init__(self, config: LoadConfig, environment: Environment) -> None:
        self._config = config
        self._environment = environment

    async def run(self, node: NodeHandle, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        config = self._config
        sections = [one for one in read_generated(node.genesis.get("execution", {})) if one.suffix == SUFFIX]
        if not sections or sections[0].count < 2:
            raise ConfigurationError(
                f'near_load has nobody to send for: give the genesis execution.generated_accounts with suffix "{SUFFIX}"'
            )
        (self._environment.data_dir / GO).unlink(missing_ok=True)
        self._report("signing")
        task_status.started()
        network = await node.consensus.query("network")
        transfers = Transfers(sections[0], config.seed)
        began = time.process_time()
        sending = await self._sign(transfers, network["genesis_hash"], network["boundaries"])
        signing = {"signing_cpu_seconds": time.process_time() - began, "signed": sum(map(len, sending.streams))}
        self._report("signed", **signing)
        if config.start == "file":
            while not (self._environment.data_dir / GO).exists():
                await self._environment.sleep(POLL_SECONDS)
        await self._send(node, sending, signing)

    def _report(self, phase: str, **figures: Any) -> None:
        write_whole(self._environment.data_dir / REPORT, {"phase": phase, **figures})

    # --- signing ---

    async def _sign(self, transfers: Transfers, block_hash: bytes, boundaries: Sequence[str]) -> Sending:
        config = self._config
        sending = Sending([[] for _ in range(config.streams)], [[] for _ in range(config.streams)])
        signed = transfers.sign(config.count, block_hash, config.part, config.parts)
        while part := await self._environment.offload(_take, signed, SIGNED_AT_ONCE):
            for one in part:
                if one is not None:
                    stream = one.sender // config.parts % config.streams
                    sending.streams[stream].append(one.raw)
                    sending.shards[stream].append(shard_of(transfers.accounts.name(one.sender), boundaries))
        return sending

    # --- sending ---

    async def _send(self, node: NodeHandle, sending: Sending, signing: dict[str, Any]) -> None:
        config = self._config
        gains = Gains(config.proportional, config.integral, config.derivative)
        controller = Controller(config.target_block_seconds, gains, config.rate, config.ramp_seconds, config.window)
        before = cpu_seconds(os.getpid())
        began_at = self._environment.now()
        sending.began = self._environment.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, node, controller, sending)
            nursery.start_soon(self._allow, node, controller, sending)
            async with trio.open_nursery() as senders:
                for raws, shards in zip(sending.streams, sending.shards, strict=True):
                    senders.start_soon(self._stream, node, sending, raws, shards)
            nursery.cancel_scope.cancel()
        seconds = self._environment.monotonic() - sending.began
        shards = sorted(sending.sent)
        self._report(
            "sent",
            **signing,
            began=began_at,
            seconds=seconds,
            cpu_seconds=cpu_seconds(os.getpid()) - before,
            sent={str(shard): sending.sent[shard] for shard in shards},
            accepted={str(shard): sending.accepted[shard] for shard in shards},
            refused=dict(sending.refused.most_common(MAX_REASONS)),
            busy=sending.busy,
            p50_ms=percentile(sending.latencies, 0.5) * 1000,
            p95_ms=percentile(sending.latencies, 0.95) * 1000,
            rate=controller.rate(seconds),
            trace=sending.trace,
        )

    async def _watch(self, node: NodeHandle, controller: Controller, sending: Sending) -> None:
        async for event in node.events.subscribe():
            if isinstance(event, ChainEvent) and event.kind == "block_accepted":
                now = self._environment.monotonic()
                controller.block(now, now - sending.began)
                if len(sending.trace) < MAX_TRACE:
                    point = {
                        "at": round(now - sending.began, 3),
                        "rate": round(controller.rate(now - sending.began), 1),
                        "block_seconds": round(controller.block_seconds, 3),
                        "waiting": float(len(node.pool)),
                    }
                    sending.trace.append(point)

    async def _allow(self, node: NodeHandle, controller: Controller, sending: Sending) -> None:
        """Lets the streams send at the controller's rate, as long as the pool is not full of what waits for a chunk."""
        config, last = self._config, sending.began
        free = config.target_block_seconds == 0
        # Streams want whole batches, or what is left of theirs.
        least = min([config.batch, *(len(raws) % config.batch or config.batch for raws in sending.streams)])
        while True:
            await self._environment.sleep(TICK_SECONDS)
            now = self._environment.monotonic()
            room = config.max_waiting - len(node.pool)
            if room <= 0:
                sending.allowed = 0.0
            elif free:
                sending.allowed = float(room)
            else:
                # What could not be sent in time is not made up for: the pool was full, or the streams were busy.
                most = float(min(room, config.batch * config.streams))
                sending.allowed = min(most, sending.allowed + controller.rate(now - sending.began) * (now - last))
            if sending.allowed >= least:
                sending.more.set()
                sending.more = trio.Event()
            last = now

    async def _stream(self, node: NodeHandle, sending: Sending, raws: list[bytes], shards: list[int]) -> None:
        at, config = 0, self._config
        while at < len(raws):
            wanted = min(config.batch, len(raws) - at)
            while sending.allowed < wanted:
                await sending.more.wait()
            sending.allowed -= wanted
            at = await self._submit(node, sending, raws, shards, at, wanted)

    async def _submit(
        self, node: NodeHandle, sending: Sending, raws: list[bytes], shards: list[int], at: int, count: int
    ) -> int:
        """Where to go on: at the first that the node was too busy for."""
        began = self._environment.monotonic()
        answers = await node.pool.submit(raws[at : at + count], "load")
        sending.latencies.append(self._environment.monotonic() - began)
        for answer in answers:
            if isinstance(answer, Refused):
                if answer.kind == "busy":
                    sending.busy += 1
                    await self._environment.sleep(POLL_SECONDS)
                    return at
                sending.refused[answer.code] += 1
            else:
                sending.accepted[shards[at]] += 1
            sending.sent[shards[at]] += 1
            at += 1
        return at


def _take(signed: Iterator[Signed | None], count: int) -> list[Signed | None]:
    return list(islice(signed, count))
