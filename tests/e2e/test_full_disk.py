"""A disk that is really full: the node says so and stops, and goes on from what it had written once there is room.

Which write meets the full disk first differs from run to run: the pool's journal (then the client is told to wait), the
chain's, the outputs' or the bodies' store, a final status. Nothing acknowledged may be lost by any of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewright.bench.node import NodeProcess
from nodewright.errors import NodewrightError
from nodewright_bsv_api.bench.wallet import payments, sha256d
from nodewright_bsv_api.client import BsvClient

SIZE = "40m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run([mount, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], capture_output=True)
    if not made or made.returncode:
        pytest.skip("a small file system can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


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
    except (OSError, NodewrightError):
        pass  # it refused the block, or is gone
    return acknowledged


@pytest.mark.parametrize("leave", [16_384, 400_000])
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
