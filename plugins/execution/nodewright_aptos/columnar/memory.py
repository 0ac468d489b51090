"""Reads and writes at addresses for kernels whose fields lie at any offset: numba's arrays would want them aligned.

Who calls has checked the bounds. Words are little-endian, as BCS has them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from nodewright.kernels.compiled.tools import cgutils, intrinsic, types

_I8 = ir.IntType(8)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


@intrinsic
def peek(typing_context: Any, address: Any) -> Any:
    """The u64 at an address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.load(builder.inttoptr(arguments[0], _I64.as_pointer()))
        word.align = 1
        return word

    return types.uint64(types.uintp), codegen


@intrinsic
def poke(typing_context: Any, address: Any, value: Any) -> Any:
    """A u64 to an address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], builder.inttoptr(arguments[0], _I64.as_pointer())).align = 1
        return context.get_dummy_value()

    return types.void(types.uintp, types.uint64), codegen


@intrinsic
def copy(typing_context: Any, target: Any, source: Any, count: Any) -> Any:
    """``count`` bytes from one address to another that does not overlap."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = [builder.inttoptr(address, _I8.as_pointer()) for address in arguments[:2]]
        cgutils.raw_memcpy(builder, *pointers, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.int64), codegen


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line of an address, to be written soon. Any address will do: it is a hint."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, ir.Constant(_I32, 1), ir.Constant(_I32, 3), ir.Constant(_I32, 1)])
        return context.get_dummy_value()

    return types.void(types.uintp), codegen
