"""Peers that speak the protocol and lie: valid headers without bodies, headers without end, claims of enormous work,
answers that never come or come by the drop. An honest node beside them is followed as if they were not there, what they
say takes a bounded amount of memory, and they are named and cut off."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

from nodewright_nakamoto import follow, messages
from nodewright_nakamoto.blockwire import Block
from nodewright_nakamoto.header import Header, meets_target
from nodewright_nakamoto.messages import Tip
from nodewright_nakamoto.serve import BlockBodies, DataBodies, SubtreeBodies, TransactionBodies, tip_of

SOON = 5.0  # virtual seconds; an honest block takes well under one
HUGE = 1 << 200
OF_TRANSACTIONS = (messages.BODY_DATA, messages.BODY_TRANSACTION)


def mined(previous: bytes, time: int, bits: int, root: bytes) -> Header:
    header = Header(0x20000000, previous, root, time, bits, 0)
    while not meets_target(header.id, bits):
        header = attrs.evolve(header, nonce=header.nonce + 1)
    return header


class Liar:
    """Valid headers of its own on a stored block, and answers as its kind has them."""

    def __init__(self, world: Any, name: str, base: Any) -> None:
        self.world = world
        self.chain: list[Header] = []
        self.base = base
        self.claim: Callable[[], Tip] = lambda: Tip(self.chain[-1], self.base.height + len(self.chain), self.work)
        self.asked: dict[str, int] = {"T": 0, "H": 0, "A": 0, "X": 0, "bodies": 0}
        self.silent = ""  # requests that it does not answer
        self.transport = world.network.transport(name)
        self.requests = self.transport.channel(messages.REQUEST, 256, "block", messages.MAX_MESSAGE_BYTES)
        self.announcements = self.transport.channel(messages.ANNOUNCE, 1024, "oldest", 4096)
        for kind in (messages.BODY_BLOCK, messages.BODY_SUBTREE, messages.BODY_DATA, messages.BODY_TRANSACTION):
            self.transport.provide(kind, self)
        self.body: Callable[[], Any] = self.nothing
        self.transport.open_gate()
        world.nursery.start_soon(self._answer)

    @property
    def work(self) -> int:
        return self.base.work + 2 * len(self.chain)

    def extend(self, count: int) -> None:
        for _ in range(count):
            last = self.chain[-1] if self.chain else self.base.header
            root = os.urandom(4).ljust(32, b"r")
            self.chain.append(mined(last.id, last.time + 1, last.bits, root))

    async def nothing(self) -> bytes | None:
        return None

    async def never(self) -> bytes | None:
        await trio.sleep_forever()
        return None

    async def size(self, id: bytes) -> int | None:
        self.asked["bodies"] += 1
        body = await self.body()
        return None if body is None else len(body)

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        return (await self.body() or b"")[offset : offset + length]

    def headers(self, locator: list[bytes]) -> list[Header]:
        places = {header.id: at for at, header in enumerate(self.chain)}
        start = next((places[id] + 1 for id in locator if id in places), 0)
        return self.chain[start : start + messages.MAX_HEADERS]

    async def _answer(self) -> None:
        while True:
            message = await self.requests.receive()
            kind = message.payload[:1].decode()
            self.asked[kind] += 1
            if kind in self.silent:
                continue
            reply = b""
            if kind == "T":
                reply = self.claim().encode()
            elif kind == "H":
                found = self.headers(messages.decode_ids(message.payload[1:], messages.MAX_LOCATOR))
                reply = b"".join(header.encode() for header in found)
            elif kind == "X":
                reply = messages.encode_transactions([None] * ((len(message.payload) - 1) // 32))
            self.world.nursery.start_soon(message.reply, reply)

    async def announce(self) -> None:
        await self.announcements.broadcast(b"B" + self.claim().encode())

    async def keep_announcing(self, seconds: float = 1.0) -> None:
        while True:
            await self.announce()
            await trio.sleep(seconds)


async def pair(world: Any, money: Any) -> tuple[Any, Any, Any]:
    """An honest node ten blocks long and a victim that follows it."""
    alpha, beta = await world.node("alpha"), await world.node("beta")
    trader = money.Trader(world.dice, money.genesis_coins())
    await alpha.accept(*[trader.next() for _ in range(10)])
    await alpha.generate(10)
    await world.together()
    return alpha, beta, trader


async def follows(alpha: Any, beta: Any, money: Any, seconds: float = SOON) -> None:
    await alpha.generate()
    await money.until(lambda: beta.head == alpha.head, seconds)


def root_of(node: Any) -> Any:
    return node.consensus.chain.index.root


async def joins(world: Any, money: Any, beta: Any, name: str = "liar", base: Any = None) -> Liar:
    liar = Liar(world, name, base or root_of(beta))
    liar.extend(400)
    await money.until(lambda: liar.transport.node_id in {peer.id for peer in beta.transport.peers()})
    return liar


def scored(node: Any, liar: Liar) -> bool:
    if liar.transport.node_id in node.transport.banned():
        return True
    return any(peer.score > 0 for peer in node.transport.peers() if peer.id == liar.transport.node_id)


@pytest.mark.parametrize("again", [False, True], ids=["once", "announced-again-and-again"])
def test_headers_whose_bodies_are_withheld(tell: Any, money: Any, again: bool) -> None:
    """The honest chain is followed meanwhile; the liar is cut off, and nothing of it stays in memory."""

    async def story(world: Any) -> None:
        alpha, beta, _ = await pair(world, money)
        liar = await joins(world, money, beta)
        if again:
            world.nursery.start_soon(liar.keep_announcing)
        await liar.announce()
        for _ in range(6):
            await follows(alpha, beta, money)
            await trio.sleep(1)
        if again:
            await money.until(lambda: liar.transport.node_id in beta.transport.banned(), 120)
        assert scored(beta, liar)
        assert not scored(beta, alpha)
        liar.silent = "THAX"
        await money.until(lambda: len(beta.consensus.chain.index) == alpha.head.height + 1, 60)
        lines = [line for line in beta.log if line.get("hash") in {one.id[::-1].hex() for one in liar.chain}]
        assert len(lines) < 40
        await follows(alpha, beta, money)

    tell(story)


def test_many_withhold_at_once(tell: Any, money: Any) -> None:
    async def story(world: Any) -> None:
        alpha, beta, _ = await pair(world, money)
        for number in range(8):
            liar = await joins(
                world, money, beta, f"liar{number}", root_of(beta) if number % 2 else alpha.consensus.chain.tip
            )
            liar.body = (liar.nothing, liar.never)[number // 2 % 2]
            world.nursery.start_soon(liar.keep_announcing)
        for _ in range(20):
            await follows(alpha, beta, money)
            await trio.sleep(2)
        await world.rest(alpha)

    tell(story)


def test_headers_without_end(tell: Any, money: Any) -> None:
    """What they take in memory has a bound, which is given back."""

    async def story(world: Any) -> None:
        alpha, beta, _ = await pair(world, money)
        liar = Liar(world, "liar", root_of(beta))
        liar.extend(1)
        tip = mined(b"t" * 32, liar.chain[0].time + 10**6, liar.chain[0].bits, bytes(32))
        liar.claim = lambda: Tip(tip, 10**6, HUGE)
        given = []

        def more(locator: list[bytes]) -> list[Header]:
            liar.extend(messages.MAX_HEADERS)
            given.append(messages.MAX_HEADERS)
            return liar.chain[-messages.MAX_HEADERS - (len(given) == 1) :][: messages.MAX_HEADERS]

        liar.headers = more  # type: ignore[method-assign]
        liar.body = liar.never
        world.nursery.start_soon(liar.keep_announcing)
        bound = follow.MAX_AHEAD + 2 * messages.MAX_HEADERS + 200
        for _ in range(15):
            await follows(alpha, beta, money)
            for _ in range(10):
                await trio.sleep(0.5)
                assert len(beta.consensus.chain.index) < bound
        assert sum(given) <= 20 * messages.MAX_HEADERS
        await money.until(lambda: liar.transport.node_id in beta.transport.banned(), 600)
        await money.until(lambda: len(beta.consensus.chain.index) == alpha.head.height + 1)
        await follows(alpha, beta, money)

    tell(story)


@pytest.mark.parametrize("silent", ["H", "TH", "HAX"])
def test_a_claim_of_enormous_work_and_no_answer(tell: Any, money: Any, silent: str) -> None:
    async def story(world: Any) -> None:
        alpha, beta, _ = await pair(world, money)
        liars = []
        for number in range(3):
            liar = await joins(world, money, beta, f"liar{number}")
            liar.claim = lambda liar=liar: Tip(liar.chain[-1], 10**6, HUGE)  # type: ignore[misc]
            liar.silent = silent
            world.nursery.start_soon(liar.keep_announcing)
            liars.append(liar)
        for _ in range(10):
            await follows(alpha, beta, money)
            await trio.sleep(5)
        assert all(scored(beta, liar) for liar in liars)
        assert not scored(beta, alpha)
        await money.until(lambda: len(beta.transport.banned()) == len(liars), 600)

    tell(story)


def test_a_claim_of_more_work_than_its_headers_have(tell: Any, money: Any) -> None:
    async def story(world: Any) -> None:
        alpha, beta, _ = await pair(world, money)
        liar = Liar(world, "liar", root_of(beta))
        liar.extend(4)
        liar.claim = lambda: Tip(liar.chain[3], 4, HUGE)
        world.nursery.start_soon(liar.keep_announcing)
        await money.until(lambda: liar.transport.node_id in beta.transport.banned(), 60)
        await follows(alpha, beta, money)
        assert liar.asked["bodies"] == 0

    tell(story)


class Withholder:
    """Gives one kind of an honest node's bodies by drops of a byte, or never, or says that it has none."""

    def __init__(self, provider: Any, how: str) -> None:
        self.provider = provider
        self.how = how

    async def size(self, id: bytes) -> int | None:
        if self.how == "never":
            await trio.sleep_forever()
        found: int | None = await self.provider.size(id)
        return None if self.how == "nothing" else found

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        await trio.sleep(1.5)
        found: bytes = await self.provider.read(id, offset, 1)
        return found


