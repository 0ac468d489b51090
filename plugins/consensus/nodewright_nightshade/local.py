"""Local networks: validators with keys that everybody knows, shards by the settings. For development alone.

A genesis document is local if its table ``consensus`` says ``local = true`` (``near-local`` does). Its validators are
``validator0``, ``validator1`` …; the key of each is the Ed25519 key of the seed sha256("nodewright local validator N").
Whoever can reach such a node can sign for them: never give such a network anything of value.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from nacl.signing import SigningKey

from nodewright.errors import ConfigurationError
from nodewright_near.primitives import key_text
from nodewright_nightshade.config import NightshadeConfig
from nodewright_nightshade.keys import Signer

STAKE = 50_000 * 10**24
BALANCE = 1_000_000 * 10**24
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


def signer(number: int) -> Signer:
    return Signer(f"validator{number}", SigningKey(sha256(f"nodewright local validator {number}".encode()).digest()))


def is_local(document: Any) -> bool:
    return bool(document.get("consensus", {}).get("local"))


def boundaries(shards: int) -> list[str]:
    """Evenly over the first two characters of names."""
    names = [first + second for first in LETTERS for second in LETTERS]
    return [names[len(names) * at // shards] for at in range(1, shards)]


def complete(config: NightshadeConfig, document: dict[str, Any]) -> dict[str, Any]:
    """The document with validators, their accounts and the shards' boundaries. Raises ConfigurationError."""
    if not is_local(document):
        if config.local_validator >= 0:
            raise ConfigurationError(
                f"consensus.local_validator is for local networks, and {document.get('network')!r} is none: its key is "
                "known to everybody; set consensus.validator instead"
            )
        return document
    signers = [signer(number) for number in range(config.local_validators)]
    if config.local_validator >= config.local_validators:
        raise ConfigurationError(
            f"consensus.local_validator = {config.local_validator}: the network has validators 0 to {len(signers) - 1}"
        )
    consensus, execution = dict(document["consensus"]), dict(document["execution"])
    if "validators" not in consensus:
        consensus["validators"] = [
            {"account": one.account, "key": key_text(one.public), "stake": str(STAKE)} for one in signers
        ]
        mine = [
            {"id": one.account, "amount": str(BALANCE), "locked": str(STAKE), "keys": [key_text(one.public)]}
            for one in signers
        ]
        execution["accounts"] = [*execution.get("accounts", ()), *mine]
    execution.setdefault("boundary_accounts", boundaries(config.shards))
    return {**document, "consensus": consensus, "execution": execution}
