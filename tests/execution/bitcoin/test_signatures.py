"""Encodings that consensus has taken over the years, and the check behind them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright_bitcoin.script.signatures import (
    CURVE_ORDER,
    compact_signature,
    is_low_s,
    is_pubkey_shape,
    is_strict_der,
    is_strict_pubkey,
    parse_lax_der,
    verify_ecdsa,
)
from nodewright_bitcoin.signing import derive_key, public_key, sign_digest

KEY = derive_key(b"signature tests", 0)
DIGEST = hashlib.sha256(b"signed").digest()
SIGNATURE = sign_digest(KEY, DIGEST)
R, S = parse_lax_der(SIGNATURE) or (0, 0)


def integer(value: int, padding: int = 0, long_length: int = 0) -> bytes:
    digits = bytes(padding) + value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")
    if not long_length:
        return bytes((2, len(digits))) + digits
    return bytes((2, 0x80 | long_length)) + len(digits).to_bytes(long_length, "big") + digits


def sequence(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((0x30, len(body) & 0x7F)) + body


@pytest.mark.parametrize(
    "der",
    [
        SIGNATURE,
        sequence(integer(R), integer(S)),  # possibly negative as DER reads it
        sequence(integer(R, padding=3), integer(S, padding=9)),
        sequence(integer(R, long_length=3), integer(S, long_length=7)),
        sequence(integer(R), integer(S)) + b"garbage",
        b"\x30\x00" + integer(R) + integer(S),  # the outer length is not looked at
        b"\x30\x82\xff\xff" + integer(R) + integer(S),
        sequence(integer(R), integer(CURVE_ORDER - S)),  # S in the upper half
    ],
)
def test_sloppy_encodings_verify(der: bytes) -> None:
    parsed = parse_lax_der(der)
    assert parsed is not None
    assert parsed[0] == R
    assert parsed[1] in (S, CURVE_ORDER - S)
    assert compact_signature(der) == R.to_bytes(32, "big") + S.to_bytes(32, "big")
    assert verify_ecdsa(public_key(KEY), DIGEST, der)


def test_strict_der() -> None:
    assert is_strict_der(SIGNATURE + b"\x41")
    for sloppy in (
        SIGNATURE,  # without its hash type
        SIGNATURE + b"\x41\x41",
        sequence(integer(R, padding=3), integer(S)) + b"\x41",
        sequence(integer(R), integer(S, long_length=1)) + b"\x41",
        sequence(integer(1 << 255), integer(1)) + b"\x41",  # negative
        sequence(b"\x02\x00", integer(1)) + b"\x41",
        b"\x30\x00" + SIGNATURE[2:] + b"\x41",
    ):
        assert not is_strict_der(sloppy)


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30",
        b"\x31" + SIGNATURE[1:],
        SIGNATURE[:20],
        SIGNATURE[:-1],
        b"\x30\x82",
        b"\x30\x06\x02\x01\x01\x03\x01\x01",
        b"\x30\x20\x02\x88" + b"\x01" * 8 + bytes(10),
        b"\x30\x20\x02\x84\xff\xff\xff\xff" + bytes(10),
    ],
)
def test_unreadable(der: bytes) -> None:
    assert parse_lax_der(der) is None
    assert compact_signature(der) is None
    assert not is_low_s(der)
    assert not verify_ecdsa(public_key(KEY), DIGEST, der)


@pytest.mark.parametrize("value", [CURVE_ORDER, CURVE_ORDER + 1, (1 << 256) - 1, 1 << 256, 1 << 400])
def test_overflow_reads_as_nothing(value: int) -> None:
    for der in (sequence(integer(value), integer(S)), sequence(integer(R), integer(value))):
        assert parse_lax_der(der) == (0, 0)
        assert is_low_s(der)
        assert not verify_ecdsa(public_key(KEY), DIGEST, der)


def test_keys() -> None:
    compressed, plain = public_key(KEY), public_key(KEY, False)
    hybrid = bytes((6 + (plain[-1] & 1),)) + plain[1:]
    for key in (compressed, plain, hybrid):
        assert is_pubkey_shape(key)
        assert verify_ecdsa(key, DIGEST, SIGNATURE)
    assert not is_strict_pubkey(hybrid)
    wrong_parity = bytes((hybrid[0] ^ 1,)) + plain[1:]
    off_curve = plain[:-1] + bytes((plain[-1] ^ 1,))
    for key in (b"", b"\x02", compressed + b"\0", plain[:-1], b"\x05" + plain[1:], wrong_parity, off_curve, bytes(33)):
        assert not verify_ecdsa(key, DIGEST, SIGNATURE)
    other = public_key(derive_key(b"signature tests", 1))
    assert not verify_ecdsa(other, DIGEST, SIGNATURE)
    assert not verify_ecdsa(compressed, hashlib.sha256(b"other").digest(), SIGNATURE)
    assert not verify_ecdsa(compressed, DIGEST[:31], SIGNATURE)


@given(st.binary(max_size=90), st.binary(max_size=70))
@settings(max_examples=200)
def test_never_raises(der: bytes, key: bytes) -> None:
    assert verify_ecdsa(key, DIGEST, der) in (True, False)
    if is_strict_der(der + b"\x41"):
        assert parse_lax_der(der) is not None


@given(st.integers(0, len(SIGNATURE) - 1), st.binary(max_size=2))
@settings(max_examples=200)
def test_damaged(at: int, replacement: bytes) -> None:
    """What still verifies is another encoding of the same numbers."""
    der = SIGNATURE[:at] + replacement + SIGNATURE[at + 1 :]
    if verify_ecdsa(public_key(KEY), DIGEST, der):
        assert parse_lax_der(der) == (R, S)
