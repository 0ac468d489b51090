"""Family reads by name, of the state after a block that is still held.

``account`` (account_id) -> Account | None; ``access_key`` (account_id, public_key) -> AccessKey | None; ``access_keys``
(account_id) -> {public key: AccessKey}; ``code`` (account_id) -> bytes | None; ``state`` (account_id, prefix, limit) ->
{key: value}; ``call`` (account_id, method, args, height, timestamp, epoch, steady) -> CallOutcome of a view call, which
with ``steady`` reads a snapshot where the store has such, so that it cannot be ``Passed``; ``outcome`` (id) ->
StoredOutcome | None; ``outcome_path`` (stored) -> (outcome root, Merkle path) | None; ``receipt`` (id) -> Receipt | None;
``changes`` (block, shard) -> {key: records.Change} | None where they are not kept;
``extra`` (shard) -> ChunkExtra; ``shard`` (account_id) -> number; ``kept`` -> shards of this node; ``boundaries``.
Outcomes and receipts are told as soon as their chunk has run, with the view ``final`` only those of committed ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from nodewright.errors import Pruned, UnknownQuery
from nodewright.interfaces.execution import View as Which
from nodewright_near import records
from nodewright_near.accounts import (
    AccessKey,
    Account,
    access_key_key,
    access_keys_prefix,
    account_key,
    code_key,
    data_key,
)
from nodewright_near.borsh import decode
from nodewright_near.contracts.calls import Call, CallOutcome
from nodewright_near.genesis import shard_of
from nodewright_near.primitives import NO_HASH, NO_KEY
from nodewright_near.receipts import Receipt
from nodewright_near.shardstore import ShardStore, Stale, Version, View
from nodewright_near.state import decode_access_key

if TYPE_CHECKING:
    from nodewright_near.engine import NearEngine

MAX_LISTED: Final = 100_000


class Passed(Pruned):
    """Committed blocks went past the state while it was being read: read a later one."""


class Queries:
    def __init__(self, engine: NearEngine) -> None:
        self._engine = engine
        self._kinds: dict[str, Callable[..., Awaitable[Any]]] = {
            "account": self._account,
            "access_key": self._access_key,
            "access_keys": self._access_keys,
            "code": self._code,
            "state": self._state,
            "call": self._call,
            "outcome": self._outcome,
            "outcome_path": self._outcome_path,
            "receipt": self._receipt,
            "changes": self._changes,
            "extra": self._extra,
            "shard": self._shard,
            "kept": self._kept,
            "boundaries": self._boundaries,
        }

    async def answer(self, which: Which, kind: str, arguments: Mapping[str, Any]) -> Any:
        found = self._kinds.get(kind)
        if found is None:
            raise UnknownQuery(f"near answers {', '.join(self._kinds)}, not {kind!r}")
        try:
            return await found(which, **arguments)
        except Stale:
            raise Passed("the state that was being read is not held any more: a later block was committed") from None

    # --- which state ---

    def _version(self, which: Which, shard: ShardStore) -> Version:
        if shard.applied is None:
            raise Pruned(f"shard {shard.shard} has no state yet")
        if which.kind == "block":
            version = None if which.block is None else shard.versions.get(which.block.id)
            if version is None:
                raise Pruned(f"the state of shard {shard.shard} at block {which.block} is not held any more")
            return version
        if which.kind == "final":
            return shard.versions[shard.applied.id]
        return max(shard.versions.values(), key=lambda version: version.ref.height)

    def _view(self, which: Which, account: str) -> View:
        number = shard_of(account, self._engine.rules.boundaries)
        shard = self._engine.shards.get(number)
        if shard is None:
            raise Pruned(f"the state of shard {number} is not kept on this node")
        return View(shard, self._version(which, shard))

    async def _row(self, which: Which, account: str, key: bytes) -> bytes | None:
        (row,) = await self._view(which, account).values([key])
        return row

    # --- what it holds ---

    async def _account(self, which: Which, account_id: str) -> Account | None:
        row = await self._row(which, account_id, account_key(account_id))
        return None if row is None else Account.decode(row)

    async def _access_key(self, which: Which, account_id: str, public_key: bytes) -> AccessKey | None:
        row = await self._row(which, account_id, access_key_key(account_id, public_key))
        return None if row is None else decode_access_key(row)

    async def _under(self, which: Which, account: str, prefix: bytes, limit: int) -> dict[bytes, bytes]:
        view = self._view(which, account)
        keys = (await view.keys_under(prefix))[: min(limit, MAX_LISTED)]
        rows = await view.values(keys)
        return {key: row for key, row in zip(keys, rows, strict=True) if row is not None}

    async def _access_keys(self, which: Which, account_id: str) -> dict[bytes, AccessKey]:
        prefix = access_keys_prefix(account_id)
        rows = await self._under(which, account_id, prefix, MAX_LISTED)
        return {key[len(prefix) :]: decode_access_key(row) for key, row in rows.items()}

    async def _code(self, which: Which, account_id: str) -> bytes | None:
        return await self._row(which, account_id, code_key(account_id))

    async def _state(
        self, which: Which, account_id: str, prefix: bytes = b"", limit: int = MAX_LISTED
    ) -> dict[bytes, bytes]:
        whole = data_key(account_id, b"")
        rows = await self._under(which, account_id, whole + prefix, limit)
        return {key[len(whole) :]: row for key, row in rows.items()}

    async def _call(
        self,
        which: Which,
        account_id: str,
        method: str,
        args: bytes,
        height: int,
        timestamp: int,
        epoch: int = 0,
        steady: bool = False,
    ) -> CallOutcome | None:
        """None where there is no such account. Raises ``beside.ViewsBusy`` and ``beside.ViewTooLong``."""
        store, view = self._engine.store, self._view(which, account_id)
        if not steady or "snapshot" not in getattr(store, "capabilities", ()):
            return await self._called(view, account_id, method, args, height, timestamp, epoch)
        async with store.snapshot() as snapshot:
            still = await View.still(view.shard, view.version, snapshot)
            return await self._called(still, account_id, method, args, height, timestamp, epoch)

    async def _called(
        self, view: View, account_id: str, method: str, args: bytes, height: int, timestamp: int, epoch: int
    ) -> CallOutcome | None:
        (row,) = await view.values([account_key(account_id)])
        if row is None:
            return None
        account = Account.decode(row)
        (code,) = await view.values([code_key(account_id)])
        parameters = self._engine.rules.parameters
        if code is None:
            error = {"CompilationError": {"CodeDoesNotExist": {"account_id": account_id}}}
            return CallOutcome(0, 0, account.amount, account.storage_usage, error=error)
        call = Call(
            parameters=parameters,
            account_id=account_id,
            signer_id=account_id,
            signer_key=NO_KEY,
            predecessor_id=account_id,
            code=code,
            code_hash=account.code_hash,
            method=method,
            args=args,
            gas=parameters.limits.max_view_gas,
            deposit=0,
            balance=account.amount,
            locked=account.locked,
            storage_usage=account.storage_usage,
            gas_price=0,
            height=height,
            timestamp=timestamp,
            epoch=epoch,
            random_seed=NO_HASH,
            action_hash=NO_HASH,
            view=True,
        )
        return await self._engine.beside.view(self._engine.rules.machine, call, view.load)

    async def _record(self, which: Which, table: str, key: bytes) -> bytes | None:
        """Of a committed chunk, or, unless the view is final, of one that has run above it."""
        (raw,) = await self._engine.store.get_many(table, [key])
        if raw is not None or which.kind == "final":
            return raw
        for shard in self._engine.shards.values():
            for version in shard.versions.values():
                if shard.applied is not None and version.ref.height > shard.applied.height:
                    raw = version.rows.tables.get(table, {}).get(key, raw)
        return raw

    async def _outcome(self, which: Which, id: bytes) -> records.StoredOutcome | None:
        raw = await self._record(which, records.OUTCOMES, id)
        return None if raw is None else decode(records.StoredOutcome, raw)

    async def _outcome_path(self, which: Which, stored: records.StoredOutcome) -> Any:
        leaves = await self._record(which, records.LEAVES, records.leaves_key(stored.block, stored.shard))
        return None if leaves is None else records.path_of(leaves, stored.index)

    async def _receipt(self, which: Which, id: bytes) -> Any:
        raw = await self._record(which, records.RECEIPTS, id)
        return None if raw is None else decode(Receipt, raw)

    async def _changes(self, which: Which, block: bytes, shard: int) -> Any:
        raw = await self._record(which, records.CHANGES, records.leaves_key(block, shard))
        return None if raw is None else {one.key: one for one in decode(records.CHANGED, raw)}

    async def _extra(self, which: Which, shard: int) -> Any:
        kept = self._engine.shards.get(shard)
        if kept is None:
            raise Pruned(f"the state of shard {shard} is not kept on this node")
        return self._version(which, kept).extra

    async def _shard(self, which: Which, account_id: str) -> int:
        return shard_of(account_id, self._engine.rules.boundaries)

    async def _kept(self, which: Which) -> tuple[int, ...]:
        return self._engine.kept

    async def _boundaries(self, which: Which) -> tuple[str, ...]:
        return self._engine.rules.boundaries
