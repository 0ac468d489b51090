"""Blocks in the flat form: a node that is fed with nothing else comes to the same chain, whatever its subtrees' size."""

from __future__ import annotations

from typing import Any

import pytest

from nodewright.errors import ControlRefused
from nodewright_nakamoto.header import Header, meets_target


async def flat(node: Any, id: bytes) -> tuple[bytes, list[bytes]]:
    """Header and transactions, as a peer of the flat form would have them."""
    record = await node.consensus.block(id)
    bodies = [record.prologue]
    for bundle in record.bundles:
        ids = await node.consensus.query("bundle_ids", id=bundle.id)
        bodies += await node.consensus.transactions([ids[at : at + 32] for at in range(0, len(ids), 32)])
    return record.header, bodies


async def mined(node: Any, spend: Any, first: int, count: int) -> bytes:
    await node.submit(*[spend(first + index) for index in range(count)])
    await node.fill()
    (id,) = await node.generate()
    return bytes(id)


@pytest.mark.parametrize("subtree_size", [2, 4, 32])
async def test_the_same_chain_from_flat_blocks(world: Any, spend: Any, autojump: Any, subtree_size: int) -> None:
    one, two = world.Node("one"), world.Node("two", subtree_size=subtree_size)
    await one.open()
    await two.open()
    ids = [await mined(one, spend, 20 * round, count) for round, count in enumerate((0, 1, 2, 3, 7, 8, 15))]
    for id in ids:
        header, bodies = await flat(one, id)
        answer = await two.consensus.control("submit_block", header=header, transactions=bodies)
        assert answer["accepted"] and answer["on_best_chain"] and answer["hash"] == id[::-1].hex()
        raw = await two.consensus.query("flat_block", id=id)
        assert raw == await one.consensus.query("flat_block", id=id)
        assert raw == header + bytes((len(bodies),)) + b"".join(bodies)
    assert two.head == one.head and two.state() == one.state()
    fees = [(await node.consensus.query("block_stats", id=ids[-1]))["fees"] for node in (one, two)]
    assert fees == [15, 15]
    again = await two.consensus.control("submit_block", header=header, transactions=bodies)
    assert again["on_best_chain"]
    assert await two.consensus.query("flat_block", id=ids[-1], max_bytes=100) is None
    assert await two.consensus.query("flat_block", id=bytes(32)) is None


async def test_what_does_not_belong_to_a_header_is_the_senders_fault(world: Any, spend: Any, autojump: Any) -> None:
    one, two = world.Node("one"), world.Node("two")
    await one.open()
    await two.open()
    first, second = await mined(one, spend, 0, 2), await mined(one, spend, 20, 3)
    header, bodies = await flat(one, first)

    async def refused(header: bytes, transactions: list[bytes]) -> str:
        with pytest.raises(ControlRefused) as caught:
            await two.consensus.control("submit_block", header=header, transactions=transactions)
        return str(caught.value).partition(":")[0]

    assert await refused(*await flat(one, second)) == "orphan"
    # The last of an odd number twice: the same root (CVE-2012-2459).
    assert await refused(header, [*bodies, bodies[-1]]) == "bad-body"
    assert await refused(header, bodies[:-1]) == "bad-body"
    assert await refused(header, [bodies[0], bodies[2], bodies[1]]) == "bad-body"
    assert await refused(header, []) == "bad-body"
    assert await refused(header, [bodies[0], b"?"]) == "bad-body"
    assert await refused(header[:79], bodies) == "bad-header"
    wrong = next(raw for raw in (header[:76] + bytes((n, 0, 0, 0)) for n in range(256)) if not _solved(raw))
    assert await refused(wrong, bodies) == "bad-header"
    assert two.consensus.head().height == 0 and len(two.consensus.chain.index) == 1
    # None of it stands in the way of the true ones.
    for id in (first, second):
        header, bodies = await flat(one, id)
        assert (await two.consensus.control("submit_block", header=header, transactions=bodies))["on_best_chain"]
    assert two.state() == one.state()


def _solved(raw: bytes) -> bool:
    header = Header.decode(raw)
    return meets_target(header.id, header.bits)


async def test_headers_are_judged_beside_the_tree(world: Any, spend: Any, autojump: Any) -> None:
    one, two = world.Node("one"), world.Node("two")
    await one.open()
    await two.open()
    ids = await one.generate(30)
    headers = await one.consensus.query("headers_after", locator=await two.consensus.query("locator"))
    assert len(headers) == 30
    judged = await two.consensus.query("judge_headers", headers=headers)
    assert judged["heavier"] and judged["missing"] == ids and judged["height"] == 30 and not judged["bad"]
    assert len(two.consensus.chain.index) == 1
    assert not (await two.consensus.query("judge_headers", headers=headers[1:]))["known"]
    gap = await two.consensus.query("judge_headers", headers=[headers[0], headers[2]])
    assert gap["broken"] and "not on the one before" in gap["bad"]
    for id in ids[:10]:
        await two.consensus.control(
            "submit_block", **dict(zip(("header", "transactions"), await flat(one, id), strict=True))
        )
    judged = await two.consensus.query("judge_headers", headers=headers)
    assert judged["missing"] == ids[10:] and judged["heavier"]
    # A fork with less work is worth nothing.
    three = world.Node("three")
    await three.open()
    await three.generate(5)
    fork = await three.consensus.query("headers_after", locator=[], stop=three.head.id)
    judged = await two.consensus.query("judge_headers", headers=fork)
    assert not judged["heavier"] and judged["known"]
    # One that holds a block refused here is told as such.
    await two.consensus.control("invalidate_block", id=ids[4])
    judged = await two.consensus.query("judge_headers", headers=headers)
    assert "refused here" in judged["bad"] and not judged["broken"]


async def test_a_longer_fork_is_followed(world: Any, spend: Any, autojump: Any) -> None:
    one, two, three = (world.Node(name) for name in ("one", "two", "three"))
    for node in (one, two, three):
        await node.open()
    for index in range(3):
        header, bodies = await flat(one, await mined(one, spend, 10 * index, 3))
        await two.consensus.control("submit_block", header=header, transactions=bodies)
    for index in range(4):
        header, bodies = await flat(three, await mined(three, spend, 5 + 10 * index, 4))
        answer = await two.consensus.control("submit_block", header=header, transactions=bodies)
        assert answer["on_best_chain"] == (index == 3)
    assert two.head == three.head and two.state() == three.state()
    assert [data["depth"] for kind, data in two.events.list if kind == "reorganised"] == [3]
