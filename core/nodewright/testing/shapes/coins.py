"""Execution of coins: outputs that are created once and spent once. Capabilities ``undo`` and ``single-head``.

A transaction spends outpoints (txid 32 ‖ index u8) and pays 32-byte keys; its id is SHA-256 of all its bytes. Here are the
rules and the state; the formats are in ``coin_formats``.

Invariants
- The store holds the state of exactly one block, ``applied``, and what undoes each block back to genesis; state, undo
  record and marker change in one batch.
- Spent outputs stay, with their spender, so that "not there yet" (retry) is never taken for "spent" (discard).
- ``execute`` reads the store and the request only. Reservations are looked at to *report* evictions, and change in
  ``commit``.
- A reservation's inputs are each reserved by it alone, and its parents are in the store or reserved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import trio
from attrs import define, field, frozen

from nodewright.errors import StoreCorrupt, UnknownQuery
from nodewright.interfaces import (
    Admission,
    Admitted,
    BlockContext,
    BlockRef,
    Bundle,
    BundleIncomplete,
    BundleInvalid,
    BundleValid,
    BundleVerdict,
    Candidate,
    Deferred,
    ExecutionRequest,
    ExecutionResult,
    Incomplete,
    Invalid,
    KeyValueStore,
    Limits,
    Outcome,
    Prologue,
    Refused,
    Reverted,
    Selection,
    View,
    WriteBatch,
)
from nodewright.testing.shapes.codec import Malformed, Reader, ref, u8, vector
from nodewright.testing.shapes.coin_formats import Coin, CoinTransaction, Payment, mint, parse

OUTPUTS = "coin_outputs"
UNDO = "coin_undo"
META = "coin_meta"
APPLIED = b"applied"
REWARD = 50


@frozen
class Refusal:
    """Why a transaction cannot run on a state. ``retry`` when an input may still appear."""

    code: str
    message: str
    retry: bool = False
    winner: bytes | None = None
    missing: tuple[bytes, ...] = ()


@define
class Change:
    """A block being executed: outputs it wrote, over the store's rows that it may read."""

    rows: dict[bytes, Coin | None]
    writes: dict[bytes, Coin] = field(factory=dict)
    spent: list[bytes] = field(factory=list)
    created: list[bytes] = field(factory=list)
    kept: list[bytes] = field(factory=list)
    spenders: dict[bytes, bytes] = field(factory=dict)
    fees: int = 0

    def coin(self, outpoint: bytes) -> Coin | None:
        found = self.writes.get(outpoint)
        return found if found is not None else self.rows.get(outpoint)

    def check(self, tx: CoinTransaction) -> Refusal | None:
        """The rules of one transaction on this state; signatures are checked where bytes are parsed against an owner."""
        if self.coin(tx.outpoint(0)) is not None:
            return Refusal("known", "the transaction is in the chain already")
        absent = tuple(outpoint[:32] for outpoint in tx.spends if self.coin(outpoint) is None)
        if absent:
            return Refusal("missing", "it spends an output that is not there", retry=True, missing=absent)
        total = 0
        for index, outpoint in enumerate(tx.spends):
            coin = self.coin(outpoint)
            assert coin is not None
            if coin.spender is not None:
                return Refusal("spent", "an output that it spends is spent", winner=coin.spender)
            if not tx.signed_by(index, coin.owner):
                return Refusal("signature", f"input {index} is not signed by the owner of its output")
            total += coin.amount
        if total < tx.paid:
            return Refusal("amount", f"it pays {tx.paid} out of {total}")
        return None

    def fee(self, tx: CoinTransaction) -> int:
        """Of a transaction that passed ``check``."""
        coins = [self.coin(outpoint) for outpoint in tx.spends]
        return sum(coin.amount for coin in coins if coin is not None) - tx.paid

    def apply(self, tx: CoinTransaction) -> None:
        if tx.spends:
            self.fees += self.fee(tx)
            self.kept.append(tx.id)
        for outpoint in tx.spends:
            coin = self.coin(outpoint)
            assert coin is not None
            self.writes[outpoint] = Coin(coin.owner, coin.amount, tx.id)
            self.spent.append(outpoint)
            self.spenders[outpoint] = tx.id
        for index, payment in enumerate(tx.pays):
            self.writes[tx.outpoint(index)] = Coin(payment.owner, payment.amount)
            self.created.append(tx.outpoint(index))


@frozen
class _Executed:
    parent: BlockRef
    change: Change
    outcome: Outcome


