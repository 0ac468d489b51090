"""Saving what is whole of a damaged database, and saying what was not.

LevelDB's own repair reads logs without looking at their checksums, and gives up a table at its first bad block without a
word. So here:

- nothing is touched unless something is damaged: everything is read first, with every check;
- the folder is copied aside first, whole and synced: the copy is the operator's, and is never removed;
- a log is cut off at its first record that is not whole, and logs after it are set aside: what is kept of the logs is a
  prefix of the commits in them;
- LevelDB then builds a new table of contents from the tables and logs that are left; what it could not read it moves to the
  folder ``lost``, and what it said of each file is reported;
- at last every row is read again, with every check, and counted by table.

What a lost table file held is gone, or is as it was before: a row that was deleted or replaced in it may be back. So a
database that lost anything is not to be run on, unless ``nodewright db verify`` and another node say that it is whole.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nodewright.errors import StoreCorrupt, StoreError
from nodewright.plugins.specs import Repair
from nodewright.storage.full import write_error
from nodewright_leveldb.logs import first_damage, log_files
from nodewright_leveldb.store import NAMES, open_database, read_names, store_error

_LOST = "lost"
_STAMP = re.compile(r"\A\S+ \S+ ")
_TOLD = re.compile(r"Log #|Table #")


def repair_database(
    factory: Callable[..., Any], repair: Callable[..., None], path: Path, options: dict[str, Any]
) -> Repair:
    """Blocks. ``factory`` is plyvel's ``DB``, ``repair`` its ``repair_db``. The folder's lease is held by the caller."""
    try:
        rows = count_rows(factory, path, options)
        return Repair((f"{path}: nothing is damaged, it was left as it is: {_told(rows)}",), lost=False)
    except StoreCorrupt as error:
        lines = [str(error).partition("; stop the node")[0]]
    try:
        aside = _copy_aside(path)
        lines.append(f"copied as it was to {aside}: remove that once it is of no use any more")
        lost = _cut_logs(path, lines)
    except OSError as error:
        raise write_error(error, path) from error
    try:
        repair(str(path), paranoid_checks=True, **options)
    except Exception as error:
        raise store_error(error, path) from error
    lost = _read_report(path, lines) or lost
    rows = count_rows(factory, path, options)
    nameless = {name: count for name, count in rows.items() if name.startswith("without a name")}
    lines.append(f"kept, read again whole: {_told(rows)}")
    return Repair(tuple(lines), lost=lost or bool(nameless))


def count_rows(factory: Callable[..., Any], path: Path, options: dict[str, Any]) -> Counter[str]:
    """Rows by table, all read with every check. Raises StoreCorrupt, StoreError."""
    database = open_database(factory, path, strict=False, create=False, **options)
    try:
        names = {prefix: name for name, prefix in read_names(database, path).items()}
        rows: Counter[str] = Counter()
        for key in database.iterator(include_value=False, verify_checksums=True, fill_cache=False):
            prefix = key[:2]
            if prefix != NAMES:
                rows[names.get(prefix) or f"without a name (prefix {prefix.hex()})"] += 1
        return rows
    except StoreError:
        raise
    except Exception as error:
        raise store_error(error, path) from error
    finally:
        database.close()


def _told(rows: Counter[str]) -> str:
    return ", ".join(f"{count} rows of {name}" for name, count in sorted(rows.items())) or "no rows"


def _copy_aside(path: Path) -> Path:
    """Under a name that is free; complete once it has that name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged{number}")).exists():
        number += 1
    unfinished = path.with_name(f"{aside.name}.copying")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(path, unfinished)
    for place, _, files in os.walk(unfinished):
        for name in [*files, "."]:
            _sync(Path(place, name))
    unfinished.rename(aside)
    _sync(aside.parent)
    return aside


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cut_logs(path: Path, lines: list[str]) -> bool:
    """Whether anything was lost by it."""
    for log in log_files(path):
        found = first_damage(log)
        if found is None:
            continue
        later = [other for other in log_files(path) if int(other.stem) > int(log.stem) and other.stat().st_size]
        lines.append(f"{log.name}: cut off behind its last whole record, {found.good} of {found.size} bytes are kept")
        os.truncate(log, found.good)
        for other in later:
            lines.append(f"{other.name}: {other.stat().st_size} bytes of commits after those, set aside in {_LOST}")
            (path / _LOST).mkdir(exist_ok=True)
            other.rename(path / _LOST / other.name)
        return bool(later) or not found.at_end
    return False


def _read_report(path: Path, lines: list[str]) -> bool:
    """What LevelDB wrote to its own LOG, without the files that were in order."""
    lost = False
    try:
        said = (path / "LOG").read_text(errors="replace").splitlines()
    except OSError:
        said = []
    for line in said:
        text = _STAMP.sub("", line)
        if _TOLD.match(text) and not text.endswith(" OK") and not text.endswith("repaired"):
            lines.append(f"LevelDB: {text}")
            lost = True
    return lost
