"""Conformance kit of the ``transport`` contract. A plugin author subclasses ``TransportTests`` in a test module, gives a
``world`` fixture, and pytest (with ``trio_mode``) does the rest::

    class TestMyTransport(TransportTests):
        @pytest.fixture
        async def world(self, tmp_path):
            async with MyWorld(tmp_path) as world:
                yield world

What a test waits for is an event of the transport or a line of its log; ``patience_seconds`` only bounds the wait.
"""

from __future__ import annotations

from contextlib import aclosing
from hashlib import sha256
from typing import Any, cast

import pytest
import trio
import trio.lowlevel
import trio.testing

from nodewright.errors import BodyTooLarge, NotHere, PeerGone, RequestTimeout
from nodewright.interfaces.transport import PeerDown, PeerUp, Transport
from nodewright.testing.transport_kit_base import (
    KIT_GENESIS,
    KIT_LIMITS,
    KIT_NETWORK,
    Body,
    TransportKit,
    TransportWorld,
    body_bytes,
    serve,
)

__all__ = ["KIT_GENESIS", "KIT_LIMITS", "KIT_NETWORK", "Body", "TransportTests", "TransportWorld", "body_bytes", "serve"]


class TransportTests(TransportKit):
    messages = 20_000
    body_megabytes = 16

    # Connections ---------------------------------------------------------------------------------------------------

    async def test_it_is_a_transport(self, world: TransportWorld) -> None:
        a = await world.open("a")
        assert isinstance(a, Transport) and len(a.node_id) == 32
        assert a.peers() == [] and a.address

    async def test_peers_know_each_other_by_key(self, world: TransportWorld) -> None:
        a, b, _, _ = await self.pair(world)
        (of_a,), (of_b,) = a.peers(), b.peers()
        assert of_a.id == b.node_id and of_b.id == a.node_id
        assert of_a.inbound != of_b.inbound
        assert of_a.protocol == of_b.protocol
        late = await self.event(a.events(), PeerUp)
        assert late.peer.id == b.node_id

    async def test_nobody_is_accepted_before_the_gate_opens(self, world: TransportWorld) -> None:
        a, b, c = [await world.open(name) for name in "abc"]
        events = a.events()
        a.open_gate()
        c.open_gate()
        await a.connect(b.address)
        await a.connect(c.address)
        assert (await self.event(events, PeerUp)).peer.id == c.node_id
        assert b.peers() == []
        b.open_gate()
        assert (await self.event(events, PeerUp)).peer.id == b.node_id

    async def test_dialling_each_other_at_once_gives_one_connection(self, world: TransportWorld) -> None:
        a, b = await world.open("a"), await world.open("b")
        x, y = a.channel("x"), b.channel("x")
        a.open_gate()
        b.open_gate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.connect, b.address)
            nursery.start_soon(b.connect, a.address)
            nursery.start_soon(self.event, a.events(), PeerUp)
            nursery.start_soon(self.event, b.events(), PeerUp)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, y, bytes)
            with trio.fail_after(self.patience_seconds):
                while True:
                    try:
                        assert await x.request(b.node_id, b"ping") == b"ping"
                        break
                    except PeerGone:  # the connection that did not stay
                        await self.event(a.events(), PeerUp)
            nursery.cancel_scope.cancel()
        (of_a,), (of_b,) = a.peers(), b.peers()
        assert of_a.inbound != of_b.inbound

    async def test_a_node_does_not_connect_to_itself(self, world: TransportWorld) -> None:
        a, b = await world.open("a"), await world.open("b")
        a.open_gate()
        b.open_gate()
        await a.connect(a.address)
        await a.connect(b.address)
        assert (await self.event(a.events(), PeerUp)).peer.id == b.node_id
        assert [peer.id for peer in a.peers()] == [b.node_id]

    @pytest.mark.parametrize(
        ("change", "values"),
        [({"network": "other"}, ("other", "kit")), ({"genesis": b"\x02" * 32}, ("02" * 32, "01" * 32))],
        ids=["network", "genesis"],
    )
    async def test_another_network_is_refused_and_named(
        self, world: TransportWorld, change: dict[str, Any], values: tuple[str, ...]
    ) -> None:
        a, b = await world.open("a"), await world.open("b", **change)
        a.open_gate()
        b.open_gate()
        await a.connect(b.address)
        await self.logged(world, a, "mismatch", *values)
        assert a.peers() == [] == b.peers()

    async def test_only_allowed_keys_connect(self, world: TransportWorld) -> None:
        a, b = await world.open("a"), await world.open("b")
        c = await world.open("c", allow=[b.node_id])
        for transport in (a, b, c):
            transport.open_gate()
        await a.connect(c.address)
        await b.connect(c.address)
        assert (await self.event(c.events(), PeerUp)).peer.id == b.node_id
        await self.logged(world, c, a.node_id.hex(), "allow")
        assert [peer.id for peer in c.peers()] == [b.node_id]

    async def test_a_broken_connection_comes_back(self, world: TransportWorld) -> None:
        a, b, x, y = await self.pair(world)
        events, theirs = a.events(), b.events()
        for _ in range(3):
            world.break_connection(a, b.node_id)
            for reader in (events, theirs):
                await self.event(reader, PeerDown)
                await self.event(reader, PeerUp)
            await x.send(b.node_id, b"again")
            with trio.fail_after(self.patience_seconds):
                assert (await y.receive()).payload == b"again"

    async def test_a_killed_node_is_seen_to_go_and_to_come_back(self, world: TransportWorld) -> None:
        a, b, _, _ = await self.pair(world)
        events = b.events()
        await world.kill(a)
        await self.event(events, PeerDown, a.node_id)
        assert b.peers() == []
        again = await world.open("a")
        assert again.node_id == a.node_id
        x = again.channel("x")
        again.open_gate()
        await again.connect(b.address)
        await self.event(events, PeerUp, a.node_id)
        await self.event(again.events(), PeerUp, b.node_id)
        await x.send(b.node_id, b"back")

    async def test_what_was_sent_before_a_clean_close_arrives(self, world: TransportWorld) -> None:
        a, b, x, y = await self.pair(world)
        for number in range(100):
            await x.send(b.node_id, b"%d" % number)
        await world.close(a)
        with trio.fail_after(self.patience_seconds):
            assert [(await y.receive()).payload for _ in range(100)] == [b"%d" % number for number in range(100)]

    async def test_penalties_add_up_to_a_ban(self, world: TransportWorld) -> None:
        a, b, x, _ = await self.pair(world)
        events = a.events()
        a.penalise(b.node_id, 60, "late")
        assert a.peers()[0].score == 60
        a.penalise(b.node_id, 60, "nonsense in a block")
        await self.event(events, PeerDown, b.node_id)
        assert list(a.banned()) == [b.node_id]
        await self.logged(world, a, b.node_id.hex(), "nonsense in a block")
        with pytest.raises(PeerGone):
            await x.send(b.node_id, b"hello")
        c = await world.open("c")
        c.open_gate()
        await a.connect(c.address)
        await self.event(events, PeerUp, c.node_id)
        assert [peer.id for peer in a.peers()] == [c.node_id]
        a.unban(b.node_id)
        assert a.banned() == {}
        await self.event(events, PeerUp, b.node_id)

    # Messages ------------------------------------------------------------------------------------------------------

    async def test_many_small_messages_arrive_once_each_in_order(self, world: TransportWorld) -> None:
        a, b, x, y = await self.pair(world)
        got: list[bytes] = []

        async def collect() -> None:
            while len(got) < self.messages:
                message = await y.receive()
                assert message.peer == a.node_id and message.reply is None
                got.append(message.payload)

        with trio.fail_after(self.patience_seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(collect)
                for number in range(self.messages):
                    await (x.send(b.node_id, b"%d" % number) if number % 2 else x.broadcast(b"%d" % number))
        assert got == [b"%d" % number for number in range(self.messages)]

    async def test_sizes_from_nothing_to_the_largest(self, world: TransportWorld) -> None:
        largest = 3 * 1024 * 1024
        _, b, x, y = await self.pair(world, max_message_bytes=largest, inbox=2)
        sizes = [0, 1, 65535, 65536, 65537, largest, 0, largest, largest - 1, 5]

        async def send() -> None:
            for size in sizes:
                await x.send(b.node_id, body_bytes(size, size))

        with trio.fail_after(self.patience_seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                for size in sizes:
                    assert (await y.receive()).payload == body_bytes(size, size)
        for refused in (x.broadcast(bytes(largest + 1)), x.send(b.node_id, bytes(largest + 1))):
            with pytest.raises(ValueError, match=str(largest)):
                await refused

    async def test_a_broadcast_reaches_all_but_the_excluded(self, world: TransportWorld) -> None:
        transports = [await world.open(name) for name in "abcd"]
        channels = [transport.channel("x") for transport in transports]
        await self.meet(*transports)
        await channels[0].broadcast(b"to b and c", exclude=[transports[3].node_id])
        await channels[0].broadcast(b"to all")
        with trio.fail_after(self.patience_seconds):
            for channel in channels[1:3]:
                assert [(await channel.receive()).payload for _ in range(2)] == [b"to b and c", b"to all"]
            assert (await channels[3].receive()).payload == b"to all"

    async def test_a_full_inbox_holds_its_sender_and_nothing_else(self, world: TransportWorld) -> None:
        a, b = await world.open("a"), await world.open("b")
        x, y = a.channel("x", inbox=4), b.channel("x", inbox=4)
        side, beside = a.channel("side"), b.channel("side")
        await self.meet(a, b)
        sent, total = 0, 3000

        async def send() -> None:
            nonlocal sent
            for number in range(total):
                await x.send(b.node_id, number.to_bytes(4, "big") + bytes(1000))
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(serve, beside, bytes)
            before = -1
            with trio.fail_after(self.patience_seconds):
                while sent != before:  # held when a whole exchange on another channel goes by without a step
                    before = sent
                    assert await side.request(b.node_id, b"still here") == b"still here"
                assert sent < total
                for number in range(total):
                    assert (await y.receive()).payload[:4] == number.to_bytes(4, "big")
                nursery.cancel_scope.cancel()
        assert sent == total

    async def test_a_slow_peer_is_disconnected_and_blocks_nobody(self, world: TransportWorld) -> None:
        a, b, c = [await world.open(name) for name in "abc"]
        channels = [transport.channel("x", inbox=8) for transport in (a, b, c)]
        await self.meet(a, b, c)
        events = a.events()
        got: list[int] = []
        sent = 0
        finished = trio.Event()

        async def read() -> None:
            while len(got) < sent or not finished.is_set():
                got.append(int.from_bytes((await channels[1].receive()).payload[:4], "big"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            with trio.fail_after(self.patience_seconds):
                while c.node_id in [peer.id for peer in a.peers()]:  # c reads nothing
                    sent += 1
                    await channels[0].broadcast(sent.to_bytes(4, "big") + bytes(4000))
                    await trio.lowlevel.checkpoint()
                sent += 1
                finished.set()
                await channels[0].broadcast(sent.to_bytes(4, "big"))
                assert "slow" in (await self.event(events, PeerDown, c.node_id)).reason
        assert got == list(range(1, sent + 1))
        assert b.node_id in [peer.id for peer in a.peers()]

    @pytest.mark.parametrize(("policy", "kept"), [("oldest", range(96, 100)), ("newest", range(4))])
    async def test_a_full_inbox_drops_by_its_policy(self, world: TransportWorld, policy: Any, kept: range) -> None:
        a, b = await world.open("a"), await world.open("b")
        x, y = (transport.channel("x", inbox=4, policy=policy) for transport in (a, b))
        side, beside = a.channel("side"), b.channel("side")
        await self.meet(a, b)
        for number in range(100):
            await x.send(b.node_id, b"%d" % number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, beside, bytes)
            for _ in range(3):  # by then all of x has been written and read
                await side.request(b.node_id, b"")
            nursery.cancel_scope.cancel()
        assert [int((await y.receive()).payload) for _ in range(4)] == list(kept)

    # Requests ------------------------------------------------------------------------------------------------------

    async def test_requests_are_answered_each_with_its_own_answer(self, world: TransportWorld) -> None:
        _, b, x, y = await self.pair(world)
        answers: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            answers[number] = await x.request(b.node_id, b"%d" % number, timeout_seconds=self.patience_seconds)

        async def answer_backwards() -> None:
            waiting = [await y.receive() for _ in range(50)]
            for message in reversed(waiting):
                assert message.reply is not None
                await message.reply(b"re " + message.payload)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_backwards)
            for number in range(50):
                nursery.start_soon(ask, number)
        assert answers == {number: b"re %d" % number for number in range(50)}

    async def test_a_request_has_a_deadline(self, world: TransportWorld) -> None:
        _, b, x, y = await self.pair(world)
        with pytest.raises(RequestTimeout):
            await x.request(b.node_id, b"anybody?", timeout_seconds=0.2)
        late = await y.receive()
        assert late.reply is not None
        await late.reply(b"too late")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, y, bytes)
            assert await x.request(b.node_id, b"now?", timeout_seconds=self.patience_seconds) == b"now?"
            nursery.cancel_scope.cancel()

    async def test_a_request_ends_when_its_peer_goes(self, world: TransportWorld) -> None:
        _, b, x, y = await self.pair(world)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                with pytest.raises(PeerGone):
                    await x.request(b.node_id, b"well?", timeout_seconds=self.patience_seconds)

            await y.receive()
            await world.kill(b)
        with pytest.raises(PeerGone):
            await x.request(b"\xff" * 32, b"nobody has this key")

    # Bodies --------------------------------------------------------------------------------------------------------

    async def provided(self, world: TransportWorld, body: Body) -> tuple[Transport, Transport]:
        a, b = await world.open("a"), await world.open("b")
        b.provide("blob", body)
        await self.meet(a, b)
        return a, b

    async def test_a_large_body_is_streamed(self, world: TransportWorld) -> None:
        length = self.body_megabytes * 1_000_000 + 12_345
        a, b = await self.provided(world, Body(length))
        digest, received = sha256(), 0
        async for piece in a.fetch(b.node_id, "blob", b"body", length, timeout_seconds=self.patience_seconds):
            digest.update(piece)
            received += len(piece)
        expected = sha256()
        for offset in range(0, length, 1 << 20):
            expected.update(body_bytes(offset, min(1 << 20, length - offset)))
        assert received == length and digest.digest() == expected.digest()

    async def test_an_empty_body_and_an_absent_one(self, world: TransportWorld) -> None:
        a, b = await self.provided(world, Body(0))
        assert [piece async for piece in a.fetch(b.node_id, "blob", b"body", 10)] == []
        for kind, id in (("blob", b"other"), ("unknown", b"body")):
            with pytest.raises(NotHere):
                await anext(a.fetch(b.node_id, kind, id, 10))
        with pytest.raises(PeerGone):
            await anext(a.fetch(b"\xff" * 32, "blob", b"body", 10))

    async def test_a_body_above_the_limit_is_not_begun(self, world: TransportWorld) -> None:
        body = Body(1001)
        a, b = await self.provided(world, body)
        with pytest.raises(BodyTooLarge):
            await anext(a.fetch(b.node_id, "blob", b"body", 1000))
        assert body.reads == []

    async def test_a_reader_that_waits_holds_its_server(self, world: TransportWorld) -> None:
        """Bounded memory at both ends: the server reads no further than the credit."""
        length = 4 * KIT_LIMITS.fetch_credit_bytes
        body = Body(length)
        a, b = await self.provided(world, body)
        received = 0
        async with aclosing(cast("Any", a.fetch(b.node_id, "blob", b"body", length, timeout_seconds=60))) as pieces:
            async for piece in pieces:
                received += len(piece)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert body.furthest - received <= KIT_LIMITS.fetch_credit_bytes
        assert received == length

    async def test_a_broken_fetch_is_resumed_from_where_it_was(self, world: TransportWorld) -> None:
        length = 6_000_000
        body = Body(length)
        a, b = await self.provided(world, body)
        data, broken, events = b"", False, a.events()
        with pytest.raises(PeerGone):
            async for piece in a.fetch(b.node_id, "blob", b"body", length):
                data += piece
                if len(data) > length // 2 and not broken:
                    broken = True
                    world.break_connection(a, b.node_id)
        assert len(data) > length // 2
        await self.event(events, PeerDown, b.node_id)
        await self.event(events, PeerUp, b.node_id)
        resumed = len(data)
        body.reads.clear()
        async for piece in a.fetch(b.node_id, "blob", b"body", length, offset=resumed):
            data += piece
        assert data == body_bytes(0, length)
        assert min(offset for offset, _ in body.reads) == resumed

    async def test_a_stalled_body_is_given_up_and_others_go_on(self, world: TransportWorld) -> None:
        body = Body(3_000_000, stall_at=1_000_000)
        a, b = await self.provided(world, body)
        received = 0
        with pytest.raises(RequestTimeout):
            async for piece in a.fetch(b.node_id, "blob", b"body", 3_000_000, timeout_seconds=0.3):
                received += len(piece)
        assert 0 < received < 3_000_000
        body.going.set()
        rest = [piece async for piece in a.fetch(b.node_id, "blob", b"body", 3_000_000, offset=received)]
        assert b"".join(rest) == body_bytes(received, 3_000_000 - received)

    async def test_messages_pass_a_body_on_its_way(self, world: TransportWorld) -> None:
        a, b = await world.open("a"), await world.open("b")
        x, y = a.channel("x"), b.channel("x")
        body = Body(20_000_000)
        b.provide("blob", body)
        await self.meet(a, b)
        answered = 0

        async def ask() -> None:
            nonlocal answered
            while True:
                await x.request(b.node_id, b"?", timeout_seconds=self.patience_seconds)
                answered += 1

        received = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, y, bytes)
            nursery.start_soon(ask)
            async for piece in a.fetch(b.node_id, "blob", b"body", body.length):
                received += len(piece)
            nursery.cancel_scope.cancel()
        assert received == body.length and answered > 1
