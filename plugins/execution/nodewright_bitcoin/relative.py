"""Relative lock times (BIP68), which the rules before Genesis ask of blocks: an input that has one may be in a block only
so many blocks, or so many times 512 seconds, after the block that made the output it spends.

Of an input's sequence, bit 31 says that there is none, bit 22 that it counts time, the lowest 16 bits how much; what the
others are does not matter. Only transactions of version 2 and later (read without a sign) have any. Time is counted from
the median time past of the block before the one that made the output, to that of the block before the one that spends it.

Pure: heights come from the store of unspent outputs (``blocks`` keeps them exact before Genesis), times from the consensus.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import frozen

from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.execution import ChainTimes
from nodewright_bitcoin.script.checker import SEQUENCE_DISABLE_FLAG, SEQUENCE_MASK, SEQUENCE_TYPE_FLAG
from nodewright_bitcoin.script.flags import ScriptFlags
from nodewright_bitcoin.transaction import Transaction

SEQUENCE_TIME_SHIFT: Final = 9
_FROM: Final = int(ScriptFlags.CHECKSEQUENCEVERIFY)
_UNTIL: Final = int(ScriptFlags.GENESIS)


@frozen
class RelativeLock:
    """On the spending of ``outpoint``: one of ``blocks`` and ``seconds`` is positive, the other is 0."""

    outpoint: bytes
    blocks: int
    seconds: int


Locks = tuple[RelativeLock, ...]


def asked_of_blocks(rules: int) -> bool:
    """Whether blocks of these rules (``rules.era_flags``) are asked for them: the opcode and this came together."""
    return rules & (_FROM | _UNTIL) == _FROM


def relative_locks(tx: Transaction) -> Locks:
    """Those that bind it. One of nothing binds nobody: a block holds a parent before its child, and median times do not
    go back."""
    if tx.version & 0xFFFFFFFF < 2:
        return ()
    found = []
    for spent in tx.inputs:
        distance = spent.sequence & SEQUENCE_MASK
        if spent.sequence & SEQUENCE_DISABLE_FLAG or not distance:
            continue
        if spent.sequence & SEQUENCE_TYPE_FLAG:
            found.append(RelativeLock(spent.outpoint, 0, distance << SEQUENCE_TIME_SHIFT))
        else:
            found.append(RelativeLock(spent.outpoint, distance, 0))
    return tuple(found)


def unmet(locks: Locks, made_at: Mapping[bytes, int], parent: BlockRef, times: ChainTimes | None) -> RelativeLock | None:
    """The first that the block after ``parent`` does not meet. ``made_at`` has the height of the block that made each
    output; one that is not there is in none up to ``parent``. Without ``times`` nothing that counts time is met."""
    for lock in locks:
        made = made_at.get(lock.outpoint)
        if made is None or made > parent.height:
            return lock
        if not lock.seconds:
            if made + lock.blocks > parent.height + 1:
                return lock
            continue
        if times is None:
            return lock
        began = times.median_time_past(parent, max(made - 1, 0))
        if began + lock.seconds > times.median_time_past(parent, parent.height):
            return lock
    return None


def told(lock: RelativeLock) -> str:
    """For who sent it."""
    distance = f"{lock.seconds} seconds" if lock.seconds else f"{lock.blocks} blocks"
    return f"an input must wait until the output that it spends is {distance} old"
