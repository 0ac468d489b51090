"""Signature checks through libsecp256k1 (coincurve) and libsodium (PyNaCl): the plain loops and the ``native`` verifier.

The plain loops are the reference: one foreign call after the other. The verifier uses the compiled loop once it is ready.
Both give the same answers, bit for bit.

Ed25519 has a third way: four signatures side by side in vector registers (``compiled.edwards``), in the same time as two
checks of libsodium. What it refuses is put to libsodium, one by one; what it accepts libsodium accepts.

ECDSA likewise (``compiled.secp256k1``), in the time of half a check of libsecp256k1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT
from nacl._sodium import ffi as sodium_ffi  # type: ignore[import-not-found]
from nacl._sodium import lib as sodium

from nodewright.kernels.switch import compiled

KEY_LENGTHS = (33, 65)
# Compiled beside the core's kernels by who checks many Ed25519 signatures: ``warm_up(LANES)``.
LANES = "nodewright.kernels.compiled.edwards"
# And by who checks many ECDSA signatures.
ECDSA_LANES = "nodewright.kernels.compiled.secp256k1"
WORTH_LANES = 4
BATCH = 128


# --- DER as old Bitcoin nodes read it ---------------------------------------------------------------------------------


def _lax_integer(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the content of the integer at ``at`` begins and ends. Its length may be in long form with leading zeros."""
    end = len(data)
    if at + 2 > end or data[at] != 0x02:
        return None
    length = data[at + 1]
    at += 2
    if length & 0x80:
        count = length - 0x80
        if count > end - at:
            return None
        digits = data[at : at + count].lstrip(b"\0")
        if len(digits) >= 4:
            return None
        length = int.from_bytes(digits, "big")
        at += count
    return (at, at + length) if length <= end - at else None


def lax_der(data: bytes) -> bytes | None:
    """R ‖ S (64 bytes) of a laxly encoded DER signature without its hash type; None where there are no two numbers of
    at most 256 bits. What follows them is ignored, as are the outer length and signs (consensus before BIP66)."""
    if len(data) < 2 or data[0] != 0x30:
        return None
    at = 2
    if data[1] & 0x80:
        at += data[1] - 0x80
        if at > len(data):
            return None
    numbers = []
    for _ in range(2):
        place = _lax_integer(data, at)
        if place is None:
            return None
        begin, at = place
        number = data[begin:at].lstrip(b"\0")
        if len(number) > 32:
            return None
        numbers.append(number.rjust(32, b"\0"))
    return numbers[0] + numbers[1]


# --- plain loops ------------------------------------------------------------------------------------------------------


def ecdsa_plain(keys: Sequence[bytes], digests: Sequence[bytes], signatures: Sequence[bytes]) -> bytearray:
    """See ``nodewright.interfaces.verifier``."""
    out = bytearray(len(keys))
    context = GLOBAL_CONTEXT.ctx
    key_object = ffi.new("secp256k1_pubkey *")
    signature_object = ffi.new("secp256k1_ecdsa_signature *")
    for item, (key, digest, signature) in enumerate(zip(keys, digests, signatures, strict=True)):
        if len(key) not in KEY_LENGTHS or len(digest) != 32:
            continue
        compact = lax_der(signature)
        if compact is None or not lib.secp256k1_ecdsa_signature_parse_compact(context, signature_object, compact):
            continue
        if not lib.secp256k1_ec_pubkey_parse(context, key_object, key, len(key)):
            continue
        lib.secp256k1_ecdsa_signature_normalize(context, signature_object, signature_object)
        out[item] = lib.secp256k1_ecdsa_verify(context, signature_object, digest, key_object)
    return out


def ed25519_plain(keys: Sequence[bytes], messages: Sequence[bytes], signatures: Sequence[bytes]) -> bytearray:
    """See ``nodewright.interfaces.verifier``."""
    out = bytearray(len(keys))
    null = sodium_ffi.NULL
    for item, (key, message, signature) in enumerate(zip(keys, messages, signatures, strict=True)):
        if len(key) == 32 and len(signature) == 64:
            signed = signature + message
            out[item] = sodium.crypto_sign_open(null, null, signed, len(signed), key) == 0
    return out


# --- the verifier -----------------------------------------------------------------------------------------------------


def _address(foreign: Any, pointer: Any) -> int:
    return int(foreign.cast("uintptr_t", pointer))


