"""Atomic operations on u64 words at addresses, for kernels that several threads run at once. All are sequentially
consistent but ``load`` (acquire); an address is aligned to eight bytes, which who calls has seen to.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from nodewright.kernels.compiled.tools import cgutils, intrinsic, types

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_ORDER = "seq_cst"


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _I64.as_pointer())


@intrinsic
def load(typing_context: Any, address: Any) -> Any:
    """The word; what is read after it is read after it."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_pointer(builder, arguments[0]), "acquire", 8)

    return types.uint64(types.uintp), codegen


@intrinsic
def store(typing_context: Any, address: Any, value: Any) -> Any:
    """What was written before it is seen by whoever sees it."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0]), _ORDER, 8)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uint64), codegen


def _modified(operation: str) -> Any:
    @intrinsic
    def modify(typing_context: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.atomic_rmw(operation, _pointer(builder, arguments[0]), arguments[1], _ORDER)

        return types.uint64(types.uintp, types.uint64), codegen

    return modify


# Each changes the word by a value, and returns what it was: the sum, the value, the greater and the lesser of both.
add, swap, raise_to, lower_to = map(_modified, ("add", "xchg", "umax", "umin"))


@intrinsic
def exchange(typing_context: Any, address: Any, expected: Any, value: Any) -> Any:
    """Whether it was ``expected``: then it is ``value`` now."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        answer = builder.cmpxchg(_pointer(builder, arguments[0]), arguments[1], arguments[2], _ORDER, _ORDER)
        return builder.extract_value(answer, 1)

    return types.boolean(types.uintp, types.uint64, types.uint64), codegen


@intrinsic
def fence(typing_context: Any) -> Any:
    """What was read before it was read before what is read after it."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("acquire")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def give_way(typing_context: Any) -> Any:
    """Another thread may have the processor (``sched_yield`` of POSIX)."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_I32, [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen
