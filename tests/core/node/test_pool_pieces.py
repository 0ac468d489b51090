"""The pool's pure pieces: record codec, retry order, statuses, ready queue."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.environment import NodeEnvironment
from nodewright.errors import NodewrightError, StoreCorrupt
from nodewright.interfaces import Admission, Admitted, BlockRef, Refused
from nodewright.node.events import Events
from nodewright.node.expiry import ExpiryQueue
from nodewright.node.metrics import Registry
from nodewright.node.ordering import retry_order
from nodewright.node.pool import Pool
from nodewright.node.ready import ReadyQueue
from nodewright.node.records import AdmittedRecord, FinalRecord, decode, encode_admitted, encode_final
from nodewright.node.statuses import FinalStatuses

IDS = st.binary(min_size=32, max_size=32)
TIMES = st.floats(0, 2**40)
BLOCKS = st.none() | st.builds(BlockRef, st.integers(0, 2**64 - 1), st.binary(max_size=64))


@settings(max_examples=60, deadline=None)
@given(TIMES, st.lists(st.tuples(IDS, st.binary(max_size=40)), max_size=5), st.booleans())
def test_admitted_records_round_trip(time: float, pairs: list[tuple[bytes, bytes]], restored: bool) -> None:
    record = AdmittedRecord(time, [id for id, _ in pairs], [raw for _, raw in pairs], restored)
    assert decode(encode_admitted(record)) == record


@settings(max_examples=60, deadline=None)
@given(
    TIMES,
    st.sampled_from(["committed", "expired", "rejected", "replaced"]),
    st.lists(st.tuples(IDS, st.text(max_size=20)), max_size=5),
    BLOCKS,
)
def test_final_records_round_trip(time: float, status: Any, pairs: list[tuple[bytes, str]], block: BlockRef | None) -> None:
    details = [text for _, text in pairs] if status in ("rejected", "replaced") else []
    record = FinalRecord(time, status, [id for id, _ in pairs], block, details)
    assert decode(encode_final(record)) == record


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda rest: b"\x03" + bytes(8) + b"\x01\0\0\0" + rest))
def test_garbage_is_corrupt_and_nothing_else(data: bytes) -> None:
    try:
        decode(data)
    except StoreCorrupt:
        pass


def test_ids_must_be_32_bytes() -> None:
    with pytest.raises(NodewrightError):
        encode_admitted(AdmittedRecord(0, [b"short"], [b""]))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=10))
def test_retry_order_is_parents_first_and_ends(parents: list[tuple[int, bool]]) -> None:
    """Each position misses one parent, itself, a later one, or one that is not there; some are admitted."""

    def id_of(number: int) -> bytes:
        return bytes([number]) * 32

    answers: list[Admission] = [
        Admitted(id_of(at), b"") if good else Refused("m", "", "missing", id_of(at), {"missing": [id_of(parent)]})
        for at, (parent, good) in enumerate(parents)
    ]
    waiting = {at: id_of(at) for at, answer in enumerate(answers) if isinstance(answer, Refused)}
    order = retry_order(answers, waiting)
    assert len(set(order)) == len(order) and set(order) <= set(waiting)
    there = {at for at, answer in enumerate(answers) if isinstance(answer, Admitted)}
    for at in order:
        assert parents[at][0] in there
        there.add(at)
    for at in set(waiting) - set(order):
        assert parents[at][0] not in there


def test_retry_order_of_a_long_chain_is_linear() -> None:
    count = 20_000
    ids = [number.to_bytes(32, "big") for number in range(count)]
    answers: list[Admission] = [Refused("m", "", "missing", ids[at], {"missing": [ids[at + 1]]}) for at in range(count - 1)]
    answers.append(Admitted(ids[-1], b""))
    assert retry_order(answers, dict(enumerate(ids[:-1]))) == list(range(count - 2, -1, -1))


def test_statuses_by_number_and_by_time() -> None:
    ids = [bytes([number]) * 32 for number in range(6)]
    final = FinalStatuses(100, 4)
    final.record(FinalRecord(0, "committed", ids[:2], BlockRef(1, b"a")), 0)
    final.record(FinalRecord(1, "rejected", ids[1:3], details=["x", "y"]), 1)
    status = final.get(ids[1])
    assert status is not None and (status.status, status.detail) == ("rejected", "x")
    assert final.number(ids[0]) == 1 and final.number(ids[1]) == 2 and final.number(ids[5]) == 0
    final.record(FinalRecord(2, "expired", ids[3:5]), 2)
    assert final.get(ids[0]) is None, "pushed out by number"
    assert [record.ids for record in final.records()] == [ids[1:3], ids[3:5]]
    final.expire(101.5)
    assert final.get(ids[2]) is None and final.get(ids[3]) is not None
    final.forget(ids[3])
    assert final.get(ids[3]) is None and len(final) == 1


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "take", "back", "drop", "first"]), st.integers(0, 7)), max_size=40))
def test_ready_queue_hands_out_each_once(steps: list[tuple[str, int]]) -> None:
    """Against a model: what is held is either ready once or taken."""
    held: dict[bytes, Admitted] = {}
    queue = ReadyQueue(held)
    taken: set[bytes] = set()
    for step, number in steps:
        id = bytes([number])
        if step in ("add", "first"):
            if id not in held:
                held[id] = Admitted(id, b"raw", ordering_key=b"k" if number % 3 == 0 else b"")
                (queue.add if step == "add" else queue.add_first)([held[id]])
        elif step == "take":
            for item in queue.take(number or 1):
                assert item.id in held and item.id not in taken
                taken.add(item.id)
        elif step == "back":
            queue.give_back([id])
            taken.discard(id)
        elif id in held:
            del held[id]
            queue.drop([id])
            taken.discard(id)
        queue.compact()
    assert {item.id for item in queue.take(100)} == set(held) - taken


async def test_journal_cut_anywhere_gives_a_prefix(toy: ModuleType, environment: NodeEnvironment, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    block = BlockRef(1, b"\x01" * 32)
    raws = [toy.make(b"%d" % number) for number in range(6)]
    ids = [toy.id_of(raw) for raw in raws]
    sizes: list[int] = []

    async def opened(name: str) -> tuple[int, list[str | None]]:
        execution = toy.ToyExecution()
        execution.head = BlockRef(0, bytes(32))
        async with (
            Events.open(environment, tmp_path / name) as events,
            Pool.open(environment, folder, execution, events, Registry()) as pool,
        ):
            pool.attach(lambda: execution.head)
            await pool.recovered()
            found = [status.status if status else None for status in await pool.status(ids)]
            return len(pool), found

    execution = toy.ToyExecution()
    execution.head = BlockRef(0, bytes(32))
    async with (
        Events.open(environment, tmp_path / "events") as events,
        Pool.open(environment, folder, execution, events, Registry()) as pool,
    ):
        pool.attach(lambda: execution.head)
        path = None
        for start in range(0, 6, 2):
            await pool.submit(raws[start : start + 2])
            path = next(folder.iterdir())
            sizes.append(path.stat().st_size)
            await pool.settle({ids[start]: block})
            sizes.append(path.stat().st_size)
    assert path is not None
    data = path.read_bytes()
    steps = [(0, [None] * 6)]
    for start in range(0, 6, 2):
        before = steps[-1][1]
        pending = [*before[:start], "pending", "pending", *before[start + 2 :]]
        steps.append((start // 2 + 2, pending))
        steps.append((start // 2 + 1, [*pending[:start], "committed", "pending", *pending[start + 2 :]]))
    for cut in range(28, len(data), 7):
        path.write_bytes(data[:cut])
        whole = sum(size <= cut for size in sizes)
        assert await opened(f"events-{cut}") == steps[whole]


def test_what_waits_to_expire_is_bounded_by_what_is_pending_and_expires_in_order() -> None:
    """What a block committed long before its time is not held until that time has come."""
    queue, held = ExpiryQueue(1.0), {}
    for number in range(20_000):
        item = Admitted(number.to_bytes(32, "big"), b"raw", expires_at=1_000.0 + number % 7)
        held[item.id] = item
        queue.add(item.expires_at, item)
        if number >= 10:
            del held[(number - 10).to_bytes(32, "big")]
        if number % 2000 == 1999:
            assert queue.due(5.0, held, lambda id: False) == []
            assert len(queue) <= 1024 + 2 * len(held)
    due = queue.due(2_000.0, held, lambda id: False)
    assert set(due) == held.keys() and not queue
    assert due == sorted(due, key=lambda id: (held[id].expires_at, id))
