"""Storage by access pattern: key-value, unspent outputs, blobs. Never one "Database".

Durability, for every store: a commit is atomic over all it names. ``durable=True`` returns only when this commit and
every earlier one survive a power cut. ``durable=False`` may be lost at a crash, but what survives is always a *prefix* of
the commits, never a later one without an earlier one. Reads see every commit that has returned.

A store is opened under an exclusive lease (``nodewright.storage.lease``); once the lease is lost every commit raises
``nodewright.errors.LeaseLost``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from attrs import define, field, frozen

from nodewright.interfaces.common import BlockRef

MAX_KEY_BYTES = 512
MAX_VALUE_BYTES = 8 * 1024 * 1024
MAX_PAGE = 10_000


class WriteBatch:
    """Puts and deletes over any number of tables, applied all or nothing. The last write to a key wins.

    ``tables`` maps a table name to ``{key: value or None}``; None deletes. Names match ``[a-z][a-z0-9_]{0,47}``.
    ``new`` names tables of whose puts the writer promises that no key is there, or only with the same value. Nobody has to
    look at it; a store may write such tables faster, and one that finds the promise broken refuses the batch (StoreError).
    """

    __slots__ = ("new", "tables")

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes | None]] = {}
        self.new: set[str] = set()

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.tables.setdefault(table, {})[key] = value

    def delete(self, table: str, key: bytes) -> None:
        self.tables.setdefault(table, {})[key] = None

    def put_many(self, table: str, items: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]) -> None:
        self.tables.setdefault(table, {}).update(items)

    def delete_many(self, table: str, keys: Iterable[bytes]) -> None:
        self.tables.setdefault(table, {}).update(dict.fromkeys(keys))

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.tables.values())

    def __bool__(self) -> bool:
        return any(self.tables.values())


@frozen
class Page:
    """``items`` in key order; ``after`` is the key to pass on for the next page, None at the end."""

    items: list[tuple[bytes, bytes]]
    after: bytes | None


@runtime_checkable
class KeyValueReader(Protocol):
    async def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """One value per key, in the order asked for; None where there is none."""

    async def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> Page:
        """At most ``limit`` (1 to MAX_PAGE) rows whose key starts with ``prefix`` and is greater than ``after``.

        Sorted by key under the capability ``ordered``; otherwise the order is the store's own, each key once."""


@runtime_checkable
class KeyValueStore(KeyValueReader, Protocol):
    """Contract ``key-value``. Capabilities: ``ordered`` (scan sorts), ``snapshot``, ``volatile`` (nothing survives)."""

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        """Apply the whole batch or nothing. Raises StoreFull, LeaseLost, StoreError; ValueError over the limits."""

    async def delete_range(self, table: str, start: bytes, end: bytes) -> int:
        """Delete start <= key < end; returns how many. May be done in pieces: idempotent, safe to repeat."""

    def snapshot(self) -> AbstractAsyncContextManager[KeyValueReader]:
        """A consistent view of all tables at this instant (capability ``snapshot``)."""


# --- for operators -----------------------------------------------------------------------------------------------------
# What ``nodewright db`` asks of a store beside its contract. A store without it is refused where it cannot be done without.


@runtime_checkable
class TableListing(Protocol):
    """Of a key-value store. Without it a store cannot be copied: a table that nobody names would be left behind."""

    async def tables(self) -> list[str]:
        """Every table that holds a row, sorted; one that held rows once may be among them."""


@runtime_checkable
class KindListing(Protocol):
    """Of a blob store; as ``TableListing``."""

    async def kinds(self) -> list[str]:
        """Every kind of which there is a blob, sorted; one that had blobs once may be among them."""


@runtime_checkable
class Compaction(Protocol):
    """Of any store whose files keep what was deleted or overwritten until they are written anew."""

    async def compact(self) -> None:
        """Give that space back. Changes nothing that can be read; may take as long as writing everything again."""


# --- unspent outputs -------------------------------------------------------------------------------------------------


# Made once per transaction: a frozen class costs three times as much to build. Nobody assigns to one.
@define(unsafe_hash=True)
class UtxoTransaction:
    """One transaction's effect on the set. ``spends`` are 36-byte outpoints (txid ‖ vout u32 little-endian) in input
    order; ``outputs`` is the serialised output vector exactly as in the transaction (CompactSize count, then
    satoshis u64 ‖ CompactSize ‖ script each)."""

    txid: bytes
    spends: tuple[bytes, ...]
    outputs: bytes
    coinbase: bool = False
    locked: bool = False


@frozen
class UtxoRefused:
    """Why a transaction was not applied. ``code`` in the order the checks are made: ``missing`` (parent or output not
    there), ``conflicting``, ``locked``, ``immature``, ``not-yet-spendable``, ``frozen``, ``spent`` (``spender`` is the
    36 bytes txid ‖ input index u32 of who spent it)."""

    code: str
    input: int
    outpoint: bytes
    spender: bytes | None = None


# Made once per transaction: a frozen class costs three times as much to build. Nobody assigns to one.
@define(unsafe_hash=True)
class UtxoOutput:
    """An output as stored. ``spender`` is None while unspent; ``height`` is that of the block context it was created
    under (for a coinbase, its block)."""

    satoshis: int
    script: bytes
    height: int
    coinbase: bool = False
    spender: bytes | None = None
    frozen: bool = False
    locked: bool = False
    conflicting: bool = False
    spendable_from: int = 0


@frozen
class UnminedTransaction:
    txid: bytes
    height: int


