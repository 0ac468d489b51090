"""The file of a snapshot: a tar that any tool lists, and its checksums.

Members, in this order::

    snapshot.json                                       what it is a snapshot of (``Header``)
    stores/<slot>/rows/<table>/<page number>            (key length u16 ‖ value length u32, big-endian ‖ key ‖ value)*
    stores/<slot>/blobs/<kind>/<id in hex>              the body
    files/<path>                                        a file of the data folder
    manifest.json                                       format records; measures of every table and kind; SHA-256 of files
    SHA256                                              of all bytes of the archive up to this member, as hex

Invariants: the archive has its name only once it is whole and synced; nothing is taken from one whose checksums were not
all compared; no member is written anywhere but below the data folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tarfile
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from nodewright.errors import StoreCorrupt, StoreError
from nodewright.interfaces.storage import MAX_KEY_BYTES, MAX_VALUE_BYTES

HEADER = "snapshot.json"
MANIFEST = "manifest.json"
SEAL = "SHA256"
VERSION = 1
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
MAX_PAGE_MEMBER_BYTES = 64 * 1024 * 1024
MAX_SEAL_BYTES = 128
CHUNK_BYTES = 1024 * 1024
_ROW = struct.Struct(">HI")
_BLOCK = 512


def encode_rows(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    pack = _ROW.pack
    return b"".join(part for key, value in items for part in (pack(len(key), len(value)), key, value))


def decode_rows(data: bytes) -> list[tuple[bytes, bytes]]:
    """Raises StoreCorrupt."""
    items = []
    at = 0
    while at < len(data):
        if at + _ROW.size > len(data):
            raise StoreCorrupt("a page of rows of the snapshot ends early")
        key_bytes, value_bytes = _ROW.unpack_from(data, at)
        at += _ROW.size
        end = at + key_bytes + value_bytes
        if end > len(data) or key_bytes > MAX_KEY_BYTES or value_bytes > MAX_VALUE_BYTES:
            raise StoreCorrupt("a page of rows of the snapshot is malformed")
        items.append((data[at : at + key_bytes], data[at + key_bytes : end]))
        at = end
    return items


class Writer:
    """``with`` it: on success the archive is complete under its name, on an error nothing is left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        self._hash = hashlib.sha256()

    def __enter__(self) -> Writer:
        if self.path.exists():
            raise StoreError(f"{self.path} is there already: name another file")
        try:
            descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise StoreError(f"{self._partial} cannot be written: {error.strerror}") from error
        self._file: BinaryIO = open(descriptor, "wb", CHUNK_BYTES)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            try:
                self._write(bytes(2 * _BLOCK))
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.rename(self._partial, self.path)
                folder = os.open(self.path.parent, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)
                return
            except OSError as problem:
                self._abandon()
                raise StoreError(f"{self.path} cannot be written: {problem.strerror}") from problem
        self._abandon()

    def _abandon(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # its bytes are not wanted any more
        self._partial.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error.strerror}") from error
        self._hash.update(data)

    def begin(self, name: str, size: int, mode: int = 0o600) -> None:
        """Then ``part`` until ``size`` bytes are written, then ``end``."""
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, mode & 0o700
        self._write(member.tobuf(tarfile.GNU_FORMAT))
        self._left = size
        self._size = size

    def part(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise StoreError("a file or blob grew while it was read: stop what writes to it")
        self._write(data)

    def end(self) -> None:
        if self._left:
            raise StoreError("a file or blob shrank while it was read: stop what writes to it")
        self._write(bytes(-self._size % _BLOCK))

    def add(self, name: str, data: bytes) -> None:
        self.begin(name, len(data))
        self.part(data)
        self.end()

    def add_document(self, name: str, document: dict[str, Any]) -> None:
        self.add(name, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")

    def seal(self) -> None:
        """The last member: the checksum of everything before it."""
        self.add(SEAL, self._hash.hexdigest().encode() + b"\n")


class Member:
    """``pieces`` gives the body once, in order."""

    def __init__(self, info: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        self.name = info.name
        self.size = info.size
        self.mode = info.mode
        self.offset = info.offset
        self._info = info
        self._archive = archive

    def pieces(self) -> Iterator[bytes]:
        file = self._archive.extractfile(self._info)
        assert file is not None
        left = self.size
        while left:
            try:
                piece = file.read(min(left, CHUNK_BYTES))
            except tarfile.ReadError:
                piece = b""
            if not piece:
                raise StoreCorrupt(f"the snapshot ends inside {self.name}: take it again, or use another copy of it")
            left -= len(piece)
            yield piece

    def body(self, limit: int) -> bytes:
        if self.size > limit:
            raise StoreCorrupt(f"{self.name} of the snapshot has {self.size} bytes, more than {limit}")
        return b"".join(self.pieces())

    def document(self) -> dict[str, Any]:
        try:
            document = json.loads(self.body(MAX_DOCUMENT_BYTES))
        except ValueError as error:
            raise StoreCorrupt(f"{self.name} of the snapshot is unreadable ({error})") from error
        if not isinstance(document, dict):
            raise StoreCorrupt(f"{self.name} of the snapshot is no table")
        return document


def members(path: Path) -> Generator[Member, None, None]:
    """Regular files in order, without holding a list of them. Raises StoreError, StoreCorrupt."""
    try:
        with tarfile.open(path, "r:") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]
                if not info.isreg():
                    raise StoreCorrupt(f"{path}: {info.name} is no regular file: this is no snapshot of a node")
                yield Member(info, archive)
    except (tarfile.TarError, EOFError) as error:
        raise StoreCorrupt(
            f"{path} is no whole tar file ({error}): take the snapshot again, or use another copy"
        ) from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error


def digest_until(path: Path, end: int) -> str:
    """SHA-256 of the first ``end`` bytes, as hex."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while end and (piece := file.read(min(end, CHUNK_BYTES))):
                found.update(piece)
                end -= len(piece)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    return found.hexdigest()
