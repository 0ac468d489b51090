"""The node key on disk: a 32-byte Ed25519 seed in a file of mode 0600, made once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from nodewright.errors import ConfigurationError
from nodewright.transport.handshake import NodeKey

SEED_BYTES = 32


def load_or_create(path: Path, entropy: Callable[[int], bytes]) -> NodeKey:
    """Blocking. Two processes that create it at once end with one key: the file appears whole or not at all."""
    try:
        return NodeKey.from_seed(_read(path))
    except FileNotFoundError:
        pass
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{entropy(8).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(entropy(SEED_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
    finally:
        os.unlink(temporary)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return NodeKey.from_seed(_read(path))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            seed = file.read(SEED_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigurationError(f"the node key {path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigurationError(f"the node key {path} can be read by others (mode {mode:04o}): run  chmod 600 {path}")
    if len(seed) != SEED_BYTES:
        raise ConfigurationError(
            f"the node key {path} is not the {SEED_BYTES} bytes of a seed: restore it from a copy, or remove it and the "
            "node makes a new one (its peers must then allow the new key)"
        )
    return seed
