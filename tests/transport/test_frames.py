"""Frames: what is written is read back, and nothing else passes; the outbox keeps order, credit and bounds."""

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.transport import frames
from nodewright.transport.frames import Declaration, FrameError
from nodewright.transport.link import Limits
from nodewright.transport.outbox import MAX_CONTROL_FRAMES, ControlOverflow, Outbox

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
payloads = st.binary(max_size=200)
some_frames = st.one_of(
    st.builds(frames.data, u32, payloads),
    st.builds(frames.request, st.sampled_from([frames.REQUEST, frames.RESPONSE]), u32, u32, payloads),
    st.builds(frames.piece, u32, st.binary(min_size=1, max_size=200)),
    st.builds(frames.fetch, u32, u64, u64, u32, st.text("abc", min_size=1, max_size=8), st.binary(max_size=40)),
    st.builds(frames.bye, st.text(max_size=300)),
    st.builds(lambda n: frames.frame(frames.PING, frames.U64.pack(n)), u64),
)


@given(st.lists(some_frames, max_size=20))
@settings(max_examples=100)
def test_a_batch_is_its_frames(parts: list[bytes]) -> None:
    batch = b"".join(parts)
    found = [frames.HEADER.pack(end - start, kind) + batch[start:end] for kind, start, end in frames.parse(batch)]
    assert found == parts


@given(st.binary(max_size=300) | st.tuples(some_frames, st.integers(1, 50)).map(lambda x: x[0][: -x[1]]))
@settings(max_examples=200)
def test_anything_else_is_a_frame_error_or_frames(data: bytes) -> None:
    try:
        for kind, start, end in frames.parse(data):
            assert 0 < kind <= frames.BYE and 5 <= start <= end <= len(data)
            if kind == frames.FETCH:
                frames.parse_fetch(data[start:end])
            elif kind == frames.HELLO:
                frames.parse_hello(data[start:end])
    except FrameError:
        pass


@given(st.lists(st.builds(Declaration, u32, u32, u64, u32), max_size=8, unique_by=lambda d: d.channel))
def test_a_hello_round_trips(declarations: list[Declaration]) -> None:
    ((kind, start, end),) = frames.parse(batch := frames.hello(declarations))
    assert kind == frames.HELLO and frames.parse_hello(batch[start:end]) == declarations


@given(u32, u64, u64, u32, st.text(min_size=1, max_size=20), st.binary(max_size=255), st.binary(min_size=1, max_size=3))
def test_a_fetch_round_trips_and_takes_nothing_more(number, offset, most, credit, kind, id, more) -> None:
    body = frames.fetch(number, offset, most, credit, kind, id)[5:]
    assert frames.parse_fetch(body) == (number, offset, most, credit, kind, id)
    with pytest.raises(FrameError):
        frames.parse_fetch(body + more)


def test_a_hello_that_names_a_channel_twice_is_refused() -> None:
    twice = frames.hello([Declaration(1, 1, 1, 1)] * 2)
    with pytest.raises(FrameError, match="twice"):
        frames.parse_hello(twice[5:])


@given(st.lists(st.tuples(st.sampled_from(["put", "credit", "take"]), st.integers(0, 2), st.integers(0, 400)), max_size=60))
@settings(max_examples=80)
def test_the_outbox_keeps_order_and_credit(steps: list[tuple[str, int, int]]) -> None:
    """Three metered channels: what leaves each is a prefix of what was put, never beyond the credit given."""
    outbox = Outbox(Limits())
    for channel in range(3):
        outbox.declare(Declaration(channel, 0, 0, 1 << 20))
    put: list[list[bytes]] = [[], [], []]
    left: list[list[bytes]] = [[], [], []]
    credit = [[0, 0] for _ in range(3)]
    for action, channel, number in steps:
        queue = outbox.channels[channel]
        if action == "put":
            frame = frames.data(channel, bytes(number))
            put[channel].append(frame)
            outbox.push(queue, frame)
        elif action == "credit":
            queue.credit_messages += 2
            queue.credit_bytes += number
            credit[channel][0] += 2
            credit[channel][1] += number
        else:
            batch = outbox._collect()
            for _, start, end in frames.parse(batch):
                (source,) = frames.U32.unpack_from(batch, start)
                left[source].append(batch[start - 5 : end])
    for channel in range(3):
        assert left[channel] == put[channel][: len(left[channel])]
        assert len(left[channel]) <= credit[channel][0]
        assert sum(len(frame) - frames.DATA_OVERHEAD for frame in left[channel]) <= credit[channel][1]
        waiting = put[channel][len(left[channel]) :]
        assert list(outbox.channels[channel].frames) == waiting


async def test_control_frames_are_bounded_and_go_first() -> None:
    outbox = Outbox(Limits())
    outbox.declare(Declaration(1, frames.UNMETERED, 0, 100))
    outbox.push(outbox.channels[1], frames.data(1, b"x"))
    for _ in range(MAX_CONTROL_FRAMES):
        outbox.control(frames.frame(frames.STOP, bytes(4)))
    with pytest.raises(ControlOverflow):
        outbox.control(frames.frame(frames.STOP, bytes(4)))
    with trio.fail_after(5):
        batch = await outbox.next_batch()
    kinds = [kind for kind, _, _ in frames.parse(batch)]
    assert kinds == [frames.STOP] * MAX_CONTROL_FRAMES + [frames.DATA]
