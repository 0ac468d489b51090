"""One engine in hand: keys for named people, transactions of theirs, and blocks made by the test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from nodewright.interfaces.common import BlockContext, BlockRef, Bundle, BundleRef
from nodewright.interfaces.execution import HEAD, ExecutionRequest, Outcome
from nodewright.kernels.signatures import NativeVerifier
from nodewright.testing.environment import LocalEnvironment
from nodewright_aptos import bcs
from nodewright_aptos.addresses import ED25519, ONE, authentication_key
from nodewright_aptos.authenticators import ed25519_authenticator
from nodewright_aptos.engine import AptosEngine
from nodewright_aptos.executors import SequentialExecutor
from nodewright_aptos.genesis import chain_id_of
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.resources import SUPPLY_KEY, apt_store_key, balance
from nodewright_aptos.transactions import (
    EntryFunction,
    RawTransaction,
    UserTransaction,
    decode_transaction,
    signed_transaction,
    signing_message,
)
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore

GENESIS = BlockRef(0, hashlib.sha256(b"genesis").digest())
TIME = 1_700_000_000
APT = 10**8


def secret(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(name.encode()).digest())


def public(name: str) -> bytes:
    return bytes(secret(name).verify_key)


def address(name: str) -> bytes:
    return authentication_key(public(name), ED25519)


class World:
    """``block`` runs and commits one block of the given transactions."""

    def __init__(self, folder: Path, people: Mapping[str, int], disk: Any = None, **options: Any) -> None:
        self.disk = disk or MemoryDisk("stores.state")
        self.folder = folder
        accounts = [
            {"public_key": public(name).hex(), "balance": amount, "mint": name == "root"} for name, amount in people.items()
        ]
        self.table: dict[str, Any] = {"accounts": accounts, **options.pop("table", {})}
        self.document = {"execution": self.table, "time": TIME - 100}
        self.options = options
        self.functions = installed_functions()
        self.head = GENESIS
        self.numbers: dict[str, int] = {}
        self.environment = LocalEnvironment(folder)

    async def open(self, store: Any = None) -> World:
        self.store = store or MemoryStore(self.disk, "test")
        executor = self.options.get("executor") or SequentialExecutor(self.functions, self.environment)
        options = {key: value for key, value in self.options.items() if key != "executor"}
        self.engine = AptosEngine(
            self.store,
            self.environment,
            NativeVerifier(),
            self.functions,
            executor,
            chain_id_of(self.table),
            **{"cache_bytes": 1 << 22, **options},
        )
        await self.engine.open()
        self.root = await self.engine.genesis(self.document, GENESIS)
        self.head = (await self.engine.applied()) or GENESIS
        return self

    def call(
        self, sender: str, function: str, *arguments: bytes, types: Sequence[Any] = (), key: str = "", **changes: Any
    ) -> UserTransaction:
        """Signed by ``sender`` with its next sequence number: ``function`` is module::name of 0x1."""
        if "sequence_number" not in changes:
            changes["sequence_number"] = self.numbers.get(sender, 0)
            self.numbers[sender] = changes["sequence_number"] + 1
        module, name = function.split("::")
        values = {"max_gas": 10_000, "gas_price": 100, "expires_at": TIME + 10_000, "chain_id": 4, **changes}
        payload = EntryFunction.of(ONE, module, name, tuple(types), tuple(arguments))
        raw = RawTransaction(sender=address(sender), payload=payload, **values)
        signature = secret(key or sender).sign(signing_message(raw.encode())).signature
        return decode_transaction(signed_transaction(raw, ed25519_authenticator(public(key or sender), signature)))

    def pay(self, sender: str, recipient: str | bytes, amount: int, **changes: Any) -> UserTransaction:
        where = address(recipient) if isinstance(recipient, str) else recipient
        return self.call(sender, "aptos_account::transfer", where, bcs.u64(amount), **changes)

    def request(
        self,
        transactions: Sequence[UserTransaction],
        parent: BlockRef | None = None,
        name: str = "",
        policy: Any = "discard",
        **context: Any,
    ) -> ExecutionRequest:
        parent = parent or self.head
        block = BlockRef(parent.height + 1, hashlib.sha256(parent.id + name.encode()).digest())
        ids = b"".join(one.id for one in transactions)
        bundle = Bundle(BundleRef(hashlib.sha256(ids).digest(), len(transactions)), ids, [one.raw for one in transactions])
        told = BlockContext(**{"height": block.height, "time": TIME + block.height, **context})
        return ExecutionRequest(parent, block, told, [bundle] if transactions else [], invalid_transaction=policy)

    async def block(self, *transactions: UserTransaction, **more: Any) -> Outcome:
        request = self.request(transactions, **more)
        outcome = await self.engine.execute(request)
        assert isinstance(outcome, Outcome), outcome
        await self.engine.commit(request.block)
        self.head = request.block
        return outcome

    async def balance(self, name: str | bytes) -> int:
        where = address(name) if isinstance(name, str) else name
        found: int = await self.engine.query(HEAD, "balance", address=where)
        return found

    async def fate(self, transaction: UserTransaction) -> str:
        """vm_status of a transaction of the ledger."""
        row = await self.engine.query(HEAD, "transaction", hash=transaction.id)
        info = row.transaction_info()
        return str(info.status.text() if not row.reason else row.reason)

    def rows(self) -> dict[str, dict[bytes, bytes]]:
        """Every row of the store, empty tables left out."""
        return {name: dict(table.rows) for name, table in self.disk.live.items() if table.rows}

    def supply(self) -> tuple[int, int]:
        """What the aggregator says, and the sum of all coins in the store."""
        rows = self.disk.live["aptos_state"].rows
        suffix = apt_store_key(bytes(32))[33:]
        coins = sum(balance(value) for key, value in rows.items() if key[0] == 0 and key[33:] == suffix)
        return int.from_bytes(rows[SUPPLY_KEY], "little"), coins


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    """``world({"alice": 5 * APT})``: not opened yet."""
    return lambda *arguments, **options: World(tmp_path, *arguments, **options)
