"""Relative lock times before Genesis in whole nodes: a reorganisation makes what was ripe wait, and nothing is lost by it.

Invariants:
- no block of a node is refused by itself or by another: what is not old enough on the new chain leaves the assembly with
  all that descends from it, and stays pending until it is;
- a restart in between changes nothing.
"""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio

from nodewright.interfaces import Refused
from nodewright_bitcoin.signing import build_transaction, sign_p2pkh_inputs
from nodewright_bitcoin.transaction import Transaction

BY_TIME = 1 << 22


def spend(money: Any, coin: Any, outputs: int, sequence: int = 0xFFFFFFFF) -> Transaction:
    each = (coin.satoshis - 1000) // outputs
    script = money.SCRIPTS[coin.owner]
    tx = build_transaction([(coin.txid, coin.index, coin.satoshis, script)], [(each, script)] * outputs, 2, 0, sequence)
    return sign_p2pkh_inputs(tx, [money.OWNERS[coin.owner]])


@pytest.mark.parametrize(
    ("sequence", "mined", "restart"),
    [(3, False, False), (3, True, True), (1 | BY_TIME, True, False), (1 | BY_TIME, False, True)],
    ids=["blocks-pending", "blocks-mined-restart", "time-mined", "time-pending-restart"],
)
def test_what_a_reorganisation_makes_too_young_waits(
    tell: Any, money: Any, sequence: int, mined: bool, restart: bool
) -> None:
    async def story(world: Any) -> None:
        world.parameters = attrs.evolve(world.parameters, genesis_height=1000, chronicle_height=2000)
        alpha, beta = await world.node("alpha"), await world.node("beta")
        coins = money.genesis_coins()
        await world.together()
        world.network.partition(["alpha"], ["beta"])
        parent = spend(money, coins[0], 2)
        child = spend(money, money.coins_of(parent)[0], 1, sequence)
        heir = spend(money, money.coins_of(child)[0], 1)
        other = spend(money, coins[1], 1)

        async def mine(node: Any, count: int = 1) -> None:
            for _ in range(count):
                await trio.sleep(100 if sequence & BY_TIME else 1)
                await node.consensus.control("generate", count=1)

        await mine(alpha, 4)
        await alpha.accept(parent)
        await alpha.generate()
        (answer,) = await alpha.submit(child)
        assert isinstance(answer, Refused)
        assert (answer.code, answer.kind) == ("non-BIP68-final", "policy")
        while isinstance((await alpha.submit(child))[0], Refused):
            await mine(alpha)
        await alpha.accept(child, heir, other)
        await alpha.assembled()
        if mined:
            await alpha.generate()
        assert sequence & BY_TIME or alpha.head.height == 7 + mined
        # The other side's chain is longer, and empty.
        await mine(beta, alpha.head.height + 1)
        world.network.heal()
        await world.together()
        assert alpha.events.of("reorganised")
        if restart:
            await alpha.lose_power()
            await alpha.start()
            await world.together()
        assert len(alpha.pool) == 4
        fork = alpha.head.height
        await money.until(lambda: len(alpha.consensus.chain.assembler) == 2)
        for _ in range(20):
            await mine(alpha)
            await world.together()
            if not len(alpha.pool):
                break
            if restart and alpha.head.height == fork + 2:
                await alpha.lose_power()
                await alpha.start()
                await world.together()
            await trio.sleep(5)
        blocks = await beta.blocks()
        where = {tx.txid: ref.height for ref, txs in blocks for tx in txs}
        assert where[parent.txid] == where[other.txid] == fork + 1
        assert where[child.txid] == where[heir.txid]
        made, held = where[parent.txid], where[child.txid]
        times = beta.consensus.chain.index
        if sequence & BY_TIME:
            since = times.median_time_past(beta.head, made - 1) + 512
            assert times.median_time_past(beta.head, held - 2) < since <= times.median_time_past(beta.head, held - 1)
        else:
            assert held == made + 3
        await world.replay(beta)
        for node in (alpha, beta):
            assert not node.events.of("block_refused")
        kept, displaced = await world.account()
        assert (kept, displaced) == (4, 0)

    tell(story)


def test_a_block_that_comes_too_early_is_refused(tell: Any, money: Any) -> None:
    """Alpha mines by the rules of Genesis, beta by those before it."""

    async def story(world: Any) -> None:
        alpha = await world.node("alpha")
        world.parameters = attrs.evolve(world.parameters, genesis_height=1000, chronicle_height=2000)
        beta = await world.node("beta")
        parent = spend(money, money.genesis_coins()[0], 2)
        child = spend(money, money.coins_of(parent)[0], 1, 3)
        await alpha.accept(parent)
        await alpha.generate()
        await alpha.generate()
        await world.together()
        good = beta.head
        await alpha.accept(child)
        await alpha.generate()  # at 3, where 4 is due
        await money.until(lambda: bool(beta.events.of("block_refused")))
        (refused,) = beta.events.of("block_refused")
        assert (refused["code"], refused["final"], refused["height"]) == ("bad-txns-nonfinal", True, 3)
        assert refused["transaction"] == child.txid[::-1].hex()
        assert beta.head == good
        # Beta has cut alpha off, and goes on by itself.
        (answer,) = await beta.submit(child)
        assert isinstance(answer, Refused)
        await beta.generate()
        await beta.accept(child)
        await beta.generate()
        blocks = await beta.blocks()
        assert [tx.txid for tx in blocks[3][1][1:]] == [child.txid]
        assert len(beta.events.of("block_refused")) == 1

    tell(story)
