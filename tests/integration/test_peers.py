"""What comes out of order, or in conflict: children before parents from a client and from a peer, two sides of one coin in
two subtrees, a node that joins late."""

from __future__ import annotations

from typing import Any

import trio

from nodewright_nakamoto import messages, subtree
from nodewright_nakamoto.serve import tip_of


class Bodies:
    """What a peer has to give, by id."""

    def __init__(self, bodies: dict[bytes, bytes]) -> None:
        self._bodies = bodies

    async def size(self, id: bytes) -> int | None:
        return len(self._bodies[id]) if id in self._bodies else None

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        return self._bodies[id][offset : offset + length]


class Peer:
    """Speaks the protocol, holds no chain, and announces whatever it is told to."""

    def __init__(self, world: Any, name: str, other: Any) -> None:
        self.other = other
        self.series = 0
        self.raws: dict[bytes, bytes] = {}
        self.records: dict[bytes, bytes] = {}
        self.transport = world.network.transport(name)
        self.requests = self.transport.channel(messages.REQUEST, 256, "block", messages.MAX_MESSAGE_BYTES)
        self.announcements = self.transport.channel(messages.ANNOUNCE, 1024, "oldest", 4096)
        self.transport.provide(messages.BODY_SUBTREE, Bodies(self.records))
        self.transport.open_gate()
        world.nursery.start_soon(self._answer)

    async def _answer(self) -> None:
        while True:
            message = await self.requests.receive()
            kind, rest = message.payload[:1], message.payload[1:]
            reply = b""
            if kind == b"T":
                reply = tip_of(self.other.consensus.chain.index.root).encode()
            elif kind == b"X":
                ids = messages.decode_ids(rest, messages.MAX_IDS)
                reply = messages.encode_transactions([self.raws.get(id) for id in ids])
            await message.reply(reply)

    async def announce(self, *txs: Any, sealed: bool = False, hidden: tuple[Any, ...] = ()) -> bytes:
        """A subtree of these in this order, without the bodies of what is hidden."""
        self.raws |= {tx.txid: tx.raw for tx in txs if tx not in hidden}
        built = subtree.build(b"".join(tx.txid for tx in txs), [500] * len(txs), [len(tx.raw) for tx in txs])
        self.records[built.root] = messages.encode_records(built.leaves, built.fees, built.sizes)
        self.series += 1
        await self.announcements.broadcast(messages.SubtreeAnnouncement(built.root, len(txs), self.series, sealed).encode())
        return built.root


async def connected(world: Any, money: Any) -> tuple[Any, Peer]:
    alpha = await world.node("alpha")
    peer = Peer(world, "peer", alpha)
    await money.until(lambda: len(alpha.transport.peers()) == 1)
    return alpha, peer


def family(money: Any, coin: Any) -> list[Any]:
    """A parent, its two children, and what spends both of those."""
    parent = money.pay([coin], [1, 2])
    children = [money.pay([one], [3]) for one in money.coins_of(parent)]
    return [parent, *children, money.pay([*money.coins_of(children[0]), *money.coins_of(children[1])], [4])]


def test_children_before_parents_in_one_call(tell: Any, money: Any) -> None:
    """All are taken, and stand in the next block behind their parents, also where the node loses power in between."""

    async def story(world: Any) -> None:
        alpha = await world.node("alpha")
        for number, coin in enumerate(money.genesis_coins()[:20]):
            txs = family(money, coin)
            world.dice.shuffle(txs)
            await alpha.accept(*txs)
            if number % 5 == 4:
                await alpha.lose_power()
                await alpha.start()
            if number % 3 == 2:
                await alpha.generate()
                assert len(alpha.pool) == 0
        await world.rest(alpha)
        assert await world.account() == (80, 0)

    for seed in range(3):
        tell(story, seed)


