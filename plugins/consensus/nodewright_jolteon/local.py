"""Local networks: validators with keys that everybody knows. For development alone.

A genesis document is local if its table ``consensus`` says ``local = true``. The key of validator N is the Ed25519 key of
the seed SHA3-256 of a text with its number. ``consensus.account`` (hex), where it is given, is the account of each of them.
Whoever can reach such a node can sign for them: never give such a network anything of value.
"""

from __future__ import annotations

from hashlib import sha3_256
from typing import Any

from nacl.signing import SigningKey

from nodewright.errors import ConfigurationError
from nodewright_jolteon.config import JolteonConfig
from nodewright_jolteon.keys import Signer


def signer(number: int) -> Signer:
    return Signer(SigningKey(sha3_256(f"nodewright local jolteon validator {number}".encode()).digest()))


def is_local(document: Any) -> bool:
    return bool(document.get("consensus", {}).get("local"))


def complete(config: JolteonConfig, document: dict[str, Any]) -> dict[str, Any]:
    """The document with its validators. Raises ConfigurationError."""
    if not is_local(document):
        if config.local_validator >= 0:
            raise ConfigurationError(
                f"consensus.local_validator is for local networks, and {document.get('network')!r} is none: its key is "
                "known to everybody; set consensus.validator instead"
            )
        return document
    if config.local_validator >= config.local_validators:
        raise ConfigurationError(
            f"consensus.local_validator = {config.local_validator}: the network has validators 0 to "
            f"{config.local_validators - 1}"
        )
    consensus = dict(document["consensus"])
    if "validators" not in consensus:
        account = {"account": consensus["account"]} if "account" in consensus else {}
        consensus["validators"] = [
            {"key": signer(number).public.hex(), "power": 1, **account} for number in range(config.local_validators)
        ]
    return {**document, "consensus": consensus}
