"""State keys: the names of state values, and their hashes.

A state key is held as the bytes that H_StateKey hashes: 0x00 ‖ AccessPath in BCS for a resource, 0x01 ‖ handle ‖ key for a
table item. An access path is address ‖ vec<u8>, and that vector is 0x01 ‖ StructTag for a resource. In write sets and
leaves a table item's key has its length before it (``serialised``).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha3_256
from typing import Final

from nodewright_aptos import bcs, hashing
from nodewright_aptos.bcs import Malformed, Reader
from nodewright_aptos.typetags import StructTag, read_struct

MAX_STATE_KEY_BYTES: Final = 440  # of a row's key in a store there may be 512
_RESOURCE: Final = 1


def resource_suffix(tag: StructTag) -> bytes:
    """What follows the address in the key of a resource of this type: made once per type."""
    return bcs.blob(bytes([_RESOURCE]) + tag.encode())


def resource_key(address: bytes, tag: StructTag) -> bytes:
    return b"\0" + address + resource_suffix(tag)


def address_prefix(address: bytes) -> bytes:
    """Of the keys of everything that is at an address."""
    return b"\0" + address


def table_key(handle: bytes, key: bytes) -> bytes:
    return b"\1" + handle + key


def serialised(key: bytes) -> bytes:
    """The state key as BCS writes it."""
    if key[0] == 0:
        return key
    return key[:33] + bcs.blob(key[33:])


def read_serialised(reader: Reader) -> bytes:
    start, kind = reader.at, reader.uleb()
    if kind == 0:
        reader.take(32)
        reader.blob(MAX_STATE_KEY_BYTES)
        return reader.data[start : reader.at]
    if kind == 1:
        return b"\1" + reader.take(32) + reader.blob(MAX_STATE_KEY_BYTES)
    raise Malformed(f"state keys of kind {kind} are not known here")


def owner(key: bytes) -> bytes | None:
    """The address of a resource's key; None of a table item's."""
    return key[1:33] if key[0] == 0 else None


def resource_of(key: bytes) -> StructTag | None:
    """The type of a resource's key; None where it is no resource."""
    if key[0] != 0:
        return None
    reader = Reader(key, 33)
    inner = Reader(reader.blob(MAX_STATE_KEY_BYTES))
    if inner.u8() != _RESOURCE:
        return None
    return read_struct(inner)


def key_hash(key: bytes) -> bytes:
    return sha3_256(hashing.STATE_KEY + key).digest()


def key_hashes(keys: Sequence[bytes]) -> list[bytes]:
    return hashing.digests(hashing.STATE_KEY, list(keys))


def value_hashes(values: Sequence[bytes]) -> list[bytes]:
    """Of StateValue V0, which is its bytes with their length, after a tag."""
    return hashing.digests(hashing.STATE_VALUE, [b"\0" + bcs.uleb(len(value)) + value for value in values])


def value_hash(value: bytes) -> bytes:
    return sha3_256(hashing.STATE_VALUE + b"\0" + bcs.blob(value)).digest()
