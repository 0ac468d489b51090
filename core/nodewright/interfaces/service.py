"""Contract ``service``: anything beside the chain: APIs, metrics, load generators, dashboards.

A service gets a ``NodeHandle``. It may be restarted without the node; it can never slow the chain: events are read from a
durable log at the service's own pace.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import trio
from attrs import field, frozen

from nodewright.interfaces.consensus import Consensus
from nodewright.interfaces.execution import Execution
from nodewright.interfaces.pool import TransactionPool
from nodewright.interfaces.transport import Transport


@frozen
class ChainEvent:
    """``kind`` is one of: ``admitted``, ``rejected``, ``bundle_sealed``, ``bundle_accepted``, ``block_accepted``,
    ``block_refused``, ``reorganised``, ``finalised``, ``double_spend``, ``evicted``, ``vote``, ``fork_choice``,
    ``peer_up``, ``peer_down``, ``peer_banned``. ``data`` is JSON-ready, hashes in the family's display hex; it always
    says why where there is a reason. Batched: one ``admitted`` event names many ids."""

    sequence: int
    time: float
    kind: str
    data: Mapping[str, Any] = field(factory=dict)


@frozen
class Lagged:
    """The reader fell behind what is kept: everything before ``sequence`` is gone; reading goes on from there."""

    sequence: int


@runtime_checkable
class EventLog(Protocol):
    def publish(self, kind: str, data: Mapping[str, Any]) -> int:
        """Never blocks; returns the event's sequence number. Durable soon after (and at once at a clean stop)."""

    def subscribe(self, after: int | None = None) -> AsyncIterator[ChainEvent | Lagged]:
        """Events with a sequence greater than ``after``; None means from now on."""

    @property
    def last_sequence(self) -> int: ...


class Metrics(Protocol):
    """Prometheus-style. Names are full (``teranode_validator_transactions_count``)."""

    def counter(self, name: str, help: str) -> Any: ...

    def gauge(self, name: str, help: str) -> Any: ...

    def histogram(self, name: str, help: str, buckets: tuple[float, ...] = ()) -> Any: ...

    def render(self) -> str: ...


@frozen
class NodeHandle:
    """What a service sees of its node. ``genesis`` is the parsed genesis file; ``info`` has ``profile``, ``network``,
    ``version``, ``node_name``, ``data_dir``. ``request_stop`` asks for a clean stop of the node and returns at once."""

    pool: TransactionPool
    execution: Execution
    consensus: Consensus
    transport: Transport | None
    events: EventLog
    metrics: Metrics
    genesis: Mapping[str, Any]
    info: Mapping[str, Any]
    health: Any
    request_stop: Callable[[], None] = lambda: None


@runtime_checkable
class Service(Protocol):
    @property
    def url(self) -> str:
        """Where it is bound once started (empty if it binds nothing); written to node.json."""

    async def run(self, node: NodeHandle, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None: ...
