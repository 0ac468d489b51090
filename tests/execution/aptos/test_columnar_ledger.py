"""A ledger in arrays: state, supply and root as the sequential executor leaves them, on disk too; the benchmark command."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha3_256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nodewright.environment import NodeEnvironment
from nodewright.errors import StoreCorrupt
from nodewright.interfaces.storage import KeyValueStore, Page, WriteBatch
from nodewright.kernels import switch
from nodewright_aptos import gas, hashing
from nodewright_aptos.addresses import special
from nodewright_aptos.framework import TRANSFER_GAS
from nodewright_aptos.resources import SUPPLY_KEY, account_key, apt_store_key, balance
from nodewright_aptos.shards import testing
from nodewright_aptos.statekeys import key_hash, value_hash
from nodewright_aptos.transactions import EntryFunction, UserTransaction

np = pytest.importorskip("numpy")
pytest.importorskip("numba")

# ruff: noqa: E402
from nodewright_aptos.bench import columns, workloads
from nodewright_aptos.bench.command import aptos
from nodewright_aptos.bench.objects import LedgerBase
from nodewright_aptos.columnar import durable, layout
from nodewright_aptos.columnar.calls import register_transaction_functions
from nodewright_aptos.columnar.ledger import ColumnarLedger, Columns
from nodewright_aptos.executors import SequentialExecutor
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.state import KEPT, BlockEnvironment, apply


@pytest.fixture(scope="module", autouse=True)
def kernels() -> Iterator[None]:
    columns.prepare()
    yield
    switch.disable()


SIZES = workloads.Sizes(block=300, accounts=400, users=60, clusters=4, resources=2)


def plain_root(state: Mapping[bytes, bytes | None]) -> bytes:
    """Of state values by state key, by the definition of the tree."""

    def root(items: list[tuple[bytes, bytes]], depth: int) -> bytes:
        if not items:
            return hashing.EMPTY_TREE
        if len(items) == 1:
            return sha3_256(hashing.TREE_LEAF + items[0][0] + items[0][1]).digest()
        sides: list[list[tuple[bytes, bytes]]] = [[], []]
        for item in items:
            sides[item[0][depth >> 3] >> (7 - depth % 8) & 1].append(item)
        return sha3_256(hashing.TREE_INTERNAL + root(sides[0], depth + 1) + root(sides[1], depth + 1)).digest()

    return root([(key_hash(key), value_hash(value)) for key, value in state.items() if value is not None], 0)


def state_of(ledger: ColumnarLedger) -> dict[bytes, bytes | None]:
    state: dict[bytes, bytes | None] = {SUPPLY_KEY: ledger.supply.to_bytes(16, "little")}
    for address, row in zip(ledger.addresses[: ledger.count], ledger.rows[: ledger.count], strict=True):
        raw = row.tobytes()
        if row[layout.FLAGS_AT] & layout.HAS_ACCOUNT:
            state[account_key(address.tobytes())] = raw[: layout.STORE_AT]
        if row[layout.FLAGS_AT] & layout.HAS_STORE:
            state[apt_store_key(address.tobytes())] = raw[layout.STORE_AT : layout.FLAGS_AT]
    return state


class World:
    """A workload and its ledger; some payments of a block go to addresses that have no account."""

    def __init__(self, name: str, seed: int) -> None:
        self.workload = workloads.make(name, SIZES, seed)
        self.ledger = ColumnarLedger()
        self.ledger.found(self.workload.addresses, np.full(len(self.workload.addresses), 10**9, np.uint64))

    def block(self) -> Any:
        drawn = self.workload.block()
        block = drawn[0]
        if block.recipients is not None:
            random = self.workload.random
            strangers = random.random(len(block)) < 0.02
            block.recipients[strangers] = np.frombuffer(random.bytes(32 * int(strangers.sum())), np.uint8).reshape(-1, 32)
            block.recipients[random.integers(0, len(block))] = np.frombuffer(special(3), np.uint8)
        return drawn


@pytest.mark.parametrize("name", workloads.NAMES)
async def test_blocks_leave_what_sequential_execution_leaves(name: str, tmp_path: Path) -> None:
    environment = NodeEnvironment("test", tmp_path)
    functions = installed_functions()
    register_transaction_functions(functions)
    world = World(name, 1)
    ledger = world.ledger
    assert ledger.tree is not None
    assert ledger.tree.root() == plain_root(state_of(ledger))
    for number in range(1, 4):
        drawn = world.block()
        before = state_of(ledger)
        transactions = world.workload.transactions(drawn)
        if drawn[0].recipients is not None:
            for transaction, recipient in zip(transactions, drawn[0].recipients, strict=True):
                transaction.payload.arguments = (recipient.tobytes(), transaction.payload.arguments[1])
        environment_of_block = BlockEnvironment(number, workloads.SECONDS * 1_000_000, 1, workloads.CHAIN_ID)
        outputs = await SequentialExecutor(functions, environment).run(
            LedgerBase(ledger), transactions, environment_of_block
        )
        for output in outputs:
            if output.kind == KEPT:
                before.update({key: value for key, value in output.writes.items() if value is not None})
        supply = ledger.supply + sum(sum(output.deltas.values()) for output in outputs)
        before[SUPPLY_KEY] = supply.to_bytes(16, "little")
        executed = ledger.execute(drawn[0])
        assert state_of(ledger) == before
        assert executed.results[:, layout.R_GAS].tolist() == [output.gas_used for output in outputs]
        await ledger.hash_values(executed, environment)
        assert await ledger.rehash(executed, environment) == plain_root(before)


def columns_of(transactions: Sequence[UserTransaction], seconds: int) -> Columns:
    """Transfers of ``shards.testing``, whose senders' keys are their own."""
    payments = [one.payload.arguments for one in transactions if isinstance(one.payload, EntryFunction)]
    rows = [
        (
            layout.PAY,
            0,
            0,
            one.sequence_number,
            int.from_bytes(amount, "little"),
            one.max_gas,
            one.gas_price,
            one.expires_at,
            gas.intrinsic(len(one.raw)),
            TRANSFER_GAS,
            layout.GOOD_KEY,
        )
        for one, (_, amount) in zip(transactions, payments, strict=True)
    ]

    def addresses(listed: Sequence[bytes]) -> Any:
        return np.frombuffer(bytearray(b"".join(listed)), np.uint8).reshape(-1, 32)

    senders = addresses([one.sender for one in transactions])
    return Columns(senders, addresses([one for one, _ in payments]), np.array(rows, np.uint64), seconds)


