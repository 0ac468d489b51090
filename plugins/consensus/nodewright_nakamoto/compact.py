"""CompactSize integers, bounded and canonical. What a block or message means lives elsewhere."""

from __future__ import annotations


class MalformedError(ValueError):
    """Bytes from outside that do not parse. The message is a sentence that says what was wrong."""


def encode(value: int) -> bytes:
    """The shortest CompactSize form of 0 <= value < 2**64."""
    if value < 0xFD:
        return bytes((value,))
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "little")
    if value <= 0xFFFF_FFFF:
        return b"\xfe" + value.to_bytes(4, "little")
    return b"\xff" + value.to_bytes(8, "little")


def decode(data: bytes, offset: int, maximum: int = 2**64 - 1) -> tuple[int, int]:
    """(value, offset after it). Refuses a form longer than needed, a value over ``maximum`` and a cut-off one."""
    if offset >= len(data):
        raise MalformedError("the bytes end before a length")
    first = data[offset]
    if first < 0xFD:
        value, end = first, offset + 1
    else:
        width = {0xFD: 2, 0xFE: 4, 0xFF: 8}[first]
        end = offset + 1 + width
        if end > len(data):
            raise MalformedError("the bytes end inside a length")
        value = int.from_bytes(data[offset + 1 : end], "little")
        if len(encode(value)) != end - offset:
            raise MalformedError("a length is not in its shortest form")
    if value > maximum:
        raise MalformedError(f"a length of {value} is over the limit of {maximum}")
    return value, end
