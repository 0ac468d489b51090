"""A small real execution, behind the contract of ``nodewright.interfaces.execution``: unspent outputs without scripts. It
has its own state, undo records and reservations, and knows nothing of consensus."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import trio

from nodewright.errors import StoreCorrupt, UnknownQuery
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
    WriteBatch,
)
from nodewright.interfaces.execution import BundleVerdict, Deferred, ExecutionResult
from nodewright_nakamoto.header import sha256d

REWARD = 50
ALLOCATIONS = 400
GENESIS_TX = sha256d(b"the first outputs")


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
        chosen: list[Candidate] = []
        room = limits.max_bytes
        for candidate in candidates[: limits.max_count]:
            if candidate.size > room:
                break
            chosen.append(candidate)
            room -= candidate.size
        there = [candidate for candidate in chosen if candidate.id in self.reserved]
        gone = {candidate.id: "not reserved" for candidate in chosen if candidate.id not in self.reserved}
        return Selection(there, gone, list(candidates[len(chosen) :]))

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
                elif tx.id != id:
                    return Invalid("identity", "a body is another's", bundle.ref.id, id)
                else:
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
        ids = [bundle.id_at(index) for index in range(len(bundle))]
        txs = [self.reserved.get(id) for id in ids]
        if bundle.bodies is not None:
            txs = [Transaction.parse(raw) for raw in bundle.bodies]
        missing = [id for id, tx in zip(ids, txs, strict=True) if tx is None or tx.id != id]
        if missing:
            return BundleIncomplete(missing)
        found = [tx for tx in txs if tx is not None]
        made = {tx.output(index): amount for tx in found for index, amount in enumerate(tx.amounts)}
        fees, conflicts = [], {}
        for index, tx in enumerate(found):
            total = 0
            for outpoint in tx.spends:
                amount = made.get(outpoint, self._amount(outpoint))
                if outpoint in self.claims and self.claims[outpoint] != tx.id:
                    conflicts[tx.id] = self.claims[outpoint]
                if amount is None:
                    return BundleIncomplete([outpoint[:32]])
                total += amount
            if sum(tx.amounts) > total:
                return BundleInvalid("inflation", "pays more than it has", index)
            fees.append(total - sum(tx.amounts))
        sizes = [len(tx.raw) for tx in found]
        return BundleValid(sum(fees), sum(sizes), fees, sizes, conflicts)

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
        outcome = Outcome(request.block, evicted=self._losers(transactions), fees=fees)
        self.executed[request.block.id] = (outcome, [*transactions, coinbase])
        return outcome

    def _losers(self, transactions: Sequence[Transaction]) -> dict[bytes, bytes]:
        mine = {tx.id for tx in transactions}
        lost: dict[bytes, bytes] = {}
        for tx in transactions:
            for outpoint in tx.spends:
                loser = self.claims.get(outpoint)
                if loser is not None and loser not in mine:
                    lost.update(dict.fromkeys(self._descendants(loser), tx.id))
        return lost

    def _descendants(self, id: bytes) -> list[bytes]:
        found = [id]
        tx = self.reserved.get(id)
        for index in range(len(tx.amounts) if tx is not None else 0):
            child = self.claims.get(tx.output(index)) if tx is not None else None
            if child is not None:
                found += self._descendants(child)
        return found

    async def commit(self, block: BlockRef, shard: int = 0) -> Mapping[bytes, bytes] | None:
        if self.head == block:
            return None
        if block.id not in self.executed:
            raise StoreCorrupt(f"block {block} was committed without its parent")
        outcome, transactions = self.executed[block.id]
        self.executed.clear()  # the others stand on a block that is not the head any more
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
        with trio.CancelScope(shield=True):
            await self.store.commit(batch)
        self.head = block
        lost = self._losers(transactions)
        for id in lost:
            self._release(id)
        for tx in transactions:
            self.reserved.pop(tx.id, None)
            for outpoint in tx.spends:
                self.claims.pop(outpoint, None)
        return {id: winner for id, winner in lost.items() if id not in outcome.evicted} or None

    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        with trio.CancelScope(shield=True):
            reverted = await self._revert(block)
        return reverted  # noqa: RET504 (to mypy a scope may swallow what is raised in it)

    async def _revert(self, block: BlockRef) -> Reverted:
        assert self.head is not None
        if self.head != block:
            return Reverted(block)
        self.executed.clear()
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