def _secp256k1_addresses() -> list[int]:
    names = ("ec_pubkey_parse", "ecdsa_signature_parse_compact", "ecdsa_signature_normalize", "ecdsa_verify")
    functions = [_address(ffi, ffi.addressof(lib, f"secp256k1_{name}")) for name in names]
    return [_address(ffi, GLOBAL_CONTEXT.ctx), *functions]


class NativeVerifier:
    """libsecp256k1 and libsodium behind the ``Verifier`` contract. Stateless: any number of threads may call it."""

    name = "native"

    def __init__(self, ed25519_batches: bool = True, ecdsa_batches: bool = True) -> None:
        """``…_batches``: whether such signatures are checked side by side, where that is compiled."""
        self._batches = ed25519_batches
        self._ecdsa_batches = ecdsa_batches
        self._secp256k1 = _secp256k1_addresses()
        self._sodium = _address(sodium_ffi, sodium_ffi.addressof(sodium, "crypto_sign_open"))

    def ecdsa(self, keys: Sequence[bytes], digests: Sequence[bytes], signatures: Sequence[bytes]) -> bytearray:
        """ValueError where the three differ in count (a caller's mistake, never a peer's)."""
        kernels = compiled()
        if not len(keys) == len(digests) == len(signatures):
            raise ValueError("keys, digests and signatures must be equally many")
        if kernels is None or not keys or set(map(len, digests)) != {32}:
            return ecdsa_plain(keys, digests, signatures)
        lanes = compiled(ECDSA_LANES)
        if self._ecdsa_batches and len(keys) >= WORTH_LANES and lanes is not None and lanes.WORTH_IT:
            answers: bytearray = lanes.verify(keys, digests, signatures)
            left = [item for item, answer in enumerate(answers) if not answer] if 0 in answers else []
            for item, answer in zip(left, self._ecdsa_one_by_one(kernels, left, keys, digests, signatures), strict=True):
                answers[item] = answer
            return answers
        return self._ecdsa_one_by_one(kernels, range(len(keys)), keys, digests, signatures)

    def _ecdsa_one_by_one(
        self,
        kernels: Any,
        items: Sequence[int],
        keys: Sequence[bytes],
        digests: Sequence[bytes],
        signatures: Sequence[bytes],
    ) -> bytearray:
        if not items:
            return bytearray()
        if len(items) < len(keys):
            keys, digests, signatures = ([column[item] for item in items] for column in (keys, digests, signatures))
        answers: bytearray = kernels.ecdsa(self._secp256k1, keys, digests, signatures)
        return answers

    def ed25519(self, keys: Sequence[bytes], messages: Sequence[bytes], signatures: Sequence[bytes]) -> bytearray:
        """ValueError where the three differ in count (a caller's mistake, never a peer's)."""
        kernels = compiled()
        if not len(keys) == len(messages) == len(signatures):
            raise ValueError("keys, messages and signatures must be equally many")
        lengths_fit = set(map(len, keys)) == {32} and set(map(len, signatures)) == {64}
        if kernels is None or not lengths_fit:
            return ed25519_plain(keys, messages, signatures)
        lanes = compiled(LANES)
        if self._batches and len(keys) >= WORTH_LANES and lanes is not None and lanes.WORTH_IT:
            return self._side_by_side(lanes, keys, messages, signatures)
        return self._one_by_one(kernels, keys, messages, signatures)

    def _one_by_one(
        self, kernels: Any, keys: Sequence[bytes], messages: Sequence[bytes], signatures: Sequence[bytes]
    ) -> bytearray:
        ends = list(accumulate(64 + len(message) for message in messages))
        signed = b"".join(chain.from_iterable(zip(signatures, messages, strict=True)))
        answers: bytearray = kernels.ed25519(self._sodium, b"".join(keys), signed, ends)
        return answers

    def _side_by_side(
        self, lanes: Any, keys: Sequence[bytes], messages: Sequence[bytes], signatures: Sequence[bytes]
    ) -> bytearray:
        answers = bytearray()
        for start in range(0, len(keys), BATCH):
            part = slice(start, start + BATCH)
            answers += lanes.verify(keys[part], messages[part], signatures[part])
        for item, answer in enumerate(answers):
            if not answer:
                answers[item] = ed25519_plain([keys[item]], [messages[item]], [signatures[item]])[0]
        return answers
