"""What every structure of NEAR is made of: hashes, account names, keys, signatures, and their text forms.

A public key is its Borsh form (tag ‖ key: 33 bytes for Ed25519, 65 for secp256k1); a signature likewise (65 or 66 bytes).
An account name is ``str``: 2 to 64 characters, parts of lower-case letters and digits joined by one ``-``, ``_`` or ``.``
each.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Annotated, Final

from nodewright_near.borsh import Fixed, Malformed, Reader

ED25519: Final = 0
SECP256K1: Final = 1
KEY_BYTES: Final = {ED25519: 32, SECP256K1: 64}
SIGNATURE_BYTES: Final = {ED25519: 64, SECP256K1: 65}
KEY_NAMES: Final = {ED25519: "ed25519", SECP256K1: "secp256k1"}

NO_HASH: Final = bytes(32)
SYSTEM: Final = "system"
NO_KEY: Final = bytes(33)
NO_SIGNATURE: Final = bytes(65)

MIN_ACCOUNT: Final = 2
MAX_ACCOUNT: Final = 64
_ACCOUNT: Final = re.compile(r"(?:[a-z0-9]+[-_])*[a-z0-9]+(?:\.(?:[a-z0-9]+[-_])*[a-z0-9]+)*\Z")
_HEX64: Final = re.compile(r"[0-9a-f]{64}\Z")
_ETHEREUM: Final = re.compile(r"0x[0-9a-f]{40}\Z")
_DETERMINISTIC: Final = re.compile(r"0s[0-9a-f]{40}\Z")
_KNOWN_LIMIT: Final = 1 << 17
KNOWN_ACCOUNTS: Final[dict[bytes, str]] = {}  # by their bytes: read here, written by ``account_of`` alone


def hash256(data: bytes) -> bytes:
    return sha256(data).digest()


# --- account names ----------------------------------------------------------------------------------------------------


def is_account(name: str) -> bool:
    return MIN_ACCOUNT <= len(name) <= MAX_ACCOUNT and _ACCOUNT.match(name) is not None


def is_top_level(account: str) -> bool:
    return account != SYSTEM and "." not in account


def is_sub_account(account: str, parent: str) -> bool:
    """Directly below ``parent``: one more part in front."""
    head, dot, rest = account.partition(".")
    return bool(dot) and rest == parent and bool(head)


def is_implicit(account: str) -> bool:
    """Named after an Ed25519 key: 64 hexadecimal digits."""
    return len(account) == 64 and _HEX64.match(account) is not None


def is_ethereum_like(account: str) -> bool:
    return _ETHEREUM.match(account) is not None


def is_reserved_form(account: str) -> bool:
    """Names that nobody can create by ``CreateAccount``."""
    return is_implicit(account) or is_ethereum_like(account) or _DETERMINISTIC.match(account) is not None


class _Account:
    """An account name behind its length."""

    floor = 4 + MIN_ACCOUNT

    def write(self, value: str, out: bytearray) -> None:
        data = value.encode()
        out += len(data).to_bytes(4, "little")
        out += data

    def read(self, source: Reader) -> str:
        size = source.uint(4)
        if size > MAX_ACCOUNT:
            raise Malformed(f"an account name of {size} bytes")
        data = source.take(size)
        name = account_of(data)
        if name is None:
            if not data.isascii():
                raise Malformed("an account name is not ASCII")
            raise Malformed(f"{data.decode()[:64]!r} is not an account name")
        return name


def account_of(data: bytes) -> str | None:
    """The name that these bytes are; None where they are none. Names seen before are not checked again."""
    name = KNOWN_ACCOUNTS.get(data)
    if name is None and data.isascii():
        text = data.decode()
        if is_account(text):
            if len(KNOWN_ACCOUNTS) >= _KNOWN_LIMIT:
                KNOWN_ACCOUNTS.clear()
            KNOWN_ACCOUNTS[data] = name = text
    return name


class _Tagged:
    """A tag and as many bytes as it asks for, kept together."""

    def __init__(self, sizes: dict[int, int], what: str) -> None:
        self._sizes = sizes
        self._what = what
        self.floor = 1 + min(sizes.values())

    def write(self, value: bytes, out: bytearray) -> None:
        if len(value) != 1 + self._sizes.get(value[0] if value else -1, -1):
            raise Malformed(f"not a {self._what}")
        out += value

    def read(self, source: Reader) -> bytes:
        if source.at >= source.end:
            raise Malformed(f"a {self._what} is missing")
        size = self._sizes.get(source.data[source.at])
        if size is None:
            raise Malformed(f"there is no {self._what} of kind {source.data[source.at]}")
        return source.take(1 + size)


Hash = Annotated[bytes, Fixed(32)]
AccountId = Annotated[str, _Account()]
PublicKey = Annotated[bytes, _Tagged(KEY_BYTES, "public key")]
Signature = Annotated[bytes, _Tagged(SIGNATURE_BYTES, "signature")]


# --- text forms -------------------------------------------------------------------------------------------------------

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = {letter: value for value, letter in enumerate(_ALPHABET)}
_MAX_BASE58: Final = 128


_PAIRS: Final = [first + second for first in _ALPHABET for second in _ALPHABET]


def base58(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    pairs = []
    while number:
        # Ten letters at a time: what is left then is small, and its arithmetic fast.
        number, ten = divmod(number, 58**10)
        for _ in range(5):
            ten, pair = divmod(ten, 3364)
            pairs.append(_PAIRS[pair])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(pairs)).lstrip("1")


def unbase58(text: str) -> bytes:
    """At most 128 letters. Raises ValueError."""
    if len(text) > _MAX_BASE58:
        raise ValueError(f"{len(text)} letters of base58 are too many")
    number = 0
    for letter in text:
        digit = _DIGITS.get(letter)
        if digit is None:
            raise ValueError(f"{letter!r} is no letter of base58")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def hash_text(value: bytes) -> str:
    return base58(value)


def parse_hash(text: str) -> bytes:
    """32 bytes. Raises ValueError."""
    value = unbase58(text)
    if len(value) != 32:
        raise ValueError(f"a hash has 32 bytes, not {len(value)}")
    return value


def key_text(key: bytes) -> str:
    """``ed25519:…`` or ``secp256k1:…``; of a signature too."""
    return f"{KEY_NAMES[key[0]]}:{base58(key[1:])}"


def parse_key(text: str) -> bytes:
    """A public key with or without its curve's name (then Ed25519). Raises ValueError."""
    return _parse_tagged(text, KEY_BYTES, "public key")


def parse_signature(text: str) -> bytes:
    return _parse_tagged(text, SIGNATURE_BYTES, "signature")


def _parse_tagged(text: str, sizes: dict[int, int], what: str) -> bytes:
    name, colon, body = text.rpartition(":")
    kinds = {text: kind for kind, text in KEY_NAMES.items()}
    kind = kinds.get(name.lower()) if colon else ED25519
    if kind is None:
        raise ValueError(f"{name[:20]!r} is no curve: ed25519 or secp256k1")
    data = unbase58(body)
    if len(data) != sizes[kind]:
        raise ValueError(f"a {what} of this curve has {sizes[kind]} bytes, not {len(data)}")
    return bytes([kind]) + data
