"""Reorganisations under a full pool, and blocks that hold the other side of a double spend."""

from __future__ import annotations

from typing import Any

import pytest
import trio


def chain_of(money: Any, coin: Any, count: int) -> list[Any]:
    """Transactions each of which spends the one before."""
    txs = []
    for _ in range(count):
        tx = money.pay([coin], [coin.owner])
        (coin,) = money.coins_of(tx)
        txs.append(tx)
    return txs


@pytest.mark.parametrize("restart", [False, True], ids=["", "restart"])
@pytest.mark.parametrize("conflict", [False, True], ids=["", "conflict"])
@pytest.mark.parametrize("depth", [1, 6])
def test_with_the_pool_full_of_children(tell: Any, money: Any, depth: int, conflict: bool, restart: bool) -> None:
    """``depth`` blocks of the first node go, their transactions stand again before their children, and all is mined."""

    async def story(world: Any) -> None:
        alpha, beta = await world.node("alpha"), await world.node("beta")
        world.network.partition(["alpha"], ["beta"])
        coins = money.genesis_coins()
        # Each chain begins in one of alpha's blocks, goes on in the later ones, and its end waits in the pool.
        chains = [chain_of(money, coin, depth + 20) for coin in coins[:10]]
        coinbases = []
        for height in range(depth):
            await alpha.accept(*[chain[height] for chain in chains])
            (block,) = await alpha.generate()
            coinbases.append(await alpha.coinbase_coin(block))
        rest = [tx for at in range(depth, depth + 20) for tx in (chain[at] for chain in chains)]
        await alpha.accept(*rest)
        lost = []
        if depth > money.MATURITY:  # money of a block that will not have been: it and what it paid go with it
            lost = chain_of(money, coinbases[0], 3)
            await alpha.accept(*lost)
        if conflict:
            await beta.accept(money.pay([coins[0]], [1]))
        await beta.generate(depth + 1)
        world.network.heal()
        await world.together()
        (event,) = alpha.events.of("reorganised")
        assert event["depth"] == depth
        gone = chains[0] if conflict else []
        await money.until(lambda: len(alpha.pool) == 10 * (depth + 20) - len(gone))
        await world.replay(alpha)
        if restart:
            await alpha.lose_power()
            await alpha.start()
            await world.replay(alpha)
        blocks = alpha.head.height
        await alpha.generate()
        assert len(alpha.pool) == 0
        assert alpha.head.height == blocks + 1, "the first block holds them all"
        await world.together()
        kept, displaced = await world.account()
        assert displaced == len(gone) + len(lost)
        assert kept == len(world.acknowledged) - displaced
        for tx in gone:
            status = await alpha.status(tx)
            assert status is not None
            assert status.status == "replaced"
        for tx in lost:
            status = await alpha.status(tx)
            assert status is not None
            assert status.status == "rejected"

    tell(story)


