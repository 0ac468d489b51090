"""A node's life: open a ``Plan`` in order, run it, stop it in the opposite order.

Order of opening: the folder (lease, what it is for) → events → stores (network compared) → verifier → execution → pool
(journal read) → transport (gated) → consensus → formats compared → ``consensus.recover`` → pool settled →
``consensus.run`` started → gate open → services started → ready: ``node.json``, hook ``node_ready``.

Invariants
- Whatever stops the node (a request, an error, a cancellation), what was opened is closed in the opposite order, services
  end before consensus and consensus before the stores.
- A component that fails for good ends the node with its error; a service does not (see ``supervisor``).
- A write of a store that fails ends it too, whoever made it and whatever they make of the error: health is red, one line
  names the store, the node stops as if asked to and then raises that error (see ``guard``).
- ``node.json`` exists only between ready and the begin of stopping.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import trio

from nodewright.composition.plan import Plan, PlannedComponent
from nodewright.environment import NodeEnvironment
from nodewright.errors import NodewrightError, StoreError
from nodewright.genesis import Genesis
from nodewright.interfaces.consensus import Consensus
from nodewright.interfaces.execution import Execution
from nodewright.interfaces.service import NodeHandle, Service
from nodewright.interfaces.transport import PeerUp, Transport
from nodewright.node.events import Events
from nodewright.node.folder import (
    check_record,
    held_folder,
    record_parts,
    recorded_parts,
    remove_node_file,
    write_node_file,
)
from nodewright.node.guard import StoreGuard
from nodewright.node.health import Health
from nodewright.node.metrics import Registry, add_process_metrics
from nodewright.node.parts import EVENTS, POOL, check_parts, held_parts
from nodewright.node.pool import Pool, PoolLimits
from nodewright.node.progress import tell_progress
from nodewright.node.stores import OpenedStore, adapted, check_formats, check_network, open_component, opened_store
from nodewright.node.supervisor import supervise
from nodewright.plugins.specs import Dependencies


class Runtime:
    """One node in this process. ``notify(hook, node=handle)`` calls the plugins' observing hooks."""

    def __init__(
        self,
        plan: Plan,
        genesis: Genesis,
        data_dir: Path,
        logger: Any,
        notify: Callable[..., Any] | None = None,
        threads: int | None = None,
    ) -> None:
        self.plan = plan
        self.genesis = genesis
        self.data_dir = data_dir
        self.environment = NodeEnvironment(plan.node.name, data_dir, logger, threads)
        self.health = Health(self.environment.now)
        self.metrics = Registry()
        self._logger = self.environment.logger
        self._notify = notify
        self._components: dict[str, Any] = {}  # by slot: what dependents get
        self._stores: list[OpenedStore] = []
        self._guard = StoreGuard(self._store_failed, self._store_damaged)
        self._core: dict[str, Any] = {"genesis": genesis, "metrics": self.metrics, "health": self.health}
        self._record: dict[str, Any] = {}
        self._stop = trio.Event()
        self._whole = trio.CancelScope()
        self.handle: NodeHandle | None = None

    # --- from outside -------------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Stop cleanly; while the node is still starting, give up starting. Returns at once."""
        self._stop.set()
        if self.health.state == "starting":
            self._whole.cancel()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def failure(self) -> StoreError | None:
        """Of the store for which the node stops."""
        return self._guard.failure

    async def stop_requested(self) -> None:
        """Waits until somebody asks for a stop."""
        await self._stop.wait()

    async def run(self, task_status: trio.TaskStatus[NodeHandle] = trio.TASK_STATUS_IGNORED) -> None:
        """Returns after a clean stop; raises what the node died of (a group only if it was more than one thing).
        ``started(handle)`` when it is ready."""
        try:
            await self._run(task_status)
        except BaseException as error:
            failure = self._guard.failure
            if failure is not None and all(isinstance(leaf, NodewrightError) for leaf in _leaves(error)):
                raise failure from None  # the others are what came of it
            if isinstance(error, BaseExceptionGroup):
                raise _only(error) from None
            raise
        self._logger.info("stopped")
        if self._guard.failure is not None:
            raise self._guard.failure

    async def _run(self, task_status: trio.TaskStatus[NodeHandle]) -> None:
        add_process_metrics(self.metrics, self.environment.now())
        self._logger.info("starting", profile=self.plan.profile, network=self.genesis.network, data_dir=str(self.data_dir))
        with self._whole:
            async with AsyncExitStack() as stack:
                stack.enter_context(held_folder(self.data_dir, self.environment))
                self._record = check_record(self.data_dir, self.genesis.family, self.genesis)
                check_parts(self.plan, self.data_dir, recorded_parts(self._record), self._logger)
                remove_node_file(self.data_dir)
                await self._open(stack)
                await self._live(task_status)

    # --- opening ------------------------------------------------------------------------------------------------------

    async def _open(self, stack: AsyncExitStack) -> None:
        events = Events.open(
            self.environment.for_slot(EVENTS), self.data_dir / EVENTS, keep=self.plan.node.events_keep, health=self.health
        )
        self._core["events"] = await stack.enter_async_context(events)
        for planned in self.plan.components:
            await self._open_one(planned, stack)
        execution, consensus = self.execution, self.consensus
        for store in self._stores:
            await check_formats(store, self.genesis, consensus.format, execution.format)

    async def _open_one(self, planned: PlannedComponent, stack: AsyncExitStack) -> None:
        environment = self.environment.for_slot(planned.slot)
        given = Dependencies(self._core)
        given.update({slot: self._components[slot] for slot in planned.requires})
        opened = await open_component(planned, given, environment, stack)
        if planned.kind == "storage":
            opened = self._guard.store(planned.slot, opened)
            store = opened_store(planned, opened)
            if store is not None:
                await check_network(store, self.genesis)
                self._stores.append(store)
            opened = await adapted(planned, opened, environment, stack)
        self._components[planned.slot] = opened
        self.health.set(planned.slot, True)
        environment.logger.debug("opened", component=planned.spec.name)
        if planned.kind == "execution":
            await self._open_pool(stack)

    async def _open_pool(self, stack: AsyncExitStack) -> None:
        settings = self.plan.pool
        limits = PoolLimits(max_bytes=settings.max_bytes, status_retention_seconds=settings.status_retention_seconds)
        pool = Pool.open(
            self.environment.for_slot(POOL),
            self.data_dir / POOL / "journal",
            self.execution,
            self._core["events"],
            self.metrics,
            limits,
            self.genesis.display,
            self.health,
        )
        self._pool = await stack.enter_async_context(pool)
        self._core["pool"] = self._guard.pool(self._pool)
        self.health.set("pool", True)

    @property
    def execution(self) -> Execution:
        return self._components["execution"]  # type: ignore[no-any-return]

    @property
    def consensus(self) -> Consensus:
        return self._components["consensus"]  # type: ignore[no-any-return]

    @property
    def transport(self) -> Transport | None:
        return self._components.get("transport")

    # --- living -------------------------------------------------------------------------------------------------------

    async def _live(self, task_status: trio.TaskStatus[NodeHandle]) -> None:
        pool, consensus = self._pool, self.consensus
        pool.attach(consensus.head, consensus.locate)
        await consensus.recover()
        await pool.recovered()
        self._logger.info("recovered", head=str(consensus.head()), pending=len(pool))
        self.health.watch("consensus", consensus.status)
        handle = self.handle = self._handle()
        async with trio.open_nursery() as chain:
            chain.start_soon(tell_progress, self._core["events"], self.environment.for_slot("consensus"))
            await chain.start(self._run_consensus)
            if self.transport is not None:
                chain.start_soon(self._tell_peers, self.transport)
                self.transport.open_gate()
            async with trio.open_nursery() as services:
                for planned in self.plan.of_kind("service"):
                    await services.start(self._run_service, planned.slot)
                try:
                    record_parts(self.data_dir, self._record, held_parts(self.plan, self.data_dir))
                    self._write_node_file()
                    self.health.enter("ready")
                    self._observe("node_ready", handle)
                    self._logger.info("ready", **self._addresses())
                    task_status.started(handle)
                    await self._stop.wait()
                finally:
                    self.health.enter("stopping")
                    remove_node_file(self.data_dir)
                    self._observe("node_stopping", handle)
                self._logger.info("stopping")
                services.cancel_scope.cancel()
            chain.cancel_scope.cancel()

    def _handle(self) -> NodeHandle:
        info = {
            "profile": self.plan.profile,
            "network": self.genesis.network,
            "version": _version(),
            "node_name": self.plan.node.name,
            "data_dir": str(self.data_dir),
        }
        return NodeHandle(
            self._core["pool"],
            self.execution,
            self.consensus,
            self.transport,
            self._core["events"],
            self.metrics,
            self.genesis,
            info,
            self.health,
            self.request_stop,
        )

    async def _run_consensus(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self.consensus.run(task_status=task_status)
        raise NodewrightError("consensus: it ended by itself; the node cannot go on without it")

    async def _run_service(self, slot: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        service: Service = self._components[slot]
        assert self.handle is not None
        await supervise(
            slot,
            service,
            self.handle,
            self.environment.for_slot(slot),
            self.health,
            self._service_changed,
            task_status=task_status,
        )

    def _service_changed(self) -> None:
        if self.health.state == "ready":
            self._write_node_file()

    async def _tell_peers(self, transport: Transport) -> None:
        """Peers that come and go are chain events."""
        events: Events = self._core["events"]
        async for event in transport.events():
            peer = event.peer
            data: dict[str, Any] = {"peer": peer.id.hex(), "address": peer.address, "inbound": peer.inbound}
            if isinstance(event, PeerUp):
                events.publish("peer_up", data)
            else:
                events.publish("peer_down", data | {"reason": event.reason})
                until = transport.banned().get(peer.id)
                if until is not None:
                    events.publish("peer_banned", data | {"until": until, "reason": event.reason})

    # --- stores that fail ---------------------------------------------------------------------------------------------

    def _store_failed(self, slot: str, error: StoreError) -> None:
        self.health.set(slot, False, str(error), fatal=True)
        self._logger.error("a write failed: the node stops", store=slot, reason=str(error))
        self.request_stop()

    def _store_damaged(self, slot: str, error: StoreError) -> None:
        self.health.set(slot, False, str(error))
        self._logger.error("a store is damaged", store=slot, reason=str(error))

    # --- telling ------------------------------------------------------------------------------------------------------

    def _addresses(self) -> dict[str, Any]:
        services = {planned.slot.partition(".")[2]: self._components[planned.slot].url for planned in self._services()}
        address = self.transport.address if self.transport is not None else ""
        return {"transport": address, "services": {name: url for name, url in services.items() if url}}

    def _services(self) -> tuple[PlannedComponent, ...]:
        return self.plan.of_kind("service")

    def _write_node_file(self) -> None:
        transport = self.transport
        write_node_file(
            self.data_dir,
            {
                "pid": os.getpid(),
                "name": self.plan.node.name,
                "profile": self.plan.profile,
                "version": _version(),
                "network": self.genesis.network,
                "genesis": self.genesis.hash.hex(),
                "node_id": transport.node_id.hex() if transport is not None else "",
                **self._addresses(),
            },
        )

    def _observe(self, hook: str, handle: NodeHandle) -> None:
        if self._notify is not None:
            for broken in self._notify(hook, node=handle):
                self._logger.warning("a plugin's hook failed", hook=hook, reason=str(broken))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _only(error: BaseException) -> BaseException:
    """The one error in nested groups, or the innermost group that has several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _version() -> str:
    try:
        return version("nodewright")
    except PackageNotFoundError:
        return "unknown"
