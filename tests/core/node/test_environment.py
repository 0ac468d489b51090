"""The node's environment: slots, secrets, bounded threads, processes; and log lines a machine can read."""

from __future__ import annotations

import io
import json
import logging as standard_logging
import sys
import threading
from pathlib import Path

import pytest
import structlog
import trio

from nodewright import logging
from nodewright.environment import NodeEnvironment
from nodewright.errors import ConfigurationError, StoreError
from nodewright.interfaces import Environment


def test_slots_have_folders_of_their_own(tmp_path: Path) -> None:
    environment = NodeEnvironment("a", tmp_path)
    utxo = environment.for_slot("stores.utxo")
    assert isinstance(utxo, Environment)
    assert utxo.data_dir == tmp_path / "stores" / "utxo" and utxo.data_dir.is_dir()
    assert utxo.for_slot("consensus").data_dir == tmp_path / "consensus"
    assert environment.data_dir == tmp_path


@pytest.mark.parametrize("slot", ["", "..", "stores/utxo", "stores..utxo", "Stores", "a.\n"])
def test_bad_slot_names_are_refused(tmp_path: Path, slot: str) -> None:
    with pytest.raises(ValueError):
        NodeEnvironment("a", tmp_path).for_slot(slot)


def test_secrets_come_from_the_process_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = NodeEnvironment("a", tmp_path).for_slot("services.api")
    assert environment.secret("token") is None
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("from-file\n")
    assert environment.secret("token") == "from-file"
    monkeypatch.setenv("NODEWRIGHT_TOKEN", "from-process")
    assert environment.secret("token") == "from-process"
    with pytest.raises(ValueError):
        environment.secret("../token")
    (tmp_path / "secrets" / "big").write_bytes(b"x" * 100_000)
    with pytest.raises(ConfigurationError, match="larger"):
        environment.secret("big")


async def test_offload_is_bounded_over_all_slots(tmp_path: Path) -> None:
    environment = NodeEnvironment("a", tmp_path, threads=2)
    running = 0
    peak = 0
    lock = threading.Lock()
    barrier = threading.Barrier(2)

    def work() -> int:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        barrier.wait(30)
        with lock:
            running -= 1
        return threading.get_ident()

    threads: set[int] = set()

    async def one(slot: str) -> None:
        threads.add(await environment.for_slot(slot).offload(work))

    async with trio.open_nursery() as nursery:
        for index in range(6):
            nursery.start_soon(one, f"stores.s{index % 3}")
    assert peak == 2
    assert threading.get_ident() not in threads


async def test_spawn(tmp_path: Path) -> None:
    process = await NodeEnvironment("a", tmp_path).spawn([sys.executable, "-c", "raise SystemExit(7)"])
    assert await process.wait() == 7


def test_json_log_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = standard_logging.getLogger().handlers[:]
    out = io.StringIO()
    try:
        logger = logging.configure("alice", "json", "info", out)
        logger.debug("not shown")
        logger.bind(slot="pool").info("sealed", id=b"\x01\x02", count=3)
        standard_logging.getLogger("hypercorn").warning("a library says %d", 5)
    finally:
        standard_logging.getLogger().handlers[:] = handlers
        structlog.reset_defaults()
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["node"], first["slot"], first["event"], first["id"], first["level"]) == (
        "alice",
        "pool",
        "sealed",
        "0102",
        "info",
    )
    assert (second["library"], second["event"], second["level"]) == ("hypercorn", "a library says 5", "warning")


def test_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="debug"):
        logging.configure("a", level="loud")


def test_a_slot_whose_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "stores").write_text("in the way")
    with pytest.raises(StoreError, match=r"stores/utxo cannot be written"):
        NodeEnvironment("test", tmp_path).for_slot("stores.utxo")
