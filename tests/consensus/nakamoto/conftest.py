"""A small real execution and pool for nakamoto's tests, and nodes over disks that can lose their power.

``Ledger`` keeps the contract of ``nodewright.interfaces.execution`` for a ledger of unspent outputs without scripts: it has
its own state, undo records and reservations, and knows nothing of consensus. ``JournalPool`` keeps that of the pool.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from nodewright.errors import UnknownQuery
from nodewright.interfaces import (
    Admitted,
    BlockContext,
    BlockRef,
    Bundle,
    BundleIncomplete,
    BundleInvalid,
    BundleValid,
    Candidate,
    ExecutionRequest,
    Incomplete,
    Invalid,
    Limits,
    Outcome,
    Prologue,
    Refused,
    Reverted,
    Selection,
    TransactionStatus,
    WriteBatch,
)
from nodewright.interfaces.execution import BundleVerdict, Deferred, ExecutionResult
from nodewright.testing.simulation import SimulatedEnvironment
from nodewright.testing.transport import SimulatedNetwork, SimulatedTransport
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore
from nodewright_nakamoto.config import NakamotoConfig
from nodewright_nakamoto.consensus import Nakamoto
from nodewright_nakamoto.header import sha256d

REWARD = 50
ALLOCATIONS = 400
GENESIS_TX = sha256d(b"the first outputs")
START = 1_700_000_000


class Transaction:
    """kind1 (0 coinbase) ‖ nonce8 ‖ n1 ‖ n×outpoint36 ‖ m1 ‖ m×amount4 ‖ note."""

    def __init__(self, kind: int, nonce: int, spends: Sequence[bytes], amounts: Sequence[int], note: bytes = b"") -> None:
        self.kind, self.nonce, self.spends, self.amounts, self.note = kind, nonce, list(spends), list(amounts), note
        self.raw = (
            struct.pack("<BQB", kind, nonce, len(self.spends))
            + b"".join(self.spends)
            + struct.pack(f"<B{len(self.amounts)}I", len(self.amounts), *self.amounts)
            + note
        )
        self.id = sha256d(self.raw)

    @classmethod
    def parse(cls, raw: bytes) -> Transaction | None:
        try:
            kind, nonce, count = struct.unpack_from("<BQB", raw)
            at = 10 + 36 * count
            spends = [raw[i : i + 36] for i in range(10, at, 36)]
            (outputs,) = struct.unpack_from("<B", raw, at)
            amounts = struct.unpack_from(f"<{outputs}I", raw, at + 1)
            tx = cls(kind, nonce, spends, amounts, raw[at + 1 + 4 * outputs :])
        except (struct.error, IndexError):
            return None
        return tx if tx.raw == raw and kind in (0, 1) else None

    def output(self, index: int) -> bytes:
        return self.id + index.to_bytes(4, "little")


def allocation(index: int) -> bytes:
    return GENESIS_TX + index.to_bytes(4, "little")


def pay(spends: Sequence[bytes], amounts: Sequence[int], nonce: int = 0) -> Transaction:
    return Transaction(1, nonce, spends, amounts)


class Ledger:
    capabilities = frozenset({"undo", "single-head"})
    format = "ledger/1"

    def __init__(self, store: Any) -> None:
        self.store = store
        self.unspent: dict[bytes, int] = {}
        self.spent: dict[bytes, bytes] = {}
        self.mined: set[bytes] = set()
        self.head: BlockRef | None = None
        self.reserved: dict[bytes, Transaction] = {}
        self.claims: dict[bytes, bytes] = {}
        self.executed: dict[bytes, tuple[Outcome, list[Transaction]]] = {}
        self.executions = 0

    async def open(self) -> None:
        self.unspent = {key: int.from_bytes(value, "little") async for key, value in self._rows("unspent")}
        self.spent = {key: value async for key, value in self._rows("spent")}
        self.mined = {key async for key, _ in self._rows("mined")}
        (head,) = await self.store.get_many("meta", [b"head"])
        self.head = BlockRef(int.from_bytes(head[:4], "little"), head[4:]) if head else None

    async def _rows(self, table: str) -> AsyncIterator[tuple[bytes, bytes]]:
        after: bytes | None = None
        while True:
            page = await self.store.scan(table, after=after, limit=1000)
            for item in page.items:
                yield item
            after = page.after
            if after is None:
                return

    def _mark(self, batch: WriteBatch, head: BlockRef) -> None:
        batch.put("meta", b"head", head.height.to_bytes(4, "little") + head.id)

    async def genesis(self, document: Mapping[str, Any], block: BlockRef) -> bytes | None:
        if self.head is None:
            batch = WriteBatch()
            batch.put_many("unspent", {allocation(i): (1000).to_bytes(4, "little") for i in range(ALLOCATIONS)})
            self._mark(batch, block)
            await self.store.commit(batch)
            await self.open()
        return None

    async def identify(self, txs: Sequence[bytes]) -> list[bytes | None]:
        parsed = [Transaction.parse(raw) for raw in txs]
        return [tx.id if tx is not None else None for tx in parsed]

    # --- reservations ---

    def _amount(self, outpoint: bytes) -> int | None:
        """Of an output that a new transaction may name: mined and unspent, or of a reserved transaction."""
        if outpoint in self.unspent:
            return self.unspent[outpoint]
        parent = self.reserved.get(outpoint[:32])
        index = int.from_bytes(outpoint[32:], "little")
        return parent.amounts[index] if parent is not None and index < len(parent.amounts) else None

    def _admit(self, raw: bytes) -> Admitted | Refused:
        tx = Transaction.parse(raw)
        if tx is None or tx.kind == 0:
            return Refused("malformed", "cannot be parsed", "malformed")
        if tx.id in self.mined or tx.id in self.reserved:
            return Admitted(tx.id, raw, known=True)
        total = 0
        for outpoint in tx.spends:
            winner = self.claims.get(outpoint) or self.spent.get(outpoint)
            if winner is not None:
                return Refused("spent", "spent by another", "conflict", tx.id, {"winner": winner})
            amount = self._amount(outpoint)
            if amount is None:
                return Refused("missing", "parent not known", "missing", tx.id, {"missing": [outpoint[:32]]})
            total += amount
        if sum(tx.amounts) > total:
            return Refused("inflation", "pays more than it has", "invalid", tx.id)
        self.reserved[tx.id] = tx
        self.claims.update(dict.fromkeys(tx.spends, tx.id))
        return Admitted(tx.id, raw, fee=total - sum(tx.amounts))

    async def admit(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admitted | Refused]:
        await trio.lowlevel.checkpoint()
        return [self._admit(raw) for raw in txs]

    async def release_unclaimed(self) -> list[bytes]:
        return []  # reservations live in memory alone: none outlives its process

    async def confirm(self, ids: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()

    def _release(self, id: bytes) -> list[bytes]:
        tx = self.reserved.pop(id, None)
        if tx is None:
            return []
        for outpoint in tx.spends:
            if self.claims.get(outpoint) == id:
                del self.claims[outpoint]
        gone = [id]
        for index in range(len(tx.amounts)):
            child = self.claims.get(tx.output(index))
            if child is not None:
                gone += self._release(child)
        return gone

    async def release(self, ids: Sequence[bytes]) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        return [gone for id in ids for gone in self._release(id)]

    async def select(self, parent: BlockRef, candidates: Sequence[Candidate], limits: Limits) -> Selection:
        await trio.lowlevel.checkpoint()
        return Selection(list(candidates))

    async def prologue(self, context: BlockContext) -> Prologue:
        note = context.proposer + b"/" + context.extra
        tx = Transaction(0, context.height, [], [REWARD + context.fees], note)
        return Prologue(tx.raw, tx.id)

    # --- blocks ---

    def _run(self, bundles: Sequence[Bundle]) -> tuple[list[Transaction], int] | Invalid | Incomplete:
        new: dict[bytes, int] = {}
        gone: set[bytes] = set()
        ran: list[Transaction] = []
        missing: list[bytes] = []
        for bundle in bundles:
            for index in range(len(bundle)):
                id = bundle.id_at(index)
                tx = Transaction.parse(bundle.bodies[index]) if bundle.bodies is not None else self.reserved.get(id)
                if tx is None:
                    missing.append(id)
                else:
                    assert tx.id == id
                    ran.append(tx)
        if missing:
            return Incomplete(missing)
        fees = 0
        for tx in ran:
            total = 0
            for outpoint in tx.spends:
                amount = new.get(outpoint, self.unspent.get(outpoint))
                if amount is None or outpoint in gone:
                    return Invalid("bad-spend", "spends what is not there", transaction=tx.id)
                gone.add(outpoint)
                total += amount
            if tx.kind == 0 or sum(tx.amounts) > total or tx.id in self.mined:
                return Invalid("bad-transaction", "pays more than it has, or again", transaction=tx.id)
            fees += total - sum(tx.amounts)
            new.update({tx.output(i): amount for i, amount in enumerate(tx.amounts)})
        return ran, fees

    async def validate_bundle(self, bundle: Bundle, head: BlockRef) -> BundleVerdict:
        await trio.lowlevel.checkpoint()
        fees, conflicts = [], {}
        for index in range(len(bundle)):
            id = bundle.id_at(index)
            tx = Transaction.parse(bundle.bodies[index]) if bundle.bodies is not None else self.reserved.get(id)
            if tx is None:
                return BundleIncomplete([id])
            total = 0
            for outpoint in tx.spends:
                amount = self._amount(outpoint)
                if outpoint in self.claims and self.claims[outpoint] != id:
                    conflicts[id] = self.claims[outpoint]
                if amount is None:
                    return BundleIncomplete([outpoint[:32]])
                total += amount
            if sum(tx.amounts) > total:
                return BundleInvalid("inflation", "pays more than it has", index)
            fees.append(total - sum(tx.amounts))
        return BundleValid(sum(fees), 0, fees, (), conflicts)

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        await trio.lowlevel.checkpoint()
        self.executions += 1
        assert self.head is not None
        if request.parent != self.head:
            return Deferred(request.parent, self.head)
        ran = self._run(request.bundles)
        if not isinstance(ran, tuple):
            return ran
        transactions, fees = ran
        coinbase = Transaction.parse(request.prologue)
        if coinbase is None or coinbase.kind or coinbase.nonce != request.block.height:
            return Invalid("bad-coinbase", "no coinbase for this height")
        if sum(coinbase.amounts) > REWARD + fees:
            return Invalid("bad-coinbase-amount", "pays more than is due")
        mine = {tx.id for tx in transactions}
        evicted: dict[bytes, bytes] = {}
        for tx in transactions:
            for outpoint in tx.spends:
                loser = self.claims.get(outpoint)
                if loser is not None and loser not in mine:
                    evicted.update(dict.fromkeys(self._descendants(loser), tx.id))
        outcome = Outcome(request.block, evicted=evicted, fees=fees)
        self.executed[request.block.id] = (outcome, [*transactions, coinbase])
        return outcome

    def _descendants(self, id: bytes) -> list[bytes]:
        found = [id]
        tx = self.reserved.get(id)
        for index in range(len(tx.amounts) if tx is not None else 0):
            child = self.claims.get(tx.output(index)) if tx is not None else None
            if child is not None:
                found += self._descendants(child)
        return found

    async def commit(self, block: BlockRef, shard: int = 0) -> None:
        if self.head == block:
            return
        outcome, transactions = self.executed.pop(block.id)
        batch = WriteBatch()
        before: list[bytes] = []
        for tx in transactions:
            for outpoint in tx.spends:
                amount = self.unspent.get(outpoint)
                before.append(outpoint + (amount or 0).to_bytes(4, "little"))
                self.unspent.pop(outpoint, None)
                batch.delete("unspent", outpoint)
                self.spent[outpoint] = tx.id
                batch.put("spent", outpoint, tx.id)
            for index, amount in enumerate(tx.amounts):
                if tx.output(index) not in self.spent:
                    self.unspent[tx.output(index)] = amount
                    batch.put("unspent", tx.output(index), amount.to_bytes(4, "little"))
            self.mined.add(tx.id)
            batch.put("mined", tx.id, b"")
        undo = b"".join(len(tx.raw).to_bytes(4, "little") + tx.raw for tx in transactions)
        batch.put("undo", block.id, undo)
        assert self.head is not None
        batch.put("parents", block.id, self.head.height.to_bytes(4, "little") + self.head.id)
        self._mark(batch, block)
        await self.store.commit(batch)
        self.head = block
        for id in outcome.evicted:
            self._release(id)
        for tx in transactions:
            self.reserved.pop(tx.id, None)
            for outpoint in tx.spends:
                self.claims.pop(outpoint, None)

    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        assert self.head is not None
        if self.head != block:
            return Reverted(block)
        undo, parent = (
            (await self.store.get_many("undo", [block.id]))[0],
            (await self.store.get_many("parents", [block.id]))[0],
        )
        transactions, at = [], 0
        while at < len(undo):
            size = int.from_bytes(undo[at : at + 4], "little")
            tx = Transaction.parse(undo[at + 4 : at + 4 + size])
            assert tx is not None
            transactions.append(tx)
            at += 4 + size
        made = {tx.id: tx for tx in transactions}
        batch = WriteBatch()
        for tx in reversed(transactions):
            for index in range(len(tx.amounts)):
                self.unspent.pop(tx.output(index), None)
                batch.delete("unspent", tx.output(index))
            for outpoint in tx.spends:
                del self.spent[outpoint]
                batch.delete("spent", outpoint)
                if outpoint[:32] not in made:
                    amount = await self._created(outpoint)
                    self.unspent[outpoint] = amount
                    batch.put("unspent", outpoint, amount.to_bytes(4, "little"))
            self.mined.discard(tx.id)
            batch.delete("mined", tx.id)
        before = BlockRef(int.from_bytes(parent[:4], "little"), parent[4:])
        self._mark(batch, before)
        await self.store.commit(batch)
        self.head = before
        removed: list[bytes] = []
        for coinbase in (tx for tx in transactions if tx.kind == 0):
            for index in range(len(coinbase.amounts)):
                child = self.claims.get(coinbase.output(index))
                removed += self._release(child) if child is not None else []
        back = [(tx.id, tx.raw) for tx in transactions if tx.kind]
        return Reverted(block, back, removed)

    async def _created(self, outpoint: bytes) -> int:
        if outpoint[:32] == GENESIS_TX:
            return 1000
        async for _, undo in self._rows("undo"):
            at = 0
            while at < len(undo):
                size = int.from_bytes(undo[at : at + 4], "little")
                tx = Transaction.parse(undo[at + 4 : at + 4 + size])
                if tx is not None and tx.id == outpoint[:32]:
                    return tx.amounts[int.from_bytes(outpoint[32:], "little")]
                at += 4 + size
        raise AssertionError("the output was never created")

    async def abandon(self, block: BlockRef, shard: int = 0) -> None:
        self.executed.pop(block.id, None)

    async def applied(self, shard: int = 0) -> BlockRef | None:
        return self.head

    async def query(self, view: Any, kind: str, **arguments: Any) -> Any:
        raise UnknownQuery(f"this ledger has no query {kind!r}")

    async def verify_witness(self, request: ExecutionRequest, witness: bytes) -> ExecutionResult:
        raise AssertionError("this ledger has no witnesses")


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
            self.statuses[id] = TransactionStatus(id, name.decode(), None, detail.decode())  # type: ignore[arg-type]
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
        return (await self.store.get_many(kind, [id]))[0]

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


class Killed(Exception):
    """The power went."""


class Power:
    """Counts commits over all stores of a node and cuts the power before or after the one asked for."""

    def __init__(self) -> None:
        self.commits = 0
        self.cut_at: int | None = None
        self.after = False
        self.off = False

    async def commit(self, store: MemoryStore, batch: WriteBatch, durable: bool) -> None:
        if self.off:
            raise Killed
        self.commits += 1
        cut = self.cut_at is not None and self.commits >= self.cut_at
        if cut and not self.after:
            self.off = True
            raise Killed
        await store.commit(batch, durable)
        if cut:
            self.off = True
            raise Killed


class PoweredStore:
    def __init__(self, disk: MemoryDisk, power: Power) -> None:
        self._store = MemoryStore(disk, "node")
        self._power = power

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        await self._power.commit(self._store, batch, durable)


class Events:
    def __init__(self) -> None:
        self.list: list[tuple[str, Mapping[str, Any]]] = []

    def publish(self, kind: str, data: Mapping[str, Any]) -> int:
        self.list.append((kind, data))
        return len(self.list)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.list]

    @property
    def last_sequence(self) -> int:
        return len(self.list)


GENESIS_COINBASE = Transaction(0, 0, [], [REWARD], b"genesis")


def genesis_document(**consensus: Any) -> dict[str, Any]:
    table = {"version": 1, "bits": "207fffff", "nonce": 0, **consensus}
    return {
        "network": "test",
        "time": START,
        "consensus": table,
        "execution": {"coinbase": GENESIS_COINBASE.raw.hex()},
        "protocol_versions": {"0": 1},
    }


async def until(condition: Callable[[], bool], seconds: float = 600) -> None:
    """Looks again and again, in virtual time."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for lies in several components
            await trio.sleep(0.05)