async def test_random_blocks_leave_what_sequential_execution_leaves(tmp_path: Path, budget: int) -> None:
    """40 blocks, four on each of ten ledgers; ``--budget 250`` runs 10,000."""
    environment = NodeEnvironment("test", tmp_path)
    functions = installed_functions()
    sequential = SequentialExecutor(functions, environment)
    seen: set[Any] = set()
    for seed in range(10 * budget):
        world = testing.World(seed, (2, 5, 30)[seed % 3], odd=0.0, bad=0.15)
        people = [one.address for one in world.people if world.state.get(account_key(one.address))]
        ledger = ColumnarLedger()
        ledger.found(
            np.frombuffer(bytearray(b"".join(people)), np.uint8).reshape(-1, 32),
            np.array([balance(world.state[apt_store_key(one)] or b"") for one in people], np.uint64),
        )
        state = state_of(ledger)
        for number in range(4):
            block = world.block(world.random.choice([1, 7, 30, 60]))
            outputs = await sequential.run(testing.DictBase(dict(state)), block, testing.BLOCK)
            for output in outputs:
                apply(state, output)
            executed = ledger.execute(columns_of(block, testing.NOW))
            gas_used = executed.results[:, layout.R_GAS].tolist()
            assert [one.gas_used for one in outputs] == gas_used, (seed, number)
            kept = (executed.results[:, layout.R_STATUS] < layout.REFUSED).tolist()
            assert [one.kind == KEPT for one in outputs] == kept, (seed, number)
            assert state_of(ledger) == state, (seed, number)
            await ledger.hash_values(executed, environment)
            assert await ledger.rehash(executed, environment) == plain_root(state), (seed, number)
            seen.update((one.kind, one.status.reason) for one in outputs)
    assert {kind for kind, _ in seen} == {0, 1, 2}
    assert {reason for _, reason in seen} >= {"", "EINSUFFICIENT_BALANCE"}