@runtime_checkable
class UtxoStore(Protocol):
    """Contract ``utxo``. Atomic and idempotent per transaction: the same transaction applied twice is success, an
    output spent again by the same input of the same transaction is success."""

    async def get_outputs(self, outpoints: Sequence[bytes]) -> list[UtxoOutput | None]:
        """Whether spent or not; None where the transaction or output is unknown (or pruned)."""

    async def known(self, txids: Sequence[bytes]) -> list[bool]:
        """Whether each transaction has been created and not removed."""

    async def spend_and_create(
        self, batch: Sequence[UtxoTransaction], height: int, durable: bool = False
    ) -> list[UtxoRefused | None]:
        """Apply in order; a later one may spend an earlier one's outputs. None is success. A refused one changes
        nothing and does not stop the others, whose descendants of it are refused ``missing``. All that succeed land in
        one atomic commit."""

    async def remove(self, batch: Sequence[UtxoTransaction], durable: bool = False) -> None:
        """Undo ``spend_and_create``: unspend what each spent (only where it is the spender) and delete what it created.
        Given descendants first. Idempotent."""

    async def replace(
        self,
        remove: Sequence[UtxoTransaction],
        create: Sequence[UtxoTransaction],
        height: int,
        applied: BlockRef,
        mined: Sequence[bytes] = (),
        unmined: Sequence[bytes] = (),
        undo: bytes = b"",
    ) -> None:
        """One block's whole change in ONE durable atomic commit: ``remove`` (descendants first), ``create`` (as
        spend_and_create, already checked: a refusal raises StoreError and nothing is applied), bundles ``mined`` in and
        ``unmined`` from ``applied``'s chain, and the applied marker set to ``applied``. ``undo`` is the execution's own
        record of how to revert ``applied`` (opaque, small: O(bundles)), kept under ``applied.id`` while that block is
        less than 1000 below the applied one."""

    async def undo(self, block: bytes) -> bytes | None:
        """The undo record that ``replace`` was given with this block; None where none was, or it is pruned."""

    async def transactions(self, txids: Sequence[bytes]) -> list[UtxoTransaction | None]:
        """The effects as created, outputs spent or not (a reassigned output as it was created); None where unknown.
        What ``remove`` needs when a transaction's body is not at hand: rare, so it may be slow."""

    async def bundle(self, bundle: bytes) -> bytes | None:
        """The 32·n bytes that ``assign_bundle`` recorded; None where it never was."""

    async def applied(self) -> BlockRef | None:
        """The block this state has applied; None before genesis."""

    async def assign_bundle(self, bundle: bytes, txids: bytes) -> None:
        """Record that a bundle holds these transactions (32·n bytes). One row, not one per transaction. Idempotent."""

    async def set_mined(self, block: BlockRef, bundles: Sequence[bytes]) -> None:
        """Bundles are in this block of the best chain: O(bundles). After it every transaction of them is mined."""

    async def unset_mined(self, block: BlockRef, bundles: Sequence[bytes]) -> None: ...

    def iterate_unmined(self) -> AsyncIterator[UnminedTransaction]:
        """Every created transaction that is in no mined bundle and is no coinbase; order not given."""

    def iterate_unspent(self) -> AsyncIterator[tuple[bytes, UtxoOutput]]:
        """(outpoint, output) of every unspent output, in outpoint order where the store is ordered."""

    async def freeze(self, outpoints: Sequence[bytes]) -> list[UtxoRefused | None]: ...

    async def unfreeze(self, outpoints: Sequence[bytes]) -> list[UtxoRefused | None]: ...

    async def reassign(self, changes: Sequence[tuple[bytes, bytes]], spendable_from: int) -> list[UtxoRefused | None]:
        """(outpoint, new locking script): only a frozen output; spendable again from height ``spendable_from``."""

    async def set_locked(self, txids: Sequence[bytes], locked: bool) -> None: ...

    async def set_conflicting(self, txids: Sequence[bytes], conflicting: bool) -> None: ...

    async def prune(self, height: int, retention: int = 288) -> int:
        """Delete transactions all of whose outputs were spent by transactions mined at or below ``height - retention``.
        Returns how many. Bounded work per call; resumable."""


# --- blobs -----------------------------------------------------------------------------------------------------------


@runtime_checkable
class BlobStore(Protocol):
    """Contract ``blob``. Bodies by (kind, id); the id is the content's own hash, so a put is idempotent.

    ``kind`` matches ``[a-z][a-z0-9_]{0,31}``; ids are 1 to 64 bytes. ``put`` returns once the blob is durable."""

    async def put(self, kind: str, id: bytes, data: bytes | AsyncIterator[bytes]) -> None:
        """An iterator streams a large body without holding it; a crash in the middle leaves nothing readable."""

    async def get(self, kind: str, id: bytes) -> bytes | None: ...

    async def read(self, kind: str, id: bytes, offset: int, length: int) -> bytes | None:
        """Up to ``length`` bytes from ``offset``; empty past the end; None if there is no such blob."""

    async def size(self, kind: str, id: bytes) -> int | None: ...

    async def exists(self, kind: str, ids: Sequence[bytes]) -> list[bool]: ...

    async def delete(self, kind: str, ids: Sequence[bytes]) -> None: ...

    def iterate(self, kind: str) -> AsyncIterator[bytes]: ...


@frozen
class FormatRecord:
    """What a store was written by and for; kept in the store, compared on open (see ``nodewright.storage.formats``)."""

    store: str
    consensus: str
    execution: str
    network: str
    genesis: bytes
    extra: Mapping[str, str] = field(factory=dict)
