"""Exclusive leases with a fencing epoch, for stores that live in a folder.

Invariants:

- at most one living process holds the lease of a folder: the lease file is locked with ``flock`` for the holder's life,
  so that a killed holder frees it at once and no time limit has to be guessed;
- the epoch grows by at least one with every owner, also across crashes: it is written and synced before ``acquire``
  returns, into the record that the newest epoch does not use, so that a torn write leaves the older record readable;
- a holder whose file was replaced or whose epoch was passed (``take_over``, used where a lock cannot be trusted, such as a
  shared filesystem whose other host is gone) finds out at its next ``check``, which every commit makes first.

The file ``LEASE`` holds two lines of 512 bytes, each one JSON object padded with spaces; the one with the higher epoch
counts. The check and the commit after it are two steps: a takeover between them is caught at the commit after.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
from pathlib import Path

from attrs import define, frozen

from nodewright.errors import LeaseLost, StoreCorrupt, StoreLocked
from nodewright.interfaces.environment import Environment
from nodewright.storage.full import write_error

FILE_NAME = "LEASE"
_RECORD_BYTES = 512
_FILE_BYTES = 2 * _RECORD_BYTES
_MAX_NAME = 128


@frozen
class Owner:
    """Who holds a lease; ``since`` is in Unix seconds."""

    node: str
    pid: int
    host: str
    since: float
    epoch: int = 0

    def __str__(self) -> str:
        return f"node {self.node!r} (pid {self.pid} on {self.host})"


@define(slots=True)
class Lease:
    """A held lease. ``check`` before every commit; ``release`` when the store is closed."""

    path: Path
    owner: Owner
    _descriptor: int
    _image: bytes
    _identity: tuple[int, int]

    @property
    def epoch(self) -> int:
        return self.owner.epoch

    def check(self) -> None:
        """Raises LeaseLost once another owner has taken the folder over, and after ``release``. Two system calls."""
        if self._descriptor < 0:
            raise LeaseLost(f"{self.path.parent}: this store is closed")
        try:
            now = os.stat(self.path)
        except FileNotFoundError:
            raise LeaseLost(
                f"{self.path}: the lease file was removed; stop this node before its data is used again"
            ) from None
        if (now.st_dev, now.st_ino) == self._identity and os.pread(self._descriptor, _FILE_BYTES, 0) == self._image:
            return
        newest = _newest(self.path.read_bytes()[:_FILE_BYTES])
        raise LeaseLost(
            f"{self.path.parent}: {newest or 'another owner'} took this store over"
            f"{f' at epoch {newest.epoch}' if newest else ''}; stop this node, its commits are refused"
        )

    def release(self) -> None:
        """Frees the lock; the file stays, so that the epoch goes on from here. Safe to repeat."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def this_process(environment: Environment) -> Owner:
    return Owner(node=environment.node_name, pid=os.getpid(), host=platform.node(), since=environment.now())


def acquire(folder: Path, environment: Environment) -> Lease:
    """Take the lease of ``folder`` (made if it is not there). Raises StoreLocked naming the owner, StoreError."""
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                lease = _lock(path, descriptor, this_process(environment))
            except BaseException:
                os.close(descriptor)
                raise
            if lease is not None:
                return lease
            os.close(descriptor)  # the file was replaced between open and lock: look at the new one
    except OSError as error:
        raise write_error(error, path) from error


def _lock(path: Path, descriptor: int, owner: Owner) -> Lease | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _newest(os.pread(descriptor, _FILE_BYTES, 0))
        if holder is not None and (holder.pid, holder.host) == (owner.pid, owner.host):
            raise StoreLocked(
                f"{path.parent} is in use by {holder}, which is this process: give each store a path of its own"
            ) from None
        raise StoreLocked(
            f"{path.parent} is in use by {holder or 'another process that is just opening it'}: stop that node first, or "
            "choose another --data-dir"
        ) from None
    held = os.fstat(descriptor)
    try:
        seen = os.stat(path)
    except FileNotFoundError:
        return None
    if (held.st_dev, held.st_ino) != (seen.st_dev, seen.st_ino):
        return None
    image = os.pread(descriptor, _FILE_BYTES, 0)
    before = _newest(image)
    if before is None and image.strip():
        raise StoreCorrupt(f"{path} is unreadable: if no node uses {path.parent}, remove that one file and start again")
    owner = _with_epoch(owner, (before.epoch if before else 0) + 1)
    _write(descriptor, owner)
    _sync_folder(path.parent)
    return Lease(path, owner, descriptor, os.pread(descriptor, _FILE_BYTES, 0), (held.st_dev, held.st_ino))


def take_over(folder: Path, environment: Environment) -> Lease:
    """Take the lease from an owner that may still live, by replacing the file: its commits are refused from then on.

    For an operator who knows that the other owner must not go on; nothing in a node calls it on its own."""
    path = folder / FILE_NAME
    before = _newest(path.read_bytes()[:_FILE_BYTES]) if path.exists() else None
    owner = _with_epoch(this_process(environment), (before.epoch if before else 0) + 1)
    fresh = folder / f"{FILE_NAME}.{os.getpid()}"
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write(descriptor, owner)
        os.rename(fresh, path)
        _sync_folder(folder)
        held = os.fstat(descriptor)
        return Lease(path, owner, descriptor, os.pread(descriptor, _FILE_BYTES, 0), (held.st_dev, held.st_ino))
    except BaseException:
        os.close(descriptor)
        raise


def read_owner(folder: Path) -> Owner | None:
    """Who held the folder last (it may be gone); None where nobody did."""
    try:
        with open(folder / FILE_NAME, "rb") as file:
            return _newest(file.read(_FILE_BYTES))
    except FileNotFoundError:
        return None


def _with_epoch(owner: Owner, epoch: int) -> Owner:
    return Owner(owner.node, owner.pid, owner.host, owner.since, epoch)


def encode_owner(owner: Owner) -> bytes:
    """One record of the file; names that do not fit are shortened."""
    for room in (_MAX_NAME, 16, 0):
        record = {
            "epoch": owner.epoch,
            "node": owner.node[:room],
            "pid": owner.pid,
            "host": owner.host[:room],
            "since": owner.since,
        }
        line = json.dumps(record, ensure_ascii=True).encode()
        if len(line) < _RECORD_BYTES:
            return line.ljust(_RECORD_BYTES - 1) + b"\n"
    raise ValueError("a lease record without names does not fit")


def _write(descriptor: int, owner: Owner) -> None:
    slot = (owner.epoch % 2) * _RECORD_BYTES
    if slot and os.fstat(descriptor).st_size < slot:
        os.pwrite(descriptor, b" " * (_RECORD_BYTES - 1) + b"\n", 0)
    os.pwrite(descriptor, encode_owner(owner), slot)
    os.fsync(descriptor)


def _newest(image: bytes) -> Owner | None:
    owners = [
        owner for start in (0, _RECORD_BYTES) if (owner := parse_owner(image[start : start + _RECORD_BYTES])) is not None
    ]
    return max(owners, key=lambda owner: owner.epoch, default=None)


def parse_owner(record: bytes) -> Owner | None:
    try:
        found = json.loads(record)
        return Owner(str(found["node"]), int(found["pid"]), str(found["host"]), float(found["since"]), int(found["epoch"]))
    except (ValueError, KeyError, TypeError):
        return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
