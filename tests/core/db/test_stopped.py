"""Copies, snapshots and the commands, on the stores of a whole profile filled without a node."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from nodewright.cli.app import invoke
from nodewright.cli.common import ProfileRequest
from nodewright.db.archive import decode_rows, encode_rows
from nodewright.db.contents import Sum
from nodewright.db.files import is_private
from nodewright.db.stopped import FolderRecord, open_stores, write_record
from nodewright.db.upgrade import Migration, path_of
from nodewright.environment import NodeEnvironment
from nodewright.errors import StoreCorrupt
from nodewright.interfaces import FormatRecord, UtxoTransaction, WriteBatch
from nodewright.storage.lease import acquire
from nodewright.storage.utxo_adapter import open_utxo

Run = Callable[..., tuple[int, str, str]]

GENESIS = b"\x07" * 32
# The same stores in other hands: blobs over a key-value store instead of files.
OTHER = ("--to-set", "stores.blobs.use=leveldb")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("NODEWRIGHT_DEBUG", raising=False)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = invoke(["db", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


async def fill(folder: Path) -> None:
    """Rows beyond one page, a large value, empty keys and values, blobs of several pages, and unspent outputs."""
    plan = ProfileRequest("teranode").compose()[1]
    write_record(folder, FolderRecord(plan.family, plan.network.id, GENESIS))
    environment = NodeEnvironment("filled", folder)
    async with AsyncExitStack() as stack:
        stores = {store.slot: store for store in await open_stores(plan, environment, stack)}
        chain, bodies, unspent = stores["stores.chain"].rows, stores["stores.blobs"].bodies, stores["stores.utxo"].rows
        assert chain is not None and bodies is not None and unspent is not None
        batch = WriteBatch()
        batch.put_many("headers", ((number.to_bytes(4, "big"), b"h" * (number % 90)) for number in range(12_000)))
        batch.put("blocks", b"large", b"b" * 5_000_000)
        batch.put("blocks", b"", b"")
        batch.put("meta", b"settled", b"mine")  # beside the format record, in the same table
        await chain.commit(batch)
        for number, size in enumerate((0, 1, 3_000_000)):
            await bodies.put("subtree", bytes([number]) * 32, b"d" * size)
        await bodies.put("tx", b"\x01" * 64, b"whole")
        async with open_utxo(unspent, environment.for_slot("stores.utxo")) as utxo:
            output = bytes([1]) + (5000).to_bytes(8, "little") + b"\x01\x51"
            await utxo.spend_and_create([UtxoTransaction(b"\x11" * 32, (), output)], 1, durable=True)
        for store in stores.values():
            await store.set_format(FormatRecord(store.kind_of_store, "c/1", "e/1", plan.network.id, GENESIS))
    for name, text in {"pool/journal/1.log": "journal", "transport/node.key": "key", "consensus/safety": "voted"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in (".cookie", "node.json"):
        (folder / name).write_text("of a process")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    trio.run(fill, folder)
    return folder


def contents(run: Run, folder: Path, *settings: str) -> dict[str, Any]:
    """Counts, bytes and digests by slot."""
    code, out, err = run("info", "teranode", "--data-dir", folder, "--json", *settings)
    assert code == 0, err
    return {slot: store["parts"] for slot, store in json.loads(out)["stores"].items()}


def test_info_counts_and_names_the_last_owner(run: Run, data: Path) -> None:
    parts = contents(run, data)
    assert parts["stores.chain"]["headers"]["count"] == 12_000
    assert parts["stores.chain"]["meta"]["count"] == 1
    assert parts["stores.blobs"]["subtree"] | {"digest": ""} == {"count": 3, "size": 3_000_001, "digest": ""}
    assert "meta" not in parts["stores.blobs"]
    code, out, _ = run("info", "teranode", "--data-dir", data)
    assert code == 0
    assert "node 'filled'" not in out.splitlines()[1]  # the tool before held the folder; nobody had before
    assert "format: utxo, consensus c/1, execution e/1, network regtest, genesis 07070707" in out


def test_verify_says_what_it_read(run: Run, data: Path) -> None:
    code, out, err = run("verify", "teranode", "--data-dir", data)
    assert (code, err) == (0, "")
    assert "stores.chain: headers: read 12000 rows" in out
    assert "stores.blobs: subtree: read 3 blobs, 3000001 bytes" in out
    assert "1 unspent outputs of 5000 satoshis" in out
    assert out.splitlines()[-1] == "OK: nothing is damaged"


def test_verify_finds_a_flipped_byte_on_disk(run: Run, data: Path) -> None:
    assert run("compact", "teranode", "--data-dir", data)[0] == 0  # so that the rows are in table files, with checksums
    tables = sorted((data / "stores/chain/leveldb").glob("*.ldb"), key=lambda path: path.stat().st_size)
    with tables[-1].open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\x00damage")
    code, _, err = run("verify", "teranode", "--data-dir", data)
    assert code == 1
    assert "damage: stores.chain: table blocks is not readable to its end" in err


@pytest.mark.parametrize("command", ["info", "verify", "compact", "upgrade", "repair", "snapshot"])
def test_no_store_is_made_by_looking_for_it(run: Run, data: Path, tmp_path: Path, command: str) -> None:
    """A folder of blobs is no LevelDB, and a store of a node that was never opened is not there."""
    before = sorted(path for path in data.rglob("*") if path.name != "LEASE")
    file = [tmp_path / "file.tar"] if command == "snapshot" else []
    for setting in ("stores.blobs.use=leveldb", "stores.chain.path=elsewhere", "stores.utxo.use=files"):
        code, _, err = run(command, "teranode", *file, "--data-dir", data, "--set", setting)
        slot = setting.partition("=")[0].rpartition(".")[0]
        if slot == "stores.utxo":
            assert code == 2  # files holds no unspent outputs: refused before anything is looked for
            continue
        assert code == 1
        assert f"{slot}: there is no leveldb store yet where this profile has it" in err and err.count("\n") == 1
    assert sorted(path for path in data.rglob("*") if path.name != "LEASE") == before


def test_repair_leaves_alone_what_is_whole(run: Run, data: Path) -> None:
    before = contents(run, data)
    code, out, _ = run("repair", "teranode", "--data-dir", data)
    assert code == 0
    assert (
        out.count("nothing is damaged, it was left as it is") == 2
        and "2 rows of blocks, 12000 rows of headers" in out
        and "stores.blobs: its plugin repairs nothing" in out
    )
    assert contents(run, data) == before
    assert not list(data.rglob("*.damaged*"))
    code, _, err = run("repair", "teranode", "--data-dir", data, "--store", "stores.other")
    assert code == 1 and "no store stores.other: name one of stores." in err


def test_repair_saves_what_is_whole_and_says_what_was_not(run: Run, data: Path) -> None:
    """A table of the database is damaged, and another store's table of contents gone."""
    assert run("compact", "teranode", "--data-dir", data)[0] == 0
    whole = contents(run, data)
    chain, utxo = data / "stores/chain/leveldb", data / "stores/utxo/leveldb"
    tables = sorted(chain.glob("*.ldb"), key=lambda path: path.stat().st_size)
    with tables[-1].open("r+b") as file:  # where the one large value is
        file.seek(1_000_000)
        file.write(b"\x00damage")
    (utxo / "CURRENT").unlink()
    for command in ("info", "verify"):
        code, _, err = run(command, "teranode", "--data-dir", data)
        assert code == 1 and "stores/utxo/leveldb: the database is damaged (the file CURRENT is gone)" in err
    code, out, err = run("repair", "teranode", "--data-dir", data)
    assert code == 1
    assert err.startswith("error: stores.chain: what was lost is not back") and "stores.utxo" not in err
    assert f"{chain}: the database is damaged" in out and f"copied as it was to {chain}.damaged1" in out
    assert "stores.chain: LevelDB: Table #" in out
    assert (chain.parent / "leveldb.damaged1" / tables[-1].name).exists()
    after = contents(run, data)
    assert after["stores.utxo"] == whole["stores.utxo"] and after["stores.blobs"] == whole["stores.blobs"]
    assert 11_000 < after["stores.chain"]["headers"]["count"] <= 12_000  # its neighbours in the block that was damaged
    assert "blocks" not in after["stores.chain"]
    code, out, err = run("repair", "teranode", "--data-dir", data)
    assert (code, err) == (0, "")


