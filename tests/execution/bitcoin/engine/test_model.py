"""Random lives against a model of sets: admissions, double spends, blocks, reverts, releases, restarts and crashes.

The model recomputes the set of unspent outputs from nothing but blocks and reservations after every step, which is the
engine's first invariant."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodewright import kernels
from nodewright.interfaces.common import Admitted
from nodewright.interfaces.execution import Outcome
from nodewright.storage import prefix
from nodewright_bitcoin.columns import KERNELS
from nodewright_bitcoin.transaction import Transaction

STEPS = st.lists(
    st.sampled_from(["admit", "admit", "admit", "rival", "block", "foreign", "revert", "release", "restart", "crash"]),
    min_size=5,
    max_size=25,
)

# Upgrades may pass under all of it.
ERAS = st.sampled_from([{}, {"genesis_height": 2, "chronicle_height": 4}])


class Model:
    """``chain`` has each block's (transactions, coinbase outpoint); ``reserved`` in dependency order; ``journal`` what the
    pool would admit again."""

    def __init__(self, world) -> None:
        self.world = world
        self.start = {coin[0] + coin[1].to_bytes(4, "little") for coin in world.genesis_coins()}
        self.chain: list[tuple[list[Transaction], bytes]] = []
        self.reserved: dict[bytes, Transaction] = {}
        self.owners: dict[bytes, list[int]] = {}
        self.all: dict[bytes, Transaction] = {}

    def unspent(self) -> set[bytes]:
        unspent = set(self.start)
        txs = [tx for block, _ in self.chain for tx in block] + list(self.reserved.values())
        unspent |= {coinbase for _, coinbase in self.chain}
        for tx in txs:
            for spent in tx.inputs:
                assert spent.outpoint in unspent, "the model itself spends twice"
                unspent.remove(spent.outpoint)
            unspent |= {tx.txid + index.to_bytes(4, "little") for index in range(len(tx.outputs))}
        return unspent

    def coins(self) -> list[tuple[bytes, int, int, int]]:
        """Spendable ones (not the coinbases, which are young)."""
        free = self.unspent()
        coins = [coin for coin in self.world.genesis_coins() if coin[0] + coin[1].to_bytes(4, "little") in free]
        for txid, owners in self.owners.items():
            coins += [
                coin
                for coin in self.world.coins_of(self.all[txid], owners)
                if coin[0] + coin[1].to_bytes(4, "little") in free
            ]
        return coins

    def make(self, coins, rng: random.Random) -> Transaction:
        total = sum(coin[2] for coin in coins) - rng.randrange(1000, 3000)
        owners = [rng.randrange(24), rng.randrange(24)]
        tx = self.world.pay(coins, [(total // 2, owners[0]), (total - total // 2, owners[1])])
        self.owners[tx.txid], self.all[tx.txid] = owners, tx
        return tx

    def family(self, roots: set[bytes]) -> set[bytes]:
        found = roots & set(self.reserved)
        for txid, tx in self.reserved.items():
            if any(spent.outpoint[:32] in found for spent in tx.inputs):
                found.add(txid)
        return found

    def drop(self, lost: set[bytes]) -> None:
        for txid in lost:
            self.reserved.pop(txid, None)


async def check(world, model: Model) -> None:
    found = {point async for point, _ in world.utxo.iterate_unspent()}
    assert found == model.unspent()
    assert set(world.engine.state.unmined) == set(model.reserved)


async def block_of(world, model: Model, txs: list[Transaction], rng: random.Random) -> None:
    """Cut into bundles, some with bodies; unknown transactions always have theirs."""
    cut = rng.randrange(len(txs) + 1)
    parts = [part for part in (txs[:cut], txs[cut:]) if part]
    bundles = [world.bundle_of(part, bodies=True) for part in parts]
    request = world.request(bundles, salt=rng.randbytes(4))
    result = await world.engine.execute(request)
    assert isinstance(result, Outcome), result
    inside = {tx.txid for tx in txs}
    spent = {own.outpoint: tx.txid for tx in txs for own in tx.inputs}
    roots = {
        txid
        for txid, tx in model.reserved.items()
        if txid not in inside and any(own.outpoint in spent for own in tx.inputs)
    }
    lost = model.family(roots)
    assert set(result.evicted) == lost
    if rng.random() < 0.3:  # a crash between execute and commit leaves the old head
        before = world.head
        await world.reopen(len(world.disk.unsynced))
        assert world.head == before
        await world.admit(*model.reserved.values())
        await world.engine.execute(request)
    await world.engine.commit(request.block)
    model.drop(lost | inside)
    model.chain.append((txs, Transaction.parse(request.prologue).txid + bytes(4)))


async def step(world, model: Model, action: str, rng: random.Random) -> None:
    coins = model.coins()
    if action == "admit" and coins:
        txs = []
        for _ in range(rng.randrange(1, 4)):
            coins = model.coins()
            if not coins:
                break
            tx = model.make(rng.sample(coins, min(len(coins), rng.randrange(1, 3))), rng)
            txs.append(tx)
            model.reserved[tx.txid] = tx
        answers = await world.admit(*txs)
        assert all(isinstance(answer, Admitted) for answer in answers), answers
    elif action == "rival" and model.reserved:
        victim = rng.choice(list(model.reserved.values()))
        own = victim.inputs[0]
        rival = model.make(
            [next(c for c in every_coin(world, model) if c[0] + c[1].to_bytes(4, "little") == own.outpoint)], rng
        )
        if rival.txid != victim.txid:
            (answer,) = await world.admit(rival)
            assert answer.kind == "conflict" and answer.data["winner"] == victim.txid
    elif action == "block":
        await block_of(world, model, list(model.reserved.values())[: rng.randrange(5)], rng)
    elif action == "foreign" and model.reserved:
        victim = rng.choice(list(model.reserved.values()))
        free = [c for c in every_coin(world, model) if c[0] + c[1].to_bytes(4, "little") == victim.inputs[0].outpoint]
        ancestors = [txid for txid in model.reserved if free[0][0] == txid]
        parents: list[Transaction] = []
        queue = ancestors
        while queue:
            txid = queue.pop()
            parents.insert(0, model.reserved[txid])
            queue += [own.outpoint[:32] for own in model.reserved[txid].inputs if own.outpoint[:32] in model.reserved]
        ordered = [tx for txid, tx in model.reserved.items() if txid in {parent.txid for parent in parents}]
        foreign = model.make(free, rng)
        if foreign.txid not in model.reserved:
            await block_of(world, model, [*ordered, foreign], rng)
    elif action == "revert" and model.chain:
        reverted = await world.engine.revert(world.head)
        txs, _ = model.chain.pop()
        assert [txid for txid, _ in reverted.transactions] == [tx.txid for tx in txs]
        model.reserved = {**{tx.txid: tx for tx in txs}, **model.reserved}
        if rng.random() < 0.5:
            await world.admit(*model.reserved.values())
    elif action == "release" and model.reserved:
        chosen = rng.choice(list(model.reserved))
        lost = await world.engine.release([chosen])
        assert set(lost) == model.family({chosen})
        model.drop(set(lost))
    elif action in ("restart", "crash"):
        # The pool's journal has every reservation, so whatever prefix of unsynced commits survives is completed.
        await world.reopen(rng.randrange(len(world.disk.unsynced) + 1) if action == "crash" else None)
        answers = await world.admit(*model.reserved.values())
        assert all(isinstance(answer, Admitted) for answer in answers), answers


def every_coin(world, model: Model):
    yield from world.genesis_coins()
    for txid, owners in model.owners.items():
        yield from world.coins_of(model.all[txid], owners)


@pytest.fixture(params=["plain", "columns"])
def path(request, monkeypatch):
    if request.param == "columns":
        assert kernels.warm_up(KERNELS) is None
        monkeypatch.setattr(prefix, "WORTH_IT", 1)
    yield request.param
    kernels.disable()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS, seed=st.integers(0, 2**32), eras=ERAS)
async def test_the_state_is_blocks_and_reservations_and_nothing_else(path, new_world, steps, seed, eras):
    rng = random.Random(seed)
    world = await new_world(**eras)
    model = Model(world)
    start = await world.digest()
    for action in steps:
        await step(world, model, action, rng)
        await check(world, model)
    while model.chain:
        await step(world, model, "revert", rng)
    await world.engine.release(list(world.engine.state.unmined))
    assert await world.digest() == start
