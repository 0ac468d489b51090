"""Host functions as wasmtime calls them: plain C callbacks, which know by the context of their thread whose call it is.

wasmtime's own way from a contract to a Python function costs four times as much, and keeps what a function raises in one
place for all threads. Here it stays with the call (``Caller.failure``), and the contract ends by a trap without a reason.

Invariants
- A callback raises nothing, and touches nothing but the ``Caller`` of its own thread.
- Callbacks of built functions are made once; those of unbuilt ones share one, which gets the import's place as its data.
"""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol

import wasmtime
from wasmtime import _ffi as ffi

from nodewright_near.contracts.host_promises import PromiseHost
from nodewright_near.contracts.meter import HostFailure

_MASK: Final = (1 << 64) - 1
# An argument or result takes 16 bytes, whatever its type: two numbers of 64 bits, the first of which it is.
_Callback: Final = ctypes.CFUNCTYPE(
    ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t
)
_Finalizer: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_NOTHING: Final = ctypes.cast(0, _Finalizer)
_REASON: Final = b"the host ended the call"


class Caller(Protocol):
    """A call under way. ``unbuilt``: names of imports by their place."""

    host: PromiseHost
    failure: BaseException | None
    unbuilt: dict[int, str]

    def leave_wasm(self) -> None: ...

    def enter_wasm(self) -> None: ...


running: Final[ContextVar[Caller]] = ContextVar("nodewright_near_call")

_INNER: Final = frozenset(
    {
        "peek",
        "poke",
        "register",
        "set_register",
        "given",
        "u128",
        "text",
        "text16",
        "not_in_view",
        "account",
        "key",
        "spend",
    }
)
_SIGNATURES: Final = {
    name: (method, inspect.signature(method))
    for name, method in inspect.getmembers(PromiseHost, inspect.isfunction)
    if not name.startswith("_") and name not in _INNER
}
HOST_FUNCTIONS: Final = frozenset(_SIGNATURES)


def _trap() -> int:
    trap = ffi.wasmtime_trap_new(ctypes.create_string_buffer(_REASON), len(_REASON))
    return ctypes.cast(trap, ctypes.c_void_p).value or 0


def _built(method: Callable[..., int | None], count: int, narrow: bool) -> Any:
    stop = 2 * count

    def enter(data: Any, caller: Any, values: Any, size: int) -> int:
        call = running.get()
        try:
            call.leave_wasm()
            given = values[0:stop:2] if stop else ()  # an empty slice with a step would not be empty
            result = method(call.host, *[one & 0xFFFFFFFF for one in given] if narrow else given)
            call.enter_wasm()
            if result is not None:
                values[0] = result & _MASK
        except BaseException as error:  # nothing may pass through the machine: whoever began the call raises it
            call.failure = error
            return _trap()
        return 0

    return _Callback(enter)


def _refuse(data: int | None, caller: Any, values: Any, size: int) -> int:
    call = running.get()
    call.failure = HostFailure(f"the host function {call.unbuilt[data or 0]} is not built on this node")
    return _trap()


def _types(name: str) -> tuple[list[str], list[str]]:
    """Host functions take numbers of 64 bits (``abort``: 32) and give one of 64 or nothing."""
    signature = _SIGNATURES[name][1]
    width = "i32" if name == "abort" else "i64"
    return [width] * (len(signature.parameters) - 1), [] if signature.return_annotation == "None" else ["i64"]


_CALLBACKS: Final = {
    name: _built(method, len(signature.parameters) - 1, name == "abort")
    for name, (method, signature) in _SIGNATURES.items()
}
_UNBUILT: Final = _Callback(_refuse)


class Imports:
    """What a module imports, looked at once. ``problem`` says why it cannot be linked, where it cannot."""

    def __init__(self, module: wasmtime.Module) -> None:
        self.problem = ""
        self.unbuilt: dict[int, str] = {}
        self._wanted: list[tuple[wasmtime.FuncType, Any] | None] = []
        for place, item in enumerate(module.imports):
            self._add(place, item)

    def _add(self, place: int, item: wasmtime.ImportType) -> None:
        name, kind = item.name or "", item.type
        if isinstance(kind, wasmtime.MemoryType):
            self._wanted.append(None)
        elif not isinstance(kind, wasmtime.FuncType):
            self.problem = self.problem or f"the import {item.module}.{name} is neither a function nor the memory"
        elif name not in HOST_FUNCTIONS:
            self.unbuilt[place] = name
            self._wanted.append((kind, _UNBUILT))
        elif ([str(one) for one in kind.params], [str(one) for one in kind.results]) != _types(name):
            self.problem = self.problem or f"the import {item.module}.{name} has another type than the host's function"
        else:
            self._wanted.append((kind, _CALLBACKS[name]))

    def link(self, store: wasmtime.Store, memory: wasmtime.Memory) -> list[Any]:
        linked: list[Any] = []
        for place, wanted in enumerate(self._wanted):
            if wanted is None:
                linked.append(memory)
                continue
            kind, callback = wanted
            function = ffi.wasmtime_func_t()
            ffi.wasmtime_func_new_unchecked(
                store._context(),
                kind.ptr(),
                ctypes.cast(callback, ffi.wasmtime_func_unchecked_callback_t),
                place,
                _NOTHING,
                ctypes.byref(function),
            )
            linked.append(wasmtime.Func._from_raw(function))
        return linked
