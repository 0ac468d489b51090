"""Messages as the wire carries them: network magic, command, length, checksum, payload. No socket here.

    magic4 ‖ command12 (zero padded) ‖ length4 ‖ checksum4 ‖ payload

A payload above 4,294,967,295 bytes has an extended head: command ``extmsg``, length ``FFFFFFFF``, checksum 0, then
command12 ‖ length8; it carries no checksum (protocol 70016). Integers are little-endian; the checksum is the first four
bytes of the payload's double SHA-256.
"""

from __future__ import annotations

import hashlib
from struct import Struct
from typing import Final

from attrs import frozen

from nodewright.errors import NodewrightError

HEAD: Final = Struct("<4s12sI4s")
EXTENSION: Final = Struct("<12sQ")
HEAD_BYTES: Final = HEAD.size
EXTENSION_BYTES: Final = EXTENSION.size
EXTENDED: Final = "extmsg"
EXTENDED_VERSION: Final = 70016
LONGEST_PLAIN: Final = 0xFFFFFFFF
NO_CHECKSUM: Final = bytes(4)

MAGIC: Final = {
    "main": bytes.fromhex("e3e1f3e8"),
    "test": bytes.fromhex("f4e5f3f4"),
    "regtest": bytes.fromhex("dab5bffa"),
    # This project's own rules for local networks: no other program has them, so it has a magic of its own.
    "local": bytes.fromhex("6e776c6f"),
}
"""By the name of the chain's parameters."""


class WireError(NodewrightError):
    """What came is not what the protocol allows. ``points`` count against the peer; at 100 it is cut off."""

    def __init__(self, message: str, points: int = 100) -> None:
        super().__init__(message)
        self.points = points


@frozen
class Head:
    """Of one message. ``checksum`` is None in an extended head."""

    command: str
    length: int
    checksum: bytes | None


def checksum(payload: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]


def _command(raw: bytes) -> str:
    name = raw.rstrip(b"\0")
    if not name or not all(0x20 < byte < 0x7F for byte in name):
        raise WireError(f"a command of the bytes {raw.hex()}")
    return name.decode("ascii")


def _padded(command: str) -> bytes:
    raw = command.encode("ascii")
    if not 0 < len(raw) <= 12:
        raise ValueError(f"{command!r} is no command: 1 to 12 characters")
    return raw.ljust(12, b"\0")


def decode_head(raw: bytes, magic: bytes) -> Head | None:
    """Of HEAD_BYTES bytes; None where EXTENSION_BYTES more have to be read (``decode_extension``). Raises WireError."""
    its_magic, command, length, check = HEAD.unpack(raw)
    if its_magic != magic:
        raise WireError(f"a message of another network: magic {its_magic.hex()}, here {magic.hex()}")
    name = _command(command)
    if name != EXTENDED:
        return Head(name, length, check)
    if length != LONGEST_PLAIN or check != NO_CHECKSUM:
        raise WireError("an extended head with a length or checksum in its first part")
    return None


def decode_extension(raw: bytes) -> Head:
    command, length = EXTENSION.unpack(raw)
    return Head(_command(command), length, None)


def encode_head(magic: bytes, head: Head) -> bytes:
    if head.checksum is None:
        first = HEAD.pack(magic, _padded(EXTENDED), LONGEST_PLAIN, NO_CHECKSUM)
        return first + EXTENSION.pack(_padded(head.command), head.length)
    return HEAD.pack(magic, _padded(head.command), head.length, head.checksum)


def encode(magic: bytes, command: str, payload: bytes = b"") -> bytes:
    """A whole message."""
    plain = len(payload) <= LONGEST_PLAIN
    head = Head(command, len(payload), checksum(payload) if plain else None)
    return encode_head(magic, head) + payload


def check(head: Head, payload: bytes) -> None:
    """Raises WireError where the payload is not what its head says."""
    if len(payload) != head.length:
        raise WireError(f"{head.command} of {len(payload)} bytes instead of {head.length}")
    if head.checksum is not None and checksum(payload) != head.checksum:
        raise WireError(f"{head.command} whose checksum does not match", 50)
