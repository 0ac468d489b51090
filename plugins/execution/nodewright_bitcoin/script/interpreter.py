"""Does an unlocking script satisfy a locking script, under given rules?

``verify_script`` never raises on any scripts: it answers with the error or None. It holds no state between calls and is
safe in threads. What it may use is bounded by ``limits``.
"""

from __future__ import annotations

from nodewright_bitcoin.script import flags as f
from nodewright_bitcoin.script.checker import SignatureChecker, TransactionSignatureChecker
from nodewright_bitcoin.script.errors import ScriptError, ScriptFailure
from nodewright_bitcoin.script.evaluation import Evaluation
from nodewright_bitcoin.script.limits import ELEMENT_OVERHEAD, ScriptLimits, WorkBudget, consensus_limits, policy_limits
from nodewright_bitcoin.script.machine import Machine, fail
from nodewright_bitcoin.script.numbers import truthy
from nodewright_bitcoin.script.opcodes import is_p2sh, is_push_only

__all__ = [
    "ScriptError",
    "ScriptLimits",
    "SignatureChecker",
    "TransactionSignatureChecker",
    "WorkBudget",
    "consensus_limits",
    "policy_limits",
    "verify_script",
]


def verify_script(
    unlocking: bytes,
    locking: bytes,
    flags: int,
    checker: SignatureChecker,
    limits: ScriptLimits | None = None,
    budget: WorkBudget | None = None,
) -> ScriptError | None:
    """None where the spend is allowed, else why not.

    ``limits`` are consensus ones by default. Pass one ``budget`` for all inputs of a transaction, so that together they
    do no more than one may; without it each call starts with ``limits.max_work``."""
    flags = int(flags)
    limits = limits or consensus_limits(flags)
    try:
        _verify(unlocking, locking, flags, checker, limits, budget or WorkBudget(limits.max_work))
    except ScriptFailure as failure:
        return failure.error
    return None


def _verify(
    unlocking: bytes, locking: bytes, flags: int, checker: SignatureChecker, limits: ScriptLimits, budget: WorkBudget
) -> None:
    if flags & f.UTXO_AFTER_CHRONICLE and not flags & f.UTXO_AFTER_GENESIS:
        fail(ScriptError.INVALID_FLAGS)
    if flags & f.SIGHASH_FORKID:
        flags |= f.STRICTENC
    machine = Machine(flags, checker.version, limits, budget)
    if flags & f.SIGPUSHONLY and _push_only_rule(flags, machine) and not is_push_only(unlocking):
        fail(ScriptError.SIG_PUSHONLY)
    Evaluation(machine, unlocking, checker, locking).run()
    _forget_altstack(machine)
    pay_to_script_hash = bool(flags & f.P2SH) and not flags & f.UTXO_AFTER_GENESIS and is_p2sh(locking)
    kept = list(machine.stack) if pay_to_script_hash else []
    Evaluation(machine, locking, checker).run()
    _forget_altstack(machine)
    _expect_true(machine)
    if pay_to_script_hash:
        if not is_push_only(unlocking):
            fail(ScriptError.SIG_PUSHONLY)
        # The comparison of hashes succeeded, so there is an element, and it is the redeem script.
        redeem = kept.pop()
        machine.stack = kept
        machine.memory = sum(len(item) + ELEMENT_OVERHEAD for item in kept)
        Evaluation(machine, redeem, checker).run()
        _forget_altstack(machine)
        _expect_true(machine)
    if flags & f.CLEANSTACK:
        # Without P2SH, adding P2SH later would not be a narrowing of the rules.
        if not flags & f.P2SH:
            fail(ScriptError.INVALID_FLAGS)
        if machine.strict and len(machine.stack) != 1:
            fail(ScriptError.CLEANSTACK)


def _push_only_rule(flags: int, machine: Machine) -> bool:
    """Since Genesis an unlocking script only pushes; since Chronicle only that of a transaction of version 1."""
    return machine.strict if flags & f.CHRONICLE else True


def _forget_altstack(machine: Machine) -> None:
    """Each script has an alternate stack of its own."""
    for item in machine.altstack:
        machine.memory -= len(item) + ELEMENT_OVERHEAD
    machine.altstack.clear()


def _expect_true(machine: Machine) -> None:
    if not machine.stack or not truthy(machine.stack[-1]):
        fail(ScriptError.EVAL_FALSE)
