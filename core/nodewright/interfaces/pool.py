"""Contract ``pool``: admitted transactions, bounded in bytes, journalled before they are answered. The core provides it.

Every accepted id reaches a final status (committed, rejected, expired, replaced) that can be asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from attrs import frozen

from nodewright.interfaces.common import Admission, BlockRef
from nodewright.interfaces.execution import Candidate

StatusName = Literal["pending", "committed", "rejected", "expired", "replaced"]


@frozen
class TransactionStatus:
    """``detail`` is the reason of a rejection, or the winner's id in hex for ``replaced``."""

    id: bytes
    status: StatusName
    block: BlockRef | None = None
    detail: str = ""


class InBlock(Mapping[bytes, BlockRef]):
    """The ids of ``columns`` (32·n bytes each, no id twice), all in one block: what ``settle`` may be given for a block. An
    object for each id is made only for who asks for one."""

    __slots__ = ("_ids", "block", "column")

    def __init__(self, columns: Sequence[bytes], block: BlockRef) -> None:
        self.column = b"".join(columns)
        self.block = block
        self._ids: dict[bytes, None] | None = None

    def ids(self) -> list[bytes]:
        column = self.column
        return [column[at : at + 32] for at in range(0, len(column), 32)]

    def __getitem__(self, id: bytes) -> BlockRef:
        if self._ids is None:
            self._ids = dict.fromkeys(self.ids())
        if id not in self._ids:
            raise KeyError(id)
        return self.block

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.ids())

    def __len__(self) -> int:
        return len(self.column) // 32


@runtime_checkable
class TransactionPool(Protocol):
    async def submit(self, txs: Sequence[bytes], source: str = "local") -> list[Admission]:
        """Admit, journal, group-sync, confirm; only then answer. When full: Refused of kind ``busy``."""

    async def status(self, ids: Sequence[bytes]) -> list[TransactionStatus | None]: ...

    async def take(self, max_count: int) -> list[Candidate]:
        """Ready transactions in dependency and ordering-key order; waits for at least one. Each is handed out once
        until ``give_back``; it stays pending. One consumer."""

    def give_back(self, ids: Sequence[bytes]) -> None:
        """Make taken, still pending transactions ready again, before newer ones, in the order given."""

    def pending(self, limit: int = 100_000) -> list[Candidate]:
        """Transactions without a final status, oldest first, at most ``limit``."""

    def bodies(self, ids: Sequence[bytes]) -> list[bytes | None]:
        """Raw bytes of pending transactions; None where not pending here."""

    async def settle(
        self,
        committed: Mapping[bytes, BlockRef] | None = None,
        rejected: Mapping[bytes, str] | None = None,
        replaced: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """Final statuses, journalled; while the journal's disk is full, kept and journalled as soon as there is room.
        Unknown ids are recorded too (a body that came inside a block)."""

    async def restore(self, transactions: Sequence[tuple[bytes, bytes]]) -> list[Admission]:
        """(id, raw) in dependency order that a reorganisation took out of the chain: pending again, before all others.

        One call for a reorganisation, or one for each block it undid, the tip first: what a later call restores stands
        before what an earlier one did. Raises StoreFull: they are pending, but a crash would forget them, so the caller
        keeps what it needs to restore them and calls again."""

    def __len__(self) -> int: ...

    @property
    def bytes_used(self) -> int: ...
