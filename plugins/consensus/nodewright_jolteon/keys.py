"""The validator's Ed25519 key: from the environment or a file, never from the profile."""

from __future__ import annotations

from nacl.signing import SigningKey

from nodewright.errors import ConfigurationError
from nodewright.interfaces.environment import Environment
from nodewright_jolteon.codec import digest

SECRET = "validator_key"


class Signer:
    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self.public = bytes(key.verify_key)

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(message).signature


def load(environment: Environment) -> Signer:
    """``NODEWRIGHT_VALIDATOR_KEY`` or ``<data-dir>/secrets/validator_key``: 64 hexadecimal digits, with or without 0x.
    Raises ConfigurationError."""
    text = environment.secret(SECRET)
    if text is None:
        raise ConfigurationError(
            "consensus.validator = true and there is no key: put it into the environment as NODEWRIGHT_VALIDATOR_KEY or "
            "into <data-dir>/secrets/validator_key (64 hexadecimal digits)"
        )
    try:
        seed = bytes.fromhex(text.strip().removeprefix("0x"))
        return Signer(SigningKey(seed))
    except (ValueError, TypeError):
        raise ConfigurationError("the validator's key is not 64 hexadecimal digits: write an Ed25519 seed so") from None


def identity(network: bytes, node_id: bytes) -> bytes:
    """What a validator signs so that others know its node. ``network``: the genesis block's id."""
    return digest("node", network, node_id)
