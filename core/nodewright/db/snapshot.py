"""A stopped node in one file, through its stores' contracts: it can be restored into other stores than it came from.

Restoring reads the whole archive first and compares every checksum; then fills empty stores, and reads them again. Files
that must not come to life twice (``files``) are restored only where asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import field, frozen

from nodewright.composition.plan import Plan
from nodewright.db.archive import (
    HEADER,
    MANIFEST,
    MAX_PAGE_MEMBER_BYTES,
    MAX_SEAL_BYTES,
    SEAL,
    VERSION,
    Member,
    Writer,
    decode_rows,
    digest_until,
    encode_rows,
    members,
)
from nodewright.db.contents import Measure, Sum, body, ids, measure_kind, measure_table, pages, size_of
from nodewright.db.files import files, is_private, key_files, read_pieces, write_file
from nodewright.db.progress import Progress, silent
from nodewright.db.stopped import (
    FolderRecord,
    StoppedNode,
    StoreSlot,
    fresh_folder,
    open_stores,
    require_empty_folder,
    write_record,
)
from nodewright.db.transfer import Moved, compare, finish, pair, require_empty
from nodewright.environment import NodeEnvironment
from nodewright.errors import FormatMismatch, StoreCorrupt, StoreError
from nodewright.interfaces.storage import FormatRecord, WriteBatch
from nodewright.storage.formats import decode_format, encode_format

ROWS, BLOBS = "rows", "blobs"


@frozen
class Header:
    """``profile`` and ``overrides`` are how the node's stores were named when the snapshot was taken."""

    profile: str
    overrides: tuple[str, ...]
    record: FolderRecord


@frozen
class Taken:
    """``private`` are the files in it that a restore leaves out unless asked."""

    moved: list[Moved] = field(factory=list)
    files: int = 0
    private: tuple[str, ...] = ()


@frozen
class Restored:
    moved: list[Moved]
    files: list[str]
    left_out: list[str]


# --- taking --------------------------------------------------------------------------------------------------------------


async def take(
    node: StoppedNode,
    path: Path,
    reference: str,
    overrides: tuple[str, ...] = (),
    progress: Progress = silent,
    tell: Callable[[Moved], None] = lambda moved: None,
) -> Taken:
    """Raises StoreError; leaves no file then."""
    for store in node.stores:
        pair(store, store)
    moved: list[Moved] = []
    stores: dict[str, Any] = {}
    with Writer(path) as archive:
        archive.add_document(
            HEADER,
            {
                "version": VERSION,
                "profile": reference,
                "overrides": list(overrides),
                "family": node.record.family,
                "network": node.record.network,
                "genesis": node.record.genesis.hex(),
            },
        )
        for store in node.stores:
            parts: dict[str, Any] = {}
            for part in await store.tables() if store.rows is not None else await store.kinds():
                with progress(f"{store.slot} {part}", None) as advance:
                    write = _write_table if store.rows is not None else _write_kind
                    found = await write(archive, store, part, advance)
                parts[part] = found.document()
                moved.append(Moved(store.slot, part, ROWS if store.rows is not None else BLOBS, found))
                tell(moved[-1])
            record = await store.format()
            stores[store.slot] = {
                "form": ROWS if store.rows is not None else BLOBS,
                "format": None if record is None else encode_format(record).decode(),
                "parts": parts,
            }
        carried, private = _write_files(archive, node)
        archive.add_document(MANIFEST, {"stores": stores, "files": carried})
        archive.seal()
    return Taken(moved, len(carried), tuple(private))


async def _write_table(archive: Writer, store: StoreSlot, table: str, advance: Callable[[int], None]) -> Measure:
    assert store.rows is not None
    found = Sum()
    number = 0
    async for items in pages(store.rows, table):
        archive.add(f"stores/{store.slot}/{ROWS}/{table}/{number:08d}", encode_rows(items))
        found.add_rows(items)
        advance(len(items))
        number += 1
    return found.measure


async def _write_kind(archive: Writer, store: StoreSlot, kind: str, advance: Callable[[int], None]) -> Measure:
    assert store.bodies is not None
    found = Sum()
    async for id in ids(store.bodies, kind):
        size = await size_of(store.bodies, kind, id)
        content = hashlib.sha256()
        archive.begin(f"stores/{store.slot}/{BLOBS}/{kind}/{id.hex()}", size)
        async for piece in body(store.bodies, kind, id, size):
            content.update(piece)
            archive.part(piece)
        archive.end()
        found.add_blob(kind, id, size, content.digest())
        advance(1)
    return found.measure