class Coins:
    """The component. ``store`` is a key-value store of its own."""

    capabilities = frozenset({"undo", "single-head"})
    format = "coins/1"

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store
        self._applied: BlockRef | None = None
        self._executed: dict[bytes, _Executed] = {}
        self._pending: dict[bytes, CoinTransaction] = {}
        self._reserved: dict[bytes, bytes] = {}

    async def open(self) -> None:
        (row,) = await self._store.get_many(META, [APPLIED])
        self._applied = Reader(row).ref() if row is not None else None

    async def genesis(self, document: Mapping[str, Any], block: BlockRef) -> bytes | None:
        """``document["execution"]["coins"]`` lists (key in hex, amount): outputs 0, 1 … of the transaction whose id is the
        genesis block's."""
        if self._applied is None:
            batch = WriteBatch()
            for index, (owner, amount) in enumerate(document["execution"]["coins"]):
                batch.put(OUTPUTS, block.id + u8(index), Coin(bytes.fromhex(owner), amount).encode())
            batch.put(META, APPLIED, ref(block))
            await self._store.commit(batch)
            self._applied = block
        return None

    # --- before a block ---

    async def identify(self, txs: Sequence[bytes]) -> list[bytes | None]:
        ids: list[bytes | None] = []
        for raw in txs:
            try:
                ids.append(parse(raw).id)
            except Malformed:
                ids.append(None)
        return ids

    async def admit(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        parsed: list[CoinTransaction | Refused] = []
        for raw in txs:
            try:
                tx = parse(raw)
                parsed.append(tx if tx.spends else Refused("mint", "only a block creates coins", id=tx.id))
            except Malformed as error:
                parsed.append(Refused("malformed", str(error), "malformed"))
        state = await self._state(tx for tx in parsed if isinstance(tx, CoinTransaction))
        return [tx if isinstance(tx, Refused) else self._admit(tx, state) for tx in parsed]

    def _admit(self, tx: CoinTransaction, state: Change) -> Admission:
        if tx.id in self._pending:
            return Admitted(tx.id, tx.raw, known=True)
        view = Change({**state.rows})
        for outpoint in tx.spends:
            holder = self._reserved.get(outpoint)
            if holder is not None:
                return Refused("conflict", "first seen wins", "conflict", tx.id, {"winner": holder})
            parent = self._pending.get(outpoint[:32])
            if parent is not None and outpoint[32] < len(parent.pays):
                payment = parent.pays[outpoint[32]]
                view.rows[outpoint] = Coin(payment.owner, payment.amount)
        refusal = view.check(tx)
        if refusal is None:
            self._pending[tx.id] = tx
            self._reserved.update(dict.fromkeys(tx.spends, tx.id))
            return Admitted(tx.id, tx.raw, fee=view.fee(tx))
        if refusal.code == "known":
            return Admitted(tx.id, tx.raw, known=True)
        kind = {"missing": "missing", "spent": "conflict"}.get(refusal.code, "invalid")
        data = {"winner": refusal.winner} if refusal.winner else {"missing": list(refusal.missing)}
        return Refused(refusal.code, refusal.message, kind, tx.id, data)

    async def release_unclaimed(self) -> list[bytes]:
        return []  # reservations live in memory alone: none outlives its process

    async def confirm(self, ids: Sequence[bytes]) -> None:
        """Reservations live in memory: the pool's journal redoes them at the next start."""

    async def release(self, ids: Sequence[bytes]) -> list[bytes]:
        released: dict[bytes, None] = {}
        for id in ids:
            for lost in self._descendants(id):
                released[lost] = None
        for id in released:
            self._drop(id)
        return list(released)

    async def select(self, parent: BlockRef, candidates: Sequence[Candidate], limits: Limits) -> Selection:
        chosen: list[Candidate] = []
        deferred: list[Candidate] = []
        rejected: dict[bytes, str] = {}
        room = limits.max_bytes
        for candidate in candidates:
            if candidate.id not in self._pending:
                rejected[candidate.id] = "its reservation was lost to a block"
            elif len(chosen) < limits.max_count and candidate.size <= room:
                chosen.append(candidate)
                room -= candidate.size
            else:
                deferred.append(candidate)
        return Selection(chosen, rejected, deferred)

    async def prologue(self, context: BlockContext) -> Prologue:
        if len(context.proposer) != 32:
            return Prologue(b"", b"")
        tx = mint(context.height, (Payment(context.proposer, REWARD + context.fees),))
        return Prologue(tx.raw, tx.id)

    async def validate_bundle(self, bundle: Bundle, head: BlockRef) -> BundleVerdict:
        txs = self._bodies(bundle)
        if isinstance(txs, Incomplete):
            return BundleIncomplete(txs.missing)
        for index, tx in enumerate(txs):
            if isinstance(tx, Invalid):
                return BundleInvalid(tx.code, tx.message, index)
        return await self._validate([tx for tx in txs if isinstance(tx, CoinTransaction)])

    async def _validate(self, txs: Sequence[CoinTransaction]) -> BundleVerdict:
        """Against the state, every reservation and the bundle's own outputs in any order: conflicts are no fault here."""
        state = await self._state(txs)
        missing: dict[bytes, None] = {}
        for tx in (*self._pending.values(), *txs):
            for at, payment in enumerate(tx.pays):
                if state.rows.get(tx.outpoint(at)) is None:
                    state.rows[tx.outpoint(at)] = Coin(payment.owner, payment.amount)
        fees = 0
        for index, tx in enumerate(txs):
            total = 0
            for at, outpoint in enumerate(tx.spends):
                coin = state.rows.get(outpoint)
                if coin is None:
                    missing[outpoint[:32]] = None
                elif not tx.signed_by(at, coin.owner):
                    return BundleInvalid("signature", f"input {at} is not signed by the owner of its output", index)
                else:
                    total += coin.amount
            fees += max(total - tx.paid, 0)
        if missing:
            return BundleIncomplete(list(missing))
        conflicts = {
            tx.id: self._reserved[outpoint]
            for tx in txs
            for outpoint in tx.spends
            if self._reserved.get(outpoint, tx.id) != tx.id
        }
        return BundleValid(fees, sum(len(tx.raw) for tx in txs), conflicts=conflicts)

    # --- blocks ---

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        if self._applied == request.block or request.block.id in self._executed:
            known = self._executed.get(request.block.id)
            if known is not None and known.parent == request.parent:
                return known.outcome
        if self._applied is None or self._applied != request.parent:
            return Deferred(request.parent, self._applied or BlockRef(0, bytes(32)))
        strict = request.invalid_transaction == "reject_block"
        txs: dict[bytes, CoinTransaction] = {}
        discarded: dict[bytes, tuple[str, str]] = {}
        for bundle in request.bundles:
            found = self._bodies(bundle)
            if isinstance(found, Incomplete):
                return found
            for tx in found:
                if isinstance(tx, CoinTransaction):
                    if strict and tx.id in txs:
                        return Invalid("repeated", "a transaction occurs twice in the block", bundle.ref.id, tx.id)
                    txs.setdefault(tx.id, tx)
                elif strict:
                    return tx
                elif tx.transaction is not None:
                    discarded[tx.transaction] = (tx.code, tx.message)
        change = await self._state(txs.values())
        retry: dict[bytes, str] = {}
        for tx in txs.values():
            refusal = change.check(tx)
            if refusal is None:
                change.apply(tx)
            elif strict:
                return Invalid(refusal.code, refusal.message, transaction=tx.id)
            elif refusal.retry:
                retry[tx.id] = refusal.message
            else:
                discarded[tx.id] = (refusal.code, refusal.message)
        if request.prologue:
            try:
                first = parse(request.prologue)
            except Malformed as error:
                return Invalid("prologue", str(error))
            if first.spends or first.height != request.block.height or first.paid > REWARD + change.fees:
                return Invalid("prologue", "the block creates what it may not")
            change.apply(first)
        outcome = Outcome(
            request.block,
            None,
            discarded,
            retry,
            self._losers(change.spenders),
            fees=change.fees,
            gas_used=len(change.kept),
        )
        self._executed[request.block.id] = _Executed(request.parent, change, outcome)
        return outcome

    async def verify_witness(self, request: ExecutionRequest, witness: bytes) -> ExecutionResult:
        return Incomplete([request.context.parent_commitment or request.parent.id])

    async def commit(self, block: BlockRef, shard: int = 0) -> Mapping[bytes, bytes] | None:
        done = self._executed.get(block.id)
        if done is None or self._applied != done.parent:
            if self._applied == block:
                return None
            raise StoreCorrupt(f"block {block} was committed without its parent; start the node again to replay")
        change = done.change
        batch = WriteBatch()
        batch.put_many(OUTPUTS, {outpoint: coin.encode() for outpoint, coin in change.writes.items()})
        batch.put(
            UNDO, block.id, ref(done.parent) + b"".join(_vector(v) for v in (change.spent, change.created, change.kept))
        )
        batch.put(META, APPLIED, ref(block))
        with trio.CancelScope(shield=True):  # memory follows what the store has, or a cancelled call would part them
            await self._store.commit(batch)
        self._applied = block
        self._executed.clear()
        evicted = self._losers(change.spenders)
        for id in (*change.kept, *evicted):
            self._drop(id)
        return {id: winner for id, winner in evicted.items() if id not in done.outcome.evicted}

    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        if self._applied != block:
            return Reverted(block)
        (row,) = await self._store.get_many(UNDO, [block.id])
        if row is None:
            raise StoreCorrupt(f"no undo record of block {block}: genesis cannot be reverted")
        reader = Reader(row)
        parent = reader.ref()
        spent, created, kept = (
            reader.vector(lambda: reader.take(33)),
            reader.vector(lambda: reader.take(33)),
            reader.vector(reader.hash),
        )
        coins = dict(zip(spent, await self._store.get_many(OUTPUTS, spent), strict=True))
        gone = dict.fromkeys(created)
        batch = WriteBatch()
        for outpoint, coin in coins.items():
            if outpoint not in gone and coin is not None:
                batch.put(OUTPUTS, outpoint, Coin.decode(coin).unspent().encode())
        batch.delete_many(OUTPUTS, created)
        batch.delete(UNDO, block.id)
        batch.put(META, APPLIED, ref(parent))
        with trio.CancelScope(shield=True):  # memory follows what the store has, or a cancelled call would part them
            await self._store.commit(batch)
        self._applied = parent
        self._executed.clear()
        minted = {outpoint[:32]: None for outpoint in created if outpoint[:32] not in dict.fromkeys(kept)}
        removed: dict[bytes, None] = {}
        for id in minted:
            for lost in self._descendants(id):
                removed[lost] = None
        for id in removed:
            self._drop(id)
        return Reverted(block, [(id, None) for id in kept], list(removed))

    async def abandon(self, block: BlockRef, shard: int = 0) -> None:
        self._executed.pop(block.id, None)

    async def applied(self, shard: int = 0) -> BlockRef | None:
        return self._applied

    async def query(self, view: View, kind: str, **arguments: Any) -> Any:
        """``outputs``: every unspent output {outpoint: (owner, amount)}, sorted. ``output``: one Coin or None."""
        if kind == "output":
            (row,) = await self._store.get_many(OUTPUTS, [arguments["outpoint"]])
            return Coin.decode(row) if row is not None else None
        if kind != "outputs":
            raise UnknownQuery(f"coins answer 'output' and 'outputs', not {kind!r}")
        found: dict[bytes, tuple[bytes, int]] = {}
        after: bytes | None = None
        while True:
            page = await self._store.scan(OUTPUTS, after=after)
            for outpoint, row in page.items:
                coin = Coin.decode(row)
                if coin.spender is None:
                    found[outpoint] = (coin.owner, coin.amount)
            after = page.after
            if after is None:
                return dict(sorted(found.items()))

    # --- helpers ---

    def _bodies(self, bundle: Bundle) -> list[CoinTransaction | Invalid] | Incomplete:
        """One answer per transaction: a forged one is Invalid in its place and does not hide the others."""
        found: list[CoinTransaction | Invalid] = []
        missing: list[bytes] = []
        for index in range(len(bundle)):
            id = bundle.id_at(index)
            try:
                tx = parse(bundle.bodies[index]) if bundle.bodies is not None else self._pending.get(id)
            except Malformed as error:
                found.append(Invalid("malformed", str(error), bundle.ref.id, id))
                continue
            if tx is None:
                missing.append(id)
            elif tx.id != id:
                found.append(Invalid("identity", "a body does not hash to its id", bundle.ref.id, id))
            elif not tx.spends:
                found.append(Invalid("mint", "only a block's prologue creates coins", bundle.ref.id, id))
            else:
                found.append(tx)
        return Incomplete(missing) if missing else found

    async def _state(self, txs: Iterable[CoinTransaction]) -> Change:
        wanted = dict.fromkeys(outpoint for tx in txs for outpoint in (*tx.spends, tx.outpoint(0)))
        rows = await self._store.get_many(OUTPUTS, list(wanted))
        return Change({key: Coin.decode(row) if row is not None else None for key, row in zip(wanted, rows, strict=True)})

    def _losers(self, spenders: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        lost: dict[bytes, bytes] = {}
        for outpoint, winner in spenders.items():
            holder = self._reserved.get(outpoint)
            if holder is not None and holder != winner:
                for id in self._descendants(holder):
                    lost.setdefault(id, winner)
        return lost

    def _descendants(self, id: bytes) -> list[bytes]:
        """The reservation and all that depend on it, children first; also those of an id that is itself none."""
        order: dict[bytes, None] = {}

        def visit(current: bytes) -> None:
            if current in order:
                return
            for child in list(self._pending.values()):
                if any(outpoint[:32] == current for outpoint in child.spends):
                    visit(child.id)
            if current in self._pending:
                order[current] = None

        visit(id)
        return list(order)

    def _drop(self, id: bytes) -> None:
        tx = self._pending.pop(id, None)
        for outpoint in tx.spends if tx is not None else ():
            if self._reserved.get(outpoint) == id:
                del self._reserved[outpoint]


def _vector(items: Sequence[bytes]) -> bytes:
    return vector(items, lambda item: item)
