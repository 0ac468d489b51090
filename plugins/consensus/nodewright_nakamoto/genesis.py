"""The genesis block from the genesis document. Pure.

Table ``consensus``: ``version`` (default 1), ``bits`` (whole number, or hexadecimal text), ``nonce``, ``hash`` (display
hex, compared with what comes out), ``difficulty`` (``regtest``, ``fixed`` or ``classic``), ``target_interval_seconds``,
``half_life_seconds``, ``time`` where it is not the document's own. Table ``execution``: ``coinbase`` (raw, hexadecimal):
its id is the Merkle root. Where an execution has no such transaction, the Merkle root is the document's hash, so that
different documents give different blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from nodewright.errors import ConfigurationError
from nodewright_nakamoto.blockwire import Block, flat_size
from nodewright_nakamoto.difficulty import Difficulty
from nodewright_nakamoto.header import ZERO_ID, Header, sha256d, target_of

RULES = ("regtest", "fixed", "classic")


def _versions(document: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    table = document.get("protocol_versions", {})
    return tuple(sorted((int(height), int(version)) for height, version in table.items()))


@frozen
class Genesis:
    document: Mapping[str, Any]
    block: Block
    prologue_id: bytes
    difficulty: Difficulty
    versions: tuple[tuple[int, int], ...] = ()

    def protocol_version(self, height: int) -> int:
        """The version in force at a height (0 where the document names none)."""
        version = 0
        for start, value in self.versions:
            if start <= height:
                version = value
        return version


def coinbase_of(document: Mapping[str, Any]) -> bytes:
    """The raw genesis coinbase; empty where the document has none. Raises ConfigurationError."""
    text = document.get("execution", {}).get("coinbase", "")
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError):
        raise ConfigurationError("genesis: execution.coinbase must be a raw transaction in hexadecimal") from None


def _number(table: Mapping[str, Any], name: str, default: int, problems: list[str], maximum: int = 0xFFFF_FFFF) -> int:
    value = table.get(name, default)
    if isinstance(value, str):
        try:
            value = int(value, 16)
        except ValueError:
            value = -1
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
        problems.append(f"genesis: consensus.{name} must be a whole number from 0 to {maximum}, not {table.get(name)!r}")
        return default
    return value


def build(document: Mapping[str, Any], prologue_id: bytes | None) -> Genesis:
    """``prologue_id`` is the execution's id of ``coinbase_of(document)``, None where it could not parse it. Raises
    ConfigurationError with every problem."""
    problems: list[str] = []
    table = document.get("consensus", {})
    coinbase = coinbase_of(document)
    if coinbase and prologue_id is None:
        problems.append("genesis: the execution cannot parse execution.coinbase")
    version = _number(table, "version", 1, problems)
    time = _number(table, "time", int(document.get("time", 0)), problems)
    bits = _number(table, "bits", 0x207FFFFF, problems)
    nonce = _number(table, "nonce", 0, problems)
    interval = _number(table, "target_interval_seconds", 600, problems)
    half_life = _number(table, "half_life_seconds", max(10 * interval, 60), problems)
    rule = table.get("difficulty", "regtest")
    if rule not in RULES:
        problems.append(f"genesis: consensus.difficulty must be one of {', '.join(RULES)}, not {rule!r}")
    if not target_of(bits):
        problems.append(f"genesis: consensus.bits {bits:08x} is no possible target")
    if not interval or not half_life:
        problems.append("genesis: consensus.target_interval_seconds and half_life_seconds must be at least 1")
    root = prologue_id if coinbase and prologue_id else bytes(document.get("hash") or sha256d(repr(document).encode()))
    header = Header(version, ZERO_ID, root, time, bits, nonce)
    stated = table.get("hash")
    if stated and not problems and stated != header.id[::-1].hex():
        problems.append(f"genesis: the block's hash is {header.id[::-1].hex()}, the document states {stated}")
    if problems:
        raise ConfigurationError(problems)
    count = 1 if coinbase else 0
    block = Block(header, count, flat_size(count, len(coinbase), 0), (), coinbase, 0)
    difficulty = Difficulty(rule, bits, interval, half_life)
    return Genesis(document, block, prologue_id or bytes(32), difficulty, _versions(document))
