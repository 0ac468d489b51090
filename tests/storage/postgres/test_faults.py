"""What goes wrong between a node and its server, and what the operator reads then."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from nodewright.errors import (
    ConfigurationError,
    FormatMismatch,
    LeaseLost,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
)
from nodewright.interfaces import WriteBatch
from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright_postgres.config import PostgresConfig, check_config, is_local, schema_name
from nodewright_postgres.migrations import MIGRATIONS
from nodewright_postgres.plugin import open_postgres


def one(key: bytes, value: bytes = b"value") -> WriteBatch:
    batch = WriteBatch()
    batch.put("a", key, value)
    return batch


async def refusal(opened: Any, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        async with opened:
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def end_sessions(postgres: Any, node: str) -> None:
    postgres.sql(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'nodewright {node} %'",
        "nodewright",
    )


# --- at start ----------------------------------------------------------------------------------------------------------


async def test_wrong_password(postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODEWRIGHT_POSTGRES_PASSWORD", "wrong secret")
    said = await refusal(postgres.open(tmp_path), ConfigurationError)
    assert "NODEWRIGHT_POSTGRES_PASSWORD" in said and "wrong secret" not in said


async def test_no_password(postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODEWRIGHT_POSTGRES_PASSWORD")
    assert "NODEWRIGHT_POSTGRES_PASSWORD" in await refusal(postgres.open(tmp_path), ConfigurationError)


async def test_the_password_may_be_in_a_file(postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "postgres_password").write_text(os.environ["NODEWRIGHT_POSTGRES_PASSWORD"] + "\n")
    monkeypatch.delenv("NODEWRIGHT_POSTGRES_PASSWORD")
    async with postgres.open(tmp_path) as store:
        await store.commit(one(b"key"))


async def test_no_such_database(postgres: Any, tmp_path: Path) -> None:
    assert "createdb" in await refusal(postgres.open(tmp_path, database="elsewhere"), ConfigurationError)


async def test_no_server(postgres: Any, tmp_path: Path) -> None:
    said = await refusal(postgres.open(tmp_path, port=1), StoreError)
    assert "no PostgreSQL server answers at 127.0.0.1:1" in said
    assert "no PostgreSQL server" in await refusal(postgres.open(tmp_path, host=str(tmp_path)), StoreError)


async def test_a_server_without_tls(postgres: Any, tmp_path: Path) -> None:
    assert "tls=off" in await refusal(postgres.open(tmp_path, tls="verify"), ConfigurationError)


async def test_certificates_that_cannot_be_read(postgres: Any, tmp_path: Path) -> None:
    said = await refusal(postgres.open(tmp_path, tls_ca=str(tmp_path / "none.pem")), ConfigurationError)
    assert "tls_ca" in said


async def test_a_schema_from_a_newer_version(postgres: Any, tmp_path: Path) -> None:
    async with postgres.open(tmp_path):
        pass
    schema = postgres.config(tmp_path).schema
    newer = MIGRATIONS[-1].number + 1
    postgres.sql(f"INSERT INTO {schema}._migration (number, name) VALUES ({newer}, 'later')", "nodewright")
    said = await refusal(postgres.open(tmp_path), FormatMismatch)
    assert "newer version" in said and "install" in said
    assert postgres.sql(f"SELECT epoch FROM {schema}._owner", "nodewright") == "1", "a refused node changed something"


async def test_an_owner_s_row_that_somebody_deleted(postgres: Any, tmp_path: Path) -> None:
    async with postgres.open(tmp_path):
        pass
    postgres.sql(f"DELETE FROM {postgres.config(tmp_path).schema}._owner", "nodewright")
    assert "_owner" in await refusal(postgres.open(tmp_path), StoreCorrupt)


async def test_a_role_that_may_not_create(postgres: Any, tmp_path: Path) -> None:
    password = os.environ["NODEWRIGHT_POSTGRES_PASSWORD"]
    postgres.sql(f"CREATE ROLE poor LOGIN PASSWORD '{password}'")
    assert "GRANT CREATE" in await refusal(postgres.open(tmp_path, user="poor"), ConfigurationError)


async def test_a_server_that_does_not_sync(postgres: Any, tmp_path: Path) -> None:
    postgres.kill()
    postgres.options.append("fsync=off")
    postgres.start()
    try:
        assert "allow_volatile" in await refusal(postgres.open(tmp_path), ConfigurationError)
        async with postgres.open(tmp_path, allow_volatile=True) as store:
            await store.commit(one(b"key"))
    finally:
        postgres.kill()
        postgres.options.remove("fsync=off")
        postgres.start()


def test_settings_that_no_type_refuses() -> None:
    assert check_config(PostgresConfig()) == []
    assert len(check_config(PostgresConfig(schema="pg_mine", host="", tls="off", tls_ca="x"))) == 3
    assert [is_local(host) for host in ("/run", "localhost", "127.0.0.9", "::1", "10.0.0.1", "db")] == [True] * 4 + [
        False
    ] * 2


# --- owners ------------------------------------------------------------------------------------------------------------


async def test_a_second_owner_reads_who_is_first(postgres: Any, tmp_path: Path) -> None:
    async with postgres.open(tmp_path, "first") as store:
        said = await refusal(postgres.open(tmp_path, "second"), StoreLocked)
        assert "node 'first'" in said and f"pid {os.getpid()}" in said and "since 2" in said and "schema=NAME" in said
        async with postgres.open(tmp_path, "second", schema="t_second") as other:
            await other.commit(one(b"key", b"other"))
            assert await store.get_many("a", [b"key"]) == [None]


async def test_a_stale_owner_commits_nothing(postgres: Any, tmp_path: Path) -> None:
    """Its session ends behind its back, another takes over, and its late commit comes."""
    async with postgres.open(tmp_path, "stale") as stale:
        await stale.commit(one(b"before"))
        end_sessions(postgres, "stale")
        async with postgres.open(tmp_path, "fresh") as fresh:
            await fresh.commit(one(b"key", b"fresh"))
            for _ in range(2):
                with pytest.raises(LeaseLost, match="node 'fresh'"):
                    await stale.commit(one(b"key", b"stale"))
            await fresh.commit(one(b"after"))
            assert await fresh.get_many("a", [b"before", b"key", b"after"]) == [b"value", b"fresh", b"value"]


async def test_an_epoch_that_passes_within_a_session(postgres: Any, tmp_path: Path) -> None:
    """The lock alone is not trusted: the commit itself reads the epoch."""
    async with postgres.open(tmp_path, "stale") as stale:
        await stale.commit(one(b"before"))
        schema = postgres.config(tmp_path).schema
        postgres.sql(f"UPDATE {schema}._owner SET epoch = epoch + 1, node = 'fresh'", "nodewright")
        with pytest.raises(LeaseLost, match="node 'fresh'"):
            await stale.commit(one(b"late"))
        assert await stale.get_many("a", [b"before", b"late"]) == [b"value", None]


# --- while it runs -----------------------------------------------------------------------------------------------------


async def test_lost_sessions_are_made_again(postgres: Any, tmp_path: Path) -> None:
    async with postgres.open(tmp_path, "steady") as store:
        for turn in range(5):
            await store.commit(one(bytes([turn])), durable=turn % 2 == 0)
            assert await store.get_many("a", [bytes([turn])]) == [b"value"]
            end_sessions(postgres, "steady")
        assert len((await store.scan("a")).items) == 5


class Log:
    """What a node's log is told, by name."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, level: str) -> Any:
        return lambda name, **_: self.told.append(name)