def _write_files(archive: Writer, node: StoppedNode) -> tuple[dict[str, Any], list[str]]:
    named = key_files(node.plan)
    carried: dict[str, Any] = {}
    private = []
    for path in files(node.folder):
        place = node.folder / path
        status = place.stat()
        content = hashlib.sha256()
        archive.begin(f"files/{path}", status.st_size, status.st_mode)
        for piece in read_pieces(place):
            content.update(piece)
            archive.part(piece)
        archive.end()
        secret = is_private(path, named)
        carried[str(path)] = {"bytes": status.st_size, "sha256": content.hexdigest(), "private": secret}
        if secret:
            private.append(str(path))
    return carried, private


# --- restoring -----------------------------------------------------------------------------------------------------------


def read_header(path: Path) -> Header:
    """Raises StoreError, StoreCorrupt."""
    with closing(members(path)) as found:
        first = next(found, None)
        if first is None or first.name != HEADER:
            raise StoreCorrupt(f"{path} is no snapshot of a node: it does not begin with {HEADER}")
        document = first.document()
    if document.get("version") != VERSION:
        raise FormatMismatch(
            f"{path} is a snapshot in the form {document.get('version')!r}, this version reads {VERSION}: restore it with "
            "the version that took it"
        )
    try:
        return Header(
            str(document["profile"]),
            tuple(str(override) for override in document["overrides"]),
            FolderRecord(str(document["family"]), str(document["network"]), bytes.fromhex(document["genesis"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreCorrupt(f"{path}: {HEADER} is unreadable ({error})") from error


def check_archive(path: Path, progress: Progress = silent) -> dict[str, Any]:
    """Every checksum, from the first byte on; returns the manifest. Raises StoreCorrupt."""
    last: Member | None = None
    seal = ""
    document: dict[str, Any] = {}
    found: dict[tuple[str, str, str], Sum] = {}
    carried: dict[str, dict[str, Any]] = {}
    with progress(f"reading {path.name}", None) as advance:
        for member in members(path):
            last = member
            if member.name == MANIFEST:
                document = member.document()
            elif member.name == SEAL:
                seal = member.body(MAX_SEAL_BYTES).strip().decode("ascii", "replace")
            elif member.name != HEADER:
                _measure_member(member, found, carried)
            advance(1)
    if last is None or last.name != SEAL:
        raise StoreCorrupt(f"{path} does not end with its checksums: it was cut short; use another copy of it")
    if seal != digest_until(path, last.offset):
        raise StoreCorrupt(f"{path} is damaged: its checksum does not fit; use another copy of it")
    _compare_manifest(path, document, found, carried)
    return document


def _measure_member(member: Member, found: dict[tuple[str, str, str], Sum], carried: dict[str, dict[str, Any]]) -> None:
    parts = member.name.split("/")
    match parts:
        case ["stores", slot, "rows", table, _]:
            found.setdefault((slot, ROWS, table), Sum()).add_rows(decode_rows(member.body(MAX_PAGE_MEMBER_BYTES)))
        case ["stores", slot, "blobs", kind, id]:
            content = hashlib.sha256()
            for piece in member.pieces():
                content.update(piece)
            found.setdefault((slot, BLOBS, kind), Sum()).add_blob(kind, _id(id), member.size, content.digest())
        case ["files", *rest] if rest and not {"", ".", ".."} & set(rest):
            content = hashlib.sha256()
            for piece in member.pieces():
                content.update(piece)
            carried["/".join(rest)] = {"bytes": member.size, "sha256": content.hexdigest()}
        case _:
            raise StoreCorrupt(f"{member.name!r} is nothing that a snapshot of a node holds")


def _id(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise StoreCorrupt(f"{text!r} is no id of a blob") from None


def _compare_manifest(
    path: Path, document: dict[str, Any], found: dict[tuple[str, str, str], Sum], carried: dict[str, dict[str, Any]]
) -> None:
    try:
        wanted = {
            (slot, store["form"], part): Measure(**measure)
            for slot, store in document["stores"].items()
            for part, measure in store["parts"].items()
        }
        listed = {name: {"bytes": file["bytes"], "sha256": file["sha256"]} for name, file in document["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreCorrupt(f"{path}: {MANIFEST} is unreadable ({error})") from error
    for key in wanted.keys() | found.keys():
        if wanted.get(key, Sum().measure) != found.get(key, Sum()).measure:
            raise StoreCorrupt(f"{path} is damaged: {' '.join(key)} is not what its checksums say; use another copy of it")
    if carried != listed:
        raise StoreCorrupt(f"{path} is damaged: its files are not what its checksums say; use another copy of it")


async def restore(
    path: Path,
    plan: Plan,
    folder: Path,
    logger: object,
    with_keys: bool = False,
    progress: Progress = silent,
    tell: Callable[[Moved], None] = lambda moved: None,
) -> Restored:
    """Into the stores of ``plan`` with the data folder ``folder``, both empty. Raises StoreError, StoreCorrupt."""
    header = read_header(path)
    if (plan.family, plan.network.id) != (header.record.family, header.record.network):
        raise FormatMismatch(
            f"the snapshot is of the family {header.record.family!r} and the network {header.record.network!r}, the "
            f"profile {plan.profile} of {plan.family!r} and {plan.network.id!r}: name another with --profile"
        )
    environment = NodeEnvironment(plan.node.name, folder, logger)
    require_empty_folder(folder)
    manifest = check_archive(path, progress)
    with fresh_folder(folder, environment, header.record, "restore"):
        async with AsyncExitStack() as stack:
            stores = {store.slot: store for store in await open_stores(plan, environment, stack)}
            formats = await _check_stores(manifest, stores)
            named = key_files(plan)

            def left_out(name: str) -> bool:
                private = bool(manifest["files"][name].get("private", True)) or is_private(PurePosixPath(name), named)
                return private and not with_keys

            carried = await _fill(path, stores, folder, left_out, progress)
            moved = []
            for slot, content in manifest["stores"].items():
                for part, measure in content["parts"].items():
                    moved.append(await _arrived(stores[slot], part, Measure(**measure)))
                    tell(moved[-1])
                await finish(stores[slot], formats[slot])
        write_record(folder, header.record)
    return Restored(moved, *carried)


async def _check_stores(manifest: dict[str, Any], stores: dict[str, StoreSlot]) -> dict[str, FormatRecord | None]:
    if manifest["stores"].keys() != stores.keys():
        raise StoreError(
            f"the snapshot holds the stores {', '.join(sorted(manifest['stores']))}, the profile has "
            f"{', '.join(sorted(stores))}: name another with --profile"
        )
    formats: dict[str, FormatRecord | None] = {}
    for slot, content in manifest["stores"].items():
        store = stores[slot]
        pair(store, store)
        if content["form"] != (ROWS if store.rows is not None else BLOBS):
            raise StoreError(f"{slot}: the snapshot holds {content['form']}, which {store.describe()} does not take")
        await require_empty(store)
        formats[slot] = None if content.get("format") is None else decode_format(str(content["format"]).encode())
    return formats


async def _fill(
    path: Path,
    stores: dict[str, StoreSlot],
    folder: Path,
    private: Callable[[str], bool],
    progress: Progress,
) -> tuple[list[str], list[str]]:
    restored: list[str] = []
    left_out: list[str] = []
    with progress("restoring", None) as advance:
        for member in members(path):
            match member.name.split("/"):
                case ["stores", slot, "rows", table, _]:
                    rows = stores[slot].rows
                    assert rows is not None
                    batch = WriteBatch()
                    batch.put_many(table, decode_rows(member.body(MAX_PAGE_MEMBER_BYTES)))
                    await rows.commit(batch, durable=False)
                case ["stores", slot, "blobs", kind, id]:
                    bodies = stores[slot].bodies
                    assert bodies is not None
                    await bodies.put(kind, _id(id), _streamed(member.pieces()))
                case ["files", *rest]:
                    name = "/".join(rest)
                    if private(name):
                        left_out.append(name)
                    else:
                        write_file(folder / PurePosixPath(name), member.mode, member.pieces())
                        restored.append(name)
            advance(1)
    return restored, left_out


async def _streamed(pieces: Iterator[bytes]) -> Any:
    for piece in pieces:
        yield piece


async def _arrived(store: StoreSlot, part: str, wanted: Measure) -> Moved:
    if store.rows is not None:
        compare(store, part, wanted, await measure_table(store.rows, part))
        return Moved(store.slot, part, ROWS, wanted)
    assert store.bodies is not None
    compare(store, part, wanted, await measure_kind(store.bodies, part))
    return Moved(store.slot, part, BLOBS, wanted)
