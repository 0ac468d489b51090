"""One connection over a stream in memory: pieces of any size, bounds, a slow reader, a slow sender."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright_bsv_p2p import connection as module
from nodewright_bsv_p2p import framing
from nodewright_bsv_p2p.connection import Connection, Gone
from nodewright_bsv_p2p.framing import MAGIC, Head, WireError

NETWORK = MAGIC["regtest"]
LIMITS = {"ping": 8, "headers": 1000, "block": 10_000_000}


def connect(stream: trio.abc.Stream, send_seconds: float = 5.0, stall_seconds: float = 5.0) -> Connection:
    def limit(command: str) -> tuple[int, bool]:
        return (LIMITS[command], True) if command in LIMITS else (4_000_000, False)

    return Connection(stream, NETWORK, limit, send_seconds, stall_seconds)


@given(st.lists(st.tuples(st.sampled_from(sorted(LIMITS)), st.binary(max_size=8)), max_size=8), st.data())
@settings(max_examples=40)
def test_messages_in_pieces_of_any_size(said: list[tuple[str, bytes]], data: st.DataObject) -> None:
    raw = b"".join(framing.encode(NETWORK, command, payload) for command, payload in said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10)))

    async def story() -> None:
        here, there = trio.testing.memory_stream_pair()
        reader = connect(here)
        for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            await there.send_all(raw[begin:end])
        await there.send_eof()
        assert [await reader.read() for _ in said] == said
        with pytest.raises(Gone):
            await reader.read()

    trio.run(story)


async def test_what_is_not_known_is_passed_over() -> None:
    here, there = trio.testing.memory_stream_pair()
    await there.send_all(framing.encode(NETWORK, "authch", b"x" * 1000) + framing.encode(NETWORK, "ping", bytes(8)))
    assert await connect(here).read() == ("ping", bytes(8))


@pytest.mark.parametrize(
    "head", [Head("ping", 9, bytes(4)), Head("block", 1 << 40, None), Head("authch", 1 << 30, bytes(4))], ids=str
)
async def test_nothing_over_its_limit_is_begun(head: Head) -> None:
    here, there = trio.testing.memory_stream_pair()
    await there.send_all(framing.encode_head(NETWORK, head))
    with pytest.raises(WireError, match="over the limit"):
        await connect(here).read()


async def test_an_extended_message_is_read() -> None:
    here, there = trio.testing.memory_stream_pair()
    await there.send_all(framing.encode_head(NETWORK, Head("block", 5, None)) + b"12345")
    assert await connect(here).read() == ("block", b"12345")


async def test_a_message_that_does_not_come_on_is_a_fault(autojump_clock: object) -> None:
    here, there = trio.testing.memory_stream_pair()
    raw = framing.encode(NETWORK, "block", bytes(100_000))

    async def drip() -> None:
        for at in range(0, len(raw), 1000):
            await there.send_all(raw[at : at + 1000])
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        with pytest.raises(WireError, match="does not come on") as caught:
            await connect(here).read()
        assert 0 < caught.value.points < 100
        nursery.cancel_scope.cancel()


async def test_a_slow_message_at_a_fair_pace_is_read(autojump_clock: object) -> None:
    here, there = trio.testing.memory_stream_pair()
    raw = framing.encode(NETWORK, "block", bytes(2_000_000))

    async def trickle() -> None:
        for at in range(0, len(raw), 20_000):
            await there.send_all(raw[at : at + 20_000])
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        assert await connect(here).read() == ("block", bytes(2_000_000))


async def test_who_does_not_read_is_let_go(autojump_clock: object) -> None:
    here, _ = trio.testing.lockstep_stream_pair()
    writer = connect(here)
    writer.push("ping", bytes(8))
    with pytest.raises(Gone, match="took nothing"):
        await writer.write()
    with pytest.raises(Gone, match="does not read"):
        for _ in range(module.OUTBOX_BYTES // 1_000_000 + 1):
            writer.push("headers", bytes(1_000_000))


async def test_large_messages_wait_for_room_and_keep_their_order() -> None:
    here, there = trio.testing.memory_stream_pair()
    writer, reader = connect(here), connect(there)
    said: list[bytes] = []

    async def serve() -> None:
        for number in range(4):
            await writer.push_large("block", bytes((number,)) * 2_000_000)
            writer.push("ping", bytes((number,)) * 8)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write)
        nursery.start_soon(serve)
        for _ in range(8):
            command, payload = await reader.read()
            said.append(payload[:1])
            assert len(payload) == (2_000_000 if command == "block" else 8)
        nursery.cancel_scope.cancel()
    assert said == [bytes((number // 2,)) for number in range(8)]