async def test_a_server_that_is_away_for_a_while(postgres: Any, tmp_path: Path) -> None:
    """Commits and reads that come meanwhile wait for it, and for what it had lost; the log has it once."""
    environment = LocalEnvironment(tmp_path)
    environment.logger = log = Log()
    async with open_postgres(postgres.config(tmp_path), Dependencies(), environment) as store:
        for turn in range(20):
            await store.commit(one(bytes([turn])), durable=False)
        postgres.kill()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.commit, one(b"later"), False)
            nursery.start_soon(store.scan, "a")
            while "postgres_away" not in log.told:
                await trio.lowlevel.checkpoint()
            await trio.to_thread.run_sync(postgres.start)
        assert len((await store.scan("a")).items) == 21
    assert [name for name in log.told if name != "postgres_commits_repeated"] == ["postgres_away", "postgres_back"]


@pytest.mark.slow
async def test_a_server_that_is_away_for_ten_seconds(postgres: Any, tmp_path: Path, budget: int) -> None:
    """In real time: ten seconds with --budget 10, one without."""
    async with postgres.open(tmp_path) as store:
        await store.commit(one(b"before"), durable=False)
        postgres.kill()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.commit, one(b"meanwhile"))
            nursery.start_soon(store.get_many, "a", [b"before"])
            await trio.sleep(1.0 * min(budget, 10))
            await trio.to_thread.run_sync(postgres.start)
        assert trio.current_time() - began >= 1.0 * min(budget, 10)
        assert [key for key, _ in (await store.scan("a")).items] == [b"before", b"meanwhile"]


