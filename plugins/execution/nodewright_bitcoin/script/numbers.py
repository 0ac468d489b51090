"""Script numbers: little-endian magnitude with the sign in the top bit of the last byte; zero is the empty string.

Negative zero (``80``) and padded forms decode to the same number; the minimal form is the one without them.
"""

from __future__ import annotations


def encode_number(value: int) -> bytes:
    """The minimal form."""
    if value == 0:
        return b""
    magnitude = -value if value < 0 else value
    length = magnitude.bit_length() // 8 + 1  # one spare bit for the sign
    if value < 0:
        magnitude |= 0x80 << 8 * (length - 1)
    return magnitude.to_bytes(length, "little")


def decode_number(data: bytes) -> int:
    """Any form, any length. Linear in the length."""
    if not data:
        return 0
    value = int.from_bytes(data, "little")
    if data[-1] & 0x80:
        return -(value ^ (0x80 << 8 * (len(data) - 1)))
    return value


def encoded_size(value: int) -> int:
    """Bytes of the minimal form."""
    return value.bit_length() // 8 + 1 if value else 0


def is_minimal(data: bytes) -> bool:
    """Without padding and not negative zero."""
    if not data or data[-1] & 0x7F:
        return True
    return len(data) > 1 and data[-2] & 0x80 != 0


def minimal(data: bytes) -> bytes:
    """The minimal form of the same number."""
    return data if is_minimal(data) else encode_number(decode_number(data))


def truthy(data: bytes) -> bool:
    """Anything but zeros, where the sign bit of the last byte does not count."""
    return bool(data) and (data[-1] & 0x7F != 0 or any(data[:-1]))
