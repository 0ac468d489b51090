"""ECVRF-EDWARDS25519-SHA512-TAI (RFC 9381, suite 0x03) by libsodium's point functions: a validator's draw of randomness
that it cannot choose, and that everybody can check. Pure.

A key and an input have one output: who makes a block can withhold it, and nothing else. Public keys, and points of proofs,
outside the group of prime order are refused, which is stricter than the RFC asks of a verifier.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha512
from typing import Final

from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_core_ed25519_sub,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)
from nacl.exceptions import CryptoError

PROOF_BYTES: Final = 80
OUTPUT_BYTES: Final = 64
_SUITE: Final = b"\x03"
_IDENTITY: Final = b"\x01" + bytes(31)
_ORDER: Final = (1 << 252) + 27742317777372353535851937790883648493


def _hash_to_curve(public: bytes, alpha: bytes) -> bytes:
    """Try and increment: the first hash that is a point, times the cofactor."""
    for counter in range(256):
        point = sha512(_SUITE + b"\x01" + public + alpha + bytes([counter, 0])).digest()[:32]
        try:
            for _ in range(3):
                point = crypto_core_ed25519_add(point, point)
        except CryptoError:
            continue
        if point != _IDENTITY:
            return point
    raise ValueError("no point for this input")  # one in 2 ** 256


def _challenge(*points: bytes) -> bytes:
    return sha512(_SUITE + b"\x02" + b"".join(points) + b"\0").digest()[:16]


def prove(seed: bytes, alpha: bytes) -> bytes:
    """``seed``: the 32 bytes of an Ed25519 private key -> a proof of 80 bytes."""
    digest = sha512(seed).digest()
    clamped = bytearray(digest[:32])
    clamped[0] &= 248
    clamped[31] = clamped[31] & 127 | 64
    secret = crypto_core_ed25519_scalar_reduce(bytes(clamped) + bytes(32))
    public = crypto_scalarmult_ed25519_base_noclamp(secret)
    point = _hash_to_curve(public, alpha)
    gamma = crypto_scalarmult_ed25519_noclamp(secret, point)
    nonce = crypto_core_ed25519_scalar_reduce(sha512(digest[32:] + point).digest())
    challenge = _challenge(
        public,
        point,
        gamma,
        crypto_scalarmult_ed25519_base_noclamp(nonce),
        crypto_scalarmult_ed25519_noclamp(nonce, point),
    )
    product = crypto_core_ed25519_scalar_mul(challenge + bytes(16), secret)
    return gamma + challenge + crypto_core_ed25519_scalar_add(nonce, product)


@lru_cache(maxsize=256)  # a block may come more than once
def verified(public: bytes, alpha: bytes, proof: bytes) -> bool:
    """``public``: 32 bytes. Whether the proof is the key's for this input."""
    if len(proof) != PROOF_BYTES or int.from_bytes(proof[48:], "little") >= _ORDER:
        return False
    gamma, challenge, scalar = proof[:32], proof[32:48], proof[48:]
    try:
        # Multiplying refuses whatever is not in the group of prime order, or is its identity.
        point, wide = _hash_to_curve(public, alpha), challenge + bytes(16)
        left = crypto_core_ed25519_sub(
            crypto_scalarmult_ed25519_base_noclamp(scalar), crypto_scalarmult_ed25519_noclamp(wide, public)
        )
        right = crypto_core_ed25519_sub(
            crypto_scalarmult_ed25519_noclamp(scalar, point), crypto_scalarmult_ed25519_noclamp(wide, gamma)
        )
    except (CryptoError, ValueError):
        return False
    return _challenge(public, point, gamma, left, right) == challenge


def output(proof: bytes) -> bytes:
    """The 64 random bytes of a proof, for one that was verified. Raises ValueError where it holds no point."""
    gamma = proof[:32]
    try:
        for _ in range(3):
            gamma = crypto_core_ed25519_add(gamma, gamma)
    except CryptoError as error:
        raise ValueError("a proof without a point") from error
    return sha512(_SUITE + b"\x03" + gamma + b"\0").digest()
