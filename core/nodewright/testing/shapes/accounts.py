"""Execution of accounts with nonces and balances, on any number of unfinished blocks. No capability beyond the contract.

A block may execute on a parent that is executed and not committed, so that a consensus can agree on outcomes before it
finalises (the pipelined shape); several children of one parent may stand side by side until all but one are abandoned.

Invariants
- The store holds the state of ``applied``; every other executed block is a layer of changes over its parent's.
- A layer's parent is another layer or ``applied``; committing a block turns its layer into rows and the marker in one
  batch and drops every layer that does not descend from it.
- Reservations (sender, nonce) stand outside layers and rows: ``execute`` only reports which of them lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trio
from attrs import define, frozen

from nodewright.errors import Pruned, StoreCorrupt, UnknownQuery
from nodewright.interfaces import (
    Admission,
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
    Reverted,
    Selection,
    View,
    WriteBatch,
)
from nodewright.storage.versions import descendants, drop
from nodewright.testing.shapes.codec import Malformed, Reader, digest, ref
from nodewright.testing.shapes.nonces import Reservations
from nodewright.testing.shapes.transfers import Account, Transfer, check, parse

ROWS = "account_rows"
META = "account_meta"
APPLIED = b"applied"
COMMITMENT = b"commitment"


@frozen
class Layer:
    parent: BlockRef
    writes: Mapping[bytes, Account]
    outcome: Outcome
    nonces: Mapping[tuple[bytes, int], bytes]


@define
class Ledger:
    """Accounts while a block runs: ``rows`` as the parent left them, ``writes`` what changed."""

    rows: dict[bytes, Account]
    writes: dict[bytes, Account]

    def get(self, key: bytes) -> Account:
        return self.writes.get(key) or self.rows.get(key) or Account()


class Accounts:
    """The component. ``store`` is a key-value store of its own."""

    capabilities: frozenset[str] = frozenset()
    format = "accounts/1"

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store
        self._applied: BlockRef | None = None
        self._commitment = bytes(32)
        self._layers: dict[bytes, Layer] = {}
        self.reservations = Reservations()

    async def open(self) -> None:
        marker, commitment = await self._store.get_many(META, [APPLIED, COMMITMENT])
        if marker is not None and commitment is not None:
            self._applied, self._commitment = Reader(marker).ref(), commitment

    async def genesis(self, document: Mapping[str, Any], block: BlockRef) -> bytes | None:
        """``document["execution"]["accounts"]`` lists (key in hex, balance)."""
        rows = {bytes.fromhex(key): Account(0, balance) for key, balance in document["execution"]["accounts"]}
        commitment = _commitment(bytes(32), rows)
        if self._applied is None:
            batch = WriteBatch()
            batch.put_many(ROWS, {key: account.encode() for key, account in rows.items()})
            batch.put_many(META, {APPLIED: ref(block), COMMITMENT: commitment})
            await self._store.commit(batch)
            self._applied, self._commitment = block, commitment
        return commitment

    # --- before a block ---

    async def identify(self, txs: Sequence[bytes]) -> list[bytes | None]:
        return self.reservations.identify(txs)

    async def admit(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        senders: dict[bytes, None] = {}
        for raw in txs:
            try:
                senders[parse(raw).sender] = None
            except Malformed:
                continue
        rows = await self._read(head if head.id in self._layers else self._applied or head, list(senders))
        return [self.reservations.admit(raw, rows) for raw in txs]

    async def release_unclaimed(self) -> list[bytes]:
        return []  # reservations live in memory alone: none outlives its process

    async def confirm(self, ids: Sequence[bytes]) -> None:
        """Reservations live in memory: the pool's journal redoes them at the next start."""

    async def release(self, ids: Sequence[bytes]) -> list[bytes]:
        return self.reservations.release(ids)

    async def select(self, parent: BlockRef, candidates: Sequence[Candidate], limits: Limits) -> Selection:
        return self.reservations.select(candidates, limits)

    async def prologue(self, context: BlockContext) -> Prologue:
        return Prologue(b"", b"")

    async def validate_bundle(self, bundle: Bundle, head: BlockRef) -> BundleVerdict:
        txs = self._bodies(bundle)
        if isinstance(txs, Incomplete):
            return BundleIncomplete(txs.missing)
        for index, tx in enumerate(txs):
            if isinstance(tx, Invalid):
                return BundleInvalid(tx.code, tx.message, index)
        good = [tx for tx in txs if isinstance(tx, Transfer)]
        return BundleValid(0, sum(len(tx.raw) for tx in good), conflicts=self.reservations.conflicts(good))

    # --- blocks ---

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        known = self._layers.get(request.block.id)
        if known is not None and known.parent == request.parent:
            return known.outcome
        if request.parent.id not in self._layers and request.parent != self._applied:
            return Deferred(request.parent, self._applied or BlockRef(0, bytes(32)))
        strict = request.invalid_transaction == "reject_block"
        txs: dict[bytes, Transfer] = {}
        discarded: dict[bytes, tuple[str, str]] = {}
        for bundle in request.bundles:
            found = self._bodies(bundle)
            if isinstance(found, Incomplete):
                return found
            for tx in found:
                if isinstance(tx, Transfer):
                    if strict and tx.id in txs:
                        return Invalid("repeated", "a transaction occurs twice in the block", bundle.ref.id, tx.id)
                    txs.setdefault(tx.id, tx)
                elif strict:
                    return tx
                elif tx.transaction is not None:
                    discarded[tx.transaction] = (tx.code, tx.message)
        keys = dict.fromkeys(key for tx in txs.values() for key in (tx.sender, tx.recipient))
        before = self._commitment_of(request.parent)
        ledger = Ledger(await self._read(request.parent, list(keys)), {})
        retry: dict[bytes, str] = {}
        nonces: dict[tuple[bytes, int], bytes] = {}
        for tx in txs.values():
            refusal = check(tx, ledger.get(tx.sender))
            if refusal is None:
                sender = ledger.get(tx.sender)
                ledger.writes[tx.sender] = Account(sender.nonce + 1, sender.balance - tx.amount)
                recipient = ledger.get(tx.recipient)
                ledger.writes[tx.recipient] = Account(recipient.nonce, recipient.balance + tx.amount)
                nonces[(tx.sender, tx.nonce)] = tx.id
            elif strict:
                return Invalid(refusal.code, refusal.message, transaction=tx.id)
            elif refusal.retry:
                retry[tx.id] = refusal.message
            else:
                discarded[tx.id] = (refusal.code, refusal.message)
        outcome = Outcome(
            request.block,
            _commitment(before, ledger.writes),
            discarded,
            retry,
            self.reservations.losers(nonces),
            gas_used=len(nonces),
        )
        self._layers[request.block.id] = Layer(request.parent, ledger.writes, outcome, nonces)
        return outcome

    async def verify_witness(self, request: ExecutionRequest, witness: bytes) -> ExecutionResult:
        return Incomplete([request.context.parent_commitment or request.parent.id])

    async def commit(self, block: BlockRef, shard: int = 0) -> Mapping[bytes, bytes] | None:
        layer = self._layers.get(block.id)
        if layer is None or layer.parent != self._applied:
            if self._applied == block:
                return None
            raise StoreCorrupt(f"block {block} was committed without its parent; start the node again to replay")
        commitment = layer.outcome.commitment or bytes(32)
        batch = WriteBatch()
        batch.put_many(ROWS, {key: account.encode() for key, account in layer.writes.items()})
        batch.put_many(META, {APPLIED: ref(block), COMMITMENT: commitment})
        with trio.CancelScope(shield=True):  # memory follows what the store has, or a cancelled call would part them
            await self._store.commit(batch)
        self._applied, self._commitment = block, commitment
        self._layers = descendants(self._layers, block.id)
        evicted = self.reservations.settle(layer.nonces)
        return {id: winner for id, winner in evicted.items() if id not in layer.outcome.evicted}

    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        raise Pruned(f"the state before block {block} is gone: this execution has no undo")

    async def abandon(self, block: BlockRef, shard: int = 0) -> None:
        drop(self._layers, block.id)

    async def applied(self, shard: int = 0) -> BlockRef | None:
        return self._applied

    async def query(self, view: View, kind: str, **arguments: Any) -> Any:
        """``account`` (key): an Account in the view. ``accounts``: every account of the applied block, by key."""
        if kind == "account":
            at = view.block if view.block is not None else self._applied
            assert at is not None
            if at != self._applied and at.id not in self._layers:
                raise Pruned(f"the state of block {at} is not held")
            return (await self._read(at, [arguments["key"]])).get(arguments["key"], Account())
        if kind != "accounts":
            raise UnknownQuery(f"accounts answer 'account' and 'accounts', not {kind!r}")
        found: dict[bytes, Account] = {}
        after: bytes | None = None
        while True:
            page = await self._store.scan(ROWS, after=after)
            found.update((key, Account.decode(row)) for key, row in page.items)
            after = page.after
            if after is None:
                return dict(sorted(found.items()))

    # --- helpers ---

    def _bodies(self, bundle: Bundle) -> list[Transfer | Invalid] | Incomplete:
        """One answer per transaction: a forged one is Invalid in its place and does not hide the others."""
        found: list[Transfer | Invalid] = []
        missing: list[bytes] = []
        for index in range(len(bundle)):
            id = bundle.id_at(index)
            raw = bundle.bodies[index] if bundle.bodies is not None else self.reservations.body(id)
            if raw is None:
                missing.append(id)
                continue
            try:
                tx = parse(raw)
            except Malformed as error:
                found.append(Invalid("malformed", str(error), bundle.ref.id, id))
                continue
            if tx.id != id:
                found.append(Invalid("identity", "a body does not hash to its id", bundle.ref.id, id))
            elif not tx.signed:
                found.append(Invalid("signature", "it is not signed by its sender", bundle.ref.id, id))
            else:
                found.append(tx)
        return Incomplete(missing) if missing else found

    async def _read(self, at: BlockRef, keys: Sequence[bytes]) -> dict[bytes, Account]:
        layers: list[Layer] = []
        current = at
        while current.id in self._layers:
            layers.append(self._layers[current.id])
            current = layers[-1].parent
        rows = await self._store.get_many(ROWS, keys)
        found = {key: Account.decode(row) for key, row in zip(keys, rows, strict=True) if row is not None}
        for layer in reversed(layers):
            found.update((key, layer.writes[key]) for key in keys if key in layer.writes)
        return found

    def _commitment_of(self, block: BlockRef) -> bytes:
        layer = self._layers.get(block.id)
        return (layer.outcome.commitment or bytes(32)) if layer is not None else self._commitment


def _commitment(before: bytes, writes: Mapping[bytes, Account]) -> bytes:
    return digest(b"accounts", before, *(key + account.encode() for key, account in sorted(writes.items())))