async def test_a_server_that_stays_away(postgres: Any, tmp_path: Path) -> None:
    async with postgres.open(tmp_path, retry_seconds=0.2) as store:
        await store.commit(one(b"before"))
        postgres.kill()
        try:
            for call in (lambda: store.commit(one(b"late")), lambda: store.scan("a"), lambda: store.get_many("a", [b"k"])):
                with pytest.raises(StoreError, match=r"did not answer for 0\.2 s"):
                    await call()
        finally:
            postgres.start()
        await store.commit(one(b"after"))
        assert [key for key, _ in (await store.scan("a")).items] == [b"after", b"before"]


async def test_a_commit_whose_answer_is_lost_is_made_once(postgres: Any, tmp_path: Path) -> None:
    """The session ends after COMMIT was carried out and before its answer: the number says that it was made."""
    async with postgres.open(tmp_path) as store:
        await store.commit(one(b"before"))
        writer = store._writer
        for durable in (True, False):
            connection = writer._connection

            class Deaf:
                """Passes everything on to the connection, and loses the answer to COMMIT."""

                def __init__(self, connection: Any) -> None:
                    self.connection = connection

                def __getattr__(self, name: str) -> Any:
                    return getattr(self.connection, name)

                async def execute(self, query: str, *arguments: Any) -> str:
                    answer = await self.connection.execute(query, *arguments)
                    if query == "COMMIT":
                        self.connection.terminate()
                        raise ConnectionResetError("lost")
                    return str(answer)

            writer._connection = Deaf(connection)
            before = writer.sequence
            await store.commit(one(b"new table " + bytes([durable])), durable=durable)
            assert writer.sequence == before + 1 + durable  # a durable one is followed by an empty one, synced
        assert len((await store.scan("a")).items) == 3
        await store.commit(one(b"after"))


async def test_a_lost_commit_that_cannot_be_resolved_stops_the_writer(postgres: Any, tmp_path: Path) -> None:
    async with postgres.open(tmp_path, retry_seconds=0.2) as store:
        await store.commit(one(b"before"))
        writer = store._writer
        connection = writer._connection

        class Dying:
            def __getattr__(self, name: str) -> Any:
                return getattr(connection, name)

            async def execute(self, query: str, *arguments: Any) -> str:
                if query == "COMMIT":
                    postgres.kill()
                    raise ConnectionResetError("lost")
                return str(await connection.execute(query, *arguments))

        writer._connection = Dying()
        try:
            with pytest.raises(StoreError):
                await store.commit(one(b"doubtful"))
        finally:
            postgres.start()
        with pytest.raises(StoreError, match="not known"):
            await store.commit(one(b"after"))


async def test_a_server_that_lost_what_it_had_synced(postgres: Any, tmp_path: Path) -> None:
    """As after a failover to a standby that lagged, or an older copy: nothing is written on top of the hole."""
    async with postgres.open(tmp_path, "bereft") as store:
        for turn in range(3):
            await store.commit(one(bytes([turn])))
        schema = postgres.config(tmp_path).schema
        postgres.sql(f"DELETE FROM {schema}._commit WHERE sequence = 3", "nodewright")
        end_sessions(postgres, "bereft")
        for _ in range(2):
            with pytest.raises(StoreError, match="lost commits that it had synced"):
                await store.commit(one(b"after"))
        assert postgres.sql(f"SELECT count(*) FROM {schema}.kv_a", "nodewright") == "3"


async def test_a_snapshot_dies_with_its_connection(postgres: Any, tmp_path: Path) -> None:
    async with postgres.open(tmp_path, "viewer") as store:
        await store.commit(one(b"key"))
        async with store.snapshot() as view:
            assert await view.get_many("a", [b"key"]) == [b"value"]
            end_sessions(postgres, "viewer")
            with pytest.raises(StoreError, match="take another"):
                await view.get_many("a", [b"key"])
        async with store.snapshot() as view:
            assert await view.get_many("a", [b"key"]) == [b"value"]


async def test_cancelled_reads_leave_the_store_usable(postgres: Any, tmp_path: Path) -> None:
    async with postgres.open(tmp_path) as store:
        await store.commit(one(b"key"))
        for turn in range(6):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(store.get_many, "a", [b"key"])
                for _ in range(turn):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert await store.get_many("a", [b"key"]) == [b"value"]


async def test_two_stores_from_tasks_of_their_own(postgres: Any, tmp_path: Path) -> None:
    """Two event loops at once, called by tasks that were there before either was open."""
    ready, done = trio.Event(), trio.Event()
    stores: list[Any] = []

    async def use(number: int) -> None:
        await ready.wait()
        for turn in range(5):
            await stores[number % 2].commit(one(bytes([number, turn]), bytes([number])))
            assert await stores[number % 2].get_many("a", [bytes([number, turn])]) == [bytes([number])]

    async with trio.open_nursery() as outer:

        async def users() -> None:
            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(use, number)
            done.set()

        outer.start_soon(users)
        async with postgres.open(tmp_path / "one") as first, postgres.open(tmp_path / "two") as second:
            stores += [first, second]
            ready.set()
            await done.wait()
            assert [len((await store.scan("a")).items) for store in stores] == [15, 15]


