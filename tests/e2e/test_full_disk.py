"""A disk that is really full: the node says so and stops, and goes on from what it had written once there is room.

Which write meets the full disk first differs from run to run: the pool's journal (then the client is told to wait), the
chain's, the outputs' or the bodies' store, a final status. Nothing acknowledged may be lost by any of them.

On PostgreSQL it is the server's disk, with the node's own folder elsewhere: a tablespace that is full is an error of one
statement; a full disk under the server's log of writes ends the server.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess
from nodewright.cli.app import invoke
from nodewright.errors import NodewrightError
from nodewright.testing import postgres_server
from nodewright.testing.postgres_server import PostgresServer
from nodewright_bsv_api.bench.wallet import payments, sha256d
from nodewright_bsv_api.client import BsvClient


@contextmanager
def mounted(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A small file system."""
    folder.mkdir()
    mount = shutil.which("mount")
    size = f"size={mebibytes}m"
    made = mount and subprocess.run([mount, "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True)
    if not made or made.returncode:
        pytest.skip("a small file system can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB."""
    with mounted(tmp_path / "disk", 40) as folder:
        yield folder


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves ``leave`` bytes."""
    free = os.statvfs(disk)
    path = disk / "filler"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - leave)
    return path


def use_up(client: BsvClient, address: str, raws: list[bytes]) -> list[str]:
    """Post and mine until the node goes away; the ids of what was answered 200."""
    acknowledged: list[str] = []
    try:
        for at in range(0, len(raws), 50):
            batch = raws[at : at + 50]
            status, _ = client.post_txs(b"".join(batch))
            if status == 200:
                acknowledged += [sha256d(raw)[::-1].hex() for raw in batch]
            client.rpc("generatetoaddress", 1, address)
    except (OSError, NodewrightError, HTTPException, ValueError):
        pass  # it refused the block, or is gone
    return acknowledged


@pytest.mark.parametrize("leave", [pytest.param(16_384, marks=pytest.mark.long), 400_000])
def test_the_node_stops_says_why_and_goes_on_once_there_is_room(
    node: Callable[..., NodeProcess], disk: Path, wallet_of: Callable[[NodeProcess], Any], leave: int
) -> None:
    alpha = node("disk")
    wallet = wallet_of(alpha)
    raws = list(payments(wallet.coins(2000), 3))
    filler = fill(disk, leave)
    acknowledged = use_up(wallet.client, wallet.address, raws)
    # The client saw a failure; the node must end by itself.
    assert alpha.wait(60) == 1, alpha.log_tail()
    last = alpha.log.read_text().splitlines()[-1]
    assert last.startswith("error: ") and "full" in last and "make room" in last, last
    assert alpha.log.read_text().count("error: ") == 1
    assert "Traceback" not in alpha.log.read_text()
    assert alpha.log.read_text().count("the node stops") == 1

    with pytest.raises(NodewrightError, match="ended with code 1") as refused:  # still no room
        alpha.start()
    assert "make room" in str(refused.value).splitlines()[-1]
    assert "Traceback" not in str(refused.value)

    filler.unlink()
    alpha.start()
    again = wallet_of(alpha)
    again.mine(2)
    assert again.client.rpc("getmininginfo")["pooledtx"] == 0
    assert {again.client.get_json(f"/v1/tx/{txid}")["txStatus"] for txid in acknowledged} <= {"MINED"}
    assert alpha.stop() == 0


OPTIONS = ("max_wal_size=32MB", "min_wal_size=32MB", "shared_buffers=16MB", "max_connections=60")
MEBIBYTES = {"tablespace": 40, "everything": 120, "log": 40}


@contextmanager
def open_to_all() -> Iterator[Path]:
    """A temporary folder into which also those may go that are not root: the server does not run as root."""
    with tempfile.TemporaryDirectory(prefix="nodewright-full-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@contextmanager
def server_on(disk: Path, what: str) -> Iterator[PostgresServer]:
    """A server with a tablespace, everything, or its log of writes on the disk."""
    folder = disk / "server"
    folder.mkdir()
    if what != "everything":
        with postgres_server.postgres_server(OPTIONS) as server:
            if server.user is not None:
                shutil.chown(folder, server.user)
            if what == "log":
                server.stop()
                data = server.data
                shutil.copytree(data / "pg_wal", folder / "pg_wal", copy_function=shutil.copy2)
                subprocess.run(["chown", "-R", server.user or str(os.getuid()), str(folder)], check=True)
                shutil.rmtree(data / "pg_wal")
                (data / "pg_wal").symlink_to(folder / "pg_wal")
                server.start()
            else:
                server.sql(f"CREATE TABLESPACE small LOCATION '{folder}'")
                server.sql(f"ALTER DATABASE {postgres_server.DATABASE} SET TABLESPACE small")
            yield server
        return
    with postgres_server.postgres_server(OPTIONS, folder=folder) as server:
        yield server


def use_up_log(server: PostgresServer) -> None:
    """Segments are begun as if much had been written, until there is no room for one."""
    with suppress(NodewrightError):
        for _ in range(20):
            server.sql("SELECT pg_switch_wal(), pg_sleep(0.3)")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("what", list(MEBIBYTES))
def test_on_postgres(
    node: Callable[..., NodeProcess],
    wallet_of: Callable[[NodeProcess], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    what: str,
) -> None:
    missing = postgres_server.missing()
    if missing is not None:
        pytest.skip(f"no PostgreSQL: {missing}")
    with (
        open_to_all() as place,
        mounted(place / "disk", MEBIBYTES[what]) as disk,
        server_on(disk, what) as server,
    ):
        monkeypatch.setenv("NODEWRIGHT_POSTGRES_PASSWORD", server.password)
        own = {"use": "postgres", "port": str(server.port), "retry_seconds": "3"}
        settings = {f"stores.{slot}.{key}": value for slot in ("utxo", "chain", "blobs") for key, value in own.items()}
        alpha = node("alpha", **settings)
        wallet = wallet_of(alpha)
        raws = list(payments(wallet.coins(1500), 3))
        filler = fill(disk, 100_000)
        other = threading.Thread(target=use_up_log, args=(server,))
        if what == "log":
            other.start()
        acknowledged = use_up(wallet.client, wallet.address, raws)
        if what == "log":  # a read that fails is an answer to the client, and the node waits for its server
            other.join()
            alpha.kill()
        else:
            assert alpha.wait(120) == 1, alpha.log_tail()
            last = alpha.log.read_text().splitlines()[-1]
            assert last.startswith("error: ") and "the server's disk is full" in last and "make room" in last, last
            assert alpha.log.read_text().count("error: ") == 1
        filler.unlink()
        server.kill()
        server.start()
        chosen = [f"--set={key}={value}" for key, value in settings.items()]
        assert invoke(["verify", "teranode", f"--data-dir={alpha.data_dir}", *chosen]) == 0, capsys.readouterr()
        alpha.start()
        again = wallet_of(alpha)
        again.mine(2)
        assert again.client.rpc("getmininginfo")["pooledtx"] == 0
        assert {again.client.get_json(f"/v1/tx/{txid}")["txStatus"] for txid in acknowledged} <= {"MINED"}
        assert alpha.stop() == 0
