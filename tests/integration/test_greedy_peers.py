"""Peers that take more than their part with messages that are all well formed: subtrees of very many leaves whose records
are right and whose transactions nobody has. What they take in memory has one bound over all of them, what honest nodes tell
is followed meanwhile, and they are named and cut off."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio

from nodewright_nakamoto import messages, relay, subtree
from nodewright_nakamoto.messages import SubtreeAnnouncement

LEAVES = 600
SOON = 5.0  # virtual seconds


class Greedy:
    """Has the leaf records of a subtree and not one of its transactions."""

    def __init__(self, world: Any, name: str, at_work: dict[str, set[str]], drips: bool = False) -> None:
        self.world, self.name, self.drips = world, name, drips
        self.at_work = at_work
        self.asked = 0
        leaves = os.urandom(32 * LEAVES)
        self.root = subtree.build(leaves, [0] * LEAVES, [250] * LEAVES).root
        self.records = messages.encode_records(leaves, [0] * LEAVES, [250] * LEAVES)
        self.transport = world.network.transport(name)
        self.requests = self.transport.channel(messages.REQUEST, 256, "block", messages.MAX_MESSAGE_BYTES)
        self.announcements = self.transport.channel(messages.ANNOUNCE, 1024, "oldest", 4096)
        self.transport.provide(messages.BODY_SUBTREE, self)
        self.transport.open_gate()
        world.nursery.start_soon(self._answer)
        world.nursery.start_soon(self._announce)

    @property
    def id(self) -> bytes:
        return self.transport.node_id

    async def size(self, id: bytes) -> int | None:
        self.at_work["now"].add(self.name)
        if len(self.at_work["now"]) > len(self.at_work["most"]):
            self.at_work["most"] = set(self.at_work["now"])
        return len(self.records)

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        if self.drips:
            await trio.sleep(1)
            return self.records[offset : offset + min(length, 20)]
        return self.records[offset : offset + length]

    async def _answer(self) -> None:
        while True:
            message = await self.requests.receive()
            reply = b""
            if message.payload[:1] == b"X":
                self.asked += 1
                await trio.sleep(0.5)
                self.at_work["now"].discard(self.name)
                reply = messages.encode_transactions([None] * ((len(message.payload) - 1) // 32))
            self.world.nursery.start_soon(message.reply, reply)

    async def _announce(self) -> None:
        series = 0
        while True:
            series += 1
            await self.announcements.broadcast(SubtreeAnnouncement(self.root, LEAVES, series, False).encode())
            await trio.sleep(0.5)


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "SMALL_LEAVES", 64)
    monkeypatch.setattr(relay, "MIDDLE_LEAVES", 256)
    monkeypatch.setattr(relay, "POINTS_LEAVES", LEAVES)


async def pair(world: Any, money: Any) -> tuple[Any, Any, Any]:
    alpha, beta = await world.node("alpha"), await world.node("beta")
    trader = money.Trader(world.dice, money.genesis_coins())
    await alpha.accept(*[trader.next() for _ in range(10)])
    await alpha.generate(5)
    await world.together()
    return alpha, beta, trader


async def told(alpha: Any, beta: Any, trader: Any, money: Any) -> None:
    """A transaction posted to one node is pending on the other soon."""
    tx = trader.next()
    await alpha.accept(tx)
    await money.until(lambda: beta.pool.bodies([tx.txid])[0] is not None, SOON)


def scored(node: Any, peer: bytes) -> bool:
    return peer in node.transport.banned() or any(one.score > 0 for one in node.transport.peers() if one.id == peer)


def test_many_announce_large_subtrees_of_nothing(tell: Any, money: Any, small_bounds: None) -> None:
    async def story(world: Any) -> None:
        alpha, beta, trader = await pair(world, money)
        at_work: dict[str, set[str]] = {"now": set(), "most": set()}
        greedy = [Greedy(world, f"greedy{number}", at_work) for number in range(8)]
        await money.until(lambda: at_work["most"] != set())
        for _ in range(5):
            await told(alpha, beta, trader, money)
        await money.until(lambda: all(one.id in beta.transport.banned() for one in greedy), 300)
        # Of both nodes together.
        assert len(at_work["most"]) <= 2 * relay.LARGE_AT_ONCE
        assert not scored(beta, alpha.transport.node_id)
        assert not scored(alpha, beta.transport.node_id)
        assert sum(one.asked for one in greedy) <= 2 * 8 * 4
        lines = [line for line in beta.log if "announced" in str(line.get("reason")) and line["level"] != "debug"]
        assert lines and len(lines) < 60
        await world.rest(alpha)

    tell(story)


def test_slow_ones_do_not_keep_the_turn(tell: Any, money: Any, small_bounds: None) -> None:
    """Who sends by drops loses its turn and is named; what is small has not waited for it."""

    async def story(world: Any) -> None:
        alpha, beta, trader = await pair(world, money)
        at_work: dict[str, set[str]] = {"now": set(), "most": set()}
        slow = [Greedy(world, f"slow{number}", at_work, drips=True) for number in range(4)]
        await money.until(lambda: len(at_work["most"]) >= relay.LARGE_AT_ONCE)
        await told(alpha, beta, trader, money)
        await money.until(lambda: all(scored(beta, one.id) for one in slow), 300)
        await told(alpha, beta, trader, money)
        assert not scored(beta, alpha.transport.node_id)

    tell(story)


def test_an_honest_series_is_fetched_once(tell: Any, money: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched of an open series is known when its next subtree comes; what is kept of all series is bounded."""
    turns = relay.Turns()
    for number in range(10):
        turns.keep(bytes([number]), 1, b"x" * (relay.SERIES_BYTES // 4))
    assert turns.kept <= relay.SERIES_BYTES
    assert turns.known(b"\x09", 1) and not turns.known(b"\x09", 2) and not turns.known(b"\x00", 1)
    turns.keep(b"\x09", 2, b"y" * (relay.SERIES_BYTES + 1))
    assert turns.known(b"\x09", 2) == b"" == turns.known(b"\x09", 1)
    for number in range(10):
        turns.forget(bytes([number]))
    assert turns.kept == 0

    async def story(world: Any) -> None:
        alpha, beta, trader = await pair(world, money)
        prefixes = []
        before = beta.consensus._keeper.records

        async def records(id: bytes, sources: Any, leaves: int, prefix: bytes = b"") -> Any:
            prefixes.append(len(prefix))
            return await before(id, sources, leaves, prefix)

        monkeypatch.setattr(beta.consensus._keeper, "records", records)
        for _ in range(4):
            await told(alpha, beta, trader, money)
        assert any(prefixes)
        await world.rest(alpha)

    tell(story)
