"""The machine that runs contracts: wasmtime, compiled once per code, with every import linked.

An import that this node does not build traps when it is called and says its name; a contract that never calls it runs.
Instructions are metered as wasmtime's fuel (one unit an instruction, most of them), each at the price of one regular
operation of NEAR's: the sum is near NEAR's, not equal. Host functions cost what NEAR's table says.

Invariants
- A call is a function of what it is given: no clock, no randomness, one canonical NaN, no threads, no SIMD.
- Calls run on the thread that makes them, several side by side: they share the engine and compiled code, nothing else.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from typing import Final

import wasmtime
from attrs import frozen
from wasmtime import _ffi as ffi

from nodewright.interfaces.verifier import Verifier
from nodewright_near.contracts.calls import Call, CallOutcome
from nodewright_near.contracts.host_promises import PromiseHost
from nodewright_near.contracts.linking import Imports, running
from nodewright_near.contracts.meter import CODE_BYTE_WORK, COSTS, FUNCTION_WORK, HostFailure, Meter
from nodewright_near.contracts.wasm import NotWasm, prepare
from nodewright_near.errors import ErrorValue
from nodewright_near.state import State

_OUT_OF_BOUNDS: Final = "Accessed memory outside the bounds."
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

    def __init__(self, store: wasmtime.Store, memory: wasmtime.Memory, host: PromiseHost, unbuilt: dict[int, str]) -> None:
        self.host = host
        self.unbuilt = unbuilt
        self.failure: BaseException | None = None
        self._given = 0
        self._context = store._context()
        self._memory = ctypes.byref(memory._memory)
        self._fuel = ctypes.c_uint64()
        self._fuel_at = ctypes.byref(self._fuel)
        self._deadline = host.call.deadline
        host.memory = self

    def _at(self, at: int, count: int) -> int:
        """The address; it may change whenever the contract has run."""
        if at + count > ffi.wasmtime_memory_data_size(self._context, self._memory):
            raise HostFailure(_OUT_OF_BOUNDS)
        base = ctypes.cast(ffi.wasmtime_memory_data(self._context, self._memory), ctypes.c_void_p).value
        return (base or 0) + at

    def read(self, at: int, count: int) -> bytes:
        return ctypes.string_at(self._at(at, count), count)

    def write(self, at: int, data: bytes) -> None:
        ctypes.memmove(self._at(at, len(data)), data, len(data))

    def enter_wasm(self) -> None:
        self._given = self.host.meter.left() // COSTS.regular_op
        if error := ffi.wasmtime_context_set_fuel(self._context, self._given):
            raise wasmtime.WasmtimeError._from_ptr(error)

    def leave_wasm(self) -> None:
        """What the instructions since have used is burnt."""
        if error := ffi.wasmtime_context_get_fuel(self._context, self._fuel_at):
            raise wasmtime.WasmtimeError._from_ptr(error)
        used = self._given - self._fuel.value
        self._given -= used
        self.host.meter.burn(used * COSTS.regular_op)
        self.host.meter.called()
        if self._deadline is not None:
            self._deadline()

    def run_out(self) -> None:
        """The fuel is spent: burn all that is left, which says what limit it was."""
        self.host.meter.burn(self.host.meter.left() + 1)


@frozen
class _Compiled:
    """``methods``: the functions it exports, and whether they take and give nothing."""

    module: wasmtime.Module
    imports: Imports
    methods: dict[str, bool]
    work: int


@frozen
class _Refused:
    """A code that is no contract, by NEAR's name for why."""

    name: str
    work: int


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
        self._compiled: OrderedDict[bytes, _Compiled | _Refused] = OrderedDict()

    def _module(self, call: Call) -> _Compiled | _Refused:
        """Compiled, or why it cannot be. Two threads may compile the same code: the later one's stays."""
        found = self._compiled.pop(call.code_hash, None)
        if found is None:
            found = self._compile(call)
        self._compiled[call.code_hash] = found  # the last in the order: the one used last
        while len(self._compiled) > self._max:
            self._compiled.popitem(last=False)
        return found

    def _compile(self, call: Call) -> _Compiled | _Refused:
        work = CODE_BYTE_WORK * len(call.code)
        try:
            prepared = prepare(call.code, call.parameters.limits)
            work += FUNCTION_WORK * prepared.functions
            module = wasmtime.Module(self._engine, prepared.code)
        except NotWasm as error:
            return _Refused(error.name, work)
        except wasmtime.WasmtimeError:
            return _Refused("Deserialization", work)
        methods = {}
        for item in module.exports:
            kind = item.type
            if isinstance(kind, wasmtime.FuncType):
                methods[item.name or ""] = not kind.params and not kind.results
        return _Compiled(module, Imports(module), methods, work)

    def call(self, call: Call, state: State) -> CallOutcome:
        limits = call.parameters.limits
        meter = Meter(call.gas, limits.max_view_gas if call.view else limits.max_gas_burnt, call.host_calls)
        host = PromiseHost(call, state, self._verifier, meter)
        error: ErrorValue | None = None
        try:
            error = self._run(call, host)
        except HostFailure as failure:
            error = {"ExecutionError": str(failure)}
        if error is not None:
            burnt = meter.burnt
            return CallOutcome(
                burnt,
                burnt,
                call.balance,
                call.storage_usage,
                logs=host.logs,
                error=error,
                host_calls=meter.host_calls,
                code_work=meter.code_work,
            )
        meter.promise(host.promises.share_out(meter.prepaid - meter.used))
        return CallOutcome(
            meter.burnt,
            meter.used,
            host.balance,
            host.storage,
            host.returned,
            host.promises.receipts(),
            host.logs,
            host_calls=meter.host_calls,
            code_work=meter.code_work,
        )

    def _run(self, call: Call, host: PromiseHost) -> ErrorValue | None:
        if not call.method:
            return {"MethodResolveError": "MethodEmptyName"}
        host.meter.burn(COSTS.contract_loading_base + COSTS.contract_loading_byte * len(call.code))
        compiled = self._module(call)
        host.meter.code_work = compiled.work
        if isinstance(compiled, _Refused):
            return {"CompilationError": {"PrepareError": compiled.name}}
        if call.method not in compiled.methods:
            return {"MethodResolveError": "MethodNotFound"}
        if not compiled.methods[call.method]:
            return {"MethodResolveError": "MethodInvalidSignature"}
        if compiled.imports.problem:
            return {"ExecutionError": f"Link Error: {compiled.imports.problem}"}
        with wasmtime.Store(self._engine) as store:
            store.set_limits(table_elements=call.parameters.limits.max_table_elements)  # memory has bounds of its own
            return self._started(call, host, compiled, store)

    def _started(self, call: Call, host: PromiseHost, compiled: _Compiled, store: wasmtime.Store) -> ErrorValue | None:
        pages = wasmtime.Limits(call.parameters.limits.initial_memory_pages, call.parameters.limits.max_memory_pages)
        memory = wasmtime.Memory(store, wasmtime.MemoryType(pages))
        instance = _Instance(store, memory, host, compiled.imports.unbuilt)
        instance.enter_wasm()
        before = running.set(instance)
        try:
            started = wasmtime.Instance(store, compiled.module, compiled.imports.link(store, memory))
            method = started.exports(store)[call.method]
            assert isinstance(method, wasmtime.Func)
            method(store)
            instance.leave_wasm()
        except BaseException as error:
            return self._ended(instance, error)
        finally:
            running.reset(before)
        return None

    def _ended(self, instance: _Instance, error: BaseException) -> ErrorValue | None:
        if instance.failure is not None:
            raise instance.failure from None
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
