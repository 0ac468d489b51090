"""The sharded executor of the node: whole blocks over executor shards, in the order in which they are given.

A block is taken in pieces: transactions that declare what they touch run in parts, all others one by one in this process
between them. Whatever cannot be run in parts is run one after the other, so that nothing depends on which shards there are.

Invariant: outputs are those of the sequential executor, byte for byte, whatever the partition, the placement, the size of
micro-batches, the order in which messages come, and whichever shards are lost when.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import trio

from nodewright.interfaces.environment import Environment
from nodewright.kernels.plugin import warm_up_kernels
from nodewright_aptos.executors import Base, Executor, SequentialExecutor
from nodewright_aptos.executors import open_executor as open_any
from nodewright_aptos.functions import Accesses, Functions
from nodewright_aptos.resources import SUPPLY_KEY
from nodewright_aptos.shards.coordinator import Abandoned, Run
from nodewright_aptos.shards.divide import divide
from nodewright_aptos.shards.figures import Meter
from nodewright_aptos.shards.messages import MAX_KEYS, Hello
from nodewright_aptos.shards.options import BY_SENDER, LOCAL, RAY, Options, read_options
from nodewright_aptos.shards.peers import Peers, key_of, open_transport
from nodewright_aptos.shards.placements import Here, LocalProcess, Remote
from nodewright_aptos.shards.plan import make_plan
from nodewright_aptos.shards.rays import RayActor, open_ray
from nodewright_aptos.shards.server import ShardServer, fingerprint_of
from nodewright_aptos.shards.supervisor import Placement, Shard
from nodewright_aptos.state import KEPT, BlockEnvironment, Output, aggregate
from nodewright_aptos.transactions import UserTransaction

PARTITION_KERNELS: Final = "nodewright_aptos.partition.kernels"


class ShardedExecutor:
    """``whole`` runs what is not divided."""

    name = "sharded"

    def __init__(
        self,
        functions: Functions,
        environment: Environment,
        options: Options,
        placements: Sequence[Placement],
        whole: Executor,
    ) -> None:
        self._functions = functions
        self._environment = environment
        self._options = options
        self._whole = whole
        self._sequential = SequentialExecutor(functions, environment)
        self._aggregators = frozenset((*functions.aggregators, SUPPLY_KEY))
        self._numbers = itertools.count(1)
        self._changed = trio.Event()
        self.meter = Meter(environment.monotonic)
        fingerprint = fingerprint_of(functions)
        hello = Hello(fingerprint, options.shard_executor)
        seconds = options.silent_seconds
        self.shards = [Shard(one, environment, hello, seconds, self._change) for one in placements]
        here = Here(ShardServer(functions, environment))
        self.own = Shard(here, environment, Hello(fingerprint, "sequential"), seconds, self._change)

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def supervise(self) -> None:
        """A task: shards are used while it runs."""
        async with trio.open_nursery() as nursery:
            for shard in (*self.shards, self.own):
                nursery.start_soon(shard.run)

    async def until_ready(self) -> None:
        """All shards that can ever be."""
        while not all([shard.ready or shard.refused for shard in (*self.shards, self.own)]):
            await self._changed.wait()

    def figures(self) -> dict[str, Any]:
        return {**self.meter.figures(), "shards": len(self.shards)}

    def tell(self) -> None:
        """For the log of a node that ends."""
        meter = self.meter
        self._environment.logger.info(
            "blocks were run by executor shards",
            transactions=meter.transactions,
            in_parts=meter.sharded,
            messages=meter.messages,
            moved_parts=meter.moved,
            one_by_one=meter.abandoned,
        )

    async def run(self, base: Base, transactions: Sequence[UserTransaction], block: BlockEnvironment) -> Sequence[Output]:
        return await self._run(base, transactions, block, None)

    async def run_partitioned(
        self, base: Base, transactions: Sequence[UserTransaction], block: BlockEnvironment, shard_of: Sequence[int]
    ) -> Sequence[Output]:
        """As ``run``, with a partition that somebody else made (numbers from 0; those of shards that are not there count
        anew)."""
        return await self._run(base, transactions, block, shard_of)

    async def _run(
        self,
        base: Base,
        transactions: Sequence[UserTransaction],
        block: BlockEnvironment,
        shard_of: Sequence[int] | None,
    ) -> Sequence[Output]:
        self.meter.transactions += len(transactions)
        if len(transactions) < self._options.least or not any([shard.ready for shard in self.shards]):
            return await self._whole.run(base, transactions, block)
        accesses = await self._environment.offload(self._accesses, transactions)
        pieces = list(_pieces(accesses, self._options.least))
        if len(pieces) == 1 and not pieces[0][1]:
            return await self._whole.run(base, transactions, block)
        outputs: list[Output] = []
        over = Over(base)
        for piece, divided in pieces:
            own = transactions[piece]
            if divided:
                given = None if shard_of is None else shard_of[piece]
                declared = [access for access in accesses[piece] if access is not None]
                some = await self._divided(over, own, declared, block, given)
            else:
                some = await self._whole.run(over, own, block)
            outputs += some
            if len(pieces) > 1:
                await over.apply(some)
        return outputs

    def _accesses(self, transactions: Sequence[UserTransaction]) -> list[Accesses | None]:
        """None for those that run between parts: they do not say what they touch, or want to read an aggregator."""
        found: list[Accesses | None] = []
        aggregators = self._aggregators
        for transaction in transactions:
            access = self._functions.accesses(transaction)
            if access is not None and (len(access.reads) > MAX_KEYS // 2 or not aggregators.isdisjoint(access.reads)):
                access = None
            found.append(access)
        return found

    async def _divided(
        self,
        base: Base,
        transactions: Sequence[UserTransaction],
        accesses: Sequence[Accesses],
        block: BlockEnvironment,
        shard_of: Sequence[int] | None,
    ) -> Sequence[Output]:
        began, options, meter = self._environment.monotonic(), self._options, self.meter
        count = max(sum(shard.ready for shard in self.shards), 1)
        if shard_of is None:
            offload = self._environment.offload
            part_of = await offload(divide, options.partitioner, transactions, accesses, count)
        else:
            part_of = [number % count for number in shard_of]
        plan = await self._environment.offload(make_plan, transactions, accesses, part_of, count)
        meter.partition_seconds += self._environment.monotonic() - began
        meter.sharded += len(transactions)
        meter.fanout, meter.keys = meter.fanout + plan.fanout, meter.keys + len(plan.keys)
        meter.imbalance, meter.runs = meter.imbalance + plan.imbalance, meter.runs + 1
        shards = sorted(self.shards, key=lambda shard: not shard.ready)[:count]
        run = Run(plan, base, block, shards, self.own, self._numbers, meter, options, self._environment)
        try:
            return await run.all()
        except Abandoned as abandoned:
            meter.abandoned += 1
            self._environment.logger.info(
                "a block is run one by one", reason=str(abandoned), failure=meter.last_failure, height=block.height
            )
        return await self._sequential.run(base, transactions, block)


class Over:
    """A base and what the pieces before left."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._changed: dict[bytes, bytes | None] = {}

    async def load(self, keys: Iterable[bytes]) -> None:
        await self._base.load([key for key in keys if key not in self._changed])

    def get(self, key: bytes) -> bytes | None:
        changed = self._changed
        return changed[key] if key in changed else self._base.get(key)

    async def apply(self, outputs: Sequence[Output]) -> None:
        await self.load(dict.fromkeys(key for output in outputs for key in output.deltas))
        for output in outputs:
            if output.kind == KEPT:
                self._changed.update(output.writes)
                for key, delta in output.deltas.items():
                    self._changed[key] = aggregate(self.get(key), delta)


