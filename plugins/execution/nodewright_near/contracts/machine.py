"""The machine that runs contracts: wasmtime, compiled once per code, with every import linked.

An import that this node does not build traps when it is called and says its name; a contract that never calls it runs.
Instructions are metered as wasmtime's fuel (one unit an instruction, most of them), each at the price of one regular
operation of NEAR's: the sum is near NEAR's, not equal. Host functions cost what NEAR's table says.

Invariants
- A call is a function of what it is given: no clock, no randomness, one canonical NaN, no threads, no SIMD.
- Calls run on the thread that makes them, one at a time: wasmtime's Python binding keeps one global place for exceptions.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import wasmtime

from nodewright.interfaces.verifier import Verifier
from nodewright_near.contracts.calls import Call, CallOutcome
from nodewright_near.contracts.host_promises import PromiseHost
from nodewright_near.contracts.meter import COSTS, HostFailure, Meter
from nodewright_near.contracts.wasm import NotWasm, prepare
from nodewright_near.errors import ErrorValue
from nodewright_near.state import Absent, State

_OUT_OF_BOUNDS: Final = "Accessed memory outside the bounds."
_MASK: Final = (1 << 64) - 1
_TRAPS: Final = {
    "UNREACHABLE": "WebAssembly trap: An `unreachable` opcode was executed.",
    "MEMORY_OUT_OF_BOUNDS": "WebAssembly trap: Memory out of bounds trap.",
    "TABLE_OUT_OF_BOUNDS": "WebAssembly trap: Call indirect incorrect signature trap.",
    "INDIRECT_CALL_TO_NULL": "WebAssembly trap: Call indirect incorrect signature trap.",
    "BAD_SIGNATURE": "WebAssembly trap: Call indirect incorrect signature trap.",
    "INTEGER_OVERFLOW": "WebAssembly trap: An arithmetic exception, e.g. divided by zero.",
    "INTEGER_DIVISION_BY_ZERO": "WebAssembly trap: An arithmetic exception, e.g. divided by zero.",
    "BAD_CONVERSION_TO_INTEGER": "WebAssembly trap: An arithmetic exception, e.g. divided by zero.",
    "STACK_OVERFLOW": "WebAssembly trap: Stack overflow.",
}


class _Instance:
    """One call under way. Between host calls gas is in the store's fuel; during them it is in the meter."""

    def __init__(self, store: wasmtime.Store, memory: wasmtime.Memory, host: PromiseHost) -> None:
        self.store = store
        self.memory = memory
        self.host = host
        self.failure: BaseException | None = None
        self._given = 0
        host.memory = self

    def read(self, at: int, count: int) -> bytes:
        if at + count > self.memory.data_len(self.store):
            raise HostFailure(_OUT_OF_BOUNDS)
        return bytes(self.memory.read(self.store, at, at + count))

    def write(self, at: int, data: bytes) -> None:
        if at + len(data) > self.memory.data_len(self.store):
            raise HostFailure(_OUT_OF_BOUNDS)
        self.memory.write(self.store, data, at)

    def enter_wasm(self) -> None:
        self._given = self.host.meter.left() // COSTS.regular_op
        self.store.set_fuel(self._given)

    def leave_wasm(self) -> None:
        """What the instructions since have used is burnt."""
        used = self._given - self.store.get_fuel()
        self._given -= used
        self.host.meter.burn(used * COSTS.regular_op)

    def run_out(self) -> None:
        """The fuel is spent: burn all that is left, which says what limit it was."""
        self.host.meter.burn(self.host.meter.left() + 1)

    def call(self, name: str, arguments: tuple[int, ...], widths: tuple[int, ...]) -> int | None:
        try:
            self.leave_wasm()
            unsigned = [value & width for value, width in zip(arguments, widths, strict=True)]
            result: int | None = getattr(self.host, name)(*unsigned)
            self.enter_wasm()
        except BaseException as error:
            self.failure = error
            raise
        if result is not None and result >> 63:
            return result - (1 << 64)
        return result

    def refuse(self, name: str) -> None:
        self.failure = HostFailure(f"the host function {name} is not built on this node")
        raise self.failure


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
HOST_FUNCTIONS: Final = {
    name: inspect.signature(method)
    for name, method in inspect.getmembers(PromiseHost, inspect.isfunction)
    if not name.startswith("_") and name not in _INNER
}


def _fits(name: str, kind: wasmtime.FuncType) -> bool:
    """Host functions take numbers of 64 bits (``abort``: 32) and give one of 64 or nothing."""
    signature = HOST_FUNCTIONS[name]
    width = "i32" if name == "abort" else "i64"
    wanted = [width] * (len(signature.parameters) - 1)
    results = [] if signature.return_annotation == "None" else ["i64"]
    return [str(one) for one in kind.params] == wanted and [str(one) for one in kind.results] == results