class Node:
    """Disks that outlive the node, and the node while it is on."""

    def __init__(self, name: str, network: SimulatedNetwork | None = None, document: Any = None, **config: Any) -> None:
        self.name = name
        self.network = network
        self.document = document or genesis_document()
        defaults: dict[str, Any] = {"subtree_size": 4, "announce_after_seconds": 0.5}
        self.config = NakamotoConfig(**(defaults | config))
        self.disks = {slot: MemoryDisk(f"{name}/{slot}") for slot in ("chain", "blobs", "state", "pool")}
        self.events = Events()
        self.environment = SimulatedEnvironment(seed=1, name=name)
        self.transport: SimulatedTransport | None = None
        self.cut_at_opening: int | None = None

    async def open(self) -> Nakamoto:
        """Open everything and recover, without running."""
        self.power = Power()
        self.power.cut_at = self.cut_at_opening
        stores = {slot: PoweredStore(disk, self.power) for slot, disk in self.disks.items()}
        self.ledger = Ledger(stores["state"])
        await self.ledger.open()
        self.pool = JournalPool(stores["pool"], self.ledger)
        await self.pool.open()
        if self.network is not None:
            self.transport = self.network.transport(self.name, environment=self.environment)
        self.consensus = await Nakamoto.create(
            self.config,
            genesis=self.document,
            chain=stores["chain"],
            blobs=Blobs(stores["blobs"]),  # type: ignore[arg-type]
            execution=self.ledger,
            pool=self.pool,
            events=self.events,  # type: ignore[arg-type]
            environment=self.environment,
            transport=self.transport,
        )
        await self.consensus.recover()
        await self.pool.recovered()
        return self.consensus

    def lose_power(self, keep: Callable[[int], int] = lambda unsynced: 0) -> None:
        for disk in self.disks.values():
            disk.crash(keep(len(disk.unsynced)))
        if self.transport is not None and self.network is not None:
            self.network.crash(self.name)
            self.transport = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Nakamoto]:
        """On until the block ends; then the power goes."""
        consensus = await self.open()
        async with trio.open_nursery() as nursery:
            if self.transport is not None:
                self.transport.open_gate()
            await nursery.start(consensus.run)
            try:
                yield consensus
            finally:
                nursery.cancel_scope.cancel()
                self.lose_power()

    # --- what stories say ---

    async def submit(self, *transactions: Transaction) -> list[Admitted | Refused]:
        return await self.pool.submit([tx.raw for tx in transactions])

    async def assembled(self) -> None:
        """Until everything the pool handed out stands in the assembly."""
        assembler = self.consensus.chain.assembler
        await until(lambda: not self.pool.ready and len(assembler) >= len(self.pool.candidates))

    async def fill(self) -> None:
        """Without ``run``: one turn of the loop that takes from the pool."""
        if self.pool.ready:
            candidates = await self.pool.take(1000)
            async with self.consensus.chain.lock:
                await self.consensus.assembly._insert(candidates)

    async def feed(self, other: Node, id: bytes) -> None:
        """Hand over a block of another node with all its bundles, as the synchroniser would."""
        theirs, chain = other.consensus.chain, self.consensus.chain
        block, _ = await theirs.read_block(theirs.index.nodes[id])
        for bundle in block.subtrees:
            subtree = await theirs.store.subtree(bundle)
            assert subtree is not None
            await self.consensus._keeper.keep(subtree, await theirs.store.bodies(subtree), fresh=True)
        node = chain.add_header(block.header)
        await chain.store_block(node, block)
        await chain.activate()

    async def generate(self, count: int = 1, payout: bytes | None = None) -> list[bytes]:
        found: list[bytes] = await self.consensus.control("generate", count=count, payout=payout)
        return found

    async def reaches(self, head: BlockRef) -> None:
        await until(lambda: self.head == head)

    @property
    def head(self) -> BlockRef:
        return self.consensus.head()

    def state(self) -> dict[bytes, int]:
        return dict(self.ledger.unspent)

    async def chain_transactions(self) -> list[bytes]:
        """Every transaction of the best chain, in order."""
        found: list[bytes] = []
        chain = self.consensus.chain
        for node in chain.index.active[1:]:
            block, _ = await chain.read_block(node)
            for bundle in block.subtrees:
                ids = await chain.store.ids(bundle)
                found += [ids[i : i + 32] for i in range(0, len(ids), 32)]
        return found


@pytest.fixture
def world() -> SimpleNamespace:
    """The pieces, for tests that build a network of their own."""
    return SimpleNamespace(
        Node=Node,
        until=until,
        Network=SimulatedNetwork,
        Transaction=Transaction,
        Killed=Killed,
        Admitted=Admitted,
        Refused=Refused,
        allocation=allocation,
        pay=pay,
        genesis_document=genesis_document,
        ALLOCATIONS=ALLOCATIONS,
    )


@pytest.fixture
def spend() -> Callable[..., Transaction]:
    """One input of the genesis outputs to two outputs."""

    def make(index: int, nonce: int = 0, fee: int = 1) -> Transaction:
        return pay([allocation(index)], [500, 500 - fee], nonce)

    return make


@pytest.fixture
def autojump(autojump_clock: Any) -> Iterator[Any]:
    """Virtual time."""
    yield autojump_clock