async def test_what_the_body_raises_comes_out_as_it_is(postgres: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with postgres.open(tmp_path):
            raise KeyError("mine")
    with trio.move_on_after(60) as scope:
        async with postgres.open(tmp_path) as store:
            await store.commit(one(b"key"), durable=False)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    with pytest.raises(StoreError, match="closed"):
        await store.get_many("a", [b"key"])
    async with postgres.open(tmp_path) as store:
        assert await store.get_many("a", [b"key"]) == [b"value"]


async def test_a_connection_that_is_lost_in_a_large_copy(postgres: Any, tmp_path: Path) -> None:
    """The server stops reading in the middle of it, and is killed then: whoever sends waits for room and must be woken."""

    def copied(first: int, size: int) -> WriteBatch:
        batch = WriteBatch()
        batch.new.add("a")
        batch.put_many("a", ((bytes([first + number]), bytes([number]) * size) for number in range(100)))
        return batch

    batch = copied(100, 200_000)
    async with postgres.open(tmp_path) as store:
        await store.commit(one(b"before"))
        await store.commit(copied(0, 1))
        connection = store._writer._connection
        stopped = trio.Event()

        class Stopping:
            def __getattr__(self, name: str) -> Any:
                return getattr(connection, name)

            async def copy_records_to_table(self, *arguments: Any, **options: Any) -> Any:
                os.kill(store._writer._backend, signal.SIGSTOP)
                stopped.set()
                return await connection.copy_records_to_table(*arguments, **options)

        store._writer._connection = Stopping()
        with trio.move_on_after(50) as scope:  # less than timeout_seconds
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.commit, batch)
                await stopped.wait()
                await trio.testing.wait_all_tasks_blocked(0.2)
                postgres.kill()
                await trio.to_thread.run_sync(postgres.start)
        assert not scope.cancel_called, "the loss was not noticed"
        assert await store.get_many("a", [b"before"]) == [b"value"]
        assert await store.get_many("a", list(batch.tables["a"])) == list(batch.tables["a"].values())


async def test_an_error_that_nobody_awaits_ends_nothing(postgres: Any, tmp_path: Path) -> None:
    async with postgres.open(tmp_path) as store:
        future = store._server._bridge.loop.create_future()
        future.set_exception(ConnectionResetError("lost"))
        del future
        gc.collect()
        await trio.testing.wait_all_tasks_blocked()
        await store.commit(one(b"key"))


@pytest.fixture
def small_disk(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tablespace on a file system of a few MiB, where this system lets us mount one."""
    folder = Path("/tmp", f"nodewright-small-{os.getpid()}")
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,mode=777", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip("a small file system cannot be mounted here")
    try:
        (folder / "space").mkdir()
        if postgres.user is not None:
            import shutil

            shutil.chown(folder / "space", postgres.user)
        postgres.sql(f"CREATE TABLESPACE small LOCATION '{folder}/space'")
        postgres.sql("CREATE DATABASE small TABLESPACE small")
        yield "small"
        postgres.sql("DROP DATABASE small WITH (FORCE)")
        postgres.sql("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
        with contextlib.suppress(OSError):
            folder.rmdir()


async def test_a_full_disk(postgres: Any, tmp_path: Path, small_disk: str) -> None:
    async with postgres.open(tmp_path, database=small_disk) as store:
        await store.commit(one(b"kept"))
        number = 0
        with pytest.raises(StoreFull, match="make room"):
            while True:
                number += 1
                await store.commit(one(bytes([number]), os.urandom(1 << 20)), durable=False)
        keys = [key for key, _ in (await store.scan("a")).items]
        assert keys == sorted([b"kept", *(bytes([made]) for made in range(1, number))])
        await store.delete_range("a", b"\x00", b"\x40")
        assert [key for key, _ in (await store.scan("a")).items] == [b"kept"]


async def test_logs_name_no_password(postgres: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with postgres.open(tmp_path) as store:
        await store.commit(one(b"key"))
    password = os.environ["NODEWRIGHT_POSTGRES_PASSWORD"]
    assert password not in caplog.text and password not in repr(attrs.asdict(postgres.config(tmp_path)))


def test_each_slot_has_a_schema(tmp_path: Path) -> None:
    environment = LocalEnvironment(tmp_path)
    names = [schema_name(PostgresConfig(), environment.for_slot(slot)) for slot in ("stores.utxo", "stores.state")]
    assert names == ["stores_utxo", "stores_state"]