def test_children_before_parents_from_a_peer(tell: Any, money: Any) -> None:
    async def story(world: Any) -> None:
        alpha, peer = await connected(world, money)
        coins = money.genesis_coins()
        for number in range(6):
            txs = family(money, coins[number])
            order = txs[::-1] if number % 2 else [txs[3], txs[0], txs[2], txs[1]]
            await peer.announce(*order, sealed=number > 2)
            await money.until(lambda number=number: len(alpha.pool) == 4 * (number + 1))
        # Parents in a subtree that comes later, or in none: fetched by id, as they are missed.
        parent, *rest = family(money, coins[10])
        await peer.announce(*rest[::-1], hidden=(parent,))
        await trio.sleep(5)
        assert len(alpha.pool) == 24
        await peer.announce(parent)
        await money.until(lambda: len(alpha.pool) == 25)
        await peer.announce(*rest)
        await money.until(lambda: len(alpha.pool) == 28)
        await alpha.generate()
        assert len(alpha.pool) == 0
        await world.replay(alpha)
        ((_, txs),) = await alpha.blocks()
        assert len(txs) == 29

    tell(story)


def test_conflicting_subtrees_of_one_peer_and_of_two(tell: Any, money: Any) -> None:
    """First seen stands, the other is told of; and the block decides."""

    async def story(world: Any) -> None:
        alpha, peer = await connected(world, money)
        other = Peer(world, "other", alpha)
        await money.until(lambda: len(alpha.transport.peers()) == 2)
        coins = money.genesis_coins()
        ours, theirs = [[money.pay([coin], [owner]) for coin in coins[:8]] for owner in (1, 2)]
        child = money.pay([*money.coins_of(theirs[0]), coins[20]], [3])
        await peer.announce(*ours, sealed=True)
        await money.until(lambda: len(alpha.pool) == 8)
        await peer.announce(*theirs[:4], child, sealed=True)
        await other.announce(*theirs, sealed=True)
        await money.until(lambda: len(alpha.events.of("double_spend")) >= 8)
        await trio.sleep(5)
        assert {tx.txid for tx in alpha.pending()} == {tx.txid for tx in ours}
        free = money.pay([coins[20]], [5])
        await alpha.accept(free)  # the child that was not taken reserves nothing
        await alpha.generate()
        replay = await world.replay(alpha)
        assert replay.mined.keys() >= {tx.txid for tx in (*ours, free)}
        assert len(alpha.pool) == 0
        assert len(alpha.transport.peers()) == 2, "nobody is to blame for a conflict"

    tell(story)


def test_a_node_that_joins_late_is_told_what_is_pending(tell: Any, money: Any) -> None:
    """Without a block in between, and though nothing is posted any more."""

    async def story(world: Any) -> None:
        alpha = await world.node("alpha")
        trader = money.Trader(world.dice, money.genesis_coins())
        await alpha.accept(*[trader.next() for _ in range(60)])
        await alpha.generate()
        await alpha.accept(*[trader.next() for _ in range(30)])
        await alpha.assembled()
        await trio.sleep(30)
        beta = await world.node("beta")
        await world.together()
        await money.until(lambda: len(beta.pool) == len(alpha.pool) == 30)
        await beta.generate()
        await world.together()
        assert len(alpha.pool) == 0
        assert await world.account() == (90, 0)

    tell(story)


def test_a_restarted_node_tells_what_it_had_promised(tell: Any, money: Any) -> None:
    """It lost its power before it had told anybody, and does not mine: its peer does."""

    async def story(world: Any) -> None:
        alpha, beta = await world.node("alpha"), await world.node("beta")
        world.network.cut("alpha")
        trader = money.Trader(world.dice, money.genesis_coins())
        await alpha.accept(*[trader.next() for _ in range(40)])
        await alpha.lose_power()
        world.network.restore("alpha")
        await alpha.start()
        await money.until(lambda: len(beta.pool) == 40)
        await world.rest(beta)
        assert await world.account() == (40, 0)

    tell(story)
