"""Bans on disk, so that a restart forgets none: ``bans.json``, node key in hex → Unix time at which its ban ends.

Invariants: written whole or not at all; a file that cannot be read costs the bans, is told, and never the start; at most
MAX_BANS are kept, those that end last.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodewright.storage.synced import write_synced

BANS_FILE = "bans.json"
MAX_BANS = 4096
MAX_FILE_BYTES = 1024 * 1024


def load(path: Path) -> dict[bytes, float]:
    """Raises ValueError for a file that is none of ours, OSError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
    found: Any = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("no table")
    bans = {bytes.fromhex(key): float(until) for key, until in found.items()}
    if not all(len(key) == 32 and math.isfinite(until) for key, until in bans.items()):
        raise ValueError("a key has not 32 bytes, or a time is none")
    return bans


def save(path: Path, bans: Mapping[bytes, float]) -> None:
    """Raises StoreError."""
    last = sorted(bans.items(), key=lambda ban: -ban[1])[:MAX_BANS]
    write_synced(path, json.dumps({key.hex(): until for key, until in last}, indent=1).encode())
