"""What is read is exactly what was written; everything else is refused before anything is allocated for it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright import codec
from nodewright.codec import CompactReader, Malformed, Reader

LENGTHS = st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1), st.sampled_from([127, 128, 16383, 16384, 2**28]))


@settings(max_examples=80)
@given(LENGTHS)
def test_a_length_has_one_form(value: int) -> None:
    raw = codec.uleb(value)
    assert CompactReader(raw).uleb() == value
    longer = bytes([*(byte | 0x80 for byte in raw), 0])
    for wrong in (longer, raw[:-1], bytes([*(byte | 0x80 for byte in raw)])):
        with pytest.raises(Malformed):
            CompactReader(wrong).uleb()


@pytest.mark.parametrize("raw", [b"\xff\xff\xff\xff\x1f", b"\xff" * 5 + b"\1", b"\x80\x80\x80\x80\x80\x01", b"\x80\x00"])
def test_a_length_of_more_than_32_bits_or_more_digits_than_it_needs_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        CompactReader(raw).uleb()


@settings(max_examples=60)
@given(
    st.tuples(st.integers(0, 255), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)),
    st.binary(max_size=300),
    st.lists(st.binary(max_size=5), max_size=20),
    st.none() | st.binary(max_size=3),
    st.data(),
)
def test_what_was_written_is_read(
    numbers: tuple[int, ...], blob: bytes, items: list[bytes], maybe: bytes | None, data: st.DataObject
) -> None:
    writers = (codec.u8, codec.u16, codec.u32, codec.u64)
    parts = [write(number) for write, number in zip(writers, numbers, strict=True)]
    parts += [codec.blob(blob), codec.vector(map(codec.blob, items)), codec.flag(maybe is not None)]
    raw = b"".join([*parts, codec.blob(maybe) if maybe is not None else b""])

    def read(source: CompactReader) -> None:
        assert (source.u8(), source.u16(), source.u32(), source.u64()) == numbers
        assert source.blob(300) == blob
        assert list(source.vector(lambda: source.blob(5), 20)) == items
        assert source.option(lambda: source.blob(3)) == maybe
        source.finish()

    read(CompactReader(raw))
    later = CompactReader(b"head" + raw, 4)
    read(later)
    assert later.rest() == b""
    with pytest.raises(Malformed):
        read(CompactReader(raw[: data.draw(st.integers(0, len(raw) - 1))]))
    with pytest.raises(Malformed, match="1 bytes too many"):
        read(CompactReader(raw + b"\0"))


def test_a_count_is_judged_before_anything_is_made_for_it() -> None:
    def never() -> None:
        pytest.fail("an item of a refused list was read")

    for raw, limit, floor in (
        (codec.uleb(2**31), 2**32, 1),
        (codec.uleb(5) + bytes(5), 4, 1),
        (codec.uleb(3) + bytes(5), 9, 2),
    ):
        with pytest.raises(Malformed):
            CompactReader(raw).vector(never, limit, floor)
    with pytest.raises(Malformed):
        CompactReader(codec.uleb(5) + bytes(5)).blob(4)
    assert CompactReader(codec.uleb(3) + bytes(6)).length(9, 2) == 3


def test_flags_are_0_or_1_and_numbers_fit() -> None:
    with pytest.raises(Malformed, match="0 or 1"):
        Reader(b"\2").flag()
    for write, bits in ((codec.u8, 8), (codec.u64, 64), (codec.uint(16), 128), (codec.uleb, 32)):
        for wrong in (-1, 1 << bits):
            with pytest.raises(Malformed):
                write(wrong)


@given(st.binary(max_size=6), st.integers(0, 8))
def test_nothing_is_read_past_the_end(raw: bytes, count: int) -> None:
    source = Reader(raw)
    if count <= len(raw):
        assert source.take(count) == raw[:count] and source.rest() == raw[count:]
        source.finish()
    else:
        with pytest.raises(Malformed):
            source.take(count)
        assert source.at == 0
