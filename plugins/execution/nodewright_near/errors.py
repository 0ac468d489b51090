"""Refusals in NEAR's own names and JSON forms: balances are decimal strings, gas and nonces numbers.

A value is a name, or a name with its fields: ``"Expired"``, ``{"InvalidNonce": {"tx_nonce": 1, "ak_nonce": 2}}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

ErrorValue = Mapping[str, Any] | str

# How a refused transaction is to be taken by the pool (see ``nodewright.interfaces.common.Refused``).
_KINDS: Final = {
    "Expired": "expired",
    "ShardCongested": "busy",
    "ShardStuck": "busy",
    "SignerDoesNotExist": "missing",
}


class Refusal(Exception):
    """A transaction is not valid here. ``value`` is what an RPC answers under ``InvalidTxError``."""

    def __init__(self, name: str, /, **fields: Any) -> None:
        self.value: ErrorValue = {name: fields} if fields else name
        self.name = name
        super().__init__(sentence(self.value))

    @staticmethod
    def nested(outer: str, inner: ErrorValue) -> Refusal:
        refusal = Refusal(outer)
        refusal.value = {outer: inner}
        refusal.args = (sentence(refusal.value),)
        return refusal

    @property
    def innermost(self) -> str:
        return innermost(self.value)

    @property
    def kind(self) -> str:
        return _KINDS.get(self.name, "invalid")


class ActionFailure(Exception):
    """An action of a receipt failed: what it changed is undone. ``index`` is set by whoever runs the actions."""

    def __init__(self, kind: ErrorValue) -> None:
        self.kind = kind
        self.index: int | None = None
        super().__init__(sentence(kind))

    @staticmethod
    def of(name: str, /, **fields: Any) -> ActionFailure:
        return ActionFailure({name: fields} if fields else name)

    def value(self) -> ErrorValue:
        """What stands under ``Failure`` in the status of an outcome."""
        return {"ActionError": {"index": self.index, "kind": self.kind}}


def access_key_refusal(name: str, /, **fields: Any) -> Refusal:
    return Refusal.nested("InvalidAccessKeyError", {name: fields} if fields else name)


def innermost(value: ErrorValue) -> str:
    """The name that says what went wrong: that of the deepest value that is a name with fields, or a bare name."""
    while isinstance(value, Mapping):
        ((name, inner),) = value.items() if len(value) == 1 else (("", ""),)
        deeper = isinstance(inner, str) or (isinstance(inner, Mapping) and len(inner) == 1 and _is_name(next(iter(inner))))
        if not deeper:
            return name
        if isinstance(inner, str):
            return inner if _is_name(inner) else name
        value = inner
    return value


def _is_name(text: str) -> bool:
    return text[:1].isupper()


def sentence(value: ErrorValue) -> str:
    """One line for a person."""
    if isinstance(value, str):
        return value
    parts = []
    for name, inner in value.items():
        parts.append(f"{name}: {sentence(inner)}" if isinstance(inner, Mapping | str) else f"{name} {inner}")
    return ", ".join(parts)


def value_of(text: str) -> ErrorValue | None:
    """The value of a refused transaction that ``sentence`` told so; None where the text is not of its making."""
    name, told, rest = text.partition(": ")
    if not _is_name(name) or not name.isalpha():
        return None
    if not told:
        return name
    if _is_name(rest):
        inner = value_of(rest)
        return None if inner is None else {name: inner}
    if rest.startswith(_FREE):  # of a caller's own making
        return {name: {_FREE[:-2]: rest.removeprefix(_FREE)}}
    fields: dict[str, Any] = {}
    for part in rest.split(", "):
        field, quoted, value = part.partition(": ")
        if quoted:
            fields[field] = value
            continue
        field, _, value = part.partition(" ")
        if not (value.isascii() and value.isdecimal()):
            return None
        fields[field] = int(value)
    return {name: fields}


_FREE: Final = "method_name: "
