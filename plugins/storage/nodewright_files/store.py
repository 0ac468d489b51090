"""Blobs as files: one file a blob.

Layout: ``blobs/<kind>/<first two hex digits>/<next two, or __>/<id in hex>``; files being written are in ``incoming``.

Invariants:

- a file under ``blobs`` is whole and synced: it is written and synced in ``incoming``, then renamed, then its folder is
  synced (and every folder made on the way), before ``put`` returns;
- what is left in ``incoming`` belongs to a writer that died: it is removed on open;
- the lease of the folder is checked before every rename and delete.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import trio

from nodewright.errors import StoreError, StoreFull
from nodewright.interfaces.environment import Environment
from nodewright.storage.lease import Lease
from nodewright.storage.limits import check_ids, check_kind, check_range

T = TypeVar("T")

_CHUNK_BYTES = 1024 * 1024
_INLINE_IDS = 16


def store_error(error: OSError, path: Path) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"{path}: the disk is full; make room and start the node again (nothing acknowledged is lost)")
    return StoreError(f"{path}: {error.strerror or error}; check the disk, and the folder's owner and mode")


class FileBlobStore:
    """Implements ``nodewright.interfaces.BlobStore``; made by ``plugin.open_files``."""

    def __init__(self, folder: Path, environment: Environment, lease: Lease) -> None:
        self.folder = folder
        self._blobs = folder / "blobs"
        self._incoming = folder / "incoming"
        self._environment = environment
        self._lease = lease
        self._written = 0
        self._closed = False

    def prepare(self) -> int:
        """Make the folders, remove what writers that died have left; returns how many files that was. Blocking."""
        try:
            for folder in (self._blobs, self._incoming):
                folder.mkdir(mode=0o700, exist_ok=True)
            sync_folder(self.folder)
            leftovers = list(os.scandir(self._incoming))
            for entry in leftovers:
                os.unlink(entry.path)
        except OSError as error:
            raise store_error(error, self.folder) from error
        return len(leftovers)

    async def put(self, kind: str, id: bytes, data: bytes | AsyncIterator[bytes]) -> None:
        check_ids(kind, [id])
        target = self._path(kind, id)
        if await self._call(target.exists):
            return
        self._written += 1
        partial = self._incoming / f"{self._lease.epoch}-{self._written}"
        if isinstance(data, bytes | bytearray | memoryview):
            await self._call(self._put_whole, partial, target, data)
            return
        file: BinaryIO = await self._call(open, partial, "xb", 0)
        try:
            waiting: list[bytes] = []
            size = 0
            async for piece in data:
                waiting.append(piece)
                size += len(piece)
                if size >= _CHUNK_BYTES:
                    await self._call(write_all, file, waiting)
                    waiting, size = [], 0
            await self._call(self._finish, file, waiting, partial, target)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._environment.offload(discard, file, partial)
            raise

    def _put_whole(self, partial: Path, target: Path, data: bytes) -> None:
        file = open(partial, "xb", 0)  # noqa: SIM115 (closed by _finish or discard)
        try:
            self._finish(file, [data], partial, target)
        except BaseException:
            discard(file, partial)
            raise

    def _finish(self, file: BinaryIO, pieces: list[bytes], partial: Path, target: Path) -> None:
        write_all(file, pieces)
        os.fsync(file.fileno())
        file.close()
        self._lease.check()
        make_folders(target.parent, self._blobs)
        os.rename(partial, target)
        sync_folder(target.parent)

    async def get(self, kind: str, id: bytes) -> bytes | None:
        check_ids(kind, [id])

        def read() -> bytes | None:
            try:
                with open(self._path(kind, id), "rb") as file:
                    return file.read()
            except FileNotFoundError:
                return None

        return await self._call(read)

    async def read(self, kind: str, id: bytes, offset: int, length: int) -> bytes | None:
        check_ids(kind, [id])
        check_range(offset, length)

        def read() -> bytes | None:
            try:
                with open(self._path(kind, id), "rb") as file:
                    file.seek(offset)
                    return file.read(length)
            except FileNotFoundError:
                return None

        return await self._call(read)

    async def size(self, kind: str, id: bytes) -> int | None:
        check_ids(kind, [id])

        def look() -> int | None:
            try:
                return os.stat(self._path(kind, id)).st_size
            except FileNotFoundError:
                return None

        return await self._call(look)

    async def exists(self, kind: str, ids: Sequence[bytes]) -> list[bool]:
        check_ids(kind, ids)

        def look() -> list[bool]:
            return [self._path(kind, id).exists() for id in ids]

        if len(ids) <= _INLINE_IDS:
            await trio.lowlevel.checkpoint()
            self._check_open()
            return look()
        return await self._call(look)

    async def delete(self, kind: str, ids: Sequence[bytes]) -> None:
        check_ids(kind, ids)

        def remove() -> None:
            self._lease.check()
            for id in ids:
                self._path(kind, id).unlink(missing_ok=True)

        await self._call(remove)

    async def iterate(self, kind: str) -> AsyncIterator[bytes]:
        """In id order for ids of one length of two bytes or more; a blob put meanwhile may be seen or not."""
        check_kind(kind)
        for outer in await self._call(list_folder, self._blobs / kind):
            for inner in await self._call(list_folder, outer):
                for path in await self._call(list_folder, inner):
                    yield bytes.fromhex(path.name)

    async def kinds(self) -> list[str]:
        return [folder.name for folder in await self._call(list_folder, self._blobs)]

    def close(self) -> None:
        self._closed = True

    def _path(self, kind: str, id: bytes) -> Path:
        name = id.hex()
        return self._blobs / kind / name[:2] / (name[2:4] or "__") / name

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("this store is closed")

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        self._check_open()
        try:
            return await self._environment.offload(function, *arguments)
        except OSError as error:
            raise store_error(error, self.folder) from error


def write_all(file: BinaryIO, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[file.write(view) :]


def discard(file: BinaryIO, partial: Path) -> None:
    file.close()
    partial.unlink(missing_ok=True)


def list_folder(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def make_folders(folder: Path, root: Path) -> None:
    """Make ``folder`` below ``root``, syncing the parent of each that is new."""
    if folder.exists() or folder == root:
        return
    make_folders(folder.parent, root)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
