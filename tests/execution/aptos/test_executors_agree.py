"""Every executor leaves, block after block, the bytes that the sequential one leaves: outputs, events, write sets, the tree
and its root, the accumulator and its root, and every row of the store.

``pytest tests/execution/aptos/test_executors_agree.py -k NAME --budget 250`` runs 10,000 random blocks; NAME is
block_stm_arrays, block_stm_workers, block_stm_processes, columnar or sharded. The columnar ledger, which holds a whole
state in arrays, has such a test in ``test_columnar_ledger.py``.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from nodewright.environment import NodeEnvironment
from nodewright.interfaces.common import BlockContext, BlockRef, Bundle, BundleRef
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import ExecutionRequest, Invalid
from nodewright.kernels import switch
from nodewright.testing.simulation import Simulation, simulate
from nodewright_aptos import bcs, blocks, resources
from nodewright_aptos.addresses import APT_METADATA, ONE, special
from nodewright_aptos.blockstm import native
from nodewright_aptos.blockstm.executor import BlockStmExecutor, Options
from nodewright_aptos.blockstm.testing import Hostile
from nodewright_aptos.columnar import executor as columnar
from nodewright_aptos.columnar.calls import TOUCH_KEY
from nodewright_aptos.executors import SequentialExecutor, open_executor
from nodewright_aptos.functions import Functions
from nodewright_aptos.genesis import genesis_version
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.shards import coordinator, messages
from nodewright_aptos.shards.executor import ShardedExecutor
from nodewright_aptos.shards.options import Options as ShardOptions
from nodewright_aptos.shards.server import ShardServer
from nodewright_aptos.shards.testing import BROKEN, COUNTERS, PEOPLE, TRIAL, Far, Person
from nodewright_aptos.state import BlockEnvironment, Output
from nodewright_aptos.statestore import StateStore, Version
from nodewright_aptos.transactions import (
    EntryFunction,
    RawTransaction,
    Script,
    UserTransaction,
    decode_transaction,
    signed_transaction,
)
from nodewright_aptos.typetags import APT, StructTag
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore

CHAIN = 4
TIME = 1_700_000_000
A_CHAIN = 8  # blocks
BLOCKS = 40
MODULES = ("nodewright_aptos.shards.testing", "nodewright_aptos.columnar.calls")
OTHER_COIN = StructTag(ONE, "moon", "Coin", ())

# What a block is made of; of each row a block takes what it calls from.
NATIVE = ("pay",) * 12 + ("create", "touch")
SOME = (*NATIVE[:6], "batch", "odd", "bump", "bump", "total", "look", "mint")
KINDS = (
    NATIVE,
    NATIVE,
    (*NATIVE, "odd", "batch"),
    SOME,
    (*SOME, "census", "wild", "freeze", "widen", "spill"),
    (*SOME[3:], "census", "peek", "liar", "wild", "freeze", "widen", "spill", "rotate", "coins", "script"),
    ("bump", "total", "look", "wild"),
)


def functions_of() -> Functions:
    known = installed_functions()
    for module in MODULES:
        known.add_module(module)
    return known


FUNCTIONS = functions_of()


class Chain:
    """Blocks on a ledger of a few accounts that all meet; each begins with what the one before it put off."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(f"chain {seed}")
        self.people: list[Person] = rng.sample(PEOPLE, rng.choice([2, 5, 12, 40]))
        self.state = StateStore(MemoryStore(MemoryDisk("stores.state"), "test"), 1 << 22, 3)
        self.waiting: list[UserTransaction] = []
        self.numbers: dict[bytes, int] = {}

    async def open(self) -> None:
        rng = self.rng
        accounts = [
            {
                "address": person.address.hex(),
                "balance": rng.choice([0, 10**5, 10**6, 10**8, 10**9, 10**12, 10**12]),
                "mint": rng.random() < 0.2,
            }
            for person in self.people
            if rng.random() < 0.85
        ]
        self.head = BlockRef(0, hashlib.sha256(b"genesis").digest())
        await self.state.install(
            genesis_version({"execution": {"accounts": accounts}, "time": 1}, self.head, blocks.Saved())
        )

    async def block(self) -> list[UserTransaction]:
        rng, kinds = self.rng, self.rng.choice(KINDS)
        keys = {person.address: resources.account_key(person.address) for person in self.people}
        values = await self.state.read_values(list(keys.values()))
        self.numbers = {one: resources.sequence_number(values[key] or bytes(99)) for one, key in keys.items()}
        transactions = [one for one in self.waiting if rng.random() < 0.8]
        for one in transactions:
            self.numbers[one.sender] = max(self.numbers[one.sender], one.sequence_number + 1)
        if rng.random() < 0.01:
            kinds = (*kinds, "fault")
        transactions += [self._transaction(rng.choice(kinds)) for _ in range(rng.choice([1, 3, 8, 20, 45]))]
        return list({one.id: one for one in transactions}.values())

    def _payload(self, kind: str, sender: Person) -> Any:
        rng = self.rng
        recipient = rng.choice(self.people).address
        if kind in ("pay", "create") and rng.random() < 0.1:
            recipient = rng.choice([rng.choice(PEOPLE).address, rng.randbytes(32), special(3), sender.address])
        amount = bcs.u64(rng.choice([0, 1, 1000, 10**6, 10**6, 10**9, 10**12, (1 << 64) - 1]))
        pair = (recipient, amount)
        if kind == "pay":
            return rng.choice(
                [
                    EntryFunction.of(ONE, "aptos_account", "transfer", (), pair),
                    EntryFunction.of(ONE, "aptos_account", "transfer", (), pair),
                    EntryFunction.of(ONE, "aptos_account", "fungible_transfer_only", (), pair),
                    EntryFunction.of(ONE, "aptos_account", "transfer_coins", (APT,), pair),
                    EntryFunction.of(ONE, "coin", "transfer", (APT,), pair),
                    EntryFunction.of(ONE, "primary_fungible_store", "transfer", (APT,), (APT_METADATA, *pair)),
                ]
            )
        if kind == "create":
            return EntryFunction.of(ONE, "aptos_account", "create_account", (), (recipient,))
        if kind == "touch":
            return EntryFunction(TOUCH_KEY, (), ())
        if kind == "batch":
            lists = (b"\2" + recipient + rng.choice(self.people).address, b"\2" + amount + bcs.u64(7))
            return EntryFunction.of(ONE, "aptos_account", "batch_transfer", (), lists)
        if kind == "coins":
            return EntryFunction.of(ONE, "aptos_account", "transfer_coins", (OTHER_COIN,), pair)
        if kind == "rotate":
            key = rng.choice([sender.address, sender.address, rng.randbytes(32)])
            return EntryFunction.of(ONE, "account", "rotate_authentication_key_call", (), (b"\x20" + key,))
        if kind == "script":
            return Script(b"\2xx\0\0")
        if kind == "odd":
            return rng.choice(
                [
                    EntryFunction.of(ONE, "aptos_account", "transfer", (), (recipient, amount[:7])),
                    EntryFunction.of(ONE, "aptos_account", "transfer", (APT,), pair),
                    EntryFunction.of(ONE, "primary_fungible_store", "transfer", (APT,), (bytes(32), *pair)),
                    EntryFunction.of(ONE, "nothing", "here", (), ()),
                    EntryFunction.of(ONE, "aptos_coin", "mint", (), pair),
                ]
            )
        arguments = (
            () if kind == "none" else (bcs.u64(rng.randrange(COUNTERS)), bcs.u64(rng.choice([1, 2, 3, 700, BROKEN])))
        )
        return EntryFunction.of(TRIAL, "trial", kind, (), arguments)

    def _transaction(self, kind: str) -> UserTransaction:
        rng = self.rng
        person, other = rng.choice(self.people), rng.choice(self.people)
        number = self.numbers[person.address]
        if rng.random() < 0.95:
            self.numbers[person.address] += 1
        else:
            number = max(number + rng.choice([-1, 1, 2]), 0)
        bad = rng.random() < 0.07
        raw = RawTransaction(
            person.address,
            number,
            self._payload(kind, person),
            rng.choice([2, 8, 9, 400, 812, 2_000_001]) if bad else 2000,
            rng.choice([99, 100, 10**10, 10**10 + 1]) if bad else rng.choice([100, 150]),
            TIME + rng.choice([-1, 0, 90]) if bad else TIME + 10_000,
            CHAIN + (bad and rng.random() < 0.2),
        )
        extra: dict[str, Any] = {}
        if rng.random() < 0.03:
            extra = {"secondary": (other.address,), "secondary_signers": (other.signer,)}
        if rng.random() < 0.03:
            extra |= {"fee_payer": other.address, "fee_payer_signer": other.signer}
        return decode_transaction(signed_transaction(raw, person.signer, **extra))

    def request(self, transactions: Sequence[UserTransaction]) -> ExecutionRequest:
        rng, parent = self.rng, self.head
        ids = b"".join(one.id for one in transactions)
        block = BlockRef(parent.height + 1, hashlib.sha256(parent.id + ids).digest())
        bundle = Bundle(BundleRef(hashlib.sha256(ids).digest(), len(transactions)), ids, [one.raw for one in transactions])
        context = BlockContext(height=block.height, time=TIME + block.height, epoch=rng.choice([1, 1, 1, 2]))
        policy: Any = rng.choice(["discard"] * 9 + ["reject_block"])
        return ExecutionRequest(parent, block, context, [bundle], invalid_transaction=policy)


