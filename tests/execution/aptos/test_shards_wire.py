"""What crosses between a coordinator and its shards: read as it was written, and garbage refused."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright_aptos.bcs import Malformed
from nodewright_aptos.ledger import EXECUTED, Event, ExecutionStatus
from nodewright_aptos.shards import messages
from nodewright_aptos.shards.links import LinkLost, StreamLink
from nodewright_aptos.shards.messages import (
    Ask,
    Batch,
    Begin,
    End,
    Failed,
    Hello,
    Item,
    Ping,
    Pong,
    Ready,
    Results,
    State,
    Values,
    decode,
    encode,
)
from nodewright_aptos.state import BlockEnvironment, Output

U32, U64, U128 = (st.integers(0, (1 << bits) - 1) for bits in (32, 64, 128))
HASH = st.binary(min_size=32, max_size=32)
KEY = st.binary(max_size=80)
VALUE = st.none() | st.binary(max_size=300)
TEXT = st.text(max_size=40)
STATUS = st.just(EXECUTED) | st.builds(
    ExecutionStatus, st.integers(0, 4), st.none() | st.tuples(HASH, TEXT), U64, TEXT, TEXT
)
EVENT = st.builds(Event, KEY, st.binary(max_size=200)) | st.builds(Event, KEY, st.binary(max_size=200), HASH, U64, U64)
DELTAS = st.dictionaries(KEY, st.integers(1 - (1 << 128), (1 << 128) - 1), max_size=3)


@st.composite
def outputs(draw: Any) -> Output:
    writes = draw(st.dictionaries(KEY, VALUE, max_size=5))
    created = tuple(draw(st.lists(st.sampled_from(sorted(writes)), max_size=3))) if writes else ()
    events = tuple(draw(st.lists(EVENT, max_size=4)))
    return Output(
        draw(st.integers(0, 2)),
        draw(U64),
        draw(STATUS),
        writes,
        draw(DELTAS),
        events,
        created,
        draw(TEXT),
        draw(TEXT),
        draw(U128),
    )


@st.composite
def batches(draw: Any) -> Batch:
    keys = tuple(draw(st.lists(KEY, min_size=1, max_size=6)))
    told = [draw(st.sampled_from([(0, None), (1, None), (2, b""), (2, b"value")])) for _ in keys]
    place = st.integers(0, len(keys) - 1)
    items = []
    for _ in range(draw(st.integers(0, 4))):
        own = tuple(draw(st.lists(place, max_size=5)))
        needs = tuple(draw(st.lists(st.tuples(place, U32), max_size=3)))
        sends = tuple(draw(st.lists(place, max_size=3)))
        items.append(Item(draw(U32), draw(st.binary(max_size=90)), own, draw(st.integers(0, len(own))), needs, sends))
    return Batch(draw(U64), draw(U32), keys, tuple(told), tuple(items))


def rows(*columns: Any) -> Any:
    return st.lists(st.tuples(*columns), max_size=5).map(tuple)


BLOCKS = st.builds(BlockEnvironment, U64, U64, U64, st.integers(0, 255), HASH)
MESSAGES = st.one_of(
    st.builds(Hello, HASH, TEXT.filter(lambda text: len(text.encode()) <= 64)),
    st.builds(Ready, HASH, st.sampled_from(["sequential", "columnar"])),
    st.builds(Begin, U64, BLOCKS),
    batches(),
    st.builds(Values, U64, rows(KEY, U32, VALUE)),
    st.builds(State, U64, rows(KEY, VALUE)),
    st.builds(End, U64),
    st.builds(Ask, U64, st.lists(KEY, max_size=5).map(tuple)),
    st.builds(Results, U64, rows(U32, outputs()), st.lists(KEY, max_size=3).map(tuple), st.tuples(U64, U64, U64, U64)),
    st.builds(Failed, U64, TEXT),
    st.builds(Ping, U64),
    st.builds(Pong, U64),
)


@settings(max_examples=100)
@given(MESSAGES)
def test_what_is_written_is_read(message: Any) -> None:
    assert decode(encode(message)) == message


@settings(max_examples=100)
@given(MESSAGES, st.data())
def test_what_is_changed_is_refused_or_another_message(message: Any, data: Any) -> None:
    """No two forms of one message, no crash, and nothing left over is passed by."""
    raw = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    for garbage in (bytes(raw), cut, encode(message) + b"\0"):
        try:
            read = decode(garbage)
        except Malformed:
            continue
        assert encode(read) == garbage


@settings(max_examples=100)
@given(st.binary(max_size=400), st.integers(0, 11))
def test_garbage_is_refused_without_a_crash(garbage: bytes, kind: int) -> None:
    for data in (garbage, bytes([messages.VERSION, kind]) + garbage):
        try:
            assert encode(decode(data)) == data
        except Malformed:
            pass


def test_counts_and_sizes_are_bounded_before_anything_is_made() -> None:
    for kind in range(12):
        with pytest.raises(Malformed):
            decode(bytes([messages.VERSION, kind]) + bytes(8) + b"\xff\xff\xff\xff\x0f")
    with pytest.raises(Malformed, match="bytes, where"):
        decode(bytes(messages.MAX_MESSAGE_BYTES + 1))
    with pytest.raises(Malformed, match="run the same release"):
        decode(b"\2\0")


class Spoken:
    """A stream that says these bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def receive_some(self, count: int) -> bytes:
        await trio.lowlevel.checkpoint()
        some, self._data = self._data[:7], self._data[7:]
        return some


async def test_a_stream_is_cut_into_messages_and_none_is_too_long() -> None:
    link = StreamLink(Spoken(b"\x03\0\0\0one\0\0\0\0\x0b\0\0\0and two mor"), None)
    assert [await link.receive() for _ in range(3)] == [b"one", b"", b"and two mor"]
    with pytest.raises(LinkLost, match="ended"):
        await link.receive()
    with pytest.raises(LinkLost, match="announces a message of"):
        await StreamLink(Spoken(b"\xff\xff\xff\x7f"), None).receive()
