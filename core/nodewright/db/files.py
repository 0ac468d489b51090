"""What of a data folder is neither a store's nor of the moment: journals, events, keys, the state of consensus.

``private`` files must not come to life twice: a consensus that signs may sign twice from a copy of its safety state, two
nodes with one key are one peer to the others. They are everything under ``consensus`` and ``secrets``, every ``*.key``, and
what a setting that ends in ``key_file`` names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import attrs

from nodewright.composition.plan import Plan
from nodewright.errors import StoreError
from nodewright.node.folder import NODE_FILE, RECORD_FILE
from nodewright.storage.lease import FILE_NAME as LEASE_FILE

STORES_FOLDER = "stores"
PRIVATE_FOLDERS = frozenset({"consensus", "secrets"})
_PASSING = frozenset({LEASE_FILE, NODE_FILE, RECORD_FILE, ".cookie"})  # of a process, or written by the copy itself


def key_files(plan: Plan) -> frozenset[str]:
    """Paths below the data folder of the key files that settings name."""
    found = set()
    for planned in plan.components:
        for field in attrs.fields(type(planned.config)) if attrs.has(type(planned.config)) else ():
            value = getattr(planned.config, field.name)
            if field.name.endswith("key_file") and isinstance(value, str) and value:
                path = os.path.normpath(PurePosixPath(planned.slot.replace(".", "/"), value))
                found.add(path)
    return frozenset(found)


def is_private(path: PurePosixPath, named: frozenset[str]) -> bool:
    return path.parts[0] in PRIVATE_FOLDERS or path.suffix == ".key" or str(path) in named


def files(folder: Path) -> Iterator[PurePosixPath]:
    """Regular files to carry, below ``folder``, sorted. Links and the like are left out."""
    for place, folders, names in os.walk(folder):
        here = PurePosixPath(Path(place).relative_to(folder).as_posix())
        if here == PurePosixPath("."):
            folders[:] = [name for name in folders if name != STORES_FOLDER]
            names = [name for name in names if name not in _PASSING]
        folders.sort()
        for name in sorted(names):
            path = folder / here / name
            if name != LEASE_FILE and path.is_file() and not path.is_symlink():
                yield here / name


def write_file(path: Path, mode: int, pieces: Iterator[bytes]) -> None:
    """Synced, with ``mode``, in folders of mode 0700."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode & 0o700)
        with open(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error


def read_pieces(path: Path, size: int = 1024 * 1024) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(size):
            yield piece
