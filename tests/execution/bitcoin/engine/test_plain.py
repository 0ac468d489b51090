"""The plain path of admission leaves what the path for all others leaves: same answers, same reservations."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodewright import kernels
from nodewright.interfaces.common import Admitted, Refused
from nodewright.interfaces.execution import HEAD
from nodewright_bitcoin import admission, plain
from nodewright_bitcoin.columns import KERNELS
from nodewright_bitcoin.transaction import Transaction

KINDS = ["pay"] * 8 + [
    "two",
    "rival",
    "again",
    "child",
    "cheap",
    "locked",
    "damaged",
    "extended",
    "unknown",
    "version",
    "more",
]
BATCHES = st.lists(st.lists(st.sampled_from(KINDS), min_size=4, max_size=9), min_size=1, max_size=4)


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels():
    assert kernels.warm_up(KERNELS) is None
    yield
    kernels.disable()


def make(world: Any, kinds: list[str], coins: list[Any], old: list[Transaction], rng: random.Random) -> list[bytes]:
    """One raw transaction for each kind, over ``coins``, which loses what they spend; rivals, children of ``old``."""
    raws: list[bytes] = []
    for kind in kinds:
        if kind == "again" and old:
            raws.append(rng.choice(old).raw)
            continue
        taken = [coins.pop(rng.randrange(len(coins))) for _ in range(min(len(coins), 2 if kind == "two" else 1))]
        if kind == "rival" and old:
            spent = rng.choice(old).inputs[0].outpoint
            taken += [coin for coin in world.genesis_coins() if coin[0] + coin[1].to_bytes(4, "little") == spent]
        elif kind == "child" and old:
            parent = rng.choice(old)
            if len(parent.outputs) == 1:
                taken = world.coins_of(parent, [3])
        if kind == "unknown":
            taken = [(b"\x77" * 32, 0, 50_000, 1)]
        if not taken:
            continue
        total = sum(coin[2] for coin in taken)
        paid = total if kind == "cheap" else total + 1 if kind == "more" else total - 1000
        tx = world.pay(taken, [(paid, 3)], *((50, 0) if kind == "locked" else ()))
        if kind == "version":
            tx = Transaction.parse(b"\x03" + tx.raw[1:])
        if kind == "damaged":
            script = bytearray(tx.inputs[0].script)
            script[20] ^= 1
            tx = Transaction.parse(attrs.evolve(tx, inputs=[attrs.evolve(tx.inputs[0], script=bytes(script))]).raw)
        old.append(tx)
        raws.append(tx.serialize(extended=True) if kind == "extended" else tx.raw)
    return raws


def state_of(world: Any) -> Any:
    state = world.engine.state
    return (dict(state.unmined), dict(state.spenders), set(state.staged), dict(state.judged_by))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BATCHES, st.integers(0, 2**32), st.sampled_from([{}, {"chronicle_height": 9}]))
def test_both_ways_leave_the_same(new_world: Any, batches: list[list[str]], seed: int, eras: dict[str, int]) -> None:
    async def story() -> int:
        rng = random.Random(seed)
        fast, slow = await new_world(**eras), await new_world(**eras)
        coins, old = fast.genesis_coins(), []
        judge, took, staged = plain.judge, 0, list[bytes]()
        for kinds in batches:
            raws = make(fast, kinds, coins, old, rng)
            confirm = rng.random() < 0.5
            answers = await fast.engine.admit(raws, fast.head, fast.now)
            took += sum(isinstance(answer, Admitted) and not answer.known for answer in answers)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(plain, "judge", lambda offers, *_: offers)
                assert await slow.engine.admit(raws, slow.head, slow.now) == answers
            assert plain.judge is judge and state_of(fast) == state_of(slow)
            assert list(fast.engine.state.judged_by.values()) == [len(fast.engine.state.unmined)] * bool(
                fast.engine.state.unmined
            )
            staged += [answer.id for answer in answers if isinstance(answer, Admitted)]
            for world in (fast, slow) if confirm else ():
                await world.engine.confirm(staged)  # in the order admitted, as the pool's journal has it
        assert await fast.digest() == await slow.digest()
        return took

    trio.run(story)


async def test_most_of_a_batch_does_take_it(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slow: list[bytes] = []
    real = admission.Admitter._stage

    def counted(self: Any, offer: Any, *arguments: Any) -> None:
        slow.append(offer.tx.txid)
        real(self, offer, *arguments)

    monkeypatch.setattr(admission.Admitter, "_stage", counted)
    coins = world.genesis_coins()
    txs = [world.pay([coin], [(900_000, 1)]) for coin in coins[:6]] + [world.pay(coins[6:8], [(1_900_000, 1)])]
    child = world.pay(world.coins_of(txs[0], [1]), [(800_000, 2)])
    answers = await world.admit(*txs, child)
    assert all(isinstance(answer, Admitted) for answer in answers)
    assert slow == [child.txid]


@pytest.mark.parametrize("confirmed", [False, True])
async def test_what_comes_while_scripts_are_checked_is_seen(
    world: Any, monkeypatch: pytest.MonkeyPatch, confirmed: bool
) -> None:
    """An output frozen meanwhile, one spent meanwhile by another batch, the same transaction taken meanwhile."""
    coins = world.genesis_coins()
    txs = [world.pay([coin], [(900_000, 1)]) for coin in coins[:6]]
    rival = world.pay([coins[1]], [(800_000, 2)])
    real = admission.Admitter._scripts

    async def meanwhile(self: Any, *arguments: Any) -> None:
        await real(self, *arguments)
        monkeypatch.setattr(admission.Admitter, "_scripts", real)
        await world.admit(rival, txs[2], confirm=confirmed)
        if confirmed:
            await world.engine.query(HEAD, "freeze", outpoints=[coins[0][0] + coins[0][1].to_bytes(4, "little")])

    monkeypatch.setattr(admission.Admitter, "_scripts", meanwhile)
    answers = await world.admit(*txs)
    assert isinstance(answers[1], Refused) and answers[1].data["winner"] == rival.txid
    assert isinstance(answers[2], Admitted) and answers[2].known
    if confirmed:
        assert isinstance(answers[0], Refused) and answers[0].code == "bad-txns-inputs-frozen"
    assert all(isinstance(answer, Admitted) for answer in answers[3:])
