"""The segment log: cut it anywhere, fill its disk, damage it, and it either keeps what it acknowledged or says so."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.environment import NodeEnvironment
from nodewright.errors import StoreCorrupt, StoreError, StoreFull
from nodewright.node import segment as files
from nodewright.node.journal import SegmentLog


async def contents(environment: NodeEnvironment, folder: Path, sequence: int = 0) -> list[tuple[int, bytes]]:
    async with SegmentLog.open(environment, folder) as log:
        return [item async for item in log.iterate(sequence)]


async def test_what_is_appended_is_read_back_over_many_segments(environment: NodeEnvironment, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    expected = []
    async with SegmentLog.open(environment, folder, segment_bytes=200) as log:
        for number in range(50):
            payloads = [b"%d-%d" % (number, index) * index for index in range(4)]
            first = await log.append(payloads)
            expected += list(enumerate(payloads, first))
        assert [item async for item in log.iterate()] == expected
        assert log.next_sequence == 201
    assert len(list(folder.iterdir())) > 10
    assert await contents(environment, folder) == expected
    assert await contents(environment, folder, 77) == expected[76:]
    assert await contents(environment, folder, 201) == []


async def test_concurrent_appends_share_syncs_and_keep_call_order(
    environment: NodeEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = 0
    real = os.fdatasync

    def counted(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", counted)
    got: dict[int, bytes] = {}
    async with SegmentLog.open(environment, tmp_path / "log") as log:

        async def one(number: int) -> None:
            payload = b"p%d" % number
            got[await log.append([payload])] = payload

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(one, number)
        assert syncs <= 3
        assert dict([item async for item in log.iterate()]) == got
    assert sorted(got) == list(range(1, 201))


async def test_cut_at_every_byte_keeps_a_prefix(environment: NodeEnvironment, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    async with SegmentLog.open(environment, folder) as log:
        await log.append([b"acknowledged"])
        await log.append([b"a" * 30, b"", b"b" * 7])
        await log.append([b"c" * 20])
    whole = await contents(environment, folder)
    path = next(folder.iterdir())
    data = path.read_bytes()
    ends = [files.HEADER.size]
    for _, payload in whole:
        ends.append(ends[-1] + files.RECORD.size + len(payload))
    for cut in range(files.HEADER.size, len(data)):
        path.write_bytes(data[:cut])
        kept = await contents(environment, folder)
        assert kept == whole[: sum(end <= cut for end in ends[1:])]
        # What is appended after the cut follows it without a gap.
        async with SegmentLog.open(environment, folder) as log:
            assert await log.append([b"next"]) == len(kept) + 1
        assert await contents(environment, folder) == [*kept, (len(kept) + 1, b"next")]


@pytest.mark.parametrize("cut", range(files.HEADER.size))
async def test_cut_inside_a_new_segments_header(environment: NodeEnvironment, tmp_path: Path, cut: int) -> None:
    folder = tmp_path / "log"
    async with SegmentLog.open(environment, folder, segment_bytes=1) as log:
        await log.append([b"one"])
        await log.append([b"two"])
    last = sorted(folder.iterdir())[-1]
    last.write_bytes(last.read_bytes()[:cut])
    assert await contents(environment, folder) == [(1, b"one")]
    async with SegmentLog.open(environment, folder, segment_bytes=1) as log:
        assert await log.append([b"again"]) == 2


async def test_tail_of_zeros_is_cut(environment: NodeEnvironment, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    async with SegmentLog.open(environment, folder) as log:
        await log.append([b"one"])
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes() + bytes(1000))
    assert await contents(environment, folder) == [(1, b"one")]


async def test_damage_to_synced_records_is_never_taken_for_a_torn_tail(
    environment: NodeEnvironment, tmp_path: Path
) -> None:
    folder = tmp_path / "log"
    async with SegmentLog.open(environment, folder) as log:
        for payload in (b"x" * 40, b"y" * 40, b"z" * 40):
            await log.append([payload])
    path = next(folder.iterdir())
    data = bytearray(path.read_bytes())
    data[data.index(b"y")] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="record 2"):
        await contents(environment, folder)
    assert path.read_bytes() == bytes(data)


async def test_damage_in_an_earlier_segment_and_missing_segments(environment: NodeEnvironment, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    async with SegmentLog.open(environment, folder, segment_bytes=1) as log:
        for number in range(4):
            await log.append([b"record %d" % number])
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    second = sorted(folder.iterdir())[1]
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(StoreCorrupt):
        await contents(environment, folder)
    sorted(copy.iterdir())[2].unlink()
    with pytest.raises(StoreCorrupt, match="missing"):
        await contents(environment, copy)


async def test_full_disk_refuses_everything_that_shared_the_write(
    environment: NodeEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "log"
    real = files.write_all

    def full(descriptor: int, pieces: Any) -> int:
        real(descriptor, pieces[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    async with SegmentLog.open(environment, folder) as log:
        await log.append([b"before"])
        monkeypatch.setattr(files, "write_all", full)
        refused = 0

        async def one() -> None:
            nonlocal refused
            with pytest.raises(StoreFull):
                await log.append([b"lost"])
            refused += 1

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
        assert refused == 5
        monkeypatch.setattr(files, "write_all", real)
        after = await log.append([b"after"])
        assert after == 2
        assert [payload async for _, payload in log.iterate()] == [b"before", b"after"]
    assert await contents(environment, folder) == [(1, b"before"), (2, b"after")]


async def test_failing_sync_breaks_the_log_only_if_it_cannot_be_cut_back(
    environment: NodeEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, *_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    folder = tmp_path / "log"
    async with SegmentLog.open(environment, folder) as log:
        await log.append([b"before"])
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", fail)
            with pytest.raises(StoreError, match="cannot be written"):
                await log.append([b"lost"])
        await log.append([b"after"])
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", fail)
            patched.setattr(os, "ftruncate", fail)
            with pytest.raises(StoreError, match="cut back"):
                await log.append([b"lost"])
        with pytest.raises(StoreError, match="cut back"):
            await log.append([b"not taken"])
    kept = [payload for _, payload in await contents(environment, folder)]
    assert kept[:2] == [b"before", b"after"]


async def test_cancelled_appender_does_not_lose_the_others(environment: NodeEnvironment, tmp_path: Path) -> None:
    async with SegmentLog.open(environment, tmp_path / "log") as log:
        done: list[int] = []

        async def one(number: int) -> None:
            done.append(await log.append([b"%d" % number]))

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(one, 0)
                    inner.start_soon(one, 1)
                    nursery.start_soon(one, 2)
                    await trio.lowlevel.checkpoint()
                    scope.cancel()
        payloads = {payload async for _, payload in log.iterate()}
        assert b"2" in payloads


async def test_drop_before_keeps_what_is_asked_for(environment: NodeEnvironment, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    async with SegmentLog.open(environment, folder, segment_bytes=100) as log:
        for number in range(60):
            await log.append([b"record %d" % number])
        await log.drop_before(31)
        assert 25 < log.first_sequence <= 31
        first = log.first_sequence
        await log.drop_before(10**9)
        assert log.first_sequence > first and log.next_sequence == 61
        kept = [item async for item in log.iterate()]
        assert kept and kept[-1] == (60, b"record 59")
    assert await contents(environment, folder) == kept


async def test_skip_to_survives_reopening(environment: NodeEnvironment, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    async with SegmentLog.open(environment, folder) as log:
        await log.skip_to(100)
        assert await log.append([b"a"]) == 100
        await log.skip_to(1000)
        assert await log.append([b"b"]) == 1000
        with pytest.raises(ValueError):
            await log.skip_to(5)
    assert await contents(environment, folder) == [(100, b"a"), (1000, b"b")]


async def test_closed_log_refuses(environment: NodeEnvironment, tmp_path: Path) -> None:
    async with SegmentLog.open(environment, tmp_path / "log") as log:
        pass
    with pytest.raises(StoreError, match="closed"):
        await log.append([b"x"])


@settings(max_examples=60, deadline=None)
@given(
    writes=st.lists(st.lists(st.binary(max_size=60), min_size=1, max_size=4), min_size=1, max_size=6),
    cut=st.integers(0, 10_000),
    first=st.integers(1, 2**63),
)
def test_scan_finds_exactly_the_whole_records(writes: list[list[bytes]], cut: int, first: int) -> None:
    data, sequence, ends = files.header_bytes(first, first), first, []
    for payloads in writes:
        for piece in files.encode(sequence, payloads):
            data += piece
        sequence += len(payloads)
    offset = files.HEADER.size
    for payload in (payload for payloads in writes for payload in payloads):
        offset += files.RECORD.size + len(payload)
        ends.append(offset)
    cut = files.HEADER.size + cut % (len(data) - files.HEADER.size + 1)
    segment = files.Segment(Path("unused"), first, first)
    torn = files.scan(segment, data[:cut])
    whole = [end for end in ends if end <= cut]
    assert segment.end == first + len(whole)
    assert segment.size == (whole[-1] if whole else files.HEADER.size)
    assert torn == cut - segment.size
