"""Family reads by name.

State, after the block of the view (``head``, ``final``, or a ``block``), or after the block with the ledger version
``version`` where that argument is given:
``account`` (address) -> AccountView | None; ``balance`` (address, asset: a coin's type or 0xa) -> octas; ``resource``
(address, type) -> bytes | None; ``resources`` (address, after, limit) -> [(type, key, bytes)]; ``table_item`` (handle,
key) -> bytes | None; ``view`` (payload: an EntryFunction in BCS, or function, type_arguments, arguments as JSON has them)
-> JSON values, with ``encoded`` each in BCS; ``simulate`` (raw) -> Simulated; ``state_proof`` (key: a state key) ->
StateProof; ``module`` (address, name) and ``modules`` (address) -> ABI; ``ledger`` -> LedgerState; ``ledger_info`` ->
LedgerInfo of the view's block.

Ledger: ``transaction`` (hash, or version) -> TransactionRow | None; ``transactions`` (start, limit) -> rows;
``account_transactions`` (address, start: a sequence number, limit) -> rows; ``events`` (address, creation_number, start,
limit) -> [(row, index, Event)]; ``block`` (height, or version, or id) -> BlockRow | None; ``transaction_proof`` (version,
ledger_version) -> (TransactionInfo in BCS, siblings). With the view ``final`` only committed blocks are told of.

A state that is not held any more raises Pruned; a version that is not there yet raises UnknownVersion.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import trio
from attrs import evolve, frozen

from nodewright.errors import NodewrightError, Pruned, UnknownQuery
from nodewright.interfaces.execution import View as Which
from nodewright_aptos import abi, hashing, jmt, ledgerproofs, records
from nodewright_aptos.addresses import APT_METADATA, parse_address
from nodewright_aptos.authenticators import NO_AUTHENTICATOR
from nodewright_aptos.bcs import Malformed, whole
from nodewright_aptos.blocks import Entry, Saved, ledger_rows
from nodewright_aptos.functions import Functions, ViewCall
from nodewright_aptos.jmt import Proof
from nodewright_aptos.ledger import BlockInfo, Event, LedgerInfo
from nodewright_aptos.modules import module_abis
from nodewright_aptos.prologue import Problem
from nodewright_aptos.records import BlockRow, TransactionRow, number, read_transaction
from nodewright_aptos.resources import (
    account_key,
    authentication_key_of,
    balance,
    sequence_number,
    store_key,
)
from nodewright_aptos.runtime import run_transaction
from nodewright_aptos.state import KEPT, Abort, Absent, BlockEnvironment, Output, materialise
from nodewright_aptos.statekeys import address_prefix, key_hash, resource_key, resource_of, table_key
from nodewright_aptos.statestore import Held, Loaded, Stale, StateStore, Version, block_of, sound
from nodewright_aptos.transactions import (
    decode_transaction,
    encode_user,
    parse_function_key,
    read_entry_function,
)
from nodewright_aptos.typetags import APT, StructTag, parse_struct, parse_type

MAX_LIMIT: Final = 9999


class UnknownVersion(NodewrightError):
    """A ledger version or height beyond the head."""


class ViewFailed(NodewrightError):
    """A view function that is not there, does not fit its arguments, or aborted; ``abort`` says how."""

    def __init__(self, message: str, abort: Abort | None = None) -> None:
        super().__init__(message)
        self.abort = abort


@frozen
class AccountView:
    sequence_number: int
    authentication_key: bytes


@frozen
class LedgerState:
    """Of the view's block, and the oldest whose state is held; times in microseconds."""

    chain_id: int
    epoch: int
    version: int
    oldest_version: int
    height: int
    oldest_height: int
    timestamp: int
    state_root: bytes
    accumulator_root: bytes


@frozen
class StateProof:
    """``value`` None: the key is not there. The proof is against ``state_root``."""

    key_hash: bytes
    value: bytes | None
    proof: Proof
    state_root: bytes
    version: int


@frozen
class Simulated:
    """``row`` as a committed one (its version is the next); None where ``problem`` says that it would be discarded."""

    row: TransactionRow | None
    problem: Problem | None = None