def test_compact_and_upgrade_say_what_they_do(run: Run, data: Path) -> None:
    before = contents(run, data)
    code, out, _ = run("compact", "teranode", "--data-dir", data)
    assert code == 0
    assert "stores.chain: compacted leveldb: " in out
    assert "stores.blobs: files has nothing to compact" in out
    assert contents(run, data) == before
    code, out, _ = run("upgrade", "teranode", "--data-dir", data, "--dry-run")
    assert code == 0
    assert "stores.utxo: utxo format 1 (consensus c/1, execution e/1), this version writes 1: 0 migrations" in out
    assert out.splitlines()[-1].startswith("nothing to do")


def test_upgrade_refuses_a_format_that_no_migration_leaves(run: Run, data: Path) -> None:
    async def spoil() -> None:
        async with AsyncExitStack() as stack:
            plan = ProfileRequest("teranode").compose()[1]
            stores = await open_stores(plan, NodeEnvironment("test", data), stack)
            batch = WriteBatch()
            batch.put("utxo_meta", b"format", b"9")
            await next(store.rows for store in stores if store.slot == "stores.utxo").commit(batch)  # type: ignore[union-attr]

    trio.run(spoil)
    code, _, err = run("upgrade", "teranode", "--data-dir", data)
    assert code == 1
    assert "stores.utxo: no migration leads from utxo format '9' to '1'" in err