async def inline(count: int, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


class Noted:
    """An executor whose outputs can be looked at."""

    def __init__(self, executor: Any) -> None:
        self.name = executor.name
        self._executor = executor
        self.outputs: list[Output] = []

    async def run(self, base: Any, transactions: Sequence[UserTransaction], block: BlockEnvironment) -> Sequence[Output]:
        self.outputs = list(await self._executor.run(base, transactions, block))
        return self.outputs


def everything(version: Version) -> list[Any]:
    """What a block leaves, as bytes where it has some."""
    nodes = {key: node.encode() for key, node in version.nodes.items()}
    told = [version.row.state.hash, version.row.accumulator.root, version.outcome.commitment, version.row.encode()]
    state = [version.values, version.before, sorted(version.stale)]
    return [*told, *state, nodes, version.rows.tables, version.outcome, version.sequences, version.ids]


class Compare:
    """``compared`` counts blocks, ``seen`` how their transactions ended."""

    def __init__(self) -> None:
        self.compared = 0
        self.seen: set[Any] = set()

    async def chain(self, seed: int, executor: Any, environment: Environment) -> None:
        """Some blocks, and each of them by both."""
        chain = Chain(seed)
        await chain.open()
        sequential = SequentialExecutor(FUNCTIONS, environment)
        for number in range(A_CHAIN):
            transactions = await chain.block()
            request = chain.request(transactions)
            collected = blocks.collect(request, {one.id: one for one in transactions}.get)
            assert isinstance(collected, blocks.Collected)
            signed = [chain.rng.random() < 0.99 for _ in transactions]
            told: list[Any] = []
            for one in (sequential, executor):
                noted = Noted(one)
                view = chain.state.view(chain.head.id)
                assert view is not None
                made: Any
                try:
                    made = await blocks.execute(request, view, collected, signed, noted, CHAIN, blocks.Saved(), inline)
                except (RuntimeError, OverflowError) as error:
                    made = repr(error)
                told.append((noted.outputs, made))
            (outputs, made), (others, other) = told
            assert outputs == others, (seed, number)
            self.compared += 1
            self.seen.update((one.kind, one.code, one.status.reason) for one in outputs)
            if not isinstance(made, Version):
                assert made == other, (seed, number)
                self.seen.add("rejected" if isinstance(made, Invalid) else made)
                continue
            assert everything(made) == everything(other), (seed, number)
            chain.state.versions[request.block.id] = made
            put_off = made.outcome.retry
            await chain.state.commit(request.block)
            chain.head = request.block
            chain.waiting = [one for one in transactions if one.id in put_off]

    def not_vacuous(self) -> None:
        """Successes, failures, refusals and delays were among them; where there were many blocks, all kinds."""
        texts = {one for one in self.seen if isinstance(one, str)}
        seen = self.seen - texts
        reasons, codes = {reason for _, _, reason in seen}, {code for _, code, _ in seen}
        assert reasons >= {"", "EINSUFFICIENT_BALANCE", "EBROKEN"}, seen
        assert codes >= {"SEQUENCE_NUMBER_TOO_NEW", "SENDING_ACCOUNT_DOES_NOT_EXIST"}, seen
        assert "rejected" in texts
        if self.compared >= 1000:
            assert reasons >= {"EFROZEN", "EOUT_OF_GAS", "EACCOUNT_ALREADY_EXISTS", "ECOIN_STORE_NOT_PUBLISHED"}, seen
            assert codes >= {
                "SEQUENCE_NUMBER_TOO_OLD",
                "INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE",
                "TRANSACTION_EXPIRED",
                "BAD_CHAIN_ID",
                "INVALID_AUTH_KEY",
                "UNKNOWN_MODULE",
                "UNKNOWN_SCRIPT",
            }, seen
            assert repr(RuntimeError("a function with a fault of its own")) in texts, texts


@pytest.fixture(scope="module")
def compiled() -> Iterator[None]:
    pytest.importorskip("numba")
    reason = switch.warm_up(*native.KERNELS)
    assert reason is None, reason
    yield
    switch.disable()


@pytest.fixture
def kernels(compiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two native transfers in a row are enough for them."""
    monkeypatch.setattr(columnar, "WORTH_A_RUN", 2)
    monkeypatch.setattr(native, "WORTH_A_STRETCH", 2)


async def all_chains(executor: Any, environment: Environment, budget: int) -> None:
    compare = Compare()
    for seed in range(BLOCKS * budget // A_CHAIN):
        await compare.chain(seed, executor, environment)
    compare.not_vacuous()
    print(f"{compare.compared} blocks")


class Fresh:
    """Block-STM with other workers and batches for every block."""

    name = "block-stm"

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._rng = random.Random("workers")
        self.aborts = self.suspensions = 0

    async def run(self, base: Any, transactions: Sequence[UserTransaction], block: BlockEnvironment) -> Sequence[Output]:
        rng = self._rng
        workers = [Hostile(FUNCTIONS, rng, rng.random() < 0.3) for _ in range(rng.choice([1, 3, 6]))]
        options = Options(batch=rng.choice([1, 4, 64]), native=False)
        executor = BlockStmExecutor(FUNCTIONS, self._environment, options, workers)
        try:
            return await executor.run(base, transactions, block)
        finally:
            self.aborts, self.suspensions = self.aborts + executor.aborts, self.suspensions + executor.suspensions


async def test_block_stm_workers(tmp_path: Path, budget: int) -> None:
    environment = NodeEnvironment("test", tmp_path)
    executor = Fresh(environment)
    await all_chains(executor, environment, budget)
    assert executor.aborts and executor.suspensions


async def test_block_stm_arrays(tmp_path: Path, budget: int, kernels: None) -> None:
    """Native transfers run in the kernel, on three threads; what is between them in batches."""
    environment = NodeEnvironment("test", tmp_path, threads=6)
    async with open_executor("block-stm", FUNCTIONS, environment, {"workers": 3, "batch": 4}) as executor:
        await all_chains(executor, environment, budget)
        assert isinstance(executor, BlockStmExecutor)
        assert executor.figures()["in_kernel"] > 0.2


async def test_block_stm_processes(tmp_path: Path, budget: int) -> None:
    environment = NodeEnvironment("test", tmp_path)
    options = {"placement": "processes", "workers": 2, "batch": 4, "native": False}
    async with open_executor("block-stm", FUNCTIONS, environment, options) as executor:
        await all_chains(executor, environment, budget)
        assert isinstance(executor, BlockStmExecutor)
        assert executor.figures()["executions_per_tx"] > 0.5


async def test_columnar(tmp_path: Path, budget: int, kernels: None) -> None:
    environment = NodeEnvironment("test", tmp_path)
    async with open_executor("columnar", FUNCTIONS, environment, {}) as executor:
        await all_chains(executor, environment, budget)


@asynccontextmanager
async def shards_of(simulation: Simulation, seed: int, by_columns: bool) -> AsyncIterator[ShardedExecutor]:
    """One to three, each of which dies after some messages, comes back, and dies again."""

    def server(name: str) -> ShardServer:
        own = simulation.environment(name)
        return ShardServer(FUNCTIONS, own, columnar.ColumnarExecutor(FUNCTIONS, own) if by_columns else None)

    rng = random.Random(f"shards {seed}")
    environment = simulation.environment("coordinator")
    options = ShardOptions(
        least=1,
        micro_batch=rng.choice([4, 10, 30]),
        window=rng.choice([1, 2, 4]),
        partitioner="senders",
        stuck_seconds=60.0,
        shard_executor="columnar" if by_columns else "sequential",
    )
    far = [
        Far(
            f"shard {number}",
            server(f"shard {number}"),
            random.Random(f"line {seed} {number}"),
            [rng.randrange(1, 2 + 80 // options.micro_batch) for _ in range(rng.randrange(7))],
            rng.choice(["cut", "cut", "silent", "stuck"]),
        )
        for number in range(rng.choice([1, 2, 3]))
    ]
    executor = ShardedExecutor(FUNCTIONS, environment, options, far, SequentialExecutor(FUNCTIONS, environment))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(executor.supervise)
        await executor.until_ready()
        yield executor
        nursery.cancel_scope.cancel()


class Dealt:
    """Every other block with a partition that somebody else made, at random."""

    name = "sharded"

    def __init__(self, executor: ShardedExecutor, rng: random.Random) -> None:
        self._executor = executor
        self._rng = rng

    async def run(self, base: Any, transactions: Sequence[UserTransaction], block: BlockEnvironment) -> Sequence[Output]:
        rng = self._rng
        if rng.random() < 0.5:
            return await self._executor.run(base, transactions, block)
        given = [rng.randrange(5) for _ in transactions]
        return await self._executor.run_partitioned(base, transactions, block, given)


def sharded_chains(chains: int, by_columns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In virtual time; shards are cut off, fall silent or get stuck at any message."""
    compare = Compare()
    meters = []
    for seed in range(chains):
        rng = random.Random(seed)
        for module in (messages, coordinator):  # what has no room in a message is cut, or asked for
            monkeypatch.setattr(module, "SPLIT_BYTES", rng.choice([400, 4000, 1 << 22]))

        async def trial(simulation: Simulation, seed: int = seed, rng: random.Random = rng) -> None:
            async with shards_of(simulation, seed, by_columns) as executor:
                meters.append(executor.meter)
                await compare.chain(seed, Dealt(executor, rng), simulation.environment("alone"))

        simulate(trial, seed)
    compare.not_vacuous()
    moved, crossed = sum(one.moved for one in meters), sum(one.messages for one in meters)
    asked, abandoned = sum(one.asked for one in meters), sum(one.abandoned for one in meters)
    shares = sum(one.sharded for one in meters) / sum(one.transactions for one in meters)
    print(f"{compare.compared} blocks; {moved} parts moved, {crossed} values crossed, {abandoned} pieces one by one")
    # Not vacuous: parts moved, values crossed; of many, keys were asked for, and some could not be run in parts.
    assert moved and crossed and shares > 0.3
    assert compare.compared < 1000 or (asked and abandoned and shares > 0.5)


def test_sharded(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sharded_chains(BLOCKS * budget // A_CHAIN, False, monkeypatch)


@pytest.mark.long
def test_sharded_by_columns(budget: int, kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with the columnar executor in the shards."""
    sharded_chains(BLOCKS * budget // A_CHAIN, True, monkeypatch)
