"""What the genesis document says to Jolteon, and the state before the first block.

Table ``consensus``: ``validators`` (list of ``key``: 64 hexadecimal digits; optional ``power``, 1; ``account`` in hex, what
the execution sees as proposer, by default the key); rules that all nodes must share: ``max_batch_transactions`` (100),
``max_batch_bytes`` (1 MiB), ``expiry_seconds`` of a batch (60), ``max_block_transactions`` (10,000), ``max_block_bytes`` (8
MiB), ``retry_seconds`` (30: how long a transaction that cannot run yet is ordered again). ``local = true``: see ``local``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from nodewright.errors import ConfigurationError
from nodewright.interfaces.common import BlockRef
from nodewright_jolteon.codec import NO_HASH, digest
from nodewright_jolteon.formats import MAX_BATCH_BYTES, MAX_BATCH_COUNT, LedgerInfo
from nodewright_jolteon.leaders import Record
from nodewright_jolteon.store import Done
from nodewright_jolteon.validators import MAX_ACCOUNT_BYTES, MAX_POWER, MAX_VALIDATORS, Epoch, Validator, ValidatorSet

MICROSECONDS = 1_000_000


@frozen
class Parameters:
    max_batch_transactions: int = 100
    max_batch_bytes: int = 1024 * 1024
    expiry_seconds: int = 60
    max_block_transactions: int = 10_000
    max_block_bytes: int = 8 * 1024 * 1024
    retry_seconds: int = 30


LIMITS = {
    "max_batch_transactions": MAX_BATCH_COUNT,
    "max_batch_bytes": MAX_BATCH_BYTES,
    "expiry_seconds": 3600,
    "max_block_transactions": 1 << 20,
    "max_block_bytes": 1 << 30,
    "retry_seconds": 3600,
}


@frozen
class Genesis:
    document: Mapping[str, Any]
    block: BlockRef
    time: int  # microseconds
    validators: ValidatorSet
    parameters: Parameters

    def epoch(self) -> Epoch:
        return Epoch(1, self.block, self.validators)

    def done(self, commitment: bytes | None) -> Done:
        said = commitment or b""
        root = digest("root", NO_HASH, self.block.id, said, b"")
        return Done(LedgerInfo(0, 0, self.block, self.time, root, said), Record(0, self.block.id, 0, (), ()))


def read(document: Mapping[str, Any]) -> Genesis:
    """Raises ConfigurationError with a sentence."""
    table = document.get("consensus", {})
    members = [_validator(entry) for entry in table.get("validators", ())]
    if not 0 < len(members) <= MAX_VALIDATORS or len({member.key for member in members}) < len(members):
        raise ConfigurationError(
            f"genesis: consensus.validators must name 1 to {MAX_VALIDATORS} validators, each key once; "
            "or set consensus.local = true for a local network"
        )
    values = {}
    for name, most in LIMITS.items():
        if name in table:
            value = table[name]
            if type(value) is not int or not 0 < value <= most:
                raise ConfigurationError(
                    f"genesis: consensus.{name} must be a whole number from 1 to {most}, not {value!r}"
                )
            values[name] = value
    block = BlockRef(0, digest("genesis", document["hash"]))
    return Genesis(
        document, block, int(document["time"]) * MICROSECONDS, ValidatorSet(tuple(members)), Parameters(**values)
    )


def _validator(entry: Any) -> Validator:
    try:
        key = bytes.fromhex(entry["key"].removeprefix("0x"))
        power = int(entry.get("power", 1))
        account = bytes.fromhex(entry["account"].removeprefix("0x")) if "account" in entry else key
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"genesis: consensus.validators: an entry cannot be read: {error}") from error
    if len(key) != 32 or not 0 < power <= MAX_POWER or len(account) > MAX_ACCOUNT_BYTES:
        raise ConfigurationError("genesis: consensus.validators: a key has 64 hexadecimal digits, a power is positive")
    return Validator(key, power, account)
