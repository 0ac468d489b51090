"""Node processes with a family of one file: start, node.json, stop, kill, refusals, crashes."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

import nodewright
from nodewright.errors import StoreError
from nodewright.node.process import _enforce_deadline

PLUGINS = Path(__file__).parent / "plugins"
CORE = str(Path(nodewright.__file__).parents[1])
TIMEOUT = 60


class Node:
    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.arguments = arguments
        self.process: subprocess.Popen[str] | None = None
        self.info: dict[str, Any] = {}
        self.log: list[str] = []

    def start(self) -> Node:
        """Reads the log until it says that the node is ready, or ends."""
        command = [sys.executable, "-m", "nodewright", "run", "toy", "--plugins-dir", str(PLUGINS)]
        self.process = subprocess.Popen(
            [*command, "--data-dir", str(self.folder), "--log-format", "json", *self.arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        if self.wait_for("ready"):
            self.info = json.loads((self.folder / "node.json").read_text())
        return self

    def wait_for(self, event: str) -> bool:
        assert self.process is not None and self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            try:
                if json.loads(line).get("event") == event:
                    return True
            except ValueError:
                continue
        return False

    def ask(self, request: str) -> str:
        host, port = self.info["services"]["line"].removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port)), TIMEOUT) as connection:
            connection.sendall(request.encode() + b"\n")
            return connection.makefile().readline().strip()

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        self.log.append(self.process.communicate(timeout=TIMEOUT)[1])
        return self.process.returncode

    @property
    def text(self) -> str:
        return "".join(self.log)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    started: list[Node] = []

    def start(name: str = "a", *arguments: str) -> Node:
        started.append(Node(tmp_path / name, *arguments))
        return started[-1].start()

    yield start
    for item in started:
        assert item.process is not None
        if item.process.poll() is None:
            item.process.kill()
            item.process.wait()
        if item.process.stderr is not None:
            item.process.stderr.close()


def transaction(payload: bytes) -> str:
    return (bytes(44) + payload).hex()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_start_and_stop(node: Callable[..., Node], number: int) -> None:
    alice = node("alice", "--set", "node.name=alice")
    assert alice.info["pid"] == alice.process.pid  # type: ignore[union-attr]
    assert (alice.info["profile"], alice.info["network"], alice.info["name"]) == ("toy", "toynet", "alice")
    assert alice.ask("submit " + transaction(b"1")).startswith("ok ")
    assert alice.end(number) == 0, alice.text
    assert not (alice.folder / "node.json").exists()
    assert "Traceback" not in alice.text


def test_a_service_may_ask_for_a_stop(node: Callable[..., Node]) -> None:
    alice = node()
    assert alice.ask("stop") == "stopping"
    assert alice.wait() == 0


def test_kill_keeps_the_pool_and_the_statuses(node: Callable[..., Node]) -> None:
    alice = node()
    first = alice.ask("submit " + transaction(b"1")).split()[1]
    assert alice.ask("mine") == "1"
    others = [alice.ask("submit " + transaction(b"%d" % number)).split()[1] for number in range(2, 20)]
    assert alice.end(signal.SIGKILL) == -signal.SIGKILL
    assert (alice.folder / "node.json").exists()
    alice.start()
    assert alice.ask("count") == "18"
    assert [alice.ask("status " + id) for id in others] == ["pending"] * 18
    assert alice.ask("status " + first) == "committed"
    assert alice.ask("mine") == "18"
    assert alice.end() == 0
    alice.start()
    assert alice.ask("count") == "0"
    assert alice.ask("status " + others[-1]) == "committed"


def test_a_second_node_on_the_folder_is_refused(node: Callable[..., Node]) -> None:
    alice = node("alice", "--set", "node.name=alice")
    second = node("alice")
    assert second.wait() == 2
    assert "alice" in second.text and str(alice.process.pid) in second.text  # type: ignore[union-attr]
    assert "Traceback" not in second.text
    assert alice.ask("count") == "0"
    assert (alice.folder / "node.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "network.id=othernet"), ("othernet", "toynet", "--data-dir")),
        (("--set", "genesis.document.time=6"), ("genesis", "--data-dir")),
    ],
)
def test_a_folder_of_another_network_is_refused(
    node: Callable[..., Node], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert node("a").end() == 0
    other = node("a", *arguments)
    assert other.wait() == 2
    assert "Traceback" not in other.text
    for word in words:
        assert word in other.text


def test_a_genesis_file(node: Callable[..., Node], tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text('network = "toynet"\nfamily = "toy"\ntime = 77\n')
    assert node("a", "--genesis", str(path)).end() == 0
    path.write_text('network = "elsewhere"\nfamily = "toy"\ntime = 77\n')
    other = node("b", "--genesis", str(path))
    assert other.wait() == 2
    assert "--set network.id=elsewhere" in other.text


def test_a_crashing_service_does_not_take_the_node_down(node: Callable[..., Node]) -> None:
    alice = node()
    assert alice.ask("die service") == "dying"
    assert alice.wait_for("service runs again")
    alice.info = json.loads((alice.folder / "node.json").read_text())
    assert alice.ask("submit " + transaction(b"1")).startswith("ok ")
    assert alice.end() == 0


def test_consensus_that_dies_ends_the_node_with_one_sentence(node: Callable[..., Node]) -> None:
    alice = node()
    alice.ask("die consensus")
    assert alice.wait() == 1
    assert "error: consensus: told to die" in alice.text
    assert "Traceback" not in alice.text
    assert not (alice.folder / "node.json").exists()
    assert node("a").ask("count") == "0"


@pytest.mark.parametrize("setting", ["consensus.fail=start", "services.line.fail=true"])
def test_what_cannot_start_is_a_sentence(node: Callable[..., Node], setting: str) -> None:
    alice = node("a", "--set", setting)
    assert alice.wait() == 1
    assert "told to fail" in alice.text and "Traceback" not in alice.text


def test_second_signal_ends_at_once(node: Callable[..., Node]) -> None:
    alice = node()
    # Both are delivered before the node gets to run: the second finds a stop under way.
    os.kill(alice.process.pid, signal.SIGSTOP)  # type: ignore[union-attr]
    os.kill(alice.process.pid, signal.SIGINT)  # type: ignore[union-attr]
    os.kill(alice.process.pid, signal.SIGTERM)  # type: ignore[union-attr]
    os.kill(alice.process.pid, signal.SIGCONT)  # type: ignore[union-attr]
    assert alice.wait() in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert node("a").ask("count") == "0"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
async def test_a_stop_that_hangs_after_a_store_failed_still_says_what_failed(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Hanging:
        """What is asked of a runtime that does not end."""

        plan = SimpleNamespace(node=SimpleNamespace(shutdown_seconds=10.0))
        environment = SimpleNamespace(logger=SimpleNamespace(warning=lambda *_, **__: None))
        failure: StoreError | None = None

        async def stop_requested(self) -> None:
            await trio.lowlevel.checkpoint()

    def ended(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("os._exit", ended)
    runtime: Any = Hanging()
    for runtime.failure, last in (
        (None, "nodewright: not stopped 15 seconds after it was asked to: ended at once\n"),
        (StoreError("stores.utxo: the disk is full; make room"), "error: stores.utxo: the disk is full; make room\n"),
    ):
        with pytest.raises(SystemExit):
            await _enforce_deadline(runtime)
        assert capfd.readouterr().err.endswith(last)


def test_a_log_that_cannot_be_written_ends_no_node_and_changes_no_exit_code(tmp_path: Path) -> None:
    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "nodewright", "run", "toy", "--plugins-dir", str(PLUGINS), *arguments]
        return subprocess.Popen([*command, "--data-dir", str(tmp_path / "a")], stdout=full, stderr=full, text=True)

    with open("/dev/full", "w") as full:
        assert start("--set", "consensus.mien=true").wait(TIMEOUT) == 2
        process = start()
        try:
            descriptor = os.pidfd_open(process.pid)
            while not (tmp_path / "a" / "node.json").exists():
                assert not select.select([descriptor], [], [], 0.05)[0], f"it ended with {process.wait()}"
            os.close(descriptor)
            process.terminate()
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["run", "devnet"])
def test_a_signal_while_everything_is_still_imported(tmp_path: Path, command: str, number: int) -> None:
    """The plugin is loaded long before there is a node that could be asked to stop."""
    (tmp_path / "early.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\nwhile True:\n    os.wait()\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "nodewright",
            "--plugins-dir",
            str(tmp_path),
            command,
            "toy",
            "--data-dir",
            str(tmp_path / "a"),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "a").exists()


def test_signals_are_obeyed_before_anything_else_is_imported() -> None:
    code = (
        "import sys, nodewright.cli.main; print([m for m in ('click', 'trio', 'importlib.metadata') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": CORE}
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", ["letters", ".bashrc", "LEASE.old"])
def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(
    node: Callable[..., Node], tmp_path: Path, name: str
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / name).write_text("mine")
    home = node("home")
    assert home.wait() == 2
    (sentence,) = [line for line in home.text.splitlines() if line.startswith("error: ")]
    assert name in sentence and str(home.folder) in sentence and "--data-dir" in sentence
    assert [path.name for path in home.folder.iterdir()] == [name]


def test_what_an_operator_puts_there_beforehand_is_no_hindrance(node: Callable[..., Node], tmp_path: Path) -> None:
    for name in ("secrets", "transport", "execution", "lost+found"):
        (tmp_path / "prepared" / name).mkdir(parents=True)
    (tmp_path / "prepared" / "mine.toml").write_text("")
    assert node("prepared").end() == 0


@pytest.mark.parametrize("part", ["events", "pool", "stores.state"])
def test_a_part_of_the_data_that_is_gone_is_told(node: Callable[..., Node], part: str) -> None:
    alice = node()
    assert alice.ask("submit " + transaction(b"1")).startswith("ok ")
    assert alice.end() == 0
    assert node("a").end() == 0, "nothing is missing"
    folder = alice.folder.joinpath(*part.split("."))
    shutil.rmtree(folder)
    again = node("a")
    assert again.end() == 0
    (line,) = [json.loads(line) for line in again.text.splitlines() if " gone" in line]
    assert (line["level"], line["part"], line["folder"]) == ("warning", part, str(folder))
    last = node("a")
    assert last.end() == 0
    assert " gone" not in last.text, "said once: it is there again"