class Forwarder:
    """Says what an honest node says, and withholds one kind of what it has."""

    def __init__(self, world: Any, name: str, node: Any, withheld: str, how: str) -> None:
        self.node = node
        self.withheld = withheld
        self.how = how
        self.transport = world.network.transport(name)
        self.requests = self.transport.channel(messages.REQUEST, 256, "block", messages.MAX_MESSAGE_BYTES)
        self.announcements = self.transport.channel(messages.ANNOUNCE, 1024, "oldest", 4096)
        chain, keeper = node.consensus.chain, node.consensus._keeper
        self.server = node.consensus._server
        for kind, provider in {
            messages.BODY_BLOCK: BlockBodies(chain),
            messages.BODY_SUBTREE: SubtreeBodies(keeper),
            messages.BODY_DATA: DataBodies(keeper),
            messages.BODY_TRANSACTION: TransactionBodies(keeper),
        }.items():
            held_back = kind == withheld or (withheld == "transactions" and kind in OF_TRANSACTIONS)
            self.transport.provide(kind, Withholder(provider, how) if held_back else provider)
        self.transport.open_gate()
        world.nursery.start_soon(self._answer)

    async def _answer(self) -> None:
        while True:
            message = await self.requests.receive()
            reply = await self.server._reply(message.payload)
            if message.payload[:1] == b"X" and self.withheld == "transactions":
                if self.how == "never":
                    continue
                reply = messages.encode_transactions([None] * ((len(message.payload) - 1) // 32))
            await message.reply(reply)

    async def announce(self) -> None:
        await self.announcements.broadcast(b"B" + tip_of(self.node.consensus.chain.tip).encode())


@pytest.mark.parametrize("withheld", ["block", "subtree", "transactions"])
@pytest.mark.parametrize("how", ["nothing", "never", "drips"])
def test_the_honest_chain_told_by_one_that_withholds_parts(tell: Any, money: Any, withheld: str, how: str) -> None:
    """It says what the honest node says, and earlier; of what its blocks are made it gives a part."""

    async def story(world: Any) -> None:
        alpha, beta, trader = await pair(world, money)
        world.network.partition(["alpha"], ["beta", "liar"])
        liar = Forwarder(world, "liar", alpha, withheld, how)
        await money.until(lambda: [one.id for one in beta.transport.peers()] == [liar.transport.node_id])
        await alpha.accept(*[trader.next() for _ in range(20)])
        await alpha.generate(3)
        await liar.announce()
        await trio.sleep(3)
        assert beta.head != alpha.head
        world.network.heal()
        await money.until(lambda: beta.head == alpha.head, 60)
        for _ in range(10):
            await alpha.accept(*[trader.next() for _ in range(3)])
            await alpha.generate()
            await liar.announce()
            await money.until(lambda: beta.head == alpha.head, 2 * SOON)
            await trio.sleep(1)
        assert not scored(beta, alpha)
        await world.rest(alpha)

    tell(story)


def test_the_honest_node_is_followed_again_after_the_liar_was_alone(tell: Any, money: Any) -> None:
    """Eclipsed for a while: nothing of it is left once an honest peer is there."""

    async def story(world: Any) -> None:
        alpha, beta, _ = await pair(world, money)
        world.network.partition(["alpha"], ["beta", "liar"])
        liar = await joins(world, money, beta)
        liar.body = liar.never
        await liar.announce()
        await trio.sleep(20)
        await alpha.generate(5)
        world.network.heal()
        await money.until(lambda: beta.head == alpha.head, 60)
        await follows(alpha, beta, money)

    tell(story)


class Holder(Liar):
    """One block of its own, which names what honest nodes have announced and one subtree that comes at 8 kB a second."""

    wire = b""

    async def size(self, id: bytes) -> int | None:
        return len(self.wire) if self.chain and id == self.chain[-1].id else 48 * 1024 * 1024

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        if self.chain and id == self.chain[-1].id:
            return self.wire[offset : offset + length]
        await trio.sleep(1)
        return bytes(8192)


def test_a_block_that_holds_on_to_what_others_announced(tell: Any, money: Any) -> None:
    """Neither following nor this node's own mining waits for it."""

    async def story(world: Any) -> None:
        alpha, beta, trader = await pair(world, money)
        await alpha.accept(*[trader.next() for _ in range(40)])
        await money.until(lambda: len(beta.pool) == 40)
        await trio.sleep(3)
        roots = tuple(await beta.consensus.chain.store.unmined())
        assert roots, "sealed subtrees are stored before a block names them"
        liar = Holder(world, "liar", alpha.consensus.chain.tip)
        liar.extend(1)
        height = liar.base.height + 1
        liar.wire = Block(liar.chain[-1], 50, 10_000, (*roots, b"x" * 32), b"coinbase", height).encode()
        await money.until(lambda: liar.transport.node_id in {peer.id for peer in beta.transport.peers()})
        world.nursery.start_soon(liar.keep_announcing)
        await trio.sleep(5)
        with trio.fail_after(SOON):
            await beta.generate()
        await money.until(lambda: alpha.head == beta.head, SOON)
        for _ in range(3):
            await alpha.accept(*[trader.next() for _ in range(10)])
            await follows(alpha, beta, money)
            await trio.sleep(5)
        assert scored(beta, liar)
        await world.rest(alpha)

    tell(story)


def test_headers_of_the_future(tell: Any, money: Any) -> None:
    """They do not fill the log, and going on with them is a fault."""

    async def story(world: Any) -> None:
        alpha, beta, _ = await pair(world, money)
        liar = Liar(world, "liar", alpha.consensus.chain.tip)
        last = liar.base.header
        liar.chain.append(mined(liar.base.id, last.time + 10 * 86400, last.bits, bytes(32)))
        liar.claim = lambda: Tip(liar.chain[0], 10**6, HUGE)
        await money.until(lambda: liar.transport.node_id in {peer.id for peer in beta.transport.peers()})

        async def again_and_again() -> None:
            while True:
                await liar.announce()
                await trio.sleep(0.05)

        world.nursery.start_soon(again_and_again)
        await follows(alpha, beta, money)
        await money.until(lambda: liar.transport.node_id in beta.transport.banned(), 60)
        assert sum(line["event"] == "header set aside" for line in beta.log) < 5

    tell(story)
