"""The measure that efficiency is taken against: the time of one correct signature check on this machine, now: by
libsecp256k1 for families that sign by ECDSA, by libsodium for those that sign by Ed25519.

Efficiency = (transactions × this) ÷ CPU time of the node, so it is taken in the same run, with as many busy cores as the
node has: cores share caches, clocks and execution units. Each check has a key, a digest and a signature of its own, and
counts what every implementation must do: read the key, read the signature, verify.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from coincurve import PrivateKey
from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT
from nacl._sodium import ffi as sodium_ffi  # type: ignore[import-not-found]
from nacl._sodium import lib as sodium
from nacl.signing import SigningKey

Check = tuple[bytes, bytes, bytes]


def make_checks(count: int, seed: bytes = b"yardstick") -> list[Check]:
    """``count`` valid (compressed key, digest, DER signature), each under its own key."""
    checks = []
    for index in range(count):
        secret = hashlib.sha256(seed + index.to_bytes(8, "big")).digest()
        digest = hashlib.sha256(secret).digest()
        key = PrivateKey(secret)
        checks.append((key.public_key.format(), digest, key.sign(digest, hasher=None)))
    return checks


def _run(checks: list[Check]) -> float:
    """CPU seconds this thread needed."""
    context = GLOBAL_CONTEXT.ctx
    key_object = ffi.new("secp256k1_pubkey *")
    signature_object = ffi.new("secp256k1_ecdsa_signature *")
    parse_key, parse_signature = lib.secp256k1_ec_pubkey_parse, lib.secp256k1_ecdsa_signature_parse_der
    verify = lib.secp256k1_ecdsa_verify
    valid = 0
    began = time.thread_time()
    for key, digest, signature in checks:
        parse_key(context, key_object, key, 33)
        parse_signature(context, signature_object, signature, len(signature))
        valid += verify(context, signature_object, digest, key_object)
    elapsed = time.thread_time() - began
    if valid != len(checks):
        raise AssertionError("libsecp256k1 refused a correct signature")
    return elapsed


def make_ed25519_checks(count: int, seed: bytes = b"yardstick") -> list[Check]:
    """``count`` valid (key, message of 32 bytes, signature followed by the message), each under its own key."""
    checks = []
    for index in range(count):
        secret = hashlib.sha256(seed + index.to_bytes(8, "big")).digest()
        message = hashlib.sha256(secret).digest()
        key = SigningKey(secret)
        checks.append((bytes(key.verify_key), message, bytes(key.sign(message))))
    return checks


def _run_ed25519(checks: list[Check]) -> float:
    """CPU seconds this thread needed."""
    null, verify = sodium_ffi.NULL, sodium.crypto_sign_open
    valid = 0
    began = time.thread_time()
    for key, _, signed in checks:
        valid += verify(null, null, signed, len(signed), key) == 0
    elapsed = time.thread_time() - began
    if valid != len(checks):
        raise AssertionError("libsodium refused a correct signature")
    return elapsed


def verify_us(cores: int, count: int = 2000, rounds: int = 3) -> float:
    """Microseconds of CPU per check of libsecp256k1 with ``cores`` threads checking at once: the best of ``rounds``, each
    the mean over all threads of ``count`` checks."""
    return _best(_run, make_checks(count), cores, rounds)


def ed25519_verify_us(cores: int, count: int = 2000, rounds: int = 3) -> float:
    """As ``verify_us``, of libsodium."""
    return _best(_run_ed25519, make_ed25519_checks(count), cores, rounds)


def _best(run: Callable[[list[Check]], float], checks: list[Check], cores: int, rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        with ThreadPoolExecutor(max(1, cores)) as pool:
            times = list(pool.map(run, [checks] * max(1, cores)))
        best = min(best, sum(times) / len(times))
    return best / len(checks) * 1e6
