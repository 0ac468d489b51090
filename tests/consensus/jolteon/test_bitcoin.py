"""``jolteon × bitcoin``: unspent outputs ordered by votes, over the real execution."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import trio

from nodewright_bitcoin import coinbase
from nodewright_bitcoin.network import LOCAL
from nodewright_bsv_api.bench.wallet import Coin, Key, spend

COINS = 12
VALUE = 100_000


def key(index: int) -> Key:
    return Key(11, index)


def document() -> dict[str, Any]:
    return {"allocations": [{"satoshis": VALUE, "script": key(index).script.hex()} for index in range(COINS)]}


def coins() -> list[Coin]:
    given = coinbase.allocation(document(), LOCAL)
    assert given is not None
    return [Coin(given.txid + index.to_bytes(4, "little"), VALUE, key(index)) for index in range(COINS)]


def txid(raw: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(raw).digest()).digest()


def pay(coin: Coin, to: int, fee: int = 200) -> tuple[bytes, Coin]:
    raw = spend(coin, [(coin.satoshis - fee, key(to).script)])
    return raw, Coin(txid(raw) + bytes(4), coin.satoshis - fee, key(to))


def spoilt(coin: Coin) -> bytes:
    """Signed by the wrong key of the same form."""
    return spend(Coin(coin.outpoint, coin.satoshis, Wrong(coin.key)), [(coin.satoshis - 200, key(0).script)])  # type: ignore[arg-type]


class Wrong:
    def __init__(self, owner: Key) -> None:
        self.private, self.public, self.script = Key(99, 99).private, owner.public, owner.script


def network(world: Any, kit: Any, **rules: Any) -> list[Any]:
    world.found(kit.names, document(), **rules)
    return [world.node(name, "bitcoin") for name in kit.names]


async def seal(node: Any, *raws: bytes) -> None:
    await node.consensus.quorum.seal([([txid(raw) for raw in raws], raws)])


@pytest.mark.parametrize("seed", range(1))
def test_payments_are_committed_on_every_node(play: Callable[..., Any], kit: Any, book: Any, seed: int) -> None:
    async def story(world: Any) -> None:
        nodes = network(world, kit)
        for node in nodes:
            node.meddle = book.watch
        await world.start()
        ids: list[bytes] = []
        for at, coin in enumerate(coins()[:6]):
            for hop in range(3):
                raw, coin = pay(coin, hop)
                ids += await world.submit(nodes[at % 4], raw)
        await world.settled(nodes[0], ids)
        dead = nodes[seed]
        await dead.crash()
        alive = [node for node in nodes if node is not dead]
        for at, coin in enumerate(coins()[6:]):
            ids += await world.submit(alive[at % 3], pay(coin, at)[0])
            await trio.sleep(0.3)
        await world.start(dead)
        for node in nodes:
            await world.settled(node, ids)
        await world.agree()
        record = await nodes[2].consensus.block_at(1)
        assert record is not None and record.prologue and record.transactions >= 1

    play(story, seed, kit.harsh)


@pytest.mark.parametrize("seed", range(3))
def test_conflicts_and_orphans_have_one_result_on_four_nodes(
    play: Callable[..., Any], kit: Any, seed: int, budget: int
) -> None:
    """Two spends of one coin in two proven batches, a child before its parent, a grandchild before both, one whose parent
    never comes, and one that turns out to be forged when its parent comes."""

    if seed > budget:
        pytest.skip("two seeds in the small budget")

    async def story(world: Any) -> None:
        nodes = network(world, kit, retry_seconds=3)
        await world.start()
        one, other = pay(coins()[0], 1)[0], pay(coins()[0], 2)[0]
        await nodes[0].pool.submit([one])
        await nodes[1].pool.submit([other])
        parent, middle = pay(coins()[1], 3)
        child, last = pay(middle, 4)
        grandchild, _ = pay(last, 5)
        forged = spoilt(pay(coins()[2], 6)[1])
        its_parent = pay(coins()[2], 6)[0]
        orphan = pay(pay(coins()[3], 7)[1], 8)[0]
        good = pay(coins()[4], 9)[0]
        await seal(nodes[2], grandchild, child, orphan, good, forged)
        await world.until(lambda: nodes[3].consensus.chain.carrying)
        await nodes[3].pool.submit([parent])  # reserved on one node, unknown to the others
        await nodes[3].pool.submit([its_parent])

        async def done() -> bool:
            ids = [txid(raw) for raw in (one, other, parent, child, grandchild, forged, its_parent, orphan, good)]
            found = [await node.statuses(ids) for node in nodes]
            return all("pending" not in row and "unknown" not in row for row in found)

        await world.until(done)
        for node in nodes:
            kept = [txid(raw) for raw in (parent, child, grandchild, its_parent, good)]
            assert await node.statuses(kept) == ["committed"] * 5
            assert await node.statuses([txid(forged), txid(orphan)]) == ["rejected"] * 2
            pair = sorted(await node.statuses([txid(one), txid(other)]))
            assert pair in (["committed", "rejected"], ["committed", "replaced"])
        await world.agree()

    play(story, seed)


def test_one_that_was_away_long_comes_back_quickly(play: Callable[..., Any], kit: Any) -> None:
    """An execution with one durable head runs a block only on a committed one: pages prove each block."""

    async def story(world: Any) -> None:
        nodes = network(world, kit)
        await world.start()
        await world.agree(beyond=2)
        await nodes[2].crash()
        await world.until(lambda: nodes[0].height > 75)
        await world.start(nodes[2])
        await world.until(lambda: nodes[2].height + 4 > nodes[0].height, 10)
        await world.same()

    play(story)