class DictStore(KeyValueStore):
    """Enough of a store, unordered; ``kept`` commits of all, as after a crash."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes]] = {}

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        for table, rows in batch.tables.items():
            own = self.tables.setdefault(table, {})
            for key, value in rows.items():
                if value is None:
                    own.pop(key, None)
                else:
                    own[key] = value

    async def get_many(self, table: str, keys: Any) -> list[bytes | None]:
        return [self.tables.get(table, {}).get(key) for key in keys]

    async def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None, limit: int = 1000) -> Page:
        keys = sorted(self.tables.get(table, {}), key=lambda key: key[::-1])
        rest = keys[keys.index(after) + 1 :] if after is not None else keys
        items = [(key, self.tables[table][key]) for key in rest[:limit]]
        return Page(items, items[-1][0] if len(rest) > limit else None)


async def test_what_was_committed_is_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "PAGE", 16)
    monkeypatch.setattr(durable, "ROUND", 5)
    environment = NodeEnvironment("test", tmp_path)
    world, store = World("transfers", 3), DictStore()
    assert await durable.load(store, environment) is None
    ledger = world.ledger
    assert ledger.tree is not None
    writer = durable.DurableLedger(ledger, store, environment)
    await writer.found(0, ledger.tree.root())
    for height in range(1, 13):
        executed = ledger.execute(world.block()[0])
        await ledger.hash_values(executed, environment)
        batch = writer.record(height, executed)
        root = await ledger.rehash(executed, environment)
        await writer.commit(batch, root)
        loaded = await durable.load(store, environment)
        assert loaded is not None
        again, writer_again, applied = loaded
        assert (applied.height, applied.root) == (height, root)
        assert state_of(again) == state_of(ledger)
        assert again.tree is not None and again.tree.root() == root
        if height == 7:  # and goes on from there
            ledger, writer, world.ledger = again, writer_again, again
    assert len({key[:8] for key in store.tables[durable.CHANGES]}) == 5
    page = next(iter(store.tables[durable.ADDRESSES]))
    store.tables[durable.PAGES][page] = store.tables[durable.PAGES][page][:8] + zlib.compress(bytes(16 * layout.ROW_BYTES))
    with pytest.raises(StoreCorrupt, match="other accounts than its root says"):
        await durable.load(store, environment)
    store.tables[durable.ADDRESSES][page] = bytes(len(store.tables[durable.ADDRESSES][page]))
    with pytest.raises(StoreCorrupt, match="other accounts than its root says"):
        await durable.load(store, environment)


def test_bench_aptos_says_what_its_figures_include(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodewright_aptos.bench.plan.ed25519_verify_us", lambda cores: 60.0)
    small = ["--blocks", "2", "--block-size", "200", "--accounts", "900"]
    roots = {}
    for number, arguments in enumerate(
        (
            ["--root"],
            ["--state", "leveldb"],
            ["--root", "--objects"],
            ["--root", "--executor", "sequential"],
            ["--state-keys", "1"],
        )
    ):
        out = tmp_path / f"{number}.json"
        result = CliRunner().invoke(aptos, [*small, "--workload", "conflicting", *arguments, "--json", str(out)])
        assert result.exit_code == 0, result.output
        figures = json.loads(out.read_text())
        assert figures["lost"] == 0 and figures["committed"] == 400
        assert {"tps", "node_cpu_seconds", "efficiency", "p50_ms", "signatures", "state_root", "disk"} <= set(figures)
        roots[" ".join(arguments)] = figures["digest"]
    assert len({root for arguments, root in roots.items() if "keys" not in arguments}) == 1
