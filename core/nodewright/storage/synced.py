"""Small files that are there whole or not at all, also after a power cut: written beside, synced, renamed.

Invariants of ``SyncedFile``, which several tasks may save at once: writes of one file follow each other, never overlap;
each writes what is true when it begins, never when it was asked for, so that an older state cannot replace a newer one;
when ``save`` returns, what was true when it was called is on the disk.

Invariant of ``SignedFile``: ``may_sign`` is True only where the file was read, where there is no chain yet that could have
been signed on, or where an operator has said so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio

from nodewright.errors import StoreCorrupt, StoreError
from nodewright.interfaces.environment import Environment
from nodewright.storage.full import write_error


def write_synced(path: Path, data: bytes) -> None:
    """Blocking. Raises StoreError with the fix (StoreFull on a full disk); the file is then as it was."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise write_error(error, path) from error


class SyncedFile:
    """``encode`` gives the bytes of the present state; it is called on the trio thread as a write begins."""

    def __init__(self, environment: Environment, path: Path, encode: Callable[[], bytes]) -> None:
        self.path = path
        self._environment = environment
        self._encode = encode
        self._turn = trio.Lock()

    async def save(self) -> None:
        async with self._turn:
            await self._environment.offload(write_synced, self.path, self._encode())


class SignedFile(SyncedFile):
    """What a validator has signed, saved before it is sent, outside snapshot, copy and restore. ``may_sign`` is False where
    the chain store holds blocks and there is no file (a copy, a restore), until an operator calls ``allow``."""

    may_sign = True

    async def load(self, decode: Callable[[bytes], None], chain_is_empty: bool) -> None:
        """``decode`` takes over what the file says; it raises ValueError, LookupError or what a value of another type does
        where the bytes are not what ``encode`` gave. Raises StoreCorrupt, StoreError."""
        try:
            raw = await self._environment.offload(self.path.read_bytes)
        except FileNotFoundError:
            self.may_sign = chain_is_empty
            return
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be read ({error.strerror or error}): nothing is signed without it; make it readable"
            ) from error
        try:
            decode(raw)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise StoreCorrupt(
                f"{self.path} cannot be read ({error}): restore it, or remove it and use the control allow_voting once you "
                "are sure that nothing signs with this validator's key above what it said"
            ) from error

    async def allow(self) -> None:
        """An operator says that no other node signs with this key."""
        self.may_sign = True
        await self.save()