@pytest.mark.parametrize(("held", "numbers"), [("1", [1, 2]), ("2", [2]), ("3", []), ("9", []), (None, [])])
def test_migrations_lead_from_format_to_format(held: str | None, numbers: list[int]) -> None:
    async def nothing(store: object) -> None: ...

    known = (
        Migration(2, "utxo", "2", "3", "", nothing),
        Migration(1, "utxo", "1", "2", "", nothing),
        Migration(3, "other", "1", "3", "", nothing),
    )
    assert [step.number for step in path_of("utxo", held, "3", known)] == numbers


def test_copy_there_and_back(run: Run, data: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    code, out, err = run("copy", "teranode", "teranode", *OTHER, "--data-dir", data, "--to-dir", there)
    assert code == 0, err
    assert "stores.blobs: subtree: copied and compared 3 blobs" in out
    assert "left out (see --with-keys): consensus/safety, transport/node.key" in out
    assert (there / "pool/journal/1.log").read_text() == "journal"
    assert not (there / ".cookie").exists() and not (there / "node.json").exists()
    changed = ("--set", "stores.blobs.use=leveldb")
    assert run("verify", "teranode", "--data-dir", there, *changed)[0] == 0
    assert contents(run, there, *changed) == contents(run, data)

    arguments = ("copy", "teranode", "teranode", *changed, "--data-dir", there, "--to-dir", back)
    assert run(*arguments)[0] == 0
    assert contents(run, back) == contents(run, data)
    code, _, err = run(*arguments)
    assert code == 1
    assert f"{back} is not an empty folder" in err


def test_copy_with_keys(run: Run, data: Path, tmp_path: Path) -> None:
    code, out, _ = run("copy", "teranode", "teranode", "--with-keys", "--data-dir", data, "--to-dir", tmp_path / "to")
    assert code == 0
    assert "left out" not in out
    assert (tmp_path / "to/transport/node.key").read_text() == "key"


def test_what_cannot_be_copied(run: Run, data: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    memory = ("--to-set", "stores.utxo.use=memory")
    code, _, err = run("copy", "teranode", "teranode", *memory, "--data-dir", data, "--to-dir", to)
    assert code == 1
    assert "stores.utxo: memory keeps nothing once it is closed" in err
    # What a failed copy leaves is no node's data, to any command and to a node.
    code, _, err = run("verify", "teranode", "--data-dir", to)
    assert code == 1
    assert f"{to} is an unfinished copy: remove it and begin again" in err
    assert json.loads((to / "network.json").read_text())["family"] == "unfinished copy"
    code, _, err = run("info", "teranode", "--data-dir", tmp_path / "nowhere")
    assert code == 1
    assert "holds no node's data" in err
    assert not (tmp_path / "nowhere").exists()


def test_a_running_node_is_refused_by_name(run: Run, data: Path, tmp_path: Path) -> None:
    lease = acquire(data, NodeEnvironment("busy", data))
    try:
        for command in (
            ("info", "teranode"),
            ("verify", "teranode"),
            ("compact", "teranode"),
            ("upgrade", "teranode"),
            ("snapshot", "teranode", tmp_path / "s.tar"),
            ("copy", "teranode", "teranode", "--to-dir", tmp_path / "to"),
        ):
            code, out, err = run(*command, "--data-dir", data)
            assert (code, out) == (2, "")
            assert f"in use by node 'busy' (pid {os.getpid()} on " in err
    finally:
        lease.release()
    assert not (tmp_path / "s.tar").exists()
    assert not (tmp_path / "to").exists()


def test_snapshot_and_restore(run: Run, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.tar"
    code, out, err = run("snapshot", "teranode", file, "--data-dir", data)
    assert code == 0, err
    assert "keys and safety state in it (restored only with --with-keys): consensus/safety, transport/node.key" in out
    assert file.stat().st_mode & 0o777 == 0o600
    assert run("snapshot", "teranode", file, "--data-dir", data)[0] == 1  # never over another

    restored = tmp_path / "restored"
    code, out, err = run("restore", file, "--data-dir", restored)
    assert code == 0, err
    assert "left out (see --with-keys): consensus/safety, transport/node.key" in out
    assert contents(run, restored) == contents(run, data)
    assert run("verify", "teranode", "--data-dir", restored)[0] == 0
    assert (restored / "pool/journal/1.log").read_text() == "journal"
    assert not (restored / "consensus/safety").exists()
    assert run("restore", file, "--data-dir", restored)[0] == 1  # not empty

    other = tmp_path / "other"
    changed = ("--set", "stores.blobs.use=leveldb")
    assert run("restore", file, "--data-dir", other, *changed, "--with-keys")[0] == 0
    assert contents(run, other, *changed) == contents(run, data)
    assert (other / "consensus/safety").read_text() == "voted"


def test_a_damaged_snapshot_restores_nothing(run: Run, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.tar"
    assert run("snapshot", "teranode", file, "--data-dir", data)[0] == 0
    whole = file.read_bytes()
    with tarfile.open(file) as archive:
        places = {member.name: (member.offset, member.offset_data) for member in archive}
    manifest = places["manifest.json"][0]
    spoiled = [whole[:cut] for cut in (0, 100, 512, 20_000, len(whole) // 2, manifest, manifest + 600)]
    for place in (
        600,
        20_000,
        len(whole) // 2,
        places["files/pool/journal/1.log"][1],
        manifest - 1,
        *range(manifest + 1, places["SHA256"][1] + 64, 217),
    ):
        spoiled.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for number, damaged in enumerate(spoiled):
        file.write_bytes(damaged)
        to = tmp_path / f"to{number}"
        code, _, err = run("restore", file, "--data-dir", to)
        assert code in (1, 2), number
        assert "unexpected" not in err, err
        assert not to.exists(), number


@pytest.mark.parametrize("name", ["../outside", "files/../../outside", "/outside", "files//outside", "stores/x", "files"])
def test_a_snapshot_writes_nowhere_else(run: Run, data: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "s.tar"
    assert run("snapshot", "teranode", file, "--data-dir", data)[0] == 0
    evil = tmp_path / "evil.tar"
    with tarfile.open(file) as old, tarfile.open(evil, "w", format=tarfile.GNU_FORMAT) as new:
        for member in old:
            if member.name == "manifest.json":
                new.addfile(tarfile.TarInfo(name))
            new.addfile(member, old.extractfile(member))
    code, _, err = run("restore", evil, "--data-dir", tmp_path / "to")
    assert code == 1
    assert "damaged" in err or "is nothing that a snapshot of a node holds" in err
    assert not (tmp_path / "to").exists()
    assert not (tmp_path / "outside").exists()


def test_a_failed_snapshot_leaves_no_file(run: Run, data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / "stores/blobs/blobs/subtree")
    (data / "stores/blobs/blobs/subtree/00/00").mkdir(parents=True)
    (data / "stores/blobs/blobs/subtree/00/00" / ("00" * 32)).symlink_to(tmp_path / "gone")
    code, _, err = run("snapshot", "teranode", tmp_path / "s.tar", "--data-dir", data)
    assert code == 1
    assert "is listed and cannot be found" in err
    assert list(tmp_path.glob("s.tar*")) == []


ROWS = st.dictionaries(st.binary(max_size=20), st.binary(max_size=50), max_size=20)


@given(ROWS)
def test_rows_come_back_from_their_bytes(rows: dict[bytes, bytes]) -> None:
    assert decode_rows(encode_rows(rows.items())) == list(rows.items())


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader_of_rows(data: bytes) -> None:
    try:
        rows = decode_rows(data)
    except StoreCorrupt:
        return
    assert encode_rows(rows) == data


@given(ROWS, ROWS, st.randoms(use_true_random=False))
def test_a_digest_tells_contents_and_not_order(one: dict[bytes, bytes], other: dict[bytes, bytes], random: Any) -> None:
    def digest(rows: list[tuple[bytes, bytes]]) -> Any:
        found = Sum()
        half = len(rows) // 2
        found.add_rows(rows[:half])
        found.add_rows(rows[half:])
        return found.measure

    shuffled = list(one.items())
    random.shuffle(shuffled)
    assert digest(shuffled) == digest(list(one.items()))
    assert (digest(list(one.items())) == digest(list(other.items()))) == (one == other)


@pytest.mark.parametrize(
    ("path", "private"),
    [
        ("transport/node.key", True),
        ("consensus/safety", True),
        ("secrets/password", True),
        ("transport/mine", True),
        ("transport/bans", False),
        ("pool/journal/1.log", False),
    ],
)
def test_what_must_not_come_to_life_twice(path: str, private: bool) -> None:
    assert is_private(PurePosixPath(path), frozenset({"transport/mine"})) is private
