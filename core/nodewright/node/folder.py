"""The data folder of a node: whose it is, what it was made for, and ``node.json`` while the node is ready.

Invariants
- One living process at a time holds the folder (the lease of ``nodewright.storage.lease``).
- ``network.json`` is written, synced, before anything else is put into the folder; a folder made for another family,
  network or genesis is refused before anything in it is opened. Once the node is ready it also names the parts of the
  folder that hold something (see ``parts``).
- A folder without ``network.json`` that holds anything a node does not expect is somebody else's: nothing is put into it.
- ``node.json`` is there only while the node is ready: written whole (renamed into place), removed when it begins to stop.
  After a kill it stays behind; its ``pid`` then names no living process, and the next start removes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nodewright.errors import ConfigurationError, FormatMismatch, StoreCorrupt, StoreError
from nodewright.genesis import Genesis
from nodewright.interfaces.environment import Environment
from nodewright.storage.lease import FILE_NAME as LEASE_FILE
from nodewright.storage.lease import acquire
from nodewright.storage.synced import write_synced

RECORD_FILE = "network.json"
NODE_FILE = "node.json"
MAX_RECORD_BYTES = 64 * 1024
PARTS = "parts"
# What an operator may have put into a new folder (keys of components, such as `nodewright shard --show-key` makes), what a
# first start that died leaves, and what a file system brings.
EXPECTED = frozenset({"secrets", "transport", "execution", LEASE_FILE, f"{RECORD_FILE}.new", "lost+found"})
PROFILES = ".toml"


@contextmanager
def held_folder(folder: Path, environment: Environment) -> Iterator[None]:
    """Raises StoreLocked naming the owner, ConfigurationError, StoreError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_foreign(folder)
    except OSError as error:
        raise ConfigurationError(
            f"the data directory {folder} cannot be made: {error.strerror}; choose another with --data-dir"
        ) from error
    lease = acquire(folder, environment)
    try:
        yield
    finally:
        lease.release()


def _refuse_foreign(folder: Path) -> None:
    names = sorted(entry.name for entry in folder.iterdir())
    foreign = [name for name in names if name not in EXPECTED and not name.endswith(PROFILES)]
    if foreign and RECORD_FILE not in names:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise ConfigurationError(
            f"the data directory {folder} is not empty and no node's: it holds {', '.join(foreign[:3])}{more}; name an "
            f"empty or a new one with --data-dir"
        )


def check_record(folder: Path, family: str, genesis: Genesis) -> dict[str, Any]:
    """Write what the folder is for, or compare; returns the record. Raises FormatMismatch naming each difference,
    StoreCorrupt, StoreError."""
    path = folder / RECORD_FILE
    wanted = {"family": family, "network": genesis.network, "genesis": genesis.hash.hex()}
    try:
        with path.open("rb") as file:
            held = json.loads(file.read(MAX_RECORD_BYTES))
        if not isinstance(held, dict):
            raise ValueError("not a table")
    except FileNotFoundError:
        write_whole(path, wanted)
        return dict(wanted)
    except ValueError as error:
        raise StoreCorrupt(f"{path} is unreadable ({error}): restore it from a copy of the data directory") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    different = [
        f"{name} {held.get(name)!r} (this node: {value!r})" for name, value in wanted.items() if held.get(name) != value
    ]
    if different:
        raise FormatMismatch(
            f"the data directory {folder} belongs to another network: {', '.join(different)}; run the profile and genesis "
            f"that it was made with, or choose another --data-dir"
        )
    return held


def recorded_parts(record: Mapping[str, Any]) -> list[str]:
    """What ``record_parts`` wrote; nothing where a version wrote the record that did not know parts."""
    parts = record.get(PARTS)
    return [part for part in parts if isinstance(part, str)] if isinstance(parts, list) else []


def record_parts(folder: Path, record: Mapping[str, Any], parts: list[str]) -> None:
    """Write the parts of the folder into its record, where others are named there. Raises StoreError."""
    if recorded_parts(record) != parts:
        write_whole(folder / RECORD_FILE, {**record, PARTS: parts})


def write_whole(path: Path, document: Mapping[str, Any]) -> None:
    """A JSON file that is there whole or not at all, also after a power cut."""
    write_synced(path, f"{json.dumps(document, indent=2)}\n".encode())


def remove_node_file(folder: Path) -> None:
    (folder / NODE_FILE).unlink(missing_ok=True)


def write_node_file(folder: Path, document: Mapping[str, Any]) -> None:
    """``{"pid", "profile", "network", "genesis", "node_id", "transport", "services": {name: url}, …}``."""
    write_whole(folder / NODE_FILE, document)


def read_node_file(folder: Path) -> dict[str, Any] | None:
    """None where there is none (yet)."""
    try:
        with (folder / NODE_FILE).open("rb") as file:
            document = json.loads(file.read(MAX_RECORD_BYTES))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
