"""CompactSize, hashes, script numbers: properties and known answers."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright_bitcoin.encoding import (
    MAX_COMPACT_SIZE,
    ParseError,
    hash160,
    read_compact_size,
    ripemd160,
    write_compact_size,
)
from nodewright_bitcoin.ripemd160 import ripemd160 as own_ripemd160
from nodewright_bitcoin.script.numbers import decode_number, encode_number, encoded_size, is_minimal, minimal, truthy

EDGES = [0, 1, 0xFC, 0xFD, 0xFFFF, 0x10000, 0xFFFFFFFF, 0x100000000, MAX_COMPACT_SIZE]


@pytest.mark.parametrize("value", EDGES)
def test_compact_size_edges(value: int) -> None:
    raw = write_compact_size(value)
    assert read_compact_size(b"x" + raw + b"y", 1) == (value, 1 + len(raw))
    for cut in range(len(raw)):
        with pytest.raises(ParseError):
            read_compact_size(raw[:cut], 0)


@given(st.integers(0, MAX_COMPACT_SIZE))
def test_compact_size_round_trip(value: int) -> None:
    assert read_compact_size(write_compact_size(value), 0)[0] == value


@pytest.mark.parametrize("raw", ["fdfc00", "fd0000", "feffff0000", "ffffffffff00000000"])
def test_longer_forms_are_refused(raw: str) -> None:
    with pytest.raises(ParseError, match="shortest"):
        read_compact_size(bytes.fromhex(raw), 0)


def test_compact_size_limit() -> None:
    assert read_compact_size(b"\x05", 0, limit=5) == (5, 1)
    with pytest.raises(ParseError, match="above the limit") as caught:
        read_compact_size(b"\x00\x06", 1, limit=5)
    assert caught.value.offset == 1
    for value in (-1, MAX_COMPACT_SIZE + 1):
        with pytest.raises(ValueError):
            write_compact_size(value)


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("", "9c1185a5c5e9fc54612808977ee8f548b2258d31"),
        ("abc", "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"),
        ("message digest", "5d0689ef49d2fae572b881b123a85ffa21595f36"),
        ("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "12a053384a9c0c88e405a06c27dcf49ada62eb2b"),
        ("1234567890" * 8, "9b752e45573d4b39f4dbd3323cab82bf63326bfb"),
    ],
)
def test_ripemd160_known_answers(text: str, digest: str) -> None:
    """From the algorithm's own paper."""
    assert own_ripemd160(text.encode()).hex() == digest
    assert ripemd160(text.encode()).hex() == digest


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_own_ripemd160_agrees(data: bytes) -> None:
    assert own_ripemd160(data) == ripemd160(data)
    assert hash160(data) == own_ripemd160(hashlib.sha256(data).digest())


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (0, ""),
        (1, "01"),
        (-1, "81"),
        (127, "7f"),
        (128, "8000"),
        (-128, "8080"),
        (255, "ff00"),
        (-255, "ff80"),
        (256, "0001"),
    ],
)
def test_numbers(value: int, raw: str) -> None:
    assert encode_number(value).hex() == raw
    assert decode_number(bytes.fromhex(raw)) == value


@given(st.integers(-(1 << 300), 1 << 300))
def test_number_round_trip(value: int) -> None:
    raw = encode_number(value)
    assert decode_number(raw) == value
    assert is_minimal(raw)
    assert len(raw) == encoded_size(value)
    assert truthy(raw) == (value != 0)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_number(raw: bytes) -> None:
    value = decode_number(raw)
    shortest = minimal(raw)
    assert shortest == encode_number(value)
    assert is_minimal(raw) == (shortest == raw)
    assert truthy(raw) == (value != 0)
    for pad in (b"", b"\0" * 3):  # padding goes between the digits and the sign
        sign = raw[-1] & 0x80 if raw else 0
        padded = (raw[:-1] + bytes((raw[-1] & 0x7F,)) if raw else b"") + pad + bytes((sign,))
        assert decode_number(padded) == value
