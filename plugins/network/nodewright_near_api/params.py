"""Parameters of a call, by name or by position: each is checked here before a method uses it.

What cannot be read is a parse error with a sentence; nothing here touches the chain.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from nodewright_near.primitives import MAX_ACCOUNT, is_account, key_text, parse_hash, parse_key, unbase58
from nodewright_near_api.errors import parse_error

MAX_U64: Final = (1 << 64) - 1
FINALITIES: Final = ("optimistic", "near-final", "final")
CHECKPOINTS: Final = ("genesis", "earliest_available")


@frozen
class BlockReference:
    """Exactly one of ``id`` (hash), ``height``, ``finality``, ``checkpoint`` is set."""

    id: bytes | None = None
    height: int | None = None
    finality: str | None = None
    checkpoint: str | None = None
    text: Any = None

    def document(self) -> dict[str, Any]:
        if self.finality is not None:
            return {"finality": self.finality}
        if self.checkpoint is not None:
            return {"sync_checkpoint": self.checkpoint}
        return {"block_id": self.text}

    def missing(self) -> str:
        """What clients of the family expect to read of a block that is not there."""
        if self.height is not None:
            return f"DB Not Found Error: BLOCK HEIGHT: {self.height} \n Cause: Unknown"
        return f"DB Not Found Error: BLOCK HEADER: {self.text if self.text is not None else self.document()}"


OPTIMISTIC: Final = BlockReference(finality="optimistic")


class Params:
    """Of one call. ``take`` gives positional ones their names; a null is a parameter left out."""

    def __init__(self, given: Any) -> None:
        if given is None:
            given = []
        if not isinstance(given, list | dict | str):
            raise parse_error("Failed parsing args: params are an object or an array")
        self.positional: list[Any] = given if isinstance(given, list) else ([given] if isinstance(given, str) else [])
        self.named: Mapping[str, Any] = given if isinstance(given, dict) else {}
        if len(self.positional) == 1 and isinstance(self.positional[0], dict):
            self.named, self.positional = self.positional[0], []

    def take(self, names: Sequence[str]) -> Mapping[str, Any]:
        """By name, those given by position too."""
        if len(self.positional) > len(names):
            raise parse_error(f"Failed parsing args: {len(self.positional)} params, expected at most {len(names)}")
        found = {name: value for name, value in self.named.items() if value is not None}
        found.update({name: value for name, value in zip(names, self.positional, strict=False) if value is not None})
        return found


def want(found: Mapping[str, Any], name: str) -> Any:
    if name not in found:
        raise parse_error(f"Failed parsing args: missing field `{name}`")
    return found[name]


def text(found: Mapping[str, Any], name: str) -> str:
    value = want(found, name)
    if not isinstance(value, str):
        raise parse_error(f"Failed parsing args: `{name}` is not a string")
    return value


def whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_U64:
        raise parse_error(f"Failed parsing args: `{name}` is not a whole number of 64 bits")
    return value


def hash_of(value: Any, name: str) -> bytes:
    if isinstance(value, str):
        try:
            return parse_hash(value)
        except ValueError:
            pass
    raise parse_error(f"Failed parsing args: `{name}` is not a hash of 32 bytes in base58")


def account(value: Any, name: str = "account_id") -> str:
    if not isinstance(value, str) or not is_account(value):
        shown = value[: MAX_ACCOUNT + 1] if isinstance(value, str) else value
        raise parse_error(f"Failed parsing args: `{name}` {shown!r:.80} is not a valid account id")
    return value


def public_key(value: Any) -> bytes:
    """With or without the curve's name: one client leaves ``ed25519:`` out."""
    if isinstance(value, str):
        try:
            return parse_key(value)
        except ValueError:
            pass
    raise parse_error("Failed parsing args: `public_key` is not a public key, such as ed25519:…")


def base64_bytes(value: Any, name: str, most: int) -> bytes:
    if not isinstance(value, str) or len(value) > (most + 2) // 3 * 4:
        raise parse_error(f"Failed parsing args: `{name}` is no base64, or longer than {most} bytes")
    try:
        return base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise parse_error(f"Failed parsing args: `{name}` is not base64") from None


def base58_bytes(value: Any, name: str) -> bytes:
    if isinstance(value, str):
        try:
            return unbase58(value)
        except ValueError:
            pass
    raise parse_error(f"Failed parsing args: `{name}` is not base58")


def block_id(value: Any) -> BlockReference:
    """A height, or a hash."""
    if isinstance(value, str):
        return BlockReference(id=hash_of(value, "block_id"), text=value)
    return BlockReference(height=whole(value, "block_id"), text=value)


def block_reference(found: Mapping[str, Any], default: BlockReference | None = None) -> BlockReference:
    """``block_id``, ``finality`` or ``sync_checkpoint``."""
    if "block_id" in found:
        return block_id(found["block_id"])
    if "finality" in found:
        finality = found["finality"]
        if finality not in FINALITIES:
            raise parse_error(f"Failed parsing args: `finality` is one of {', '.join(FINALITIES)}")
        return BlockReference(finality=finality)
    if "sync_checkpoint" in found:
        checkpoint = found["sync_checkpoint"]
        if checkpoint not in CHECKPOINTS:
            raise parse_error(f"Failed parsing args: `sync_checkpoint` is one of {', '.join(CHECKPOINTS)}")
        return BlockReference(checkpoint=checkpoint)
    if default is None:
        raise parse_error("Failed parsing args: give one of `block_id`, `finality`, `sync_checkpoint`")
    return default


def shown_key(key: bytes | str) -> str:
    return key if isinstance(key, str) else key_text(key)
