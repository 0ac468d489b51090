"""Workers as processes: started once, given batches over pipes, each with an interpreter (and its lock) of its own.

A message is eight bytes of length and a value in ``marshal``'s form, to and from a program of the same installation that
this process started: nothing from outside is read so. A process that ends, or answers what cannot be read, is lost; what
it was given is run by others.

Invariant: each message has its answer taken before the next is sent (one at a time, and never cancelled half-way).

``main`` is the process: ``python -m nodewright_aptos.blockstm.processes``. It ends when its input does.
"""

from __future__ import annotations

import marshal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha3_256
from typing import Any, BinaryIO, Final

import trio

from nodewright.environment import PIPE
from nodewright.errors import ConfigurationError
from nodewright.interfaces.environment import Environment
from nodewright_aptos.blockstm.coordinator import WorkerLost
from nodewright_aptos.blockstm.speculate import Answer, Item, speculate
from nodewright_aptos.functions import Functions
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.ledger import EXECUTED, Event, ExecutionStatus
from nodewright_aptos.state import BlockEnvironment, Output
from nodewright_aptos.transactions import decode_transaction

_COMMAND: Final = (sys.executable, "-m", "nodewright_aptos.blockstm.processes")
_CHUNK: Final = 1 << 18


# --- messages --------------------------------------------------------------------------------------------------------


def _packed(value: Any) -> bytes:
    body = marshal.dumps(value)
    return len(body).to_bytes(8, "little") + body


def pack_answer(item: Item, answer: Answer) -> tuple[Any, ...]:
    """Values that were sent with the item are not sent back: True stands for each."""
    sent = item.values
    reads = {key: True if key in sent and sent[key] is value else value for key, value in answer.reads.items()}
    output = answer.output
    if output is None:
        return answer.place, reads, None, answer.asks, answer.failed
    status = output.status
    told = None if status == EXECUTED else (status.kind, status.module, status.code, status.reason, status.description)
    events = [(one.type, one.data, one.address, one.creation_number, one.sequence_number) for one in output.events]
    effects = (output.kind, output.gas_used, told, output.writes, output.deltas, events, output.created)
    return answer.place, reads, (*effects, output.code, output.message, output.fee), (), False


def unpack_answer(item: Item, packed: tuple[Any, ...]) -> Answer:
    place, reads, told, asks, failed = packed
    reads = {key: item.values[key] if value is True else value for key, value in reads.items()}
    output = None
    if told is not None:
        kind, used, status, writes, deltas, events, created, code, message, fee = told
        status = EXECUTED if status is None else ExecutionStatus(*status)
        output = Output(
            kind, used, status, writes, deltas, tuple([Event(*one) for one in events]), created, code, message, fee
        )
    if place != item.place:
        raise ValueError("an answer to something else")
    return Answer(place, reads, output, asks, None, failed)


def fingerprint(functions: Functions) -> bytes:
    """Of the names of all that can be called."""
    return sha3_256(b"".join(sorted(functions.entries)) + b"".join(functions.aggregators)).digest()


# --- here ------------------------------------------------------------------------------------------------------------


class ProcessWorker:
    def __init__(self, process: Any) -> None:
        self._process = process
        self._buffer = bytearray()
        self._lock = trio.Lock()

    async def run(self, block: BlockEnvironment, items: Sequence[Item]) -> list[Answer]:
        told = (block.height, block.timestamp, block.epoch, block.chain_id, block.proposer)
        batch = [(one.place, one.incarnation, one.transaction.raw, one.values) for one in items]
        try:
            answers = await self.ask((told, batch))
            return [unpack_answer(item, answer) for item, answer in zip(items, answers, strict=True)]
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError, ValueError, TypeError) as error:
            raise WorkerLost(str(error)) from error

    async def ask(self, message: Any) -> Any:
        async with self._lock:
            with trio.CancelScope(shield=True):
                await self._process.stdin.send_all(_packed(message))
                size = int.from_bytes(await self._take(8), "little")
                return marshal.loads(await self._take(size))

    async def _take(self, count: int) -> bytes:
        buffer = self._buffer
        while len(buffer) < count:
            chunk = await self._process.stdout.receive_some(_CHUNK)
            if not chunk:
                raise EOFError("a worker process has ended")
            buffer += chunk
        taken = bytes(buffer[:count])
        del buffer[:count]
        return taken


@asynccontextmanager
async def open_processes(functions: Functions, environment: Environment, count: int) -> AsyncIterator[list[ProcessWorker]]:
    """Raises ConfigurationError where they cannot be had, or would not know the same functions."""
    processes: list[Any] = []
    workers: list[ProcessWorker] = []
    try:
        for _ in range(count):
            process = await environment.spawn(_COMMAND, stdin=PIPE, stdout=PIPE)
            processes.append(process)
            worker = ProcessWorker(process)
            try:
                known = await worker.ask((sys.path, list(functions.modules)))
            except (OSError, trio.BrokenResourceError, EOFError, ValueError) as error:
                raise ConfigurationError(
                    f"execution.executor_options.placement: worker processes cannot be started ({error}); use threads"
                ) from error
            if known != fingerprint(functions):
                raise ConfigurationError(
                    "execution.executor_options.placement: worker processes do not know the same transaction functions;"
                    " name their modules in execution.functions, or use threads"
                )
            workers.append(worker)
        yield workers
    finally:
        for process in processes:
            process.kill()
        with trio.CancelScope(shield=True):
            for process in processes:
                await process.wait()
                for stream in (process.stdin, process.stdout):
                    await stream.aclose()


# --- there -----------------------------------------------------------------------------------------------------------


def _received(source: BinaryIO) -> Any:
    """Raises EOFError."""
    size = source.read(8)
    body = source.read(int.from_bytes(size, "little")) if len(size) == 8 else b""
    return marshal.loads(body)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Until the source ends."""
    path, modules = _received(source)
    sys.path[:] = path
    functions = installed_functions()
    for name in modules:
        functions.add_module(name)
    sink.write(_packed(fingerprint(functions)))
    sink.flush()
    while True:
        try:
            told, batch = _received(source)
        except EOFError:
            return
        block = BlockEnvironment(*told)
        items = [Item(place, incarnation, decode_transaction(raw), values) for place, incarnation, raw, values in batch]
        answers = speculate(functions, block, items)
        packed = []
        for item, answer in zip(items, answers, strict=True):
            try:
                one = pack_answer(item, answer)
                marshal.dumps(one)
            except ValueError:  # of a type that does not travel: as if it had raised
                one = pack_answer(item, Answer(answer.place, answer.reads, failed=True))
            packed.append(one)
        sink.write(_packed(packed))
        sink.flush()


def main() -> None:
    import gc
    import os
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal it goes to all: the node ends its workers
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a function prints is no message
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
