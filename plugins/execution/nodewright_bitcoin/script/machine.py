"""The stacks of one evaluation, and what every opcode that only touches them does.

Invariants:
- ``memory`` is the sum over both stacks of element length plus overhead, and never exceeds the limit: ``push`` counts an
  element before it is there.
- Work is charged before it is done, in proportion to the bytes touched.
- Elements are immutable bytes, so copying an element costs a reference.

Handlers take the machine and raise ``ScriptFailure``; control flow, signatures and lock times are in ``evaluation``,
arithmetic and byte strings in ``operations``.
"""

from __future__ import annotations

from typing import NoReturn

from nodewright_bitcoin.script import flags as f
from nodewright_bitcoin.script.errors import ScriptError, ScriptFailure
from nodewright_bitcoin.script.limits import ELEMENT_OVERHEAD, ScriptLimits, WorkBudget
from nodewright_bitcoin.script.numbers import decode_number, encode_number, encoded_size, is_minimal

TRUE = b"\x01"
FALSE = b""


def fail(error: ScriptError) -> NoReturn:
    raise ScriptFailure(error)


class Machine:
    """``minimal_numbers`` and ``big_numbers`` follow from the flags and the spending transaction's version."""

    __slots__ = (
        "altstack",
        "big_numbers",
        "budget",
        "chronicle",
        "flags",
        "limits",
        "memory",
        "minimal_numbers",
        "stack",
        "strict",
        "version",
    )

    def __init__(self, flags: int, version: int, limits: ScriptLimits, budget: WorkBudget) -> None:
        self.stack: list[bytes] = []
        self.altstack: list[bytes] = []
        self.memory = 0
        self.flags = flags
        self.version = version
        self.limits = limits
        self.budget = budget
        # Chronicle lets a transaction of version 2 or more be malleable: the rules against malleability stand back.
        self.strict = not (flags & f.CHRONICLE and version > 1)
        self.minimal_numbers = bool(flags & f.MINIMALDATA) and self.strict
        self.big_numbers = bool(flags & f.UTXO_AFTER_GENESIS)
        self.chronicle = bool(flags & f.UTXO_AFTER_CHRONICLE)

    # stack

    def need(self, count: int) -> None:
        if len(self.stack) < count:
            raise ScriptFailure(ScriptError.INVALID_STACK_OPERATION)

    def room(self, size: int) -> None:
        """Fail unless an element of ``size`` bytes may be pushed: asked before one is built that may be huge."""
        if self.memory + size + ELEMENT_OVERHEAD > self.limits.max_stack_bytes:
            raise ScriptFailure(ScriptError.STACK_SIZE)

    def push(self, item: bytes) -> None:
        memory = self.memory + len(item) + ELEMENT_OVERHEAD
        if memory > self.limits.max_stack_bytes:
            raise ScriptFailure(ScriptError.STACK_SIZE)
        self.memory = memory
        self.stack.append(item)

    def pop(self) -> bytes:
        if not self.stack:
            raise ScriptFailure(ScriptError.INVALID_STACK_OPERATION)
        item = self.stack.pop()
        self.memory -= len(item) + ELEMENT_OVERHEAD
        return item

    def drop(self, count: int) -> None:
        for _ in range(count):
            self.pop()

    def push_bool(self, value: bool) -> None:
        self.push(TRUE if value else FALSE)

    # numbers

    def number(self, item: bytes, max_bytes: int | None = None) -> int:
        """``item`` as a number of at most ``max_bytes`` (the era's limit where None)."""
        if len(item) > (self.limits.max_number_bytes if max_bytes is None else max_bytes):
            raise ScriptFailure(ScriptError.SCRIPTNUM_OVERFLOW)
        if self.minimal_numbers and not is_minimal(item):
            raise ScriptFailure(ScriptError.SCRIPTNUM_MINENCODE)
        if len(item) > 64:
            self.budget.charge(len(item))
        return decode_number(item)

    def push_number(self, value: int) -> None:
        """A result. Numbers since Chronicle are bounded in their results too; before, only as operands (so the product of
        two numbers of the greatest length stands, and is too long for the next operation)."""
        if self.chronicle and encoded_size(value) > self.limits.max_number_bytes:
            raise ScriptFailure(ScriptError.SCRIPTNUM_OVERFLOW)
        self.push(encode_number(value))


def op_to_alt_stack(m: Machine) -> None:
    m.need(1)
    m.altstack.append(m.stack.pop())  # moved: the memory of both stacks is counted together


def op_from_alt_stack(m: Machine) -> None:
    if not m.altstack:
        fail(ScriptError.INVALID_ALTSTACK_OPERATION)
    m.stack.append(m.altstack.pop())


def op_2drop(m: Machine) -> None:
    m.need(2)
    m.drop(2)


def _copy(m: Machine, depth: int, count: int) -> None:
    """Copy ``count`` elements, the deepest of them ``depth`` from the top, in order."""
    m.need(depth)
    for _ in range(count):
        m.push(m.stack[-depth])


def op_2dup(m: Machine) -> None:
    _copy(m, 2, 2)


def op_3dup(m: Machine) -> None:
    _copy(m, 3, 3)


def op_2over(m: Machine) -> None:
    _copy(m, 4, 2)


def op_2rot(m: Machine) -> None:
    m.need(6)
    stack = m.stack
    stack[-6:] = stack[-4:] + stack[-6:-4]


def op_2swap(m: Machine) -> None:
    m.need(4)
    stack = m.stack
    stack[-4:] = stack[-2:] + stack[-4:-2]


def op_depth(m: Machine) -> None:
    m.push_number(len(m.stack))


def op_drop(m: Machine) -> None:
    m.pop()


def op_dup(m: Machine) -> None:
    _copy(m, 1, 1)


def op_nip(m: Machine) -> None:
    m.need(2)
    m.memory -= len(m.stack.pop(-2)) + ELEMENT_OVERHEAD


def op_over(m: Machine) -> None:
    _copy(m, 2, 1)


def _deep(m: Machine) -> int:
    """PICK and ROLL: the depth asked for, taken off the stack and checked. Counted from 1."""
    m.need(2)
    depth = m.number(m.stack[-1])
    m.pop()
    if not 0 <= depth < len(m.stack):
        fail(ScriptError.INVALID_STACK_OPERATION)
    return depth + 1


def op_pick(m: Machine) -> None:
    m.push(m.stack[-_deep(m)])


def op_roll(m: Machine) -> None:
    depth = _deep(m)
    m.budget.charge(depth)  # the list moves that many references
    m.stack.append(m.stack.pop(-depth))


def op_rot(m: Machine) -> None:
    m.need(3)
    m.stack.append(m.stack.pop(-3))


def op_swap(m: Machine) -> None:
    m.need(2)
    m.stack.append(m.stack.pop(-2))


def op_tuck(m: Machine) -> None:
    m.need(2)
    m.push(m.stack[-1])
    m.stack.insert(-2, m.stack.pop())


def op_size(m: Machine) -> None:
    m.need(1)
    m.push_number(len(m.stack[-1]))
