"""Submitted transactions that take long to check wait for their like, nobody waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
import trio
import trio.testing

from nodewright.interfaces.common import Admission, Admitted, BlockRef, Refused
from nodewright.node.slowlane import MAX_OF_ONE_SOURCE, MAX_WAITING


@pytest.fixture
def unhurried(toy: ModuleType) -> Any:
    """The toy family, where a payload that starts with ``heavy`` takes as long as the test says."""

    class Unhurried(toy.ToyExecution):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.gate = trio.Semaphore(0)
            self.prepared: list[bytes] = []
            self.running = self.most = 0

        async def admit_quick(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
            await trio.lowlevel.checkpoint()
            answers: list[Admission] = []
            for raw in txs:
                if raw[44:].startswith(b"heavy") and raw not in self.prepared and toy.id_of(raw) not in self.held:
                    parent = raw[:32]
                    if parent == toy.ROOT or parent in {toy.id_of(one) for one in txs} | set(self.held):
                        answers.append(Refused("slow", "takes long", "busy", toy.id_of(raw), {"slow": True}))
                        continue
                answers.append(self._admit(raw, time))
            return answers

        async def prepare(self, tx: bytes, head: BlockRef, time: int) -> Refused | None:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await self.gate.acquire()
            finally:
                self.running -= 1
            if tx[44:].startswith(b"heavy bomb"):
                return Refused("too-slow", "takes too long", "policy", toy.id_of(tx))
            self.prepared.append(tx)
            return None

    return Unhurried()


async def test_nobody_waits_for_a_heavy_one(bench: Any, unhurried: Any) -> None:
    async with bench.pool(execution=unhurried) as pool, trio.open_nursery() as nursery:
        answers: dict[int, Sequence[Admission]] = {}

        async def post(number: int) -> None:
            answers[number] = await pool.submit([bench.toy.make(b"heavy bomb %d %d" % (number, at)) for at in range(40)])

        for number in range(4):
            nursery.start_soon(post, number)
        await trio.testing.wait_all_tasks_blocked()
        assert not answers and unhurried.running == 1
        for raw in bench.make(20)[0]:
            assert isinstance((await pool.submit([raw]))[0], Admitted)
        for _ in range(4):
            unhurried.gate.release()
        await trio.testing.wait_all_tasks_blocked()
        # One look for each submission: after a refused one the others of it are busy.
        assert unhurried.most == 1
        for found in answers.values():
            assert [answer.kind for answer in found] == ["policy"] + ["busy"] * 39
            assert not any("slow" in answer.data for answer in found)
        assert len(answers) == 4
        (first, *_) = told = await bench.told("rejected")
        assert len(told) == 4 and [one["code"] for one in first["transactions"]] == ["too-slow"]


async def test_the_order_of_a_submission_is_kept(bench: Any, unhurried: Any) -> None:
    """plain → heavy → its plain child → that one's heavy child → a child of it; and one that stands alone."""
    toy = bench.toy
    raws = [toy.make(b"first")]
    for name in (b"heavy a", b"b", b"heavy c", b"d"):
        raws.append(toy.make(name, toy.id_of(raws[-1])))
    raws.append(toy.make(b"alone"))
    for _ in range(2):
        unhurried.gate.release()
    async with bench.pool(execution=unhurried) as pool:
        answers = await pool.submit(raws)
        assert [type(answer) for answer in answers] == [Admitted] * 6
        assert [answer.id for answer in answers] == [toy.id_of(raw) for raw in raws]
        assert all(isinstance(answer, Admitted) for answer in await pool.submit(raws))  # known: no second look
        order = [candidate.id for candidate in await pool.take(10)]
        assert [id for id in order if id in {toy.id_of(raw) for raw in raws[:5]}] == [toy.id_of(raw) for raw in raws[:5]]
        used = pool.bytes_used
    async with bench.pool(execution=toy.ToyExecution()) as pool:  # all of it was journalled
        assert len(pool) == 6 and pool.bytes_used == used


async def test_the_lane_is_bounded_and_no_source_fills_it(bench: Any, unhurried: Any) -> None:
    async with bench.pool(execution=unhurried) as pool, trio.open_nursery() as nursery:
        answers: list[Admission] = []

        async def post(source: str, number: int) -> None:
            answers.extend(await pool.submit([bench.toy.make(f"heavy {source} {number}".encode())], source))

        for number in range(MAX_OF_ONE_SOURCE + 3):
            nursery.start_soon(post, "peer:a", number)
        await trio.testing.wait_all_tasks_blocked()
        assert [answer.kind for answer in answers] == ["busy"] * 3
        for number in range(MAX_WAITING):
            nursery.start_soon(post, "local", number)
        await trio.testing.wait_all_tasks_blocked()
        assert MAX_OF_ONE_SOURCE < MAX_WAITING
        assert sum(isinstance(answer, Refused) for answer in answers) == 3 + MAX_OF_ONE_SOURCE
        for _ in range(MAX_WAITING):
            unhurried.gate.release()
    assert sum(isinstance(answer, Admitted) for answer in answers) == MAX_WAITING


async def test_stopping_does_not_wait_for_the_lane(bench: Any, unhurried: Any) -> None:
    """What is being looked at ends, nothing more begins."""
    answers: list[Admission] = []
    async with trio.open_nursery() as nursery:

        async def post(number: int) -> None:
            answers.extend(await pool.submit([bench.toy.make(b"heavy %d" % number)]))

        async with bench.pool(execution=unhurried) as pool:
            for number in range(4):
                nursery.start_soon(post, number)
            await trio.testing.wait_all_tasks_blocked()
        unhurried.gate.release()
    assert [answer.kind for answer in answers] == ["busy"] * 4
    assert len(unhurried.prepared) == 1


async def test_a_client_that_goes_away_leaves_the_lane(bench: Any, unhurried: Any) -> None:
    async with bench.pool(execution=unhurried) as pool:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(pool.submit, [bench.toy.make(b"heavy %d" % number)])
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        unhurried.gate.release()
        assert isinstance((await pool.submit([bench.toy.make(b"heavy next")]))[0], Admitted)
        assert pool._waiting.bytes_used == 0