def _pieces(accesses: Sequence[Accesses | None], least: int) -> Iterator[tuple[slice, bool]]:
    """In order, and whether it is divided: at least ``least`` in a row that declare what they touch; and all between."""
    whole = place = 0  # what is not divided begins at ``whole``
    for declared, group in itertools.groupby(accesses, lambda access: access is not None):
        end = place + sum(1 for _ in group)
        if declared and end - place >= least:
            if whole < place:
                yield slice(whole, place), False
            yield slice(place, end), True
            whole = end
        place = end
    if whole < place:
        yield slice(whole, place), False


@asynccontextmanager
async def open_executor(
    functions: Functions, environment: Environment, options: Mapping[str, Any]
) -> AsyncIterator[Executor]:
    """Starts its local shards and waits for all, ``wait_seconds`` at most; they load ``functions.modules`` as well.
    Raises ConfigurationError."""
    settings, _ = read_options(options)
    own = environment.for_slot("execution.shards")
    async with AsyncExitStack() as stack:
        whole = await stack.enter_async_context(open_any(settings.shard_executor, functions, environment, {}))
        remote = [one for one in settings.shards if one not in (LOCAL, RAY)]
        peers = None
        if remote:
            transport = await stack.enter_async_context(open_transport(settings.transport, own, peers=remote))
            own.logger.info("executor shards must allow this key", key=transport.node_id.hex())
            peers = Peers(transport)
        ray = await stack.enter_async_context(open_ray(own, settings.ray_address)) if RAY in settings.shards else None
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        if peers is not None:
            nursery.start_soon(peers.run)
        placements: list[Placement] = []
        for number, one in enumerate(settings.shards):
            if one == RAY:
                placements.append(RayActor(f"ray {number}", ray, settings.shard_executor, functions.modules))
            elif one == LOCAL or peers is None:
                placements.append(LocalProcess(f"local {number}", own, settings.shard_executor, functions.modules))
            else:
                placements.append(Remote(one, key_of(one), peers))
        executor = ShardedExecutor(functions, own, settings, placements, whole)
        nursery.start_soon(executor.supervise)
        if settings.partitioner != BY_SENDER:
            nursery.start_soon(warm_up_kernels, own, PARTITION_KERNELS)
        with trio.move_on_after(settings.wait_seconds) as waited:
            await executor.until_ready()
        if waited.cancelled_caught:
            missing = [shard.name for shard in executor.shards if not shard.ready]
            own.logger.warning("executor shards are not there yet: blocks are run without them", shards=missing)
        try:
            yield executor
        finally:
            executor.tell()
