"""Execution of accounts over shards that exchange receipts. Capabilities ``sharded`` and ``witness``.

The rules are ``shard_rules.run``; here are the state of the shards kept on this node, and reservations. A node keeps some
shards (``kept``) and checks the others from witnesses.

Invariants
- Per kept shard: the store holds the rows of ``applied(shard)``; every other executed block is a tree that shares nodes
  with its parent's. Rows, commitment and marker of a shard change in one batch; shards commit independently.
- A block may execute on an executed, uncommitted parent.
- ``verify_witness`` reads neither the store nor the trees.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import trio
from attrs import define, evolve, field

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
from nodewright.testing.shapes import sparse
from nodewright.testing.shapes.codec import Malformed, Reader, ref, u8
from nodewright.testing.shapes.nonces import Reservations
from nodewright.testing.shapes.shard_rules import (
    Effects,
    commitment,
    decode_witness,
    encode_witness,
    outgoing_digest,
    row_key,
    row_value,
    run,
    shard_of,
)
from nodewright.testing.shapes.transfers import Account, parse

ROWS = "shard_rows"
META = "shard_meta"


@define
class _Block:
    parent: BlockRef
    tree: sparse.Node | None
    outgoing: bytes
    effects: Effects | None = None


@define
class _Shard:
    """``blocks`` are the executed ones by id, ``applied`` among them."""

    applied: BlockRef
    blocks: dict[bytes, _Block] = field(factory=dict)


class Shards:
    """The component. ``store`` is a key-value store of its own; ``kept`` the shards whose state is here."""

    capabilities = frozenset({"sharded", "witness"})
    format = "shards/1"

    def __init__(self, store: KeyValueStore, shards: int, kept: Collection[int]) -> None:
        self._store = store
        self.shards = shards
        self.kept = tuple(sorted(kept))
        self._state: dict[int, _Shard] = {}
        self.reservations = Reservations()

    async def open(self) -> None:
        for shard in self.kept:
            (marker,) = await self._store.get_many(META, [u8(shard)])
            if marker is not None:
                reader = Reader(marker)
                applied, outgoing = reader.ref(), reader.hash()
                tree = sparse.build(await self._rows(shard))
                self._state[shard] = _Shard(applied, {applied.id: _Block(applied, tree, outgoing)})

    async def _rows(self, shard: int) -> dict[bytes, bytes]:
        rows: dict[bytes, bytes] = {}
        after: bytes | None = None
        while True:
            page = await self._store.scan(ROWS, prefix=u8(shard), after=after)
            rows.update((key[1:], value) for key, value in page.items)
            after = page.after
            if after is None:
                return rows

    async def genesis(self, document: Mapping[str, Any], block: BlockRef) -> bytes | None:
        """``document["execution"]["accounts"]`` lists (key in hex, balance). Returns 32 bytes for every shard."""
        rows: dict[int, dict[bytes, bytes]] = {shard: {} for shard in range(self.shards)}
        for text, balance in document["execution"]["accounts"]:
            key = bytes.fromhex(text)
            rows[shard_of(key, self.shards)][row_key(key)] = row_value(key, Account(0, balance))
        trees = {shard: sparse.build(rows[shard]) for shard in rows}
        nothing = outgoing_digest({})
        batch = WriteBatch()
        for shard in self.kept:
            if shard not in self._state:
                batch.put_many(ROWS, {u8(shard) + key: value for key, value in rows[shard].items()})
                batch.put(META, u8(shard), ref(block) + nothing)
        if batch:
            await self._store.commit(batch)
        for shard in self.kept:
            self._state.setdefault(shard, _Shard(block, {block.id: _Block(block, trees[shard], nothing)}))
        return b"".join(commitment(sparse.root(trees[shard]), nothing) for shard in range(self.shards))

    # --- before a block ---

    async def identify(self, txs: Sequence[bytes]) -> list[bytes | None]:
        return self.reservations.identify(txs)

    async def admit(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        answers: list[Admission] = []
        for raw in txs:
            try:
                sender = parse(raw).sender
            except Malformed:
                sender = bytes(32)
            shard = shard_of(sender, self.shards)
            accounts: dict[bytes, Account] = {}
            if shard in self._state:
                state = self._state[shard]
                value = sparse.get(state.blocks[state.applied.id].tree, row_key(sender))
                accounts[sender] = Account.decode(value[32:]) if value is not None else Account()
            answers.append(self.reservations.admit(raw, accounts, shard, stateless=shard not in self._state))
        return answers

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
        bodies: Sequence[bytes | None] = bundle.bodies or [
            self.reservations.body(bundle.id_at(index)) for index in range(len(bundle))
        ]
        missing: list[bytes] = []
        size = 0
        for index, raw in enumerate(bodies):
            if raw is None:
                missing.append(bundle.id_at(index))
                continue
            size += len(raw)
            try:
                tx = parse(raw)
            except Malformed as error:
                return BundleInvalid("malformed", str(error), index)
            if tx.id != bundle.id_at(index) or not tx.signed or shard_of(tx.sender, self.shards) != bundle.ref.shard:
                return BundleInvalid("transfer", "not signed, not of this shard, or not what its id says", index)
        return BundleIncomplete(missing) if missing else BundleValid(0, size)

    # --- blocks ---

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        state = self._state.get(request.shard)
        if state is None:
            raise Pruned(f"the state of shard {request.shard} is not kept on this node")
        known = state.blocks.get(request.block.id)
        parent = state.blocks.get(request.parent.id)
        if known is not None and known.parent == request.parent and known.effects is not None:
            if not request.record_witness:
                return known.effects.outcome
            if parent is not None:
                return self._answer(request, parent, known.effects)
        if parent is None:
            return Deferred(request.parent, state.applied)
        effects = run(parent.tree, request, self.shards)
        if not isinstance(effects, Effects):
            return effects
        evicted = self.reservations.losers(effects.nonces)
        effects = evolve(effects, outcome=evolve(effects.outcome, evicted=evicted))
        outgoing = outgoing_digest({shard: parcel.root for shard, parcel in effects.outcome.outgoing.items()})
        state.blocks[request.block.id] = _Block(request.parent, effects.tree, outgoing, effects)
        return self._answer(request, parent, effects)

    def _answer(self, request: ExecutionRequest, parent: _Block, effects: Effects) -> Outcome:
        if not request.record_witness:
            return effects.outcome
        witness = encode_witness(parent.outgoing, sparse.prune(parent.tree, effects.touched))
        return evolve(effects.outcome, witness=witness)

    async def verify_witness(self, request: ExecutionRequest, witness: bytes) -> ExecutionResult:
        try:
            tree = decode_witness(witness, request.context.parent_commitment)
            effects = run(tree, request, self.shards)
        except (Malformed, sparse.LeftOut):
            return Incomplete([request.context.parent_commitment or request.parent.id])
        return effects.outcome if isinstance(effects, Effects) else effects

    async def commit(self, block: BlockRef, shard: int = 0) -> Mapping[bytes, bytes] | None:
        state = self._state[shard]
        if state.applied == block:
            return None
        done = state.blocks.get(block.id)
        if done is None or done.effects is None or done.parent != state.applied:
            raise StoreCorrupt(f"block {block} was committed without its parent; start the node again to replay")
        batch = WriteBatch()
        for key in done.effects.touched:
            value = sparse.get(done.tree, key)
            if value is not None:
                batch.put(ROWS, u8(shard) + key, value)
        batch.put(META, u8(shard), ref(block) + done.outgoing)
        with trio.CancelScope(shield=True):  # memory follows what the store has, or a cancelled call would part them
            await self._store.commit(batch)
        state.applied = block
        state.blocks = {block.id: done, **descendants(state.blocks, block.id)}
        evicted = self.reservations.settle(done.effects.nonces)
        return {id: winner for id, winner in evicted.items() if id not in done.effects.outcome.evicted}

    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        raise Pruned(f"the state before block {block} is gone: this execution has no undo")

    async def abandon(self, block: BlockRef, shard: int = 0) -> None:
        state = self._state.get(shard)
        if state is not None and block != state.applied:
            drop(state.blocks, block.id)

    async def applied(self, shard: int = 0) -> BlockRef | None:
        state = self._state.get(shard)
        return state.applied if state is not None else None

    async def query(self, view: View, kind: str, **arguments: Any) -> Any:
        """``accounts`` (shard): every account of the shard's applied block {key: Account}, by key. ``shard`` (key): where
        an account lives. ``kept``: the shards on this node."""
        if kind == "kept":
            return self.kept
        if kind == "shard":
            return shard_of(arguments["key"], self.shards)
        if kind != "accounts":
            raise UnknownQuery(f"shards answer 'accounts', 'kept' and 'shard', not {kind!r}")
        state = self._state.get(arguments["shard"])
        if state is None:
            raise Pruned(f"the state of shard {arguments['shard']} is not kept on this node")
        tree = state.blocks[state.applied.id].tree
        return dict(sorted((value[:32], Account.decode(value[32:])) for _, value in sparse.items(tree)))
