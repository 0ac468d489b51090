"""Contract ``consensus``: produces, orders and finalises blocks of bundles; drives the execution.

The rules (fork choice, vote safety, difficulty) are pure state machines in modules of their own, without trio, clock or
sockets. A consensus declares what it does with an ordered transaction that execution refuses:
``invalid_transaction = "reject_block"`` or ``"discard"``. What it signs is made durable in a local file before it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import trio

from nodewright.interfaces.common import BlockRecord, BlockRef, Location


@runtime_checkable
class ChainReader(Protocol):
    """What services may read of the chain, in the core's vocabulary."""

    def head(self) -> BlockRef: ...

    def final(self) -> BlockRef:
        """The last block that will not be undone by protocol rules (genesis where a family has no finality)."""

    async def block(self, id: bytes) -> BlockRecord | None:
        """Any stored block, also off the best chain."""

    async def block_at(self, height: int) -> BlockRecord | None:
        """On the best chain."""

    async def locate(self, ids: Sequence[bytes]) -> list[Location | None]:
        """Where transactions (prologues too, with their block's id as bundle) stand; None if in no bundle known here."""

    async def transactions(self, ids: Sequence[bytes]) -> list[bytes | None]:
        """Raw bodies of transactions in bundles or blocks known here."""

    async def bundle(self, id: bytes) -> bytes | None:
        """The bundle in the family's own wire form (for Teranode the subtree bytes)."""

    async def query(self, kind: str, **arguments: Any) -> Any:
        """Consensus reads by name (``tips``, ``mining_info``, ``validators`` …), documented by the plugin. Raises
        ``nodewright.errors.UnknownQuery``."""


@runtime_checkable
class Consensus(ChainReader, Protocol):
    capabilities: frozenset[str]
    format: str
    invalid_transaction: str

    async def recover(self) -> None:
        """Replay from the execution's applied marker to the head. Called once, before the transport gate opens."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled. ``started()`` when it takes part."""

    async def control(self, command: str, **arguments: Any) -> Any:
        """Capability-typed control by name: ``mining_candidate``, ``submit_solution``, ``generate``,
        ``invalidate_block``, ``sandbox_patch`` … Raises ``UnknownControl``, or ``ControlRefused`` with a sentence."""

    def status(self) -> Mapping[str, Any]:
        """For health and metrics: at least ``state`` (``idle``, ``syncing``, ``running``), ``head``, ``peers_ahead``."""
