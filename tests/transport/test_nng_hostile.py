"""What strangers and rogues do to an nng transport: named in the log, cut off, bounded; and honest peers go on."""

import random
import socket
from typing import Any

import pytest
import trio

import nodewright_nng.transport
from nodewright.interfaces.transport import PeerDown, PeerUp
from nodewright.testing.transport_kit import KIT_GENESIS, KIT_NETWORK, Body, TransportTests
from nodewright.transport import frames
from nodewright.transport.frames import Declaration
from nodewright.transport.handshake import Established, Initiator, NodeKey
from nodewright.transport.link import Limits, LinkClosed, NetworkIdentity
from nodewright_nng import rendezvous
from nodewright_nng.sockets import PairSocket, ask
from nodewright_nng.transport import NngTransport

IDENTITY = NetworkIdentity(KIT_NETWORK, KIT_GENESIS)
ROGUE = NodeKey.from_seed(b"r" * 32)
kit = TransportTests()
entropy = random.Random(1).randbytes


async def assigned(victim: NngTransport) -> tuple[PairSocket, bytes]:
    """A pair socket connected as a dialler's, before the handshake, and its ticket."""
    with trio.fail_after(30):
        while True:
            reply = await ask(victim.address, rendezvous.encode_knock(IDENTITY), rendezvous.MAX_BYTES, 1.0)
            if reply is not None and reply[0] == rendezvous.ASSIGNED:
                break
        answer = rendezvous.decode_answer(reply, IDENTITY)
        pair = PairSocket(1 << 24)
        pair.dial(f"tcp://127.0.0.1:{answer.port}")
        await pair.up.wait()
    return pair, answer.ticket


async def rogue(victim: NngTransport, key: NodeKey = ROGUE) -> tuple[PairSocket, Established]:
    """A peer that shakes hands as it should."""
    pair, ticket = await assigned(victim)
    initiator = Initiator(key, IDENTITY, entropy, ticket)
    with trio.fail_after(30):
        await pair.send(initiator.hello())
        initiator.receive_hello(await pair.receive())
        await pair.send(initiator.prove())
        return pair, initiator.finish(await pair.receive())


async def joined(victim: NngTransport) -> tuple[PairSocket, Established]:
    """A rogue that is a peer with one metered channel."""
    pair, established = await rogue(victim)
    hello = frames.hello([Declaration(frames.channel_id("x"), frames.UNMETERED, 0, 1 << 20)])
    await pair.send(established.stream.seal(hello))
    await kit.event(victim.events(), PeerUp, ROGUE.public)
    return pair, established


async def cut_off(pair: PairSocket) -> None:
    with trio.fail_after(30):
        while not pair.down.is_set():
            try:
                await pair.receive()
            except LinkClosed:
                break
    pair.close()


async def still_works(world: Any, victim: NngTransport) -> None:
    honest = await world.open("honest")
    honest.channel("x")
    honest.open_gate()
    await honest.connect(victim.address)
    await kit.event(honest.events(), PeerUp, victim.node_id)


@pytest.fixture
async def victim(nng_world) -> NngTransport:
    transport = await nng_world.open("victim")
    transport.channel("x", inbox=4)
    transport.open_gate()
    return transport


async def test_bytes_that_are_not_nng(nng_world, victim) -> None:
    port = int(victim.address.rpartition(":")[2])
    chance = random.Random(2)
    streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(20)]
    for number, stream in enumerate(streams):
        if number:  # the first says nothing at all, and stays
            try:
                await stream.send_all(chance.randbytes(number**4))
                with trio.fail_after(30):
                    while number >= 2 and await stream.receive_some(100):
                        pass  # until nng hangs up: an opening is 8 bytes
            except trio.BrokenResourceError:
                pass
    await still_works(nng_world, victim)
    for stream in streams:
        await stream.aclose()


