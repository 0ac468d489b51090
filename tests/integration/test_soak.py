"""Half an hour of six nodes in virtual time: transactions and double spends at every node, all of them mining, over a
network that delays, loses, repeats and reorders, and is parted again and again. One chain at the end, nothing lost, the
same outputs everywhere, and ``nodewright verify``'s logic finds no difference in any store.

``--budget 10`` runs the half hour, 1 a short span of it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import trio

from nodewright.db.recompute import compare, read_journal
from nodewright.node.statuses import FinalStatuses
from nodewright_bitcoin.audit import BitcoinAudit
from nodewright_nakamoto.audit import NakamotoAudit

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
WHOLE_SECONDS = 1800
SHORT_SECONDS = 30
CALM = {"delay_seconds": (0.001, 0.01), "loss": 0.0, "duplication": 0.0, "reordering": 0.0}
ROUGH = {"delay_seconds": (0.02, 0.6), "loss": 0.05, "duplication": 0.05, "reordering": 0.1, "reorder_seconds": 1.0}
BETWEEN_TRANSACTIONS = (0.5, 3.5)  # seconds, at each node
BETWEEN_BLOCKS = 60.0  # mean, at each node
LEAST_COIN = 20_000


class Told:
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.differences: list[tuple[str, str]] = []
        self.notes: list[str] = []

    def differs(self, kind: str, where: str, fix: str) -> None:
        self.differences.append((kind, where))

    def note(self, line: str) -> None:
        self.notes.append(line)

    @contextmanager
    def progress(self, label: str, length: int | None) -> Any:
        yield lambda steps: None


async def verified(node: Any, allocation: Any) -> Told:
    """What the command does with a stopped node, on the stores of one at rest."""
    told = Told()
    chain, environment = node.consensus.chain, node.environment("verify")
    statuses = FinalStatuses(86_400, 1_000_000)
    journal = await read_journal(environment, node.folder / "pool" / "journal", statuses, told)
    state = BitcoinAudit(node.engine.store, allocation)
    audit = NakamotoAudit(chain.genesis, chain.store.chain, chain.store.blobs, chain.store, state.identify, told)
    await compare(audit, state, journal, statuses, told)
    return told


class Side:
    """What one node spends. ``own`` is spent here alone, so each of it is to be accepted; ``risky`` descends from a double
    spend, and may turn out never to have been."""

    def __init__(self, node: Any, trader: Any) -> None:
        self.node = node
        self.own = trader
        self.risky: list[Any] = []


async def trade(world: Any, sides: list[Side], number: int, money: Any) -> None:
    side, dice = sides[number], world.dice
    while True:
        await trio.sleep(dice.uniform(*BETWEEN_TRANSACTIONS))
        side.own.coins = [coin for coin in side.own.coins if coin.satoshis >= LEAST_COIN]
        chance = dice.random()
        if chance < 0.1 and len(side.own.coins) > 2:
            await double_spend(world, side, dice.choice([one for one in sides if one is not side]), money)
        elif chance < 0.3 and side.risky:
            coin = side.risky.pop(dice.randrange(len(side.risky)))
            if coin.satoshis >= LEAST_COIN:
                await attempt(world, side, money.pay([coin], [dice.choice(side.own.owners)]), money)
        elif side.own.coins:
            await side.node.accept(side.own.next())


async def double_spend(world: Any, side: Side, other: Side, money: Any) -> None:
    """One coin, spent at two nodes at once."""
    coin = side.own.take()
    async with trio.open_nursery() as nursery:
        for one in (side, other):
            nursery.start_soon(attempt, world, one, money.pay([coin], [world.dice.choice(one.own.owners)]), money)


async def attempt(world: Any, side: Side, tx: Any, money: Any) -> None:
    (answer,) = await side.node.submit(tx)
    if isinstance(answer, money.Admitted):
        world.acknowledge(side.node, tx)
        side.risky += money.coins_of(tx)
    else:
        assert answer.kind in ("conflict", "missing"), answer


async def mine(world: Any, node: Any) -> None:
    while True:
        await trio.sleep(world.dice.expovariate(1 / BETWEEN_BLOCKS))
        await node.consensus.control("generate")


async def disturb(world: Any) -> None:
    dice = world.dice
    while True:
        await trio.sleep(dice.uniform(10, 60))
        names = dice.sample(NAMES, len(NAMES))
        cuts = sorted(dice.sample(range(1, len(names)), dice.choice((1, 1, 2))))
        world.network.partition(*[names[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)])
        await trio.sleep(dice.uniform(10, 90))
        world.network.heal()
        world.network.disconnect(*dice.sample(NAMES, 2))


def soak(money: Any, seconds: float) -> Callable[[Any], Any]:
    async def story(world: Any) -> dict[str, Any]:
        nodes = [await world.node(name) for name in NAMES]
        coins = money.genesis_coins()
        share = money.KEYS // len(nodes)
        sides = []
        for number, node in enumerate(nodes):
            owners = range(share * number, share * number + share)
            sides.append(Side(node, money.Trader(world.dice, coins[owners.start : owners.stop], owners)))
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for number, node in enumerate(nodes):
                    nursery.start_soon(trade, world, sides, number, money)
                    nursery.start_soon(mine, world, node)
                nursery.start_soon(disturb, world)
        world.network.heal()
        world.network.set_conditions(**CALM)
        await world.together_or_mine(nodes[0])
        await world.rest(*nodes)
        kept, displaced = await world.account()
        digests = {(await node.digest())["hash_serialized"] for node in nodes}
        for node in nodes:
            told = await verified(node, money.allocation())
            assert told.differences == [], f"{node.name}: {told.differences}"
            assert any(next(iter(digests)) in note for note in told.notes)
        return {
            "kept": kept,
            "displaced": displaced,
            "digests": len(digests),
            "height": nodes[0].head.height,
            "reorganisations": sum(len(node.events.of("reorganised")) for node in nodes),
            "deepest": max((one["depth"] for node in nodes for one in node.events.of("reorganised")), default=0),
        }

    return story


def test_soak(tell: Any, money: Any, budget: int, capsys: Any) -> None:
    seconds = WHOLE_SECONDS if budget >= 10 else SHORT_SECONDS * budget
    told = tell(soak(money, seconds), seed=6, **ROUGH)
    with capsys.disabled():
        print(f"\n{told.seconds:.0f} virtual seconds: {told.value}")
    assert told.value["digests"] == 1
    assert told.value["kept"] > seconds  # more than one a second
    assert told.value["height"] > seconds / 60
