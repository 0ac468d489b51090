"""A whole family in one file, dropped in with ``--plugins-dir``: what the node's own tests run.

A transaction is parent 32 ‖ ordering key 8 ‖ expiry u32 ‖ payload, its id the SHA-256 of it. A parent of zeros is none; any
other must be known, and may be used once. Ordering key and expiry of zeros are none. State is in memory: after a restart
everything but the genesis marker comes back from the pool's journal. Blocks are made on request and kept in memory.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from nodewright.errors import ControlRefused, NodewrightError, UnknownControl, UnknownQuery
from nodewright.interfaces import (
    Admission,
    Admitted,
    BlockRecord,
    BlockRef,
    Consensus,
    Execution,
    Location,
    NodeHandle,
    Refused,
    Service,
    WriteBatch,
)
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import (
    EXECUTION,
    KEY_VALUE,
    ConsensusSpec,
    ExecutionSpec,
    NoConfig,
    Requirement,
    ServiceSpec,
    setting,
)

ROOT = bytes(32)
GENESIS = BlockRef(0, bytes(32))


def make(payload: bytes, parent: bytes = ROOT, key: bytes = bytes(8), expires: int = 0) -> bytes:
    return parent + key + struct.pack("<I", expires) + payload


def id_of(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


class ToyExecution:
    capabilities = frozenset({"undo"})
    format = "toy/1"

    def __init__(self, store: Any = None) -> None:
        self.store = store
        self.held: dict[bytes, bytes] = {}  # staged, confirmed or mined: id → raw
        self.confirmed: set[bytes] = set()
        self.mined: set[bytes] = set()
        self.child_of: dict[bytes, bytes] = {}
        self.head: BlockRef | None = None
        self.calls: list[tuple[str, int]] = []
        self.pause: trio.Event | None = None  # a test holds admissions up

    async def genesis(self, document: Mapping[str, Any], block: BlockRef) -> bytes | None:
        self.head = block
        if self.store is not None:
            batch = WriteBatch()
            batch.put("toy", b"genesis", block.id)
            await self.store.commit(batch)
        return None

    async def identify(self, txs: Sequence[bytes]) -> list[bytes | None]:
        return [id_of(raw) if len(raw) >= 44 else None for raw in txs]

    async def admit(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        self.calls.append(("admit", len(txs)))
        if self.pause is not None:
            await self.pause.wait()
        else:
            await trio.lowlevel.checkpoint()
        return [self._admit(raw, time) for raw in txs]

    def _admit(self, raw: bytes, time: int) -> Admission:
        if len(raw) < 44:
            return Refused("short", "shorter than 44 bytes", "malformed")
        id, parent, key = id_of(raw), raw[:32], raw[32:40]
        (expires,) = struct.unpack_from("<I", raw, 40)
        if raw[44:].startswith(b"invalid"):
            return Refused("invalid", "it says so itself", "invalid", id)
        if expires and expires <= time:
            return Refused("expired", "its time is over", "expired", id)
        known = id in self.held
        if not known and parent != ROOT:
            if parent not in self.held:
                return Refused("missing", "its parent is not known", "missing", id, {"missing": [parent]})
            if parent in self.child_of:
                winner = self.child_of[parent]
                return Refused("conflict", "its parent is used", "conflict", id, {"winner": winner})
        if not known:
            self.held[id] = raw
            if parent != ROOT:
                self.child_of[parent] = id
        return Admitted(id, raw, len(raw), key if any(key) else b"", float(expires) if expires else None, known)

    async def release_unclaimed(self) -> list[bytes]:
        return []  # reservations live in memory alone: none outlives its process

    async def confirm(self, ids: Sequence[bytes]) -> None:
        self.calls.append(("confirm", len(ids)))
        await trio.lowlevel.checkpoint()
        self.confirmed.update(id for id in ids if id in self.held)

    async def release(self, ids: Sequence[bytes]) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        released: list[bytes] = []
        queue = list(ids)
        for id in queue:
            raw = self.held.get(id)
            if raw is None or id in self.mined:
                continue
            del self.held[id]
            self.confirmed.discard(id)
            released.append(id)
            if self.child_of.get(raw[:32]) == id:
                del self.child_of[raw[:32]]
            child = self.child_of.get(id)
            if child is not None:
                queue.append(child)
        return released

    async def applied(self, shard: int = 0) -> BlockRef | None:
        return self.head

    async def query(self, view: Any, kind: str, **arguments: Any) -> Any:
        raise UnknownQuery(kind)


class ToyConsensus:
    capabilities: frozenset[str] = frozenset()
    format = "toy-chain/1"
    invalid_transaction = "discard"

    def __init__(self, config: ToyConsensusConfig, execution: ToyExecution, pool: Any, events: Any) -> None:
        self.config = config
        self.execution = execution
        self.pool = pool
        self.events = events
        self.blocks: list[BlockRef] = [GENESIS]
        self.place: dict[bytes, BlockRef] = {}
        self.crash = trio.Event()

    async def recover(self) -> None:
        await self.execution.genesis({}, GENESIS)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        if self.config.fail == "start":
            raise NodewrightError("consensus: told to fail at the start")
        task_status.started()
        await self.crash.wait()
        raise NodewrightError("consensus: told to die")

    def head(self) -> BlockRef:
        return self.blocks[-1]

    def final(self) -> BlockRef:
        return self.blocks[0]

    async def block(self, id: bytes) -> BlockRecord | None:
        return None

    async def block_at(self, height: int) -> BlockRecord | None:
        return None

    async def locate(self, ids: Sequence[bytes]) -> list[Location | None]:
        return [Location(b"", 0, self.place[id]) if id in self.place else None for id in ids]

    async def transactions(self, ids: Sequence[bytes]) -> list[bytes | None]:
        return [self.execution.held.get(id) for id in ids]

    async def bundle(self, id: bytes) -> bytes | None:
        return None

    async def query(self, kind: str, **arguments: Any) -> Any:
        raise UnknownQuery(kind)

    async def control(self, command: str, **arguments: Any) -> Any:
        if command == "crash":
            self.crash.set()
            return None
        if command != "mine":
            raise UnknownControl(command)
        if not len(self.pool):
            raise ControlRefused("nothing to mine")
        chosen = await self.pool.take(1000)
        height = len(self.blocks)
        ref = BlockRef(height, hashlib.sha256(b"%d" % height).digest())
        self.blocks.append(ref)
        self.execution.mined.update(item.id for item in chosen)
        self.place.update((item.id, ref) for item in chosen)
        await self.pool.settle(committed={item.id: ref for item in chosen})
        self.events.publish("block_accepted", {"height": height, "count": len(chosen)})
        return len(chosen)

    def status(self) -> Mapping[str, Any]:
        return {"state": "running", "head": str(self.head()), "peers_ahead": 0}


@attrs.define
class ToyConsensusConfig:
    fail: str = setting("", help="fail at `start`")
    mine: bool = setting(False, help="there for the local network's sake")


@attrs.define
class LineConfig:
    listen: str = setting("127.0.0.1:0", help="host:port")
    fail: bool = setting(False, help="fail at once")


class Line:
    """One request a line: ``submit HEX``, ``status HEX``, ``count``, ``mine``, ``die consensus|service``, ``stop``."""

    def __init__(self, config: LineConfig, environment: Any) -> None:
        self.config = config
        self.environment = environment
        self.url = ""

    async def run(self, node: NodeHandle, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        if self.config.fail:
            raise NodewrightError("services.line: told to fail")
        host, _, port = self.config.listen.rpartition(":")
        (listener,) = await trio.open_tcp_listeners(int(port), host=host)
        self.url = f"tcp://127.0.0.1:{listener.socket.getsockname()[1]}"
        self.dying = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._die)
            async with listener:
                task_status.started()
                while True:
                    nursery.start_soon(self._serve, await listener.accept(), node)

    async def _die(self) -> None:
        await self.dying.wait()
        raise RuntimeError("told to die")

    async def _serve(self, stream: trio.SocketStream, node: NodeHandle) -> None:
        data = b""
        async with stream:
            async for chunk in stream:
                data += chunk
                while b"\n" in data:
                    line, _, data = data.partition(b"\n")
                    try:
                        answer = await self._answer(line.decode().split(), node)
                    except NodewrightError as error:
                        answer = f"error {error}"
                    await stream.send_all(answer.encode() + b"\n")

    async def _answer(self, words: list[str], node: NodeHandle) -> str:
        match words:
            case ["submit", text]:
                (answer,) = await node.pool.submit([bytes.fromhex(text)])
                return f"ok {answer.id.hex()}" if isinstance(answer, Admitted) else f"{answer.kind} {answer.message}"
            case ["status", text]:
                (status,) = await node.pool.status([bytes.fromhex(text)])
                return status.status if status is not None else "unknown"
            case ["count"]:
                return str(len(node.pool))
            case ["mine"]:
                return str(await node.consensus.control("mine"))
            case ["health"]:
                report = node.health.report()
                return f"{report['state']} {report['healthy']} {report['components']}"
            case ["die", "consensus"]:
                await node.consensus.control("crash")
                return "dying"
            case ["die", "service"]:
                self.dying.set()
                return "dying"
            case ["stop"]:
                node.request_stop()
                return "stopping"
        return "what?"


@asynccontextmanager
async def open_execution(config: NoConfig, dependencies: Any, environment: Any) -> AsyncIterator[Execution]:
    yield ToyExecution(dependencies.get("stores.state"))  # type: ignore[misc]


@asynccontextmanager
async def open_consensus(config: ToyConsensusConfig, dependencies: Any, environment: Any) -> AsyncIterator[Consensus]:
    yield ToyConsensus(config, dependencies["execution"], dependencies["pool"], dependencies["events"])


@asynccontextmanager
async def open_line(config: LineConfig, dependencies: Any, environment: Any) -> AsyncIterator[Service]:
    yield Line(config, environment)


@hookimpl
def register_execution() -> list[ExecutionSpec]:
    state = Requirement("stores.state", KEY_VALUE, optional=True)
    return [ExecutionSpec(name="toy", summary="chained bytes", open=open_execution, requires=(state,))]


@hookimpl
def register_consensus() -> list[ConsensusSpec]:
    return [
        ConsensusSpec(
            name="toy",
            summary="blocks on request",
            open=open_consensus,
            config=ToyConsensusConfig,
            requires=(Requirement("execution", EXECUTION),),
        )
    ]


@hookimpl
def register_services() -> list[ServiceSpec]:
    return [ServiceSpec(name="line", summary="requests by line", open=open_line, config=LineConfig)]


@hookimpl
def register_profiles() -> dict[str, str]:
    return {
        "toy": """
family = "toy"
[network]
id = "toynet"
[genesis.document]
time = 5
[stores.state]
use = "leveldb"
[execution]
use = "toy"
[consensus]
use = "toy"
[services.line]
use = "line"
"""
    }
