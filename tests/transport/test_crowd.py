"""Many keys of one stranger: they take no room of the peers that this node dials itself, nor of those that say something,
and they do not fill the log."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio

from nodewright.interfaces.transport import PeerUp
from nodewright.testing.transport_kit import KIT_LIMITS, TransportTests
from nodewright.transport.quiet import LinesPerHost

kit = TransportTests()


async def opened(world: Any, name: str, **options: Any) -> Any:
    transport = await world.open(name, **options)
    channel = transport.channel("x")
    transport.open_gate()
    return transport, channel


async def idle_crowd(world: Any, victim: Any, count: int) -> list[Any]:
    crowd = []
    for number in range(count):
        idle, _ = await opened(world, f"idle{number}")
        await idle.connect(victim.address)
        await kit.event(idle.events(), PeerUp, victim.node_id)
        crowd.append(idle)
    return crowd


@pytest.mark.parametrize("again", [False, True], ids=["new", "comes-back"])
async def test_the_own_dial_has_room_whoever_else_is_there(nng_world: Any, again: bool) -> None:
    victim, _ = await opened(nng_world, "victim", limits=attrs.evolve(KIT_LIMITS, max_peers=3))
    honest, _ = await opened(nng_world, "honest")
    if again:
        await victim.connect(honest.address)
        await kit.event(victim.events(), PeerUp, honest.node_id)
    crowd = await idle_crowd(nng_world, victim, 3)
    if again:
        nng_world.break_connection(victim, honest.node_id)
        with trio.fail_after(30):
            while honest.node_id in [peer.id for peer in victim.peers()]:
                await victim.until_changed()
    else:
        await victim.connect(honest.address)
    await kit.event(victim.events(), PeerUp, honest.node_id)
    assert {idle.node_id for idle in crowd} <= {peer.id for peer in victim.peers()}


async def test_of_one_host_only_so_many(nng_world: Any) -> None:
    victim, _ = await opened(nng_world, "victim", limits=attrs.evolve(KIT_LIMITS, max_inbound_per_host=2))
    await idle_crowd(nng_world, victim, 2)
    third, _ = await opened(nng_world, "third")
    await third.connect(victim.address)
    with trio.fail_after(30):
        while not [line for line in nng_world.log(third) if "max_inbound_per_host" in str(line.get("reason"))]:
            await victim.environment.sleep(0.02)
    assert len(victim.peers()) == 2
    assert [line for line in nng_world.log(victim) if line["event"] == "a peer is refused"]


async def test_who_never_says_anything_makes_room(nng_world: Any) -> None:
    limits = attrs.evolve(KIT_LIMITS, max_peers=2, idle_seconds=0.0)
    victim = await nng_world.open("victim", limits=limits)
    heard = victim.channel("x")
    victim.open_gate()
    useful, channel = await opened(nng_world, "useful")
    await useful.connect(victim.address)
    await kit.event(useful.events(), PeerUp, victim.node_id)
    await channel.broadcast(b"news")
    with trio.fail_after(30):
        assert (await heard.receive()).payload == b"news"
    (idle,) = await idle_crowd(nng_world, victim, 1)
    events = victim.events()
    newcomer, _ = await opened(nng_world, "newcomer")
    await newcomer.connect(victim.address)
    await kit.event(events, PeerUp, newcomer.node_id)
    assert useful.node_id in [peer.id for peer in victim.peers()]
    down = [line for line in nng_world.log(victim) if line["event"] == "peer down"]
    assert down and down[0]["peer"] == idle.node_id.hex() and "room" in down[0]["reason"]
    assert len(victim.peers()) <= 2


def test_lines_about_one_host_are_few_and_say_how_many_there_were() -> None:
    now = 0.0
    lines = LinesPerHost(lambda: now, burst=3, seconds_a_line=10.0, remembered=2)
    assert [lines.take("a") for _ in range(5)] == [{}, {}, {}, None, None]
    assert lines.take("b") == {}
    now = 10.0
    assert lines.take("a") == {"untold": 2}
    assert lines.take("a") is None
    for number in range(50):
        lines.take(str(number))
    assert len(lines) <= 2
