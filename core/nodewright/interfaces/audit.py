"""Contract ``audit``: what a stopped node holds, computed anew from what it was computed from, and compared.

An operator's tool, not a part of a node: ``nodewright verify`` opens the stores of a stopped node and nothing else of it. A
consensus that can show its blocks gives ``ConsensusSpec.audit`` (a ``ChainAudit``), an execution that can compute its state
from them ``ExecutionSpec.audit`` (a ``StateAudit``). The core reads the pool's journal and brings the three together. None
of them writes anything.

A node that was killed is not damaged: what its next start completes (blocks stored and not applied, journalled transactions
that the store does not have yet, rejected ones that it still has) is a note, never a difference.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from attrs import frozen

from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.pool import TransactionStatus

Identify = Callable[[Sequence[bytes]], list[bytes | None]]  # raw transactions → their ids, None for what is none


class Report(Protocol):
    """Where an audit says what it found."""

    def differs(self, kind: str, where: str, fix: str) -> None:
        """``kind`` is a sentence without a full stop that names what is wrong, the same for all cases of it; ``where`` the
        one case; ``fix`` what an operator does about it (that of a kind's first case is told)."""

    def note(self, line: str) -> None:
        """Something worth knowing that is no difference."""

    def progress(self, label: str, length: int | None) -> AbstractContextManager[Callable[[int], None]]:
        """A bar: called with steps done. ``length`` is how many there are, None where that is not known."""


@frozen
class Journal:
    """What the pool's journal says. ``pending`` are transactions without a final status, id → raw, oldest first; ``final``
    gives the final status of any other that it still knows."""

    pending: Mapping[bytes, bytes]
    final: Callable[[bytes], TransactionStatus | None]


@frozen
class ChainPart:
    """Transactions of a block, some of them at a time: ids (32·n bytes) and bodies in one order. ``prologue`` marks the
    part that is the block's first transaction alone. ``source`` names where the bodies were read, for an operator."""

    block: BlockRef
    ids: bytes
    bodies: Sequence[bytes]
    source: str
    prologue: bool = False


class ChainAudit(Protocol):
    """The chain of a stopped node, read from its stores and checked on the way."""

    async def load(self, applied: BlockRef | None) -> None:
        """Read and check what links blocks to each other; ``applied`` is the block that the execution's state is of.
        Called first, once."""

    @property
    def whole(self) -> bool:
        """Whether everything that ``parts`` was to give could be read; said once it has been read."""

    @property
    def highest(self) -> int:
        """The greatest height of any block stored here, on the chain or beside it."""

    def parts(self) -> AsyncIterator[ChainPart]:
        """Every transaction of the chain from block 1 to the applied one, in order. May be had again; what is wrong with
        blocks is reported the first time."""

    def loose(self) -> AsyncIterator[ChainPart]:
        """Transactions of blocks that a reorganisation took out and whose return to the pool was not recorded yet."""


class StateAudit(Protocol):
    """The state of a stopped node, from the execution's stores."""

    async def applied(self) -> BlockRef | None: ...

    def identify(self, raws: Sequence[bytes]) -> list[bytes | None]: ...

    async def compare(self, chain: ChainAudit, journal: Journal, report: Report) -> None:
        """Compute the state that the chain and the pending transactions give, compare it with the stores in both
        directions, and report. Memory does not grow with the state."""
