"""Executors: how the transactions of a block are run. Results are those of ``runtime.run_transaction`` one after another.

``Executor.run(base, transactions, block)`` answers one ``Output`` for each transaction, in order; the node makes writes,
hashes and trees of them (``blocks``). Byte-identical outputs whatever the executor are what a network depends on: an
executor that cannot run something gives it to the sequential one.

An executor is opened by ``open_executor(functions, environment, options)``, an async context manager found by the
execution's setting ``executor`` in ``EXECUTORS``: "module:function", imported when it is chosen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from typing import Any, Final, Protocol

from nodewright.errors import ConfigurationError
from nodewright.interfaces.environment import Environment
from nodewright_aptos.functions import Functions
from nodewright_aptos.runtime import run_transaction
from nodewright_aptos.state import KEPT, Absent, BlockEnvironment, Output, aggregate
from nodewright_aptos.transactions import UserTransaction

# A thread hop costs as much as a few transactions.
WORTH_A_HOP: Final = 8


class Base(Protocol):
    """The state before the block (its metadata transaction included)."""

    async def load(self, keys: Iterable[bytes]) -> None:
        """Have these keys in memory: batch it, a call is a read of the store."""

    def get(self, key: bytes) -> bytes | None:
        """In any thread. Raises ``Absent`` where the key was not loaded."""


class Executor(Protocol):
    name: str

    async def run(self, base: Base, transactions: Sequence[UserTransaction], block: BlockEnvironment) -> Sequence[Output]:
        """One output for each transaction, in order. Signatures are checked already; ids do not repeat."""


class SequentialExecutor:
    """One after the other in one thread: the reference. Declared state is loaded first; where something else is asked
    for, the run stops there, loads it and goes on."""

    name = "sequential"

    def __init__(self, functions: Functions, environment: Environment) -> None:
        self._functions = functions
        self._environment = environment

    async def run(self, base: Base, transactions: Sequence[UserTransaction], block: BlockEnvironment) -> Sequence[Output]:
        await base.load(declared_keys(self._functions, transactions))
        run = SequentialRun(self._functions, base.get, block)
        position = 0
        while position < len(transactions):
            rest = transactions[position:]
            try:
                if len(rest) < WORTH_A_HOP:
                    run.go_on(rest)
                else:
                    await self._environment.offload(run.go_on, rest)
            except Absent as absent:
                await base.load(absent.keys)
            position = len(run.outputs)
        return run.outputs


class SequentialRun:
    """``outputs`` so far, and the state that they leave over ``read``."""

    def __init__(self, functions: Functions, read: Callable[[bytes], bytes | None], block: BlockEnvironment) -> None:
        self._functions = functions
        self._read = read
        self._block = block
        self._changed: dict[bytes, bytes | None] = {}
        self.outputs: list[Output] = []

    def read(self, key: bytes) -> bytes | None:
        changed = self._changed
        return changed[key] if key in changed else self._read(key)

    def go_on(self, transactions: Sequence[UserTransaction]) -> None:
        """Run these after those before. Raises Absent: call again with those that have no output yet."""
        read, block, functions, changed = self.read, self._block, self._functions, self._changed
        for transaction in transactions:
            output = run_transaction(read, transaction, block, functions)
            if output.kind == KEPT:
                for key in output.deltas:
                    read(key)  # or it would be Absent half-way
                changed.update(output.writes)
                for key, delta in output.deltas.items():
                    changed[key] = aggregate(read(key), delta)
            self.outputs.append(output)


def declared_keys(functions: Functions, transactions: Sequence[UserTransaction]) -> dict[bytes, None]:
    """Every key that the transactions declare, each once, and the aggregators."""
    keys = dict.fromkeys(functions.aggregators)
    for transaction in transactions:
        accesses = functions.accesses(transaction)
        if accesses is not None:
            keys.update(dict.fromkeys(accesses.reads))
    return keys


@asynccontextmanager
async def open_sequential(
    functions: Functions, environment: Environment, options: Mapping[str, Any]
) -> AsyncIterator[Executor]:
    yield SequentialExecutor(functions, environment)


EXECUTORS: Final[dict[str, str]] = {
    "sequential": "nodewright_aptos.executors:open_sequential",
    "columnar": "nodewright_aptos.columnar:open_executor",
    "sharded": "nodewright_aptos.shards:open_executor",
    "block-stm": "nodewright_aptos.blockstm:open_executor",
}


# Where the options of an executor are read, which need nothing of what it needs itself; the others have none.
_OPTIONS: Final = {"sharded": "nodewright_aptos.shards.options", "block-stm": "nodewright_aptos.blockstm.options"}


def option_problems(name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with ``executor_options`` for this executor, a sentence each."""
    if name not in _OPTIONS:
        return [f"{name} has no setting {option!r}: leave it out" for option in options]
    problems: list[str] = import_module(_OPTIONS[name]).read_options(options)[1]
    return problems


def open_executor(
    name: str, functions: Functions, environment: Environment, options: Mapping[str, Any]
) -> AbstractAsyncContextManager[Executor]:
    """Raises ConfigurationError."""
    if problems := option_problems(name, options):
        raise ConfigurationError([f"execution.executor_options: {problem}" for problem in problems])
    try:
        module, function = EXECUTORS[name].split(":")
        opened: AbstractAsyncContextManager[Executor] = getattr(import_module(module), function)(
            functions, environment, options
        )
    except (KeyError, ImportError, AttributeError) as error:
        known = ", ".join(EXECUTORS)
        raise ConfigurationError(f"execution.executor: {name!r} cannot be had here ({error}); there are {known}") from error
    return opened
