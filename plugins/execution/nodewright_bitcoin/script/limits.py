"""What one evaluation may use, whatever its author intends.

A script has no loops: it executes at most one instruction per byte. What is left to bound is how much each instruction
may touch.

==================  ==============  =================================  =====================
limit               before Genesis  after Genesis, consensus           after Genesis, policy
==================  ==============  =================================  =====================
script bytes        10,000          4,294,967,295                      500,000
operations          500             4,294,967,295                      4,294,967,295
number bytes        4               750,000 (32,000,000 Chronicle)     10,000
multisig keys       20              4,294,967,295                      4,294,967,295
element bytes       520             stack bytes                        stack bytes
stack elements      1,000           stack bytes                        stack bytes
stack bytes         -               ``CONSENSUS_STACK_BYTES``          100,000,000
work units          (consensus)     ``CONSENSUS_WORK``                 ``POLICY_WORK`` (*)
==================  ==============  =================================  =====================

(*) and ``POLICY_WORK_PER_BYTE`` for each byte of the transaction: that of ordinary inputs, however many.

*Stack bytes* count main and alternate stack together, each element with 32 bytes of overhead. *Work* is about one
nanosecond of this interpreter per unit, charged before it is done: a constant per instruction, the bytes that an
instruction reads or writes, a product's and a quotient's real cost in their lengths, a signature check, and the bytes that
its digest hashes. Consensus names no bound for the last two rows: these are far above what any real script uses, and are
a node's own protection (other nodes protect themselves by the clock; a count gives every run the same answer). One
``WorkBudget`` is shared by all inputs of a transaction, so a transaction of many inputs has no more of it.
"""

from __future__ import annotations

from typing import Final

from attrs import define, frozen

from nodewright_bitcoin.script import flags as f
from nodewright_bitcoin.script.errors import ScriptError, ScriptFailure

MAX_ELEMENT_BYTES_BEFORE_GENESIS: Final = 520
MAX_STACK_ELEMENTS_BEFORE_GENESIS: Final = 1000
ELEMENT_OVERHEAD: Final = 32
UNLIMITED_32_BIT: Final = 0xFFFFFFFF

CONSENSUS_STACK_BYTES: Final = 1 << 29
POLICY_STACK_BYTES: Final = 100_000_000
CONSENSUS_WORK: Final = 1 << 38
POLICY_WORK: Final = 1 << 28
POLICY_WORK_PER_BYTE: Final = 500

INSTRUCTION_WORK: Final = 500
SIGNATURE_WORK: Final = 60_000


@frozen
class ScriptLimits:
    """The columns of the table above; ``max_work`` is what a ``WorkBudget`` starts with where the caller brings none."""

    max_script_bytes: int
    max_operations: int
    max_number_bytes: int
    max_pubkeys: int
    max_stack_bytes: int
    max_work: int


_BEFORE_GENESIS = ScriptLimits(10_000, 500, 4, 20, CONSENSUS_STACK_BYTES, CONSENSUS_WORK)
_GENESIS = ScriptLimits(
    UNLIMITED_32_BIT, UNLIMITED_32_BIT, 750_000, UNLIMITED_32_BIT, CONSENSUS_STACK_BYTES, CONSENSUS_WORK
)
_CHRONICLE = ScriptLimits(
    UNLIMITED_32_BIT, UNLIMITED_32_BIT, 32_000_000, UNLIMITED_32_BIT, CONSENSUS_STACK_BYTES, CONSENSUS_WORK
)
_POLICY = ScriptLimits(500_000, UNLIMITED_32_BIT, 10_000, UNLIMITED_32_BIT, POLICY_STACK_BYTES, POLICY_WORK)


def consensus_limits(flags: int) -> ScriptLimits:
    """By the era in which the output spent was created."""
    if flags & f.UTXO_AFTER_CHRONICLE:
        return _CHRONICLE
    return _GENESIS if flags & f.UTXO_AFTER_GENESIS else _BEFORE_GENESIS


def policy_limits(flags: int) -> ScriptLimits:
    """The defaults for relay; ``attrs.evolve`` makes others."""
    return _POLICY if flags & f.UTXO_AFTER_GENESIS else _BEFORE_GENESIS


@define
class WorkBudget:
    """Work units left."""

    left: int

    def charge(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            raise ScriptFailure(ScriptError.WORK_LIMIT)
