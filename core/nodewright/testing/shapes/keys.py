"""Ed25519 keys of the small chains: of accounts and of validators. Deterministic from a seed, for tests only."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey


class Key:
    """A signing key derived from a name. ``public`` is 32 bytes, a signature 64."""

    __slots__ = ("_key", "public")

    def __init__(self, name: str | bytes) -> None:
        seed = name.encode() if isinstance(name, str) else name
        self._key = SigningKey(sha256(b"nodewright shapes" + seed).digest())
        self.public = bytes(self._key.verify_key)

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message).signature


@lru_cache(maxsize=1 << 14)
def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Cached, because every simulated node of a process checks the same signatures."""
    try:
        VerifyKey(public).verify(message, signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True
