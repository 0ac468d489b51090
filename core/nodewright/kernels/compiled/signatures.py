"""Batch signature checks: one compiled loop per batch over libsecp256k1 and libsodium, the GIL released throughout.

Shapes: item i of a variable-length column is ``data[starts[i]:ends[i]]``; answers are one uint8 per item, 1 or 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewright.kernels.compiled.foreign import call3, call4, call5
from nodewright.kernels.compiled.sha256 import BYTES
from nodewright.kernels.compiled.tools import njit, types

OFFSETS = types.int64[::1]
ANSWERS = types.uint8[::1]
LIBRARY = types.uint64[::1]
PLACE = types.UniTuple(types.int64, 2)


@njit(PLACE(BYTES, types.int64, types.int64), nogil=True, cache=True)
def _lax_integer(data: Any, at: Any, end: Any) -> Any:
    """A lax DER integer at ``at``: where its content begins and ends; (-1, -1) where there is none. A length may be
    in long form with leading zeros."""
    if at + 2 > end or data[at] != 0x02:
        return -1, -1
    first = np.int64(data[at + 1])
    at += 2
    length = first
    if first & 0x80:
        count = first - 0x80
        if count > end - at:
            return -1, -1
        while count > 0 and data[at] == 0:
            at += 1
            count -= 1
        if count >= 4:
            return -1, -1
        length = np.int64(0)
        for _ in range(count):
            length = length << 8 | np.int64(data[at])
            at += 1
    if length > end - at:
        return -1, -1
    return at, at + length


@njit(types.boolean(BYTES, types.int64, types.int64, types.uint8[::1]), nogil=True, cache=True)
def lax_der(data: Any, at: Any, end: Any, compact: Any) -> Any:
    """Fill ``compact`` (R ‖ S, 64 bytes). False where the bytes are no signature or a number has over 256 bits."""
    if at + 2 > end or data[at] != 0x30:
        return False
    first = np.int64(data[at + 1])
    at += 2
    if first & 0x80:
        if first - 0x80 > end - at:
            return False
        at += first - 0x80
    compact[:] = 0
    for part in range(2):
        begin, after = _lax_integer(data, at, end)
        if begin < 0:
            return False
        at = after
        while begin < after and data[begin] == 0:
            begin += 1
        if after - begin > 32:
            return False
        into = 32 * part + 32 - (after - begin)
        for i in range(after - begin):
            compact[into + i] = data[begin + i]
    return True


@njit(
    types.void(LIBRARY, BYTES, OFFSETS, OFFSETS, BYTES, BYTES, OFFSETS, OFFSETS, ANSWERS),
    nogil=True,
    cache=True,
)
def ecdsa_batch(
    library: Any,
    keys: Any,
    key_starts: Any,
    key_ends: Any,
    digests: Any,
    signatures: Any,
    signature_starts: Any,
    signature_ends: Any,
    out: Any,
) -> None:
    """``library``: addresses of the context, ec_pubkey_parse, signature_parse_compact, signature_normalize, verify.
    ``digests`` is 32·n bytes."""
    context, parse_key, parse_signature = library[0], library[1], library[2]
    normalize, verify = library[3], library[4]
    scratch = np.empty(192, np.uint8)  # key object 64, signature object 64, compact signature 64
    compact = scratch[128:]
    key_at = np.uint64(scratch.ctypes.data)
    signature_at = key_at + np.uint64(64)
    compact_at = key_at + np.uint64(128)
    keys_at, digests_at = np.uint64(keys.ctypes.data), np.uint64(digests.ctypes.data)
    for item in range(out.shape[0]):
        out[item] = 0
        length = key_ends[item] - key_starts[item]
        if length != 33 and length != 65:
            continue
        if not lax_der(signatures, signature_starts[item], signature_ends[item], compact):
            continue
        if call3(parse_signature, context, signature_at, compact_at) == 0:
            continue
        if call4(parse_key, context, key_at, keys_at + np.uint64(key_starts[item]), np.uint64(length)) == 0:
            continue
        call3(normalize, context, signature_at, signature_at)
        out[item] = call4(verify, context, signature_at, digests_at + np.uint64(32 * item), key_at) == 1
    scratch[0] = 0  # keeps the buffer alive to here: the addresses above do not


@njit(types.void(types.uint64, BYTES, BYTES, OFFSETS, OFFSETS, ANSWERS), nogil=True, cache=True)
def ed25519_batch(sign_open: Any, keys: Any, signed: Any, starts: Any, ends: Any, out: Any) -> None:
    """``sign_open``: address of crypto_sign_open. ``keys`` is 32·n bytes; an item of ``signed`` is signature ‖ message."""
    nothing = np.uint64(0)
    keys_at, signed_at = np.uint64(keys.ctypes.data), np.uint64(signed.ctypes.data)
    for item in range(out.shape[0]):
        begin, length = np.uint64(starts[item]), np.uint64(ends[item] - starts[item])
        key = keys_at + np.uint64(32 * item)
        out[item] = call5(sign_open, nothing, nothing, signed_at + begin, length, key) == 0
