"""A world for the engine's tests: one network with money for KEYS keys, a disk that can crash, and a hand for blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import attrs
import pytest

from nodewright.interfaces.common import Admitted, BlockContext, BlockRef, Bundle, BundleRef
from nodewright.interfaces.execution import HEAD, ExecutionRequest, Outcome
from nodewright.kernels.signatures import NativeVerifier
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.simulation import SimulatedEnvironment
from nodewright_bitcoin import coinbase
from nodewright_bitcoin.engine import BitcoinEngine
from nodewright_bitcoin.network import LOCAL
from nodewright_bitcoin.policy import Policy
from nodewright_bitcoin.signing import build_transaction, derive_key, p2pkh_script, public_key, sign_p2pkh_inputs
from nodewright_bitcoin.transaction import Transaction
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore

KEYS = 24
COINS = 1_000_000
PARAMETERS = attrs.evolve(LOCAL, coinbase_maturity=100)
GENESIS = BlockRef(0, hashlib.sha256(b"genesis").digest())
OWNERS = [derive_key(b"engine", index) for index in range(KEYS)]
SCRIPTS = [p2pkh_script(public_key(key)) for key in OWNERS]
DOCUMENT = {"execution": {"allocations": [{"satoshis": COINS, "script": script.hex()} for script in SCRIPTS]}}
TIME = 1_700_000_000

Coin = tuple[bytes, int, int, int]  # txid, output index, satoshis, owner


def genesis_coins() -> list[Coin]:
    given = coinbase.allocation(DOCUMENT["execution"], PARAMETERS)
    assert given is not None
    return [(given.txid, index, COINS, index) for index in range(KEYS)]


def pay(
    coins: Sequence[Coin],
    outputs: Sequence[tuple[int, int]],
    locktime: int = 0,
    sequence: int = 0xFFFFFFFF,
    version: int = 1,
) -> Transaction:
    """Signed. ``outputs`` are (satoshis, owner)."""
    tx = build_transaction(
        [(txid, index, satoshis, SCRIPTS[owner]) for txid, index, satoshis, owner in coins],
        [(satoshis, SCRIPTS[owner]) for satoshis, owner in outputs],
        version=version,
        locktime=locktime,
        sequence=sequence,
    )
    return sign_p2pkh_inputs(tx, [OWNERS[owner] for *_, owner in coins])


def coins_of(tx: Transaction, owners: Sequence[int]) -> list[Coin]:
    return [(tx.txid, index, tx.outputs[index].satoshis, owner) for index, owner in enumerate(owners)]


def bundle_of(txs: Sequence[Transaction], bodies: bool = False) -> Bundle:
    ids = b"".join(tx.txid for tx in txs)
    ref = BundleRef(hashlib.sha256(ids).digest(), len(txs), sum(len(tx.raw) for tx in txs))
    return Bundle(ref, ids, [tx.raw for tx in txs] if bodies else None)


class World:
    """One engine over one disk. ``reopen`` is a restart, with a crash before it if asked for."""

    def __init__(self, disk: MemoryDisk, **eras: int) -> None:
        self.disk = disk
        self.eras = attrs.evolve(PARAMETERS, **eras)
        self.environment = SimulatedEnvironment()
        self.blocks: list[tuple[BlockRef, list[list[Transaction]]]] = []

    async def open(self) -> World:
        self.store = MemoryStore(self.disk, "world")
        async with open_utxo(self.store, self.environment) as utxo:
            self.utxo = utxo
        self.engine = BitcoinEngine(self.utxo, NativeVerifier(), self.environment, self.eras, Policy(), b"\x51", 1 << 20)
        await self.engine.load()
        await self.engine.genesis(DOCUMENT, GENESIS)
        return self

    async def reopen(self, crash: int | None = None) -> World:
        self.store.close()
        if crash is not None:
            self.disk.crash(crash)
        return await self.open()

    @property
    def head(self) -> BlockRef:
        assert self.engine.applied_block is not None
        return self.engine.applied_block

    async def admit(self, *txs: Transaction, confirm: bool = True, time: int = TIME):
        answers = await self.engine.admit([tx.raw for tx in txs], self.head, time)
        if confirm:
            await self.engine.confirm([answer.id for answer in answers if isinstance(answer, Admitted)])
        return answers

    def request(self, bundles: Sequence[Bundle], salt: bytes = b"", **changes) -> ExecutionRequest:
        height = self.head.height + 1
        ids = b"".join(bundle.ids for bundle in bundles)
        block = BlockRef(height, hashlib.sha256(self.head.id + ids + salt).digest())
        context = BlockContext(height, TIME)
        prologue = coinbase.make(attrs.evolve(context, extra=salt), SCRIPTS[0], PARAMETERS)
        request = ExecutionRequest(self.head, block, context, bundles, prologue)
        return attrs.evolve(request, **changes)

    async def mine(self, *bundles: Bundle, salt: bytes = b"", **changes) -> Outcome:
        request = self.request(bundles, salt, **changes)
        result = await self.engine.execute(request)
        assert isinstance(result, Outcome), result
        await self.engine.commit(request.block)
        return result

    async def digest(self) -> str:
        document = await self.engine.query(HEAD, "unspent_digest")
        return document["hash_serialized"]

    async def output(self, coin: Coin):
        (found,) = await self.engine.query(HEAD, "outputs", outpoints=[coin[0] + coin[1].to_bytes(4, "little")])
        return found


World.pay = staticmethod(pay)
World.coins_of = staticmethod(coins_of)
World.bundle_of = staticmethod(bundle_of)
World.genesis_coins = staticmethod(genesis_coins)
World.coins = COINS
World.genesis = GENESIS
World.parameters = PARAMETERS
World.now = TIME
World.owners = OWNERS
World.scripts = SCRIPTS


@pytest.fixture
def new_world():
    """Makes worlds: for tests that need one for each example."""

    async def make(**eras: int) -> World:
        return await World(MemoryDisk("stores.utxo"), **eras).open()

    return make


@pytest.fixture
async def world(new_world) -> World:
    return await new_world()