class Queries:
    def __init__(self, state: StateStore, functions: Functions, chain_id: int) -> None:
        self._state = state
        self._functions = functions
        self._chain_id = chain_id
        self._of_state: dict[str, Callable[..., Awaitable[Any]]] = {
            "account": self._account,
            "balance": self._balance,
            "resource": self._resource,
            "resources": self._resources,
            "table_item": self._table_item,
            "view": self._view,
            "simulate": self._simulate,
            "state_proof": self._state_proof,
            "module": self._module,
            "modules": self._modules,
            "ledger": self._ledger,
            "ledger_info": self._ledger_info,
        }
        self._of_ledger: dict[str, Callable[..., Awaitable[Any]]] = {
            "transaction": self._transaction,
            "transactions": self._transactions,
            "account_transactions": self._account_transactions,
            "events": self._events,
            "block": self._block,
            "transaction_proof": self._transaction_proof,
        }

    async def answer(self, which: Which, kind: str, arguments: Mapping[str, Any]) -> Any:
        if kind in self._of_ledger:
            return await self._of_ledger[kind](which, **arguments)
        found = self._of_state.get(kind)
        if found is None:
            known = ", ".join([*self._of_state, *self._of_ledger])
            raise UnknownQuery(f"aptos answers {known}, not {kind!r}")
        rest = dict(arguments)
        version = rest.pop("version", None)
        while True:
            try:
                return await found(await self._held(which, version), **rest)
            except Stale:
                await trio.lowlevel.checkpoint()

    # --- which state -------------------------------------------------------------------------------------------------

    def _top(self, which: Which) -> Version:
        state = self._state
        if state.applied is None:
            raise Pruned("there is no state yet: the genesis was not installed")
        if which.kind == "final":
            return state.versions[state.applied.id]
        if which.kind == "block" and which.block is not None and which.block.id in state.versions:
            return state.versions[which.block.id]
        return max(state.versions.values(), key=lambda version: version.row.height)

    async def _held(self, which: Which, version: int | None) -> Held:
        state, top = self._state, self._top(which)
        height = None
        if which.kind == "block" and which.block is not None and top.ref.id != which.block.id:
            (raw,) = await state.store.get_many(records.BLOCK_IDS, [which.block.id])
            if raw is None:
                raise Pruned(f"the state at block {which.block} is not held")
            height = int.from_bytes(raw, "big")
        elif version is not None:
            row = await self._row_at(which, version)
            if row is None:
                raise UnknownVersion(f"the ledger ends at version {top.row.version}")
            height = row.height
            for one in self._chain(top):
                if one.row.height == height:
                    top, height = one, None
                    break
        if height is None or (state.applied is not None and height == state.applied.height):
            view = state.view(top.ref.id if height is None else state.applied.id)  # type: ignore[union-attr]
            if view is None:
                raise Stale
            return view
        return await state.past(height)

    def _chain(self, top: Version) -> list[Version]:
        """The versions from the applied one (not with it) up to ``top``, the newest first."""
        chain = []
        while top.parent is not None:
            chain.append(top)
            top = self._state.versions[top.parent.id]
        return chain

    # --- state -------------------------------------------------------------------------------------------------------

    @staticmethod
    async def _value(held: Held, key: bytes) -> bytes | None:
        return (await held.values([key]))[key]

    async def _account(self, held: Held, address: bytes) -> AccountView | None:
        value = await self._value(held, account_key(address))
        return None if value is None else AccountView(sequence_number(value), authentication_key_of(value))

    async def _balance(self, held: Held, address: bytes, asset: str = str(APT)) -> int:
        coin = APT if asset in ("0xa", "0xA") or _is_metadata(asset) else parse_struct(asset)
        value = await self._value(held, store_key(address, coin))
        return 0 if value is None else balance(value)

    async def _resource(self, held: Held, address: bytes, type: str | StructTag) -> bytes | None:
        tag = parse_struct(type) if isinstance(type, str) else type
        return await self._value(held, resource_key(address, tag))

    async def _resources(
        self, held: Held, address: bytes, after: bytes | None = None, limit: int = MAX_LIMIT
    ) -> list[tuple[StructTag, bytes, bytes]]:
        rows = await held.under(address_prefix(address), after, min(limit, MAX_LIMIT))
        return [(tag, key, value) for key, value in rows if (tag := resource_of(key)) is not None]

    async def _table_item(self, held: Held, handle: bytes, key: bytes) -> bytes | None:
        return await self._value(held, table_key(handle, key))

    async def _state_proof(self, held: Held, key: bytes) -> StateProof:
        value, hash = await self._value(held, key), key_hash(key)
        proof = await jmt.prove(held, held.row.state, hash)
        return StateProof(hash, value, proof, held.row.state.hash, held.row.version)

    async def _module(self, held: Held, address: bytes, name: str) -> Mapping[str, Any] | None:
        return module_abis(self._functions).get((address, name))

    async def _modules(self, held: Held, address: bytes) -> list[Mapping[str, Any]]:
        return [found for (where, _), found in module_abis(self._functions).items() if where == address]

    async def _ledger(self, held: Held) -> LedgerState:
        (raw,) = await self._state.store.get_many(records.BLOCKS, [number(self._state.oldest)])
        oldest, row = held.row if raw is None else block_of(raw), held.row
        return LedgerState(
            self._chain_id,
            row.epoch,
            row.version,
            oldest.version,
            row.height,
            oldest.height,
            row.timestamp,
            row.state.hash,
            row.accumulator.root,
        )

    async def _ledger_info(self, held: Held) -> LedgerInfo:
        row = held.row
        info = BlockInfo(row.epoch, row.round, row.id, row.accumulator.root, row.version, row.timestamp)
        return LedgerInfo(info)

    # --- calls -------------------------------------------------------------------------------------------------------

    async def _run(self, loaded: Loaded, function: Callable[[], Any]) -> Any:
        """As often as it asks for more of the state."""
        while True:
            try:
                return function()
            except Absent as absent:
                await loaded.load(absent.keys)

    def _next(self, row: BlockRow, time: int = 0) -> BlockEnvironment:
        timestamp = max(row.timestamp + 1, time * 1_000_000)
        return BlockEnvironment(row.height + 1, timestamp, max(row.epoch, 1), self._chain_id)

    async def _view(
        self,
        held: Held,
        payload: bytes | None = None,
        function: str = "",
        type_arguments: Sequence[str] = (),
        arguments: Sequence[Any] = (),
        encoded: bool = False,
    ) -> list[Any]:
        """Raises ViewFailed, Malformed."""
        if payload is not None:
            call = whole(payload, read_entry_function)
            key, types, given = call.key, call.type_arguments, call.arguments
        else:
            key = parse_function_key(function)
            types, given = _each("type_arguments", parse_type, type_arguments), None
        known = self._functions.views.get(key)
        if known is None:
            raise ViewFailed("there is no such view function here: this node has no Move VM, see docs/aptos.md")
        if len(types) != known.type_parameters or len(arguments if given is None else given) != len(known.parameters):
            raise ViewFailed(
                f"{known.module}::{known.name} takes {known.type_parameters} types and {len(known.parameters)} arguments"
            )
        if given is None:
            typed = zip(known.parameters, arguments, strict=True)
            given = _each("arguments", lambda one: abi.json_argument(*one), typed)
        values = _each("arguments", lambda one: abi.decode_argument(*one), zip(known.parameters, given, strict=True))
        loaded = Loaded(held)
        block = self._next(held.row)
        call_of = ViewCall(loaded.get, block, (known.address, known.module), types, values)
        try:
            answers = await self._run(loaded, lambda: known.run(call_of))
        except Abort as abort:
            raise ViewFailed(f"{abort.reason}: {abort.description}", abort) from abort
        codecs = map(abi.codec, known.returns)
        return [one.write(value) if encoded else one.to_json(value) for one, value in zip(codecs, answers, strict=True)]

    async def _simulate(self, held: Held, raw: bytes, time: int = 0) -> Simulated:
        """Signatures are not looked at; without an authenticator the account's own key is taken for the signer's."""
        transaction = decode_transaction(raw)
        loaded, block = Loaded(held), self._next(held.row, time)
        if transaction.signer.scheme == NO_AUTHENTICATOR:
            account = await self._value(held, account_key(transaction.sender))
            transaction = evolve(transaction, sender_key=None if account is None else authentication_key_of(account))
        output: Output = await self._run(loaded, lambda: run_transaction(loaded.get, transaction, block, self._functions))
        if output.kind != KEPT:
            return Simulated(None, Problem(output.code, output.message))
        await loaded.load(output.deltas)
        (writes,), _ = materialise([output], loaded.known)
        entry = Entry(encode_user(raw), transaction.id, output, writes, transaction)
        rows, _ = ledger_rows(
            [entry], held.row.version + 1, block.height, block.timestamp, hashing.EMPTY_TREE, Saved(True, False, False)
        )
        ((_, row),) = rows.tables[records.TRANSACTIONS].items()
        assert row is not None
        return Simulated(read_transaction(held.row.version + 1, row))

    # --- ledger ------------------------------------------------------------------------------------------------------

    async def _rows(self, which: Which, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Of committed blocks and, unless the view is final, of those that have run above them."""
        found = await self._state.store.get_many(table, list(keys))
        for version in self._chain(self._top(which)):
            above = version.rows.tables.get(table, {})
            found = [above.get(key) if raw is None else raw for key, raw in zip(keys, found, strict=True)]
        return found

    async def _row_at(self, which: Which, version: int) -> TransactionRow | None:
        if not 0 <= version < 1 << 64:
            return None
        (raw,) = await self._rows(which, records.TRANSACTIONS, [number(version)])
        return None if raw is None else _row(version, raw)

    async def _transaction(
        self, which: Which, hash: bytes | None = None, version: int | None = None
    ) -> TransactionRow | None:
        if hash is not None:
            (raw,) = await self._rows(which, records.HASHES, [hash])
            version = None if raw is None else int.from_bytes(raw, "big")
        return None if version is None else await self._row_at(which, version)

    async def _transactions(self, which: Which, start: int | None = None, limit: int = 25) -> list[TransactionRow]:
        """From ``start``; without it, the last ones."""
        last = self._top(which).row.version
        limit = max(0, min(limit, 100))
        if start is None:
            start = max(0, last + 1 - limit)
        return await self._read_versions(which, list(range(start, min(start + limit, last + 1))))

    async def _read_versions(self, which: Which, versions: Sequence[int]) -> list[TransactionRow]:
        raws = await self._rows(which, records.TRANSACTIONS, [number(one) for one in versions])
        return [_row(one, raw) for one, raw in zip(versions, raws, strict=True) if raw is not None]

    async def _account_transactions(
        self, which: Which, address: bytes, start: int | None = None, limit: int = 25
    ) -> list[TransactionRow]:
        limit = max(0, min(limit, 100))
        if start is None:
            view = self._state.view(self._top(which).ref.id)
            account = None if view is None else await self._account(view, address)
            start = 0 if account is None else max(0, account.sequence_number - limit)
        keys = [address + number(at) for at in range(start, min(start + limit, 1 << 63))]
        found = await self._rows(which, records.BY_ACCOUNT, keys)
        return await self._read_versions(which, [int.from_bytes(raw, "big") for raw in found if raw is not None])

    async def _events(
        self, which: Which, address: bytes, creation_number: int, start: int = 0, limit: int = 25
    ) -> list[tuple[TransactionRow, int, Event]]:
        keys = [address + number(creation_number) + number(at) for at in range(start, start + max(0, min(limit, 100)))]
        found = [raw for raw in await self._rows(which, records.EVENTS, keys) if raw is not None]
        rows = await self._read_versions(which, [int.from_bytes(raw[:8], "big") for raw in found])
        places = [int.from_bytes(raw[8:], "big") for raw in found]
        return [(row, at, row.event_list()[at]) for row, at in zip(rows, places, strict=True)]

    async def _block(
        self, which: Which, height: int | None = None, version: int | None = None, id: bytes | None = None
    ) -> BlockRow | None:
        if version is not None:
            row = await self._row_at(which, version)
            height = None if row is None else row.height
        for one in self._chain(self._top(which)):
            if one.row.height == height or one.row.id == id:
                return one.row
        if id is not None:
            (raw,) = await self._state.store.get_many(records.BLOCK_IDS, [id])
            height = None if raw is None else int.from_bytes(raw, "big")
        if height is None or not 0 <= height < 1 << 64:
            return None
        (raw,) = await self._state.store.get_many(records.BLOCKS, [number(height)])
        return None if raw is None else block_of(raw)

    async def _transaction_proof(
        self, which: Which, version: int, ledger_version: int | None = None
    ) -> tuple[bytes, list[bytes]] | None:
        """Siblings from the bottom up, in the accumulator of the versions up to ``ledger_version`` (the view's)."""
        last = self._top(which).row.version if ledger_version is None else ledger_version
        row = await self._row_at(which, version)
        if row is None or version > last or await self._row_at(which, last) is None:
            return None

        async def read(table: str, keys: Sequence[bytes]) -> list[bytes | None]:
            return await self._rows(which, table, keys)

        return row.info, await ledgerproofs.prove(read, version, last + 1)


def _row(version: int, raw: bytes) -> TransactionRow:
    return sound(f"the transaction at version {version}", lambda: read_transaction(version, raw))


def _each(name: str, read: Callable[[Any], Any], given: Iterable[Any]) -> tuple[Any, ...]:
    """Raises Malformed that says which of them it was."""
    found = []
    for at, one in enumerate(given):
        try:
            found.append(read(one))
        except Malformed as error:
            raise Malformed(f"{name}[{at}]: {error}") from error
    return tuple(found)


def _is_metadata(asset: str) -> bool:
    try:
        return parse_address(asset) == APT_METADATA
    except Malformed:
        return False


__all__ = ["AccountView", "LedgerState", "Queries", "Simulated", "StateProof", "UnknownVersion", "ViewFailed"]
