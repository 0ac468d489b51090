"""A local network of real node processes: started one after the other, connected, with one merged log, stopped together.

Invariants
- A node is started with the addresses of all earlier ones as its peers, so that the network is connected from the start.
- Every child gets a pipe as standard input and stops when it closes: whatever ends this process, no node is left behind.
- Children are in sessions of their own: a Ctrl-C reaches them once, from here, never twice.
- ``devnet.json`` is there only while all nodes run.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from nodewright.composition.plan import Plan
from nodewright.environment import PIPE, STDOUT, NodeEnvironment
from nodewright.errors import ConfigurationError, NodewrightError
from nodewright.node.folder import read_node_file, write_whole

DEVNET_FILE = "devnet.json"
MAX_NODES = 64
MAX_LINE_BYTES = 256 * 1024
KEPT_LINES = 20
START_SECONDS = 120.0
POLL_SECONDS = 0.05

Show = Callable[[str, str], None]  # node's name, one line of its log


@attrs.frozen
class DevnetNode:
    """``settings`` are ``key=value`` in rising precedence."""

    name: str
    data_dir: Path
    settings: tuple[str, ...]


def plan_nodes(
    plan: Plan, count: int, data_dir: Path, overrides: Sequence[str], own: Mapping[int, Sequence[str]]
) -> list[DevnetNode]:
    """What each node gets beside the profile: a name, free ports, a validator's key where the network has
    validators of its own making, and the first one mines where there is a miner.
    ``overrides`` go to all, ``own`` to one each; both come after what is set here. Raises ConfigurationError."""
    if not 1 <= count <= MAX_NODES:
        raise ConfigurationError(f"--nodes must be from 1 to {MAX_NODES}, not {count}")
    wrong = [f"--set-node {index}:…: the nodes are 0 to {count - 1}" for index in own if not 0 <= index < count]
    if wrong:
        raise ConfigurationError(wrong)
    nodes = []
    for index in range(count):
        settings = [f'node.name="node{index}"']
        for component in plan.components:
            if component.kind in ("transport", "service") and _has(component.config, "listen"):
                settings.append(f'{component.slot}.listen="127.0.0.1:0"')
            if component.kind == "consensus" and _has(component.config, "local_validators"):
                settings.append(f"{component.slot}.local_validators={count}")
                settings.append(f"{component.slot}.local_validator={index}")
            if component.kind == "consensus" and _has(component.config, "mine"):
                settings.append(f"{component.slot}.mine={'true' if index == 0 else 'false'}")
        settings += [*overrides, *own.get(index, ())]
        nodes.append(DevnetNode(f"node{index}", data_dir / f"node{index}", tuple(settings)))
    return nodes


def _has(config: Any, name: str) -> bool:
    return attrs.has(type(config)) and name in attrs.fields_dict(type(config))


class Devnet:
    """``command`` starts a node of the profile, without its settings; ``show`` is given every line of every node."""

    def __init__(
        self,
        environment: NodeEnvironment,
        plan: Plan,
        nodes: Sequence[DevnetNode],
        command: Sequence[str],
        show: Show,
        keep_going: bool = False,
    ) -> None:
        self._environment = environment
        self._plan = plan
        self._nodes = nodes
        self._command = list(command)
        self._show = show
        self._keep_going = keep_going
        self._processes: dict[str, trio.Process] = {}
        self._tails: dict[str, deque[str]] = {node.name: deque(maxlen=KEPT_LINES) for node in nodes}
        self._stopping = False
        self._peers = "transport" if _has_peers(plan) else None

    async def run(
        self, stop: trio.Event, seconds: float | None = None, ready: Callable[[list[dict[str, Any]]], None] | None = None
    ) -> None:
        """Until ``stop`` is set, ``seconds`` after all are ready, or a node dies: then NodewrightError says which, and of
        what, unless nodes are to go on without it."""
        folder = self._environment.root
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            async with trio.open_nursery() as nursery:
                watchers = await nursery.start(self._hold)
                starting = trio.CancelScope()
                nursery.start_soon(_cancel_on, stop, starting)
                with starting:
                    infos = await self._start_all(watchers)
                    write_whole(folder / DEVNET_FILE, self._document(infos))
                    if ready is not None:
                        ready(infos)
                    with trio.move_on_after(seconds if seconds is not None else float("inf")):
                        await stop.wait()
                self._stopping = True
                (folder / DEVNET_FILE).unlink(missing_ok=True)
                await self._stop_all()
                nursery.cancel_scope.cancel()
        finally:
            self._stopping = True
            (folder / DEVNET_FILE).unlink(missing_ok=True)
            with trio.CancelScope(shield=True):
                await self._stop_all()

    async def _hold(self, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """The nursery of the tasks that read logs and wait for processes."""
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()

    async def _start_all(self, watchers: trio.Nursery) -> list[dict[str, Any]]:
        infos: list[dict[str, Any]] = []
        for node in self._nodes:
            peers = [info["transport"] for info in infos if info.get("transport")]
            infos.append(await self._start(node, peers, watchers))
        return infos

    async def _start(self, node: DevnetNode, peers: Sequence[str], watchers: trio.Nursery) -> dict[str, Any]:
        arguments = ["--data-dir", str(node.data_dir), "--log-format", "json", "--stop-with-stdin"]
        settings = list(node.settings)
        if self._peers and peers:
            settings.insert(0, f"{self._peers}.peers={json.dumps(peers)}")
        for setting in settings:
            arguments += ["--set", setting]
        process = await self._environment.spawn(
            [*self._command, *arguments], stdin=PIPE, stdout=PIPE, stderr=STDOUT, start_new_session=True
        )
        self._processes[node.name] = process
        read = trio.Event()
        watchers.start_soon(self._read_log, node, process, read)
        watchers.start_soon(self._watch, node, process, read)
        with trio.move_on_after(START_SECONDS):
            while True:
                info = read_node_file(node.data_dir)
                if info is not None and info.get("pid") == process.pid:
                    return {**info, "data_dir": str(node.data_dir)}
                if process.returncode is not None and self._keep_going:
                    return {"name": node.name, "data_dir": str(node.data_dir), "pid": None}
                await self._environment.sleep(POLL_SECONDS)
        raise NodewrightError(f"{node.name} was not ready after {START_SECONDS:g} seconds: {self._last_words(node.name)}")

    async def _read_log(self, node: DevnetNode, process: trio.Process, read: trio.Event) -> None:
        assert process.stdout is not None
        rest = b""
        try:
            async for chunk in process.stdout:
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > MAX_LINE_BYTES:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._line(node.name, line)
        finally:
            if rest:
                self._line(node.name, rest)
            read.set()

    def _line(self, name: str, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self._tails[name].append(text)
            self._show(name, text)

    async def _watch(self, node: DevnetNode, process: trio.Process, read: trio.Event) -> None:
        code = await process.wait()
        with trio.move_on_after(1.0):
            await read.wait()  # what it said last
        if self._stopping:
            return
        sentence = f"{node.name} ended with exit code {code}: {self._last_words(node.name)}"
        if not self._keep_going:
            raise NodewrightError(sentence)
        self._show("devnet", f"{sentence}; the others go on")
        started_all = len(self._processes) == len(self._nodes)
        if started_all and all(process.returncode is not None for process in self._processes.values()):
            raise NodewrightError("every node has ended")

    def _last_words(self, name: str) -> str:
        """The sentence a node died of, or its last line."""
        tail = self._tails[name]
        said = [line.removeprefix("error: ") for line in tail if line.startswith("error: ")]
        return "; ".join(said) if said else tail[-1] if tail else "it said nothing"

    async def _stop_all(self) -> None:
        """Ask all at once, wait for all, kill what does not end."""
        for process in self._processes.values():
            if process.returncode is None:
                process.terminate()
        with trio.move_on_after(self._plan.node.shutdown_seconds + 10):
            for process in self._processes.values():
                await process.wait()
        for name, process in self._processes.items():
            if process.returncode is None:
                self._show("devnet", f"{name} did not stop: killed")
                process.kill()
                await process.wait()

    def _document(self, infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"profile": self._plan.profile, "network": self._plan.network.id, "nodes": list(infos)}


def _has_peers(plan: Plan) -> bool:
    transport = plan.component("transport")
    return transport is not None and _has(transport.config, "peers")


async def _cancel_on(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def command_line(reference: str, plugin_directories: Sequence[Path]) -> list[str]:
    """How a node of the profile is started, without its settings."""
    directories = [part for path in plugin_directories for part in ("--plugins-dir", str(path.absolute()))]
    return [sys.executable, "-m", "nodewright", "run", reference, *directories]
