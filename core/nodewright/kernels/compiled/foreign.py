"""Calls through C function pointers from compiled loops.

The address is an argument and not a constant of the compiled code, so that the code can be cached on disk although
libraries lie elsewhere in each process. Every parameter of the called function must be a pointer or a 64-bit integer and
its result an ``int``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from nodewright.kernels.compiled.tools import intrinsic, types

_WORD = ir.IntType(64)
_INT = ir.IntType(32)


def _generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    kind = ir.FunctionType(_INT, [_WORD] * (len(arguments) - 1))
    return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), list(arguments[1:]))


@intrinsic
def call3(typing_context: Any, function: Any, a: Any, b: Any, c: Any) -> Any:
    return types.int32(*([types.uintp] * 4)), _generate


@intrinsic
def call4(typing_context: Any, function: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    return types.int32(*([types.uintp] * 5)), _generate


@intrinsic
def call5(typing_context: Any, function: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    return types.int32(*([types.uintp] * 6)), _generate