def test_a_hundred_deep(tell: Any, money: Any) -> None:
    """A hundred blocks go, with the money that they made; the power fails in the middle of it."""

    async def story(world: Any) -> None:
        alpha, beta = await world.node("alpha"), await world.node("beta")
        world.network.partition(["alpha"], ["beta"])
        coins = money.genesis_coins()
        chain = chain_of(money, coins[0], 20)
        for number in range(100):
            if number % 5 == 0:
                await alpha.accept(chain[number // 5])
            (block,) = await alpha.generate()
            if number == 10:
                made = await alpha.coinbase_coin(block)
        spent = money.pay([made], [1])  # money of a block that will not have been
        await alpha.accept(spent)
        loser = money.pay([coins[1]], [1])
        await alpha.accept(loser)
        await alpha.generate()
        await beta.accept(money.pay([coins[1]], [2]))
        await beta.generate(102)
        alpha.power.cut_at = alpha.power.points + 150
        world.network.heal()
        await alpha.power.went.wait()
        assert 0 < alpha.head.height < 101, "some of the blocks have gone"
        await alpha.lose_power()
        await alpha.start()
        await world.together()
        await money.until(lambda: len(alpha.pool) == len(chain))
        await world.replay(alpha)
        await alpha.generate()
        assert len(alpha.pool) == 0
        await world.together()
        assert await world.account() == (len(chain) + 1, 2)

    tell(story)


def test_there_and_back(tell: Any, money: Any) -> None:
    """The operator takes blocks out and lets them in again, with the pool in use: nothing changes in the end."""

    async def story(world: Any) -> None:
        alpha = await world.node("alpha")
        trader = money.Trader(world.dice, money.genesis_coins())
        ids = []
        for _ in range(6):
            await alpha.accept(*[trader.next() for _ in range(5)])
            ids += await alpha.generate()
        before = await alpha.digest()
        for id in (ids[5], ids[0], ids[3]):
            await alpha.consensus.control("invalidate_block", id=id)
            await world.replay(alpha)
            await alpha.accept(trader.next())
            await alpha.consensus.control("reconsider_block", id=id)
            await world.replay(alpha)
            assert alpha.head.id == ids[5]
        assert len(alpha.pool) == 3
        assert (await alpha.digest())["bestblock"] == before["bestblock"]
        await world.rest(alpha)
        assert await world.account() == (33, 0)

    tell(story)


@pytest.mark.parametrize("descendants", [0, 1, 30])
def test_a_block_with_the_other_side_of_a_double_spend(tell: Any, money: Any, descendants: int) -> None:
    async def story(world: Any) -> None:
        alpha, beta = await world.node("alpha"), await world.node("beta")
        world.network.partition(["alpha"], ["beta"])
        coins = money.genesis_coins()
        ours = chain_of(money, coins[0], 1 + descendants)
        # One descendant also spends another coin, which is free again afterwards.
        other = money.pay([money.coins_of(ours[-1])[0], coins[1]], [2])
        bystander = money.pay([coins[2]], [2])
        await alpha.accept(*ours, other, bystander)
        winner = money.pay([coins[0]], [5])
        await beta.accept(winner)
        await beta.generate()
        world.network.heal()
        await world.together()
        await money.until(lambda: len(beta.pool) == 1)  # the bystander
        told = {
            one["id"]: one["winner"]
            for event in alpha.events.of("evicted")
            for one in event["transactions"]
            if isinstance(one, dict)
        }
        assert told == {tx.txid[::-1].hex(): winner.txid[::-1].hex() for tx in (*ours, other)}
        assert alpha.events.of("double_spend")
        for tx in (*ours, other):
            status = await alpha.status(tx)
            assert status is not None
            assert (status.status, status.detail) == ("replaced", winner.txid[::-1].hex())
            (answer,) = await alpha.submit(tx)
            assert answer.kind in ("conflict", "missing")
        (status,) = await alpha.pool.status([bystander.txid])
        assert status is not None
        assert status.status == "pending"
        await alpha.accept(money.pay([coins[1]], [3]), money.pay(money.coins_of(winner), [4]))
        await world.rest(alpha)
        assert await world.account() == (4, len(ours) + 1)

    tell(story)


def test_double_spends_race_blocks(tell: Any, money: Any) -> None:
    """Both sides of double spends while blocks come: submissions stand between ``execute`` and ``commit`` now and then."""

    async def story(world: Any) -> None:
        alpha, beta = await world.node("alpha"), await world.node("beta")
        coins = money.genesis_coins()

        async def spend(node: Any, owner: int) -> None:
            for coin in coins:
                chain = chain_of(money, money.coins_of(first)[0], 3) if (first := money.pay([coin], [owner])) else []
                for tx, answer in zip([first, *chain], await node.submit(first, *chain), strict=True):
                    if isinstance(answer, money.Admitted):
                        world.acknowledge(node, tx)
                await trio.sleep(world.dice.uniform(0, 0.3))

        async def mine(node: Any) -> None:
            for _ in range(12):
                await node.consensus.control("generate")
                await trio.sleep(world.dice.uniform(0, 0.8))

        async with trio.open_nursery() as nursery:
            for number, node in enumerate((alpha, beta)):
                nursery.start_soon(spend, node, number)
                nursery.start_soon(mine, node)
        await world.together_or_mine(alpha)
        await world.rest(alpha, beta)
        kept, _ = await world.account()
        assert kept == 4 * len(coins)

    for seed in range(4):
        tell(story, seed)
