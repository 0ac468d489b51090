"""A whole state in arrays: accounts found by address, blocks of declared transfers run on them, the root after each block.

``ColumnarLedger`` is for nodes and measurements where all accounts fit in memory: about 0.7 kB for each with two state
keys. A block comes as columns (``Columns``), signatures checked, and leaves results as columns; events are the numbers in
them. The rules are the kernels' of ``executor``.

A block's way, each step a batch that releases the GIL:
1. ``execute``: rows by address, the transfers one after the other, what was touched.
2. ``hash_values``: value hashes of the touched rows into their leaves, shard by shard. After it the rows may change again.
3. ``rehash``: the tree above those leaves, shard by shard; the root. The next block's first step may run meanwhile.

Invariants
- ``table`` finds every row by its address, and no address has two rows.
- After ``rehash`` the root is that of the plain tree over all values that are there and the supply.
- A row whose resources are not there has no leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import trio
from attrs import define

from nodewright.interfaces.environment import Environment
from nodewright.kernels.compiled.sha3 import sha3_ranges
from nodewright_aptos import bcs, hashing
from nodewright_aptos.columnar import aligned, layout, ledgerkernels, runkernels
from nodewright_aptos.columnar.tree import CODE_BITS, MAX_LEAVES, SHARDS, ColumnarTree
from nodewright_aptos.framework import RESERVED
from nodewright_aptos.resources import (
    ACCOUNT_BYTES,
    APT_STORE_SUFFIX,
    STORE_BYTES,
    SUPPLY_KEY,
    account_key,
    new_account,
    new_store,
)
from nodewright_aptos.statekeys import key_hash, value_hash

Array = Any
_CHUNK: Final = 1 << 17


@define
class Part:
    """One state value of an account: what follows the address in its key, the pieces of the row that it is made of, and
    what must have changed for it to have."""

    suffix: bytes
    pieces: tuple[int, ...]
    changed: int

    @property
    def head(self) -> Array:
        size = sum(self.pieces[1::2])
        return np.frombuffer(bytearray(hashing.STATE_VALUE + b"\0" + bcs.uleb(size)), np.uint8)


_ACCOUNT_SUFFIX: Final = account_key(bytes(32))[33:]
# The node's own layout: Account and CoinStore<AptosCoin>.
TWO_KEYS: Final = (
    Part(_ACCOUNT_SUFFIX, (0, ACCOUNT_BYTES), ledgerkernels.ACCOUNT_CHANGED),
    Part(APT_STORE_SUFFIX, (layout.STORE_AT, STORE_BYTES), ledgerkernels.STORE_CHANGED),
)
# One value of 16 bytes, sequence number and balance: what the published workload's account is.
ONE_KEY: Final = (
    Part(
        _ACCOUNT_SUFFIX,
        (layout.SEQUENCE_AT, 8, layout.BALANCE_AT, 8),
        ledgerkernels.ACCOUNT_CHANGED | ledgerkernels.STORE_CHANGED,
    ),
)


@define
class Columns:
    """A block. ``senders`` and ``recipients`` (n, 32) u8, the latter None where no transaction has one; ``table`` as
    ``layout.X_*``, whose row columns ``execute`` fills in. ``seconds``: the block's time."""

    senders: Array
    recipients: Array | None
    table: Array
    seconds: int

    def __len__(self) -> int:
        return len(self.table)


@define
class Executed:
    """``results`` as ``layout.R_*``; ``ids`` the touched rows and ``changed``, by row, what of them."""

    results: Array
    ids: Array
    changed: Array
    fees: int
    leaves: list[Array] | None = None


