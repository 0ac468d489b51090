"""A network of shards in one hand: an engine, keys for named accounts, and blocks made by the test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from nacl.signing import SigningKey

from nodewright.interfaces.common import Admitted, BlockContext, BlockRef, Bundle, BundleRef, Parcel
from nodewright.interfaces.execution import HEAD, ExecutionRequest, Outcome
from nodewright.kernels.signatures import NativeVerifier
from nodewright.testing.environment import LocalEnvironment
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore
from nodewright_near.accounts import Account
from nodewright_near.blocks import Rules
from nodewright_near.borsh import decode, encode
from nodewright_near.chunks import ChunkExtra, RunContext
from nodewright_near.config import parameters
from nodewright_near.contracts.machine import WasmtimeMachine
from nodewright_near.engine import NearEngine
from nodewright_near.fees import attached_gas, deposits, exec_fees, inner_send_fees
from nodewright_near.genesis import shard_of
from nodewright_near.outcomes import Outcome as ReceiptOutcome
from nodewright_near.primitives import key_text
from nodewright_near.receipts import RECEIPTS, ActionReceipt, Receipt
from nodewright_near.transactions import Action, SignedTransaction, Transaction

GENESIS = BlockRef(1000, hashlib.sha256(b"genesis").digest())
GAS_PRICE = 10**8
NEAR = 10**24
TIME = 1_700_000_000


def secret(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(name.encode()).digest())


def public(name: str) -> bytes:
    return b"\0" + secret(name).verify_key.encode()


class World:
    """``block`` runs one block on every shard: the given transactions, and the parcels that the block before sent."""

    def __init__(self, folder: Path, accounts: Mapping[str, int], boundaries: Sequence[str] = (), **table: Any) -> None:
        self.disk = MemoryDisk("stores.state")
        self.folder = folder
        self.boundaries = tuple(boundaries)
        entries = [{"id": name, "amount": amount, "keys": [key_text(public(name))]} for name, amount in accounts.items()]
        self.table: dict[str, Any] = {"accounts": entries, **table}
        self.verifier = NativeVerifier()
        self.machine = WasmtimeMachine(self.verifier)
        self.rules = Rules(parameters(self.table), self.boundaries, self.verifier, self.machine)
        self.height = GENESIS.height
        self.head = GENESIS
        self.nonces: dict[str, int] = {}
        self.outcomes: dict[bytes, ReceiptOutcome] = {}
        self.burnt = 0
        self.waiting: dict[int, list[Parcel]] = {}
        self.commitments: dict[int, bytes] = {}
        self.witnessed = False
        self.gas_price = GAS_PRICE

    async def open(self, **options: Any) -> World:
        self.store = MemoryStore(self.disk, "test")
        environment = options.pop("environment", None) or LocalEnvironment(self.folder)
        options.setdefault("view_seconds", 600.0)  # on a busy machine too
        self.engine = NearEngine(self.store, environment, self.rules, options.pop("kept", None), 1 << 22, **options)
        await self.engine.open()
        answer = await self.engine.genesis({"execution": self.table}, GENESIS)
        assert answer is not None
        self.commitments = {shard: answer[32 * shard : 32 * shard + 32] for shard in range(len(self.boundaries) + 1)}
        return self

    def sign(
        self, signer: str, receiver: str, *actions: Action, nonce: int | None = None, key: str | None = None
    ) -> SignedTransaction:
        key = key or signer
        if nonce is None:
            self.nonces[key] = nonce = self.nonces.get(key, 0) + 1
        transaction = Transaction(signer, public(key), nonce, receiver, self.head.id, actions)
        return SignedTransaction.of(transaction, b"\0" + secret(key).sign(transaction.hash()).signature)

    def requests(
        self, transactions: Sequence[SignedTransaction], witness: bool = False, **extra: Any
    ) -> list[ExecutionRequest]:
        block = BlockRef(self.height + 1, hashlib.sha256(self.head.id + b"next").digest())
        requests = []
        for shard in range(len(self.boundaries) + 1):
            mine = [tx for tx in transactions if shard_of(tx.transaction.signer_id, self.boundaries) == shard]
            ids = b"".join(tx.id for tx in mine)
            bundle = Bundle(BundleRef(hashlib.sha256(ids).digest(), len(mine), 0, shard), ids, [tx.raw for tx in mine])
            context = BlockContext(
                block.height,
                TIME + block.height,
                gas_price=self.gas_price,
                extra=encode(RunContext(**extra)),
                parent_commitment=self.commitments[shard],
            )
            incoming = tuple(self.waiting.get(shard, ()))
            requests.append(
                ExecutionRequest(
                    self.head, block, context, [bundle], b"", incoming, shard, witness, invalid_transaction="discard"
                )
            )
        return requests

    async def block(self, *transactions: SignedTransaction, witness: bool = False, **extra: Any) -> dict[int, Outcome]:
        requests = self.requests(transactions, witness, **extra)
        results = {}
        for request in requests:
            outcome = await self.engine.execute(request)
            assert isinstance(outcome, Outcome), outcome
            results[request.shard] = outcome
            if witness:
                assert outcome.witness is not None
                checked = await self.engine.verify_witness(request, outcome.witness)
                assert isinstance(checked, Outcome)
                assert checked.commitment == outcome.commitment and checked.discarded == outcome.discarded
        await self.accept(requests[0].block, results)
        return results

    async def accept(self, block: BlockRef, results: Mapping[int, Outcome]) -> None:
        self.waiting = {}
        for shard in sorted(results):
            outcome = results[shard]
            assert outcome.commitment is not None
            self.commitments[shard] = outcome.commitment
            for target, parcel in outcome.outgoing.items():
                sent = evolve(parcel, block=block, commitment=outcome.commitment)
                self.waiting.setdefault(target, []).append(sent)
            extra: ChunkExtra = outcome.detail["extra"]
            self.burnt += extra.balance_burnt
            self.outcomes.update({one.id: one for one in outcome.detail["outcomes"]})
            await self.engine.commit(block, shard)
        self.head, self.height = block, block.height

    async def settle(self, *transactions: SignedTransaction, limit: int = 12) -> None:
        """Blocks until nothing is on its way."""
        await self.block(*transactions)
        for _ in range(limit):
            if not self.waiting:
                return
            await self.block()
        raise AssertionError("receipts never end")

    def fate(self, signed: SignedTransaction) -> list[ReceiptOutcome]:
        """Outcomes of a transaction and of all that came of it, in the order of their making."""
        found, todo = [], [signed.id]
        while todo:
            outcome = self.outcomes[todo.pop(0)]
            found.append(outcome)
            todo += outcome.receipt_ids
        return found

    async def account(self, name: str) -> Account | None:
        found: Account | None = await self.engine.query(HEAD, "account", account_id=name)
        return found

    async def amount(self, name: str) -> int:
        account = await self.account(name)
        assert account is not None
        return account.amount

    async def supply(self) -> int:
        """Everything in accounts, in receipts on their way and in the state, and burnt."""
        total = self.burnt
        for shard in self.engine.shards.values():
            assert shard.applied is not None
            rows = {
                key[2:]: row for key, row in self.disk.live["near_state"].rows.items() if key[:2] == bytes([0, shard.shard])
            }
            for key, row in rows.items():
                if key[0] == 0:
                    account = Account.decode(row)
                    total += account.amount + account.locked
                elif key[0] == 6 or (key[0] in (7, 14) and len(key) > 1):
                    total += self._in_receipt(decode(Receipt, row))
        for parcels in self.waiting.values():
            for parcel in parcels:
                total += sum(self._in_receipt(receipt) for receipt in decode(RECEIPTS, parcel.payload))
        return total

    def _in_receipt(self, receipt: Receipt) -> int:
        body = receipt.receipt
        if not isinstance(body, ActionReceipt):
            return 0
        if receipt.is_refund:
            return deposits(body.actions)
        fees = self.rules.parameters.fees
        gas = attached_gas(body.actions) + inner_send_fees(fees, body.actions)
        gas += exec_fees(fees, body.actions) + fees.action_receipt.execution
        return deposits(body.actions) + gas * body.gas_price

    async def admit(self, *transactions: SignedTransaction) -> list[Any]:
        return list(await self.engine.admit([tx.raw for tx in transactions], self.head, TIME))

    async def admitted(self, *transactions: SignedTransaction) -> None:
        assert all(isinstance(answer, Admitted) for answer in await self.admit(*transactions))


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    """``world({"alice.near": 5}, boundaries)``: not opened yet."""
    return lambda *arguments, **options: World(tmp_path, *arguments, **options)