async def test_an_nng_message_that_claims_to_be_huge(nng_world, victim) -> None:
    """A well-formed nng opening for the rendezvous, then a length of an exabyte: nng hangs up before taking memory."""
    port = int(victim.address.rpartition(":")[2])
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(b"\0SP\0" + (48).to_bytes(2, "big") + b"\0\0")  # 48: Req0
    await stream.send_all((1 << 60).to_bytes(8, "big") + b"x")
    with trio.fail_after(30):
        opening = b""
        while chunk := await stream.receive_some(100):
            opening += chunk
    assert opening[:4] == b"\0SP\0"
    await stream.aclose()
    await still_works(nng_world, victim)


async def test_knocks_that_are_none(nng_world, victim) -> None:
    for garbage in (b"", b"x", bytes(200), rendezvous.MAGIC + b"\xff" * 50, rendezvous.encode_knock(IDENTITY) + b"x"):
        assert await ask(victim.address, garbage, 1 << 16, 0.1) is None
    line = await kit.logged(nng_world, victim, "garbage", "127.0.0.1")
    assert line["level"] == "warning"
    assert len([line for line in nng_world.log(victim) if "garbage" in line["event"]]) == 1
    await still_works(nng_world, victim)


async def test_handshakes_that_never_end_are_few_and_short(nng_world, victim, monkeypatch) -> None:
    monkeypatch.setattr(nodewright_nng.transport, "HANDSHAKE_SECONDS", 1.0)
    replies = []
    for _ in range(40):
        replies.append(await ask(victim.address, rendezvous.encode_knock(IDENTITY), rendezvous.MAX_BYTES, 5.0))
        assert len(victim._pairs) <= 12
    assert bytes([rendezvous.BUSY]) in replies
    await still_works(nng_world, victim)
    assert len(victim._pairs) <= 13


@pytest.mark.parametrize("garbage", [b"", b"x", bytes(400), bytes(100_000)], ids=len)
async def test_garbage_instead_of_a_handshake(nng_world, victim, garbage) -> None:
    pair, _ = await assigned(victim)
    await pair.send(garbage)
    await cut_off(pair)
    await kit.logged(nng_world, victim, "garbage", "127.0.0.1")
    await still_works(nng_world, victim)


async def test_a_message_above_every_channel_is_not_taken(nng_world, victim) -> None:
    pair, established = await joined(victim)
    try:
        await pair.send(established.stream.seal(bytes(victim.max_batch_bytes() + 10_000)))
    except LinkClosed:
        pass
    await cut_off(pair)
    await still_works(nng_world, victim)


@pytest.mark.parametrize("harm", ["changed", "repeated", "lost", "plain"])
async def test_a_changed_stream_ends_the_connection_and_blames_nobody(nng_world, victim, harm) -> None:
    pair, established = await joined(victim)
    ping = frames.frame(frames.PING, bytes(8))
    first, second = established.stream.seal(ping), established.stream.seal(ping)
    if harm == "changed":
        await pair.send(first[:-1] + bytes([first[-1] ^ 1]))
    elif harm == "repeated":
        await pair.send(first)
        await pair.send(first)
    elif harm == "lost":
        await pair.send(second)
    else:
        await pair.send(ping)
    await cut_off(pair)
    await kit.logged(nng_world, victim, "tampered")
    assert victim._scores == {}


