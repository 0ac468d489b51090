"""Two nodes with one node key: the transport keeps one connection to a key, so the two push each other out for ever."""

from __future__ import annotations

from typing import Any

import trio


async def test_a_key_that_two_nodes_use_is_named_with_both_addresses(nng_world: Any) -> None:
    victim = await nng_world.open("victim")
    one, other = await nng_world.open("twin"), await nng_world.open("twin")
    assert one.node_id == other.node_id
    for transport in (victim, one, other):
        transport.open_gate()
    await one.connect(victim.address)
    await other.connect(victim.address)
    with trio.fail_after(60):
        while not (told := [event for event in nng_world.log(victim) if "one node key" in event["event"]]):
            await victim.until_changed()
    line = told[0]
    assert line["peer"] == one.node_id.hex()
    assert line["level"] == "warning" and "node.key" in line["fix"]
    assert len(line["addresses"]) >= 2
    replaced = [event for event in nng_world.log(victim) if "replaced by another" in str(event.get("reason"))]
    while len(replaced) < 9:  # it goes on, and is said once in a while, not each time
        with trio.fail_after(60):
            await victim.until_changed()
        replaced = [event for event in nng_world.log(victim) if "replaced by another" in str(event.get("reason"))]
    assert len([event for event in nng_world.log(victim) if "one node key" in event["event"]]) == 1


async def test_a_peer_that_starts_again_is_no_twin(nng_world: Any) -> None:
    victim = await nng_world.open("victim")
    victim.open_gate()
    for _ in range(4):
        peer = await nng_world.open("peer")
        peer.open_gate()
        await peer.connect(victim.address)
        with trio.fail_after(60):
            while not victim.peers():
                await victim.until_changed()
        await nng_world.close(peer)
        with trio.fail_after(60):
            while victim.peers():
                await victim.until_changed()
    assert not [event for event in nng_world.log(victim) if "one node key" in event["event"]]
