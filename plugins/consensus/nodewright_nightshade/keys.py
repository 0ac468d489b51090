"""The validator's Ed25519 key: from the environment or a file, never from the profile."""

from __future__ import annotations

from functools import lru_cache

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from nodewright.errors import ConfigurationError
from nodewright.interfaces.environment import Environment
from nodewright_near.primitives import ED25519, unbase58
from nodewright_nightshade import vrf

SECRET = "validator_key"


class Signer:
    def __init__(self, account: str, key: SigningKey) -> None:
        self.account = account
        self._key = key
        self.public = bytes([ED25519]) + bytes(key.verify_key)

    def prove(self, alpha: bytes) -> bytes:
        """Its proof of randomness for an input: see ``vrf``."""
        return vrf.prove(bytes(self._key), alpha)

    def sign(self, message: bytes) -> bytes:
        """In Borsh form: tag ‖ 64 bytes."""
        return bytes([ED25519]) + self._key.sign(message).signature


def load(account: str, environment: Environment) -> Signer:
    """``NODEWRIGHT_VALIDATOR_KEY`` or ``<data-dir>/secrets/validator_key``: ``ed25519:`` and base58 of 64 bytes (seed and
    public key) or of the seed alone. Raises ConfigurationError."""
    text = environment.secret(SECRET)
    if text is None:
        raise ConfigurationError(
            f"consensus.validator = {account!r} and there is no key: put it into the environment as "
            "NODEWRIGHT_VALIDATOR_KEY or into <data-dir>/secrets/validator_key"
        )
    return parse(account, text)


def parse(account: str, text: str) -> Signer:
    try:
        raw = unbase58(text.strip().removeprefix("ed25519:"))
        if len(raw) not in (32, 64):
            raise ValueError(f"{len(raw)} bytes")
    except ValueError as error:
        raise ConfigurationError(f"the validator's key is not ed25519:… of 64 bytes in base58 ({error})") from None
    return Signer(account, SigningKey(raw[:32]))


@lru_cache(maxsize=4096)  # the same vote comes more than once
def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Both in Borsh form."""
    if len(public) != 33 or len(signature) != 65 or public[0] or signature[0]:
        return False
    try:
        VerifyKey(public[1:]).verify(message, signature[1:])
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True
