"""A pool that keeps its journal, and a blob store, over rows of a key-value store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from nodewright.interfaces import (
    Admitted,
    BlockRef,
    Candidate,
    Refused,
    TransactionStatus,
    WriteBatch,
)
from nodewright_nakamoto.testing.ledger import Ledger, Transaction


class JournalPool:
    """Pending transactions and final statuses, both in one durable table."""

    def __init__(self, store: Any, ledger: Ledger) -> None:
        self.store = store
        self.ledger = ledger
        self.raw: dict[bytes, bytes] = {}
        self.statuses: dict[bytes, TransactionStatus] = {}
        self.candidates: dict[bytes, Candidate] = {}
        self.ready: list[bytes] = []
        self._arrived = trio.Event()
        self._sequence = 0

    async def open(self) -> None:
        """Admit what the journal holds again. What misses a parent stays: a reorganisation may be about to return it."""
        page = await self.store.scan("pending", limit=10_000)
        statuses = await self.store.scan("final", limit=10_000)
        for id, value in statuses.items:
            name, detail = value.split(b"\0", 1)
            self.statuses[id] = TransactionStatus(id, name.decode(), None, detail.decode())
        for key, raw in page.items:
            self._sequence = int.from_bytes(key, "big") + 1
            tx = Transaction.parse(raw)
            assert tx is not None
            if tx.id not in self.statuses:
                self.raw[tx.id] = raw
        await self._enter(list(self.raw.items()))

    async def _enter(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[Admitted | Refused]:
        assert self.ledger.head is not None or not pairs
        answers = await self.ledger.admit([raw for _, raw in pairs], self.ledger.head or BlockRef(0, b""), 0)
        for (id, raw), answer in zip(pairs, answers, strict=True):
            if isinstance(answer, Admitted):
                self.raw[id] = raw
                if id not in self.candidates:
                    self.candidates[id] = Candidate(id, len(raw), answer.fee)
                    self.ready.append(id)
        if self.ready:
            self._arrived.set()
        return answers

    async def submit(self, txs: Sequence[bytes], source: str = "local") -> list[Admitted | Refused]:
        await trio.lowlevel.checkpoint()
        answers = await self.ledger.admit(txs, self.ledger.head or BlockRef(0, b""), 0)
        new = [one for one in answers if isinstance(one, Admitted) and not one.known and one.id not in self.raw]
        batch = WriteBatch()
        for one in new:
            batch.put("pending", self._sequence.to_bytes(8, "big"), one.raw)
            self._sequence += 1
        if batch:
            await self.store.commit(batch)
        for one in new:
            self.raw[one.id] = one.raw
            self.candidates[one.id] = Candidate(one.id, one.size, one.fee)
            self.ready.append(one.id)
        if self.ready:
            self._arrived.set()
        return answers

    async def status(self, ids: Sequence[bytes]) -> list[TransactionStatus | None]:
        return [TransactionStatus(id, "pending") if id in self.raw else self.statuses.get(id) for id in ids]

    async def take(self, max_count: int) -> list[Candidate]:
        while not self.ready:
            self._arrived = trio.Event()
            await self._arrived.wait()
        taken, self.ready = self.ready[:max_count], self.ready[max_count:]
        return [self.candidates[id] for id in taken if id in self.candidates]

    def give_back(self, ids: Sequence[bytes]) -> None:
        self.ready = [id for id in ids if id in self.raw] + self.ready
        self._arrived.set()

    def pending(self, limit: int = 100_000) -> list[Candidate]:
        return list(self.candidates.values())[:limit]

    def bodies(self, ids: Sequence[bytes]) -> list[bytes | None]:
        return [self.raw.get(id) for id in ids]

    async def settle(
        self,
        committed: Mapping[bytes, BlockRef] | None = None,
        rejected: Mapping[bytes, str] | None = None,
        replaced: Mapping[bytes, bytes] | None = None,
    ) -> None:
        final = [TransactionStatus(id, "committed", block) for id, block in (committed or {}).items()]
        final += [TransactionStatus(id, "rejected", None, reason) for id, reason in (rejected or {}).items()]
        final += [TransactionStatus(id, "replaced", None, winner.hex()) for id, winner in (replaced or {}).items()]
        batch = WriteBatch()
        for one in final:
            batch.put("final", one.id, one.status.encode() + b"\0" + one.detail.encode())
        if batch:
            await self.store.commit(batch)
        for one in final:
            self.statuses[one.id] = one
            self.raw.pop(one.id, None)
            self.candidates.pop(one.id, None)
        self.ready = [id for id in self.ready if id in self.raw]

    async def restore(self, transactions: Sequence[tuple[bytes, bytes]]) -> list[Admitted | Refused]:
        batch = WriteBatch()
        for id, raw in transactions:
            batch.put("pending", self._sequence.to_bytes(8, "big"), raw)
            batch.delete("final", id)
            self._sequence += 1
        await self.store.commit(batch)
        for id, _ in transactions:
            self.statuses.pop(id, None)
        answers = await self._enter(transactions)
        await self.recovered()
        return answers

    async def recovered(self) -> None:
        """What missed a parent before consensus stood at its head."""
        await self._enter([(id, raw) for id, raw in self.raw.items() if id not in self.candidates])

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def bytes_used(self) -> int:
        return sum(map(len, self.raw.values()))


class Blobs:
    """Blobs as rows of a key-value store."""

    def __init__(self, store: Any) -> None:
        self.store = store

    async def put(self, kind: str, id: bytes, data: Any) -> None:
        batch = WriteBatch()
        batch.put(kind, id, data)
        await self.store.commit(batch)

    async def get(self, kind: str, id: bytes) -> bytes | None:
        found: list[bytes | None] = await self.store.get_many(kind, [id])
        return found[0]

    async def read(self, kind: str, id: bytes, offset: int, length: int) -> bytes | None:
        data = await self.get(kind, id)
        return None if data is None else data[offset : offset + length]

    async def size(self, kind: str, id: bytes) -> int | None:
        data = await self.get(kind, id)
        return None if data is None else len(data)

    async def exists(self, kind: str, ids: Sequence[bytes]) -> list[bool]:
        return [one is not None for one in await self.store.get_many(kind, ids)]

    async def delete(self, kind: str, ids: Sequence[bytes]) -> None:
        batch = WriteBatch()
        batch.delete_many(kind, ids)
        await self.store.commit(batch)