class WasmtimeMachine:
    """``compiled`` codes are kept, the least recently used one goes first."""

    def __init__(self, verifier: Verifier, max_compiled: int = 64) -> None:
        config = wasmtime.Config()
        config.consume_fuel = True
        config.cranelift_nan_canonicalization = True
        for name in ("simd", "relaxed_simd", "threads", "multi_memory", "memory64", "tail_call", "gc", "multi_value"):
            setattr(config, f"wasm_{name}", False)
        config.memory_reservation = 128 << 20
        self._engine = wasmtime.Engine(config)
        self._verifier = verifier
        self._max = max_compiled
        self._compiled: OrderedDict[bytes, wasmtime.Module | str] = OrderedDict()

    def _module(self, call: Call) -> wasmtime.Module | str:
        """Compiled, or why it cannot be."""
        found = self._compiled.get(call.code_hash)
        if found is None:
            try:
                found = wasmtime.Module(self._engine, prepare(call.code, call.parameters.limits))
            except (NotWasm, wasmtime.WasmtimeError) as error:
                found = str(error).splitlines()[0]
            self._compiled[call.code_hash] = found
            while len(self._compiled) > self._max:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(call.code_hash)
        return found

    def call(self, call: Call, state: State) -> CallOutcome:
        limits = call.parameters.limits
        meter = Meter(call.gas, limits.max_view_gas if call.view else limits.max_gas_burnt)
        host = PromiseHost(call, state, self._verifier, meter)
        error: ErrorValue | None = None
        try:
            error = self._run(call, host)
        except HostFailure as failure:
            error = {"ExecutionError": str(failure)}
        if error is not None:
            burnt = meter.burnt
            return CallOutcome(burnt, burnt, call.balance, call.storage_usage, logs=host.logs, error=error)
        meter.promise(host.promises.share_out(meter.prepaid - meter.used))
        return CallOutcome(
            meter.burnt,
            meter.used,
            host.balance,
            host.storage,
            host.returned,
            host.promises.receipts(),
            host.logs,
        )

    def _run(self, call: Call, host: PromiseHost) -> ErrorValue | None:
        if not call.method:
            return {"MethodResolveError": "MethodEmptyName"}
        host.meter.burn(COSTS.contract_loading_base + COSTS.contract_loading_byte * len(call.code))
        module = self._module(call)
        if isinstance(module, str):
            return {"CompilationError": {"PrepareError": "Deserialization"}}
        export = next((item for item in module.exports if item.name == call.method), None)
        if export is None or not isinstance(export.type, wasmtime.FuncType):
            return {"MethodResolveError": "MethodNotFound"}
        if export.type.params or export.type.results:
            return {"MethodResolveError": "MethodInvalidSignature"}
        store = wasmtime.Store(self._engine)
        pages = wasmtime.Limits(call.parameters.limits.initial_memory_pages, call.parameters.limits.max_memory_pages)
        memory = wasmtime.Memory(store, wasmtime.MemoryType(pages))
        instance = _Instance(store, memory, host)
        instance.enter_wasm()
        try:
            linked = self._link(module, instance)
            if isinstance(linked, str):
                return {"ExecutionError": f"Link Error: {linked}"}
            started = wasmtime.Instance(store, module, linked)
            method = started.exports(store)[call.method]
            assert isinstance(method, wasmtime.Func)
            method(store)
            instance.leave_wasm()
        except BaseException as error:
            return self._ended(instance, error)
        return None

    def _ended(self, instance: _Instance, error: BaseException) -> ErrorValue | None:
        failure = instance.failure
        if isinstance(failure, HostFailure | Absent):
            raise failure
        if failure is not None:
            raise failure
        if isinstance(error, wasmtime.Trap):
            if error.trap_code is wasmtime.TrapCode.OUT_OF_FUEL:
                instance.run_out()
            instance.leave_wasm()
            name = error.trap_code.name if error.trap_code is not None else ""
            return {"ExecutionError": _TRAPS.get(name, "WebAssembly trap: Generic")}
        if isinstance(error, wasmtime.WasmtimeError):
            instance.leave_wasm()
            return {"ExecutionError": f"Link Error: {str(error).splitlines()[0]}"}
        raise error

    def _link(self, module: wasmtime.Module, instance: _Instance) -> list[Any] | str:
        """One thing for every import; or why there is none."""
        linked: list[Any] = []
        for item in module.imports:
            name = item.name or ""
            kind = item.type
            if isinstance(kind, wasmtime.MemoryType):
                linked.append(instance.memory)
            elif isinstance(kind, wasmtime.FuncType):
                if name in HOST_FUNCTIONS and not _fits(name, kind):
                    return f"the import {item.module}.{name} has another type than the host's function"
                linked.append(wasmtime.Func(instance.store, kind, _imported(instance, name, kind)))
            else:
                return f"the import {item.module}.{name} is neither a function nor the memory"
        return linked


def _imported(instance: _Instance, name: str, kind: wasmtime.FuncType) -> Callable[..., Any]:
    if name not in HOST_FUNCTIONS:
        return lambda *arguments: instance.refuse(name)
    widths = tuple(0xFFFFFFFF if str(one) == "i32" else _MASK for one in kind.params)
    return lambda *arguments: instance.call(name, arguments, widths)
