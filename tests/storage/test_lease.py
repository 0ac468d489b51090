"""Leases: one owner, a growing epoch, a stale owner that finds out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewright.errors import LeaseLost, StoreCorrupt, StoreError, StoreLocked
from nodewright.storage import lease as leases
from nodewright.storage.lease import acquire, read_owner, take_over
from nodewright.testing.environment import LocalEnvironment


def test_the_epoch_grows_with_every_owner(tmp_path: Path) -> None:
    epochs = []
    for turn in range(5):
        held = acquire(tmp_path, LocalEnvironment(tmp_path, f"node-{turn}"))
        epochs.append(held.epoch)
        owner = read_owner(tmp_path)
        assert owner is not None and (owner.node, owner.epoch) == (f"node-{turn}", held.epoch)
        held.check()
        held.release()
        with pytest.raises(LeaseLost):
            held.check()
    assert epochs == [1, 2, 3, 4, 5]


def test_a_torn_record_leaves_the_older_one(tmp_path: Path) -> None:
    for _ in range(3):
        acquire(tmp_path, LocalEnvironment(tmp_path)).release()
    path = tmp_path / leases.FILE_NAME
    image = bytearray(path.read_bytes())
    image[512 : 512 + 40] = b"\x00" * 40  # the record of epoch 3
    path.write_bytes(image)
    held = acquire(tmp_path, LocalEnvironment(tmp_path))
    assert held.epoch == 3
    held.release()


def test_an_unreadable_file_is_named_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / leases.FILE_NAME).write_bytes(b"garbage")
    with pytest.raises(StoreCorrupt, match="remove that one file"):
        acquire(tmp_path, LocalEnvironment(tmp_path))


def test_taking_over_puts_the_owner_out(tmp_path: Path) -> None:
    first = acquire(tmp_path, LocalEnvironment(tmp_path, "first"))
    second = take_over(tmp_path, LocalEnvironment(tmp_path, "second"))
    assert second.epoch == first.epoch + 1
    second.check()
    with pytest.raises(LeaseLost, match=r"'second'.*epoch 2"):
        first.check()
    with pytest.raises(StoreLocked, match="'second'"):
        acquire(tmp_path, LocalEnvironment(tmp_path, "third"))
    first.release()
    second.release()
    third = acquire(tmp_path, LocalEnvironment(tmp_path, "third"))
    assert third.epoch == 3
    third.release()


def test_a_removed_file_is_a_lost_lease(tmp_path: Path) -> None:
    held = acquire(tmp_path, LocalEnvironment(tmp_path))
    (tmp_path / leases.FILE_NAME).unlink()
    with pytest.raises(LeaseLost, match="removed"):
        held.check()
    held.release()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be written"):
        acquire(tmp_path / "file" / "below", LocalEnvironment(tmp_path))


@given(st.text(max_size=300), st.integers(1, 2**40))
def test_any_name_fits_the_record(name: str, epoch: int) -> None:
    owner = leases.Owner(name, 1, name, 1.5, epoch)
    line = leases.encode_owner(owner)
    assert len(line) == 512
    found = leases.parse_owner(line)
    assert found is not None and found.epoch == epoch