class ColumnarLedger:
    def __init__(self, parts: Sequence[Part] = TWO_KEYS, tree: bool = True, secret: int = 0x9E3779B97F4A7C15) -> None:
        """``parts``: one or two. ``secret`` keeps addresses from being made to collide in the table: from the environment's
        entropy where others choose them. Without ``tree`` there is no root."""
        self.parts = tuple(parts)
        self.tree = ColumnarTree() if tree else None
        # What runs a block's table; whatever else may stand here leaves the same.
        self.run: Callable[..., int] = runkernels.execute
        self.count = 0
        self.supply = 0
        self.addresses = np.zeros((0, 32), np.uint8)
        self.rows = np.zeros((0, layout.ROW_BYTES), np.uint8)
        self.codes = [np.zeros(0, np.int32) for _ in self.parts]
        self._secret = np.uint64(secret)
        self._slots = np.full(1 << 10, runkernels.VACANT, np.int32)
        self._supply_code = -1

    # --- accounts ----------------------------------------------------------------------------------------------------

    def _grow(self, wanted: int) -> None:
        have = len(self.rows)
        if wanted > have:
            size = wanted if not have else max(wanted, have + have // 4)
            for name in ("addresses", "rows"):
                old = getattr(self, name)
                grown = aligned.zeros((size, old.shape[1]), np.uint8)
                grown[: self.count] = old[: self.count]
                setattr(self, name, grown)
            for part, codes in enumerate(self.codes):
                self.codes[part] = np.concatenate((codes, np.full(size - have, -1, np.int32)))
        if 2 * wanted > len(self._slots):
            self._slots = np.full(1 << (2 * wanted - 1).bit_length(), runkernels.VACANT, np.int32)
            runkernels.enter(self._slots, self._secret, self.addresses, 0, self.count)

    def _append(self, addresses: Array) -> Array:
        """Rows, with nothing in them, of addresses that have none; their numbers."""
        first, end = self.count, self.count + len(addresses)
        self._grow(end)
        self.addresses[first:end] = addresses
        self.count = end
        runkernels.enter(self._slots, self._secret, self.addresses, first, end)
        return np.arange(first, end, dtype=np.int32)

    def found(self, addresses: Array, balances: Array) -> None:
        """New accounts ((n, 32) u8, (n,) u64), none of which is here; the supply grows by their balances. The tree has
        them when this returns."""
        rows = self._append(addresses)
        template = new_account(bytes(32)) + new_store(bytes(32)) + bytes([layout.HAS_ACCOUNT | layout.HAS_STORE])
        names = (1, 65, 113, layout.DEPOSITS_AT + 16, layout.WITHDRAWALS_AT + 16)
        for at in range(0, len(rows), _CHUNK):
            chosen = rows[at : at + _CHUNK]
            block = np.tile(np.frombuffer(template.ljust(layout.ROW_BYTES, b"\0"), np.uint8), (len(chosen), 1))
            for place in names:
                block[:, place : place + 32] = addresses[at : at + _CHUNK]
            block[:, layout.BALANCE_AT : layout.BALANCE_AT + 8] = balances[at : at + _CHUNK, None].view(np.uint8)
            self.rows[chosen[0] : chosen[-1] + 1] = block
        self.supply += int(balances.sum(dtype=np.uint64))
        self.plant(rows)

    def restore(self, addresses: Array, rows: Array, supply: int) -> None:
        """Into an empty ledger, what another one had; the tree is built."""
        self.rows = np.zeros((0, layout.ROW_BYTES), np.uint8)
        everyone = self._append(addresses)
        self.rows[: self.count] = rows
        self.supply = supply
        there = (rows[:, layout.FLAGS_AT] & layout.HAS_ACCOUNT) != 0
        whole = there & ((rows[:, layout.FLAGS_AT] & layout.HAS_STORE) != 0)
        self.plant(everyone[whole])
        if np.any(there & ~whole):
            raise ValueError("an account without coins cannot be restored")

    def plant(self, rows: Array) -> None:
        """Leaves for rows whose resources are there and that have none yet."""
        if self.tree is None:
            return
        keys = [self._keys(part, rows) for part in self.parts]
        for number in range(SHARDS):
            payloads, places = [], []
            for part, hashes in zip(self.parts, keys, strict=True):
                chosen = np.flatnonzero(hashes[:, 0] >> 4 == number)
                payload = np.zeros((len(chosen), 8), np.uint64)
                payload[:, :4] = hashes[chosen].view(np.uint64)
                self._value_hashes(part, np.ascontiguousarray(rows[chosen]), payload)
                payloads.append(payload)
                places.append(chosen)
            if any(map(len, payloads)):
                leaves = self.tree.shards[number].add(np.concatenate(payloads)) | number << CODE_BITS
                begin = 0
                for codes, chosen in zip(self.codes, places, strict=True):
                    codes[rows[chosen]] = leaves[begin : begin + len(chosen)]
                    begin += len(chosen)
        self._plant_supply()

    def _value_hashes(self, part: Part, rows: Array, payload: Array) -> None:
        """Of all these rows, in their order, into words 4 to 8 of ``payload``."""
        codes = np.zeros(self.count, np.int32)
        codes[rows] = np.arange(len(rows), dtype=np.int32)
        pieces, everywhere = np.array(part.pieces), np.full(SHARDS, payload.ctypes.data, np.uint64)
        ledgerkernels.hash_values(part.head, pieces, self.rows, rows, _NOTHING, 0, codes, everywhere)

    def _plant_supply(self) -> None:
        if self.tree is None:
            return
        hashed = np.frombuffer(value_hash(self.supply.to_bytes(16, "little")), np.uint8).reshape(1, 32)
        if self._supply_code < 0:
            key = np.frombuffer(key_hash(SUPPLY_KEY), np.uint8).reshape(1, 32)
            self._supply_code = int(self.tree.add(key, hashed)[0])
        else:
            self.tree.update(np.array([self._supply_code], np.int32), hashed)

    def _keys(self, part: Part, rows: Array) -> Array:
        """(n, 32) u8: key hashes of a part of these rows."""
        out = np.empty((len(rows), 32), np.uint8)
        width = 33 + len(part.suffix)
        seed = np.frombuffer(hashing.STATE_KEY, np.uint8)
        for at in range(0, len(rows), _CHUNK):
            chosen = rows[at : at + _CHUNK]
            keys = np.zeros((len(chosen), width), np.uint8)
            keys[:, 1:33] = self.addresses[chosen]
            keys[:, 33:] = np.frombuffer(part.suffix, np.uint8)
            starts = np.arange(len(chosen), dtype=np.int64) * width
            sha3_ranges(keys.reshape(-1), starts, starts + width, seed, out[at : at + len(chosen)])
        return out

    # --- a block -----------------------------------------------------------------------------------------------------

    def rows_of(self, addresses: Array) -> Array:
        """(n, 32) u8 -> the row of each; rows without resources are made for those that have none."""
        found = np.empty(len(addresses), np.int32)
        if runkernels.look_up(self._slots, self._secret, self.addresses, addresses, found):
            missing = np.flatnonzero(found == runkernels.VACANT)
            fresh = {addresses[at].tobytes(): at for at in reversed(missing.tolist())}
            places = np.array(sorted(fresh.values()))
            for row, place in zip(self._append(addresses[places]).tolist(), places.tolist(), strict=True):
                if addresses[place].tobytes() in RESERVED:
                    self.rows[row, layout.FLAGS_AT] = layout.RESERVED
            runkernels.look_up(self._slots, self._secret, self.addresses, addresses, found)
        return found

    def execute(self, block: Columns) -> Executed:
        """In one thread, blocking. Nothing else may use the rows meanwhile."""
        table = block.table
        senders = self.rows_of(block.senders)
        table[:, layout.X_SENDER] = senders
        table[:, layout.X_RECIPIENT] = senders if block.recipients is None else self.rows_of(block.recipients)
        results = np.zeros((len(table), layout.RESULT), np.uint64)
        fees = self.run(table, self.rows, block.seconds, self.addresses, results, _NO_SNAPSHOTS)
        self.supply -= fees
        changed = np.zeros(self.count, np.uint8)
        ids = np.empty(min(2 * len(table), self.count), np.int32)
        return Executed(results, ids[: ledgerkernels.touched(table, results, changed, ids)], changed, fees)

    async def hash_values(self, executed: Executed, environment: Environment, workers: int = 2) -> None:
        """Step 2. The rows are read until it returns, and then no more for this block."""
        tree = self.tree
        if tree is None:
            return
        made = executed.ids[(executed.changed[executed.ids] & ledgerkernels.MADE) != 0]
        if len(made):
            await environment.offload(self._plant_made, made)
        leaves: list[list[Array]] = [[] for _ in range(SHARDS)]
        payloads = np.array([shard.payload.ctypes.data for shard in tree.shards], np.uint64)
        places: list[tuple[Array, Array]] = []
        jobs: list[Callable[[], None]] = []
        for part, codes in zip(self.parts, self.codes, strict=True):
            bounds, chosen = np.zeros(SHARDS + 1, np.int64), np.empty(len(executed.ids), np.int32)
            jobs.append(_job(ledgerkernels.by_shard, executed.ids, executed.changed, part.changed, codes, bounds, chosen))
            places.append((bounds, chosen))
        for ids in np.array_split(executed.ids, 4 * workers):
            if self.parts == TWO_KEYS:
                jobs.append(_job(ledgerkernels.hash_two, self.rows, ids, executed.changed, *_HEADS, *self.codes, payloads))
                continue
            for part, codes in zip(self.parts, self.codes, strict=True):
                head, pieces, wanted = part.head, np.array(part.pieces), part.changed
                jobs.append(
                    _job(ledgerkernels.hash_values, head, pieces, self.rows, ids, executed.changed, wanted, codes, payloads)
                )
        await spread(environment, workers, jobs)
        for bounds, chosen in places:
            for number in range(SHARDS):
                leaves[number].append(chosen[int(bounds[number]) : int(bounds[number + 1])])
        shard, leaf = self._supply_code >> CODE_BITS, self._supply_code & (MAX_LEAVES - 1)
        hashed = value_hash(self.supply.to_bytes(16, "little"))
        tree.shards[shard].payload[leaf, 4:] = np.frombuffer(hashed, np.uint64)
        leaves[shard].append(np.array([leaf], np.int32))
        executed.leaves = [np.concatenate(own) for own in leaves]

    def _plant_made(self, made: Array) -> None:
        """Leaves for what a block created. A row whose account was there and whose store is new has one of two."""
        missing = [codes[made] < 0 for codes in self.codes]
        whole = made[np.logical_and.reduce(missing)]
        if len(whole):
            self.plant(whole)
        assert self.tree is not None
        for part, codes, lacking in zip(self.parts, self.codes, missing, strict=True):
            rows = np.ascontiguousarray(made[lacking & (codes[made] < 0)])
            if len(rows):
                payload = np.zeros((len(rows), 8), np.uint64)
                self._value_hashes(part, rows, payload)
                values = np.ascontiguousarray(payload[:, 4:]).view(np.uint8)
                codes[rows] = self.tree.add(self._keys(part, rows), values)

    async def rehash(self, executed: Executed, environment: Environment, workers: int = 2) -> bytes:
        """Step 3: the root. Does not look at the rows."""
        if self.tree is None or executed.leaves is None:
            raise ValueError("there are no leaves to hash: hash_values comes before rehash")
        jobs = [_job(shard.update, own) for shard, own in zip(self.tree.shards, executed.leaves, strict=True)]
        await spread(environment, workers, jobs)
        executed.leaves = None
        return self.tree.root()


def _words(head: bytes) -> Array:
    return np.frombuffer(bytearray(head.ljust(-(-len(head) // 8) * 8, b"\0")), np.uint64)


_HEADS: Final = tuple(_words(part.head.tobytes()) for part in TWO_KEYS)
assert [len(part.head) for part in TWO_KEYS] == [ledgerkernels.ACCOUNT_HEAD, ledgerkernels.STORE_HEAD]
_NOTHING: Final = np.zeros(0, np.uint8)
_NO_SNAPSHOTS: Final = np.zeros((0, 2 * layout.ROW_BYTES), np.uint8)


def _job(function: Callable[..., Any], *arguments: Any) -> Callable[[], None]:
    def job() -> None:
        function(*arguments)

    return job


async def spread(environment: Environment, workers: int, jobs: Sequence[Callable[[], None]]) -> None:
    """Run jobs in ``workers`` threads at once; each takes the next when it has done one."""
    waiting = list(reversed(jobs))

    async def worker() -> None:
        while waiting:
            await environment.offload(waiting.pop())

    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(worker)