BATCHES = {
    "cut short": b"\x01",
    "unknown kind": frames.frame(99, b""),
    "length beyond": frames.HEADER.pack(1 << 31, frames.DATA) + b"x",
    "undeclared channel": frames.data(12345, b"x"),
    "too large": frames.data(frames.channel_id("x"), bytes(4 * 1024 * 1024 + 1)),
    "beyond its window": frames.data(frames.channel_id("x"), b"x") * 5,
    "hello again": frames.hello([]),
    "window of nothing": frames.frame(frames.WINDOW, frames.WINDOW_BODY.pack(7, 1, 1)),
    "answer of nothing": frames.request(frames.RESPONSE, 7, 1, b""),
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
async def test_a_peer_that_breaks_the_protocol_is_scored_then_banned(nng_world, victim, batch) -> None:
    for _ in range(2):
        pair, established = await joined(victim)
        events = victim.events()
        await pair.send(established.stream.seal(batch))
        await kit.event(events, PeerDown, ROGUE.public)
        pair.close()
    # Two such: half of the points each, less what a moment forgets; the third time at the latest.
    if ROGUE.public not in victim.banned():
        pair, established = await joined(victim)
        await pair.send(established.stream.seal(batch))
        await cut_off(pair)
    assert ROGUE.public in victim.banned()
    await kit.logged(nng_world, victim, "banned", ROGUE.public.hex())
    await still_works(nng_world, victim)


async def test_a_silent_peer_is_taken_for_dead(nng_world) -> None:
    limits = Limits(keepalive_seconds=0.1, dead_seconds=0.3)
    victim = await nng_world.open("victim", limits=limits)
    victim.channel("x")
    victim.open_gate()
    pair, established = await rogue(victim)
    events = victim.events()
    await pair.send(established.stream.seal(frames.hello([])))
    down = await kit.event(events, PeerDown, ROGUE.public)
    assert "nothing heard" in down.reason
    pair.close()


async def test_a_peer_that_asks_and_does_not_read_is_cut_off(nng_world, victim) -> None:
    pair, established = await joined(victim)
    events = victim.events()
    try:
        for _ in range(100):
            await pair.send(established.stream.seal(frames.frame(frames.PING, bytes(8)) * 2000))
    except LinkClosed:
        pass
    down = await kit.event(events, PeerDown, ROGUE.public)
    assert "does not read" in down.reason
    pair.close()


async def test_fetches_without_end_and_without_reading_are_bounded(nng_world) -> None:
    victim = await nng_world.open("victim")
    body = Body(1 << 30)
    victim.provide("blob", body)
    victim.open_gate()
    pair, established = await joined(victim)
    ask_all = b"".join(
        frames.fetch(number, 0, 1 << 40, 0xFFFFFFFF, "blob", b"body")
        + frames.frame(frames.CREDIT, frames.CHANNEL_REQUEST.pack(number, 0xFFFFFFFF))
        for number in range(1000)
    )
    await pair.send(established.stream.seal(ask_all))
    await kit.event(victim.events(), PeerUp, ROGUE.public)
    busy = 0
    with trio.fail_after(30):
        while busy < 1000 - victim.limits.fetches_per_peer:
            batch = established.stream.open(await pair.receive())
            for kind, start, end in frames.parse(batch):
                busy += kind == frames.END and frames.END_BODY.unpack(batch[start:end])[1] == frames.END_BUSY
    assert len(body.reads) <= 100
    pair.close()


async def test_random_frames_of_a_peer_never_harm_the_node(nng_world, victim, budget) -> None:
    chance = random.Random(3)
    ids = [frames.channel_id("x"), 0, 7]
    for _ in range(15 * budget):
        pair, established = await rogue(victim)
        try:
            if chance.random() < 0.9:
                await pair.send(established.stream.seal(frames.hello([Declaration(ids[0], 3, 3, 3)])))
            for _ in range(5):
                batch = b""
                for _ in range(chance.randrange(1, 6)):
                    kind = chance.randrange(1, 15)
                    body = chance.choice(ids).to_bytes(4, "little") + chance.randbytes(chance.randrange(0, 40))
                    exact = frames._EXACT.get(kind)
                    batch += frames.frame(kind, body[:exact].ljust(exact or 0, b"\0") if exact else body)
                await pair.send(established.stream.seal(batch))
            with trio.move_on_after(0.2):
                while True:
                    await pair.receive()
        except LinkClosed:
            pass
        pair.close()
        victim.unban(ROGUE.public)
    await still_works(nng_world, victim)


def test_sockets_of_this_module_speak_what_nng_speaks() -> None:
    """The opening used above is nng's own (SP over TCP: protocol 48 is the requester)."""
    import pynng

    with pynng.Req0() as one:
        assert one.protocol == 48
    assert socket.htons(48) == int.from_bytes((48).to_bytes(2, "big"), "little")
