"""The pool: what it answers, what it remembers, what a crash or a full disk leaves of it."""

from __future__ import annotations

import errno
import shutil
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from nodewright.errors import NodewrightError
from nodewright.interfaces import Admitted, BlockRef, Refused, TransactionPool
from nodewright.node import segment as files
from nodewright.node.pool import Pool
from nodewright.node.pooljournal import rewrite

T = TypeVar("T")
HEAD = BlockRef(0, bytes(32))
BLOCK = BlockRef(1, b"\x01" * 32)


async def names(pool: Pool, ids: list[bytes]) -> list[str | None]:
    return [status.status if status else None for status in await pool.status(ids)]


async def test_submit_take_settle(bench: Any) -> None:
    raws, ids = bench.make(5)
    async with bench.pool() as pool:
        assert isinstance(pool, TransactionPool)
        answers = await pool.submit([*raws[:3], b"short", *raws[3:]])
        assert [answer.id for answer in answers if isinstance(answer, Admitted)] == ids
        assert isinstance(answers[3], Refused) and answers[3].kind == "malformed"
        assert len(pool) == 5 and pool.bytes_used == sum(map(len, raws))
        assert pool.bodies([ids[1], b"?" * 32]) == [raws[1], None]
        assert await names(pool, [ids[0], b"?" * 32]) == ["pending", None]
        taken = await pool.take(3)
        assert [item.id for item in taken] == ids[:3]
        assert [item.id for item in pool.pending()] == ids
        pool.give_back([ids[1], ids[0]])
        assert [item.id for item in await pool.take(10)] == [ids[1], ids[0], ids[3], ids[4]]
        await pool.settle({ids[0]: BLOCK, b"x" * 32: BLOCK}, {ids[1]: "too late"}, {ids[2]: ids[3]})
        statuses = await pool.status([*ids[:3], b"x" * 32])
        assert [status.status for status in statuses if status] == ["committed", "rejected", "replaced", "committed"]
        assert statuses[0] is not None and statuses[0].block == BLOCK
        assert statuses[1] is not None and statuses[1].detail == "too late"
        assert statuses[2] is not None and statuses[2].detail == ids[3].hex()
        assert len(pool) == 2 and pool.bytes_used == len(raws[3]) + len(raws[4])
        assert ids[1] not in bench.execution.held, "a rejected transaction's reservation goes"
        pool.give_back(ids)
        assert [item.id for item in await pool.take(10)] == ids[3:]


async def test_posting_again_is_success(bench: Any) -> None:
    raws, ids = bench.make(3)
    async with bench.pool() as pool:
        await pool.submit(raws)
        again = await pool.submit([raws[0], raws[0]])
        assert all(isinstance(answer, Admitted) and answer.known for answer in again)
        await pool.settle({ids[0]: BLOCK})
        bench.execution.mined.add(ids[0])
        (committed,) = await pool.submit([raws[0]])
        assert isinstance(committed, Admitted) and committed.known
        assert await names(pool, ids) == ["committed", "pending", "pending"]
        # A family that no longer knows what it spent refuses it: known to the pool all the same.
        child = bench.toy.make(b"child", ids[1])
        (answer,) = await pool.submit([child])
        await pool.settle({bench.toy.id_of(child): BLOCK})
        del bench.execution.held[bench.toy.id_of(child)]
        (answer,) = await pool.submit([child])
        assert isinstance(answer, Admitted) and answer.known
        assert len(pool) == 2


async def test_what_the_execution_holds_and_nobody_else_is_taken_up(bench: Any) -> None:
    raws, ids = bench.make(2)
    async with bench.pool() as pool:

        async def locate(asked: Any) -> list[Any]:
            from nodewright.interfaces import Location

            return [Location(b"", 0, BLOCK) if id == ids[1] else None for id in asked]

        pool.attach(lambda: HEAD, locate)
        bench.execution.held.update(zip(ids, raws, strict=True))
        answers = await pool.submit(raws)
        assert all(isinstance(answer, Admitted) and answer.known for answer in answers)
        assert [item.id for item in pool.pending()] == ids[:1]


async def test_a_block_that_comes_while_it_is_asked_where_a_transaction_stands(bench: Any) -> None:
    """In a reorganisation a transaction is in no block for an instant. What is settled in that instant keeps its status."""
    raws, ids = bench.make(5)
    async with bench.pool() as pool:

        async def locate(asked: Any) -> list[Any]:
            # The answer is from before the block, which holds the first and the fourth, and the winner over two others.
            await pool.settle({ids[0]: BLOCK, ids[3]: BLOCK}, replaced={ids[1]: b"w" * 32, ids[4]: b"w" * 32})
            return [None for _ in asked]

        pool.attach(lambda: HEAD, locate)
        bench.execution.held.update(zip(ids[:3], raws[:3], strict=True))  # the others are new
        answers = await pool.submit(raws)
        assert await names(pool, ids) == ["committed", "replaced", "pending", "committed", "replaced"]
        assert [item.id for item in pool.pending()] == [ids[2]]
        assert [isinstance(answer, Admitted) for answer in answers] == [True, False, True, True, False]


async def test_child_before_parent_in_one_call(bench: Any) -> None:
    raws, ids = bench.chain(50)
    async with bench.pool() as pool:
        answers = await pool.submit([*reversed(raws), bench.toy.make(b"orphan", b"?" * 32)])
        assert all(isinstance(answer, Admitted) for answer in answers[:-1])
        assert isinstance(answers[-1], Refused) and answers[-1].kind == "missing"
        assert bench.execution.calls.count(("admit", 51)) == 1
        # Handed out parents first.
        assert sorted(item.id for item in await pool.take(100)) == sorted(ids)
        assert len(pool) == 50


async def test_waiting_submissions_share_a_batch(bench: Any) -> None:
    raws, _ = bench.make(100)
    async with bench.pool() as pool:
        bench.execution.pause = trio.Event()
        async with trio.open_nursery() as nursery:
            for raw in raws:
                nursery.start_soon(pool.submit, [raw])
            await trio.testing.wait_all_tasks_blocked()
            bench.execution.pause.set()
        admits = [count for call, count in bench.execution.calls if call == "admit"]
        assert admits[0] in range(1, 101) and len(admits) <= 3 and sum(admits) == 100
        assert len(pool) == 100


async def test_next_batch_is_admitted_while_the_journal_syncs(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raws, _ = bench.make(2)
    async with bench.pool() as pool:
        gate = trio.Event()
        real = pool._log.append

        async def held_up(payloads: Any) -> int:
            await gate.wait()
            return await real(payloads)

        monkeypatch.setattr(pool._log, "append", held_up)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.submit, raws[:1])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(pool.submit, raws[1:])
            await trio.testing.wait_all_tasks_blocked()
            assert bench.execution.calls == [("admit", 1), ("admit", 1)]
            assert len(pool) == 0
            gate.set()
        assert len(pool) == 2


async def test_full_pool_is_busy_and_comes_back(bench: Any) -> None:
    raws, ids = bench.make(10, b"x" * 500)
    async with bench.pool(max_bytes=4096) as pool:
        answers = await pool.submit(raws)
        taken = [answer for answer in answers if isinstance(answer, Admitted)]
        refused = [answer for answer in answers if isinstance(answer, Refused)]
        assert 0 < len(taken) < 10 and [answer.id for answer in taken] == ids[: len(taken)]
        assert {answer.kind for answer in refused} == {"busy"}
        assert all(answer.data["retry_after_seconds"] > 0 for answer in refused)
        await pool.settle({answer.id: BLOCK for answer in taken})
        (answer,) = await pool.submit([raws[-1]])
        assert isinstance(answer, Admitted)
        (large,) = await pool.submit([bench.toy.make(b"x" * 5000)])
        assert isinstance(large, Refused) and large.kind == "policy"


async def test_restart_offers_everything_again_in_order(bench: Any) -> None:
    raws, ids = bench.chain(30)
    more, more_ids = bench.make(5)
    async with bench.pool() as pool:
        await pool.submit(raws[:20])
        await pool.submit(raws[20:])
        await pool.submit(more)
        await pool.settle({ids[0]: BLOCK, more_ids[0]: BLOCK}, {more_ids[1]: "no"})
    execution = bench.toy.ToyExecution()
    execution.held[ids[0]] = raws[0]
    execution.mined.add(ids[0])
    async with bench.pool(execution=execution) as pool:
        assert [item.id for item in await pool.take(100)] == ids[1:] + more_ids[2:]
        assert await names(pool, [ids[0], *more_ids[:3]]) == ["committed", "committed", "rejected", "pending"]
        assert pool.bodies([ids[5]]) == [raws[5]]
        assert set(ids) <= set(execution.held)


async def test_restart_waits_for_recovery_before_it_rejects(bench: Any) -> None:
    raws, ids = bench.chain(4)
    async with bench.pool() as pool:
        await pool.submit(raws)
        await pool.settle({ids[0]: BLOCK})
    async with bench.pool(recovered=False) as pool:
        # The block with the first is not replayed yet: its children are missing a parent, and are kept.
        assert len(pool) == 3 and await names(pool, ids) == ["committed", "pending", "pending", "pending"]
        assert pool.bodies(ids) == [None, *raws[1:]]
        bench.execution.held[ids[0]] = raws[0]
        await pool.settle({ids[1]: BLOCK})  # consensus recovers, and the block after holds the second
        bench.execution.held[ids[1]] = raws[1]
        bench.execution.mined.update(ids[:2])
        pool.attach(lambda: HEAD)
        await pool.recovered()
        assert [item.id for item in await pool.take(10)] == ids[2:]
    async with bench.pool() as pool:  # now the chain has lost its parents for good
        assert len(pool) == 0
        statuses = await pool.status(ids[2:])
        assert [status.status for status in statuses if status] == ["rejected", "rejected"]
        assert statuses[0] is not None and "parent is not known" in statuses[0].detail
        assert len(await bench.told("evicted")) == 1


async def test_restored_stand_before_their_children_also_after_a_restart(bench: Any) -> None:
    raws, ids = bench.chain(6)
    async with bench.pool() as pool:
        await pool.submit(raws)
        assert len(await pool.take(4)) == 4
        await pool.settle(dict.fromkeys(ids[:4], BLOCK))
        for id in ids[:4]:
            bench.execution.mined.discard(id)
        # Undone block by block, the tip first.
        answers = await pool.restore(list(zip(ids[2:4], raws[2:4], strict=True)))
        answers += await pool.restore(list(zip(ids[:2], raws[:2], strict=True)))
        assert all(isinstance(answer, Admitted) for answer in answers)
        assert await names(pool, ids) == ["pending"] * 6
        assert [item.id for item in await pool.take(10)] == ids
    async with bench.pool() as pool:
        assert [item.id for item in await pool.take(10)] == ids


async def test_restored_in_many_records_and_compacted_stand_before_their_children(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one admission takes, in one call; then the journal is rewritten from what is pending."""
    raws, ids = bench.chain(9)
    monkeypatch.setattr("nodewright.node.pool.READMIT_BATCH", 2)
    async with bench.pool() as pool:
        await pool.submit(raws)
        assert len(await pool.take(5)) == 5
        await pool.settle(dict.fromkeys(ids[:5], BLOCK))
        for id in ids[:5]:
            bench.execution.mined.discard(id)
        await pool.restore(list(zip(ids[:5], raws[:5], strict=True)))
        assert [item.id for item in pool.pending()] == ids
        assert [item.id for item in await pool.take(10)] == ids
    async with bench.pool() as pool:
        assert [item.id for item in await pool.take(10)] == ids
        used = pool.bytes_used
        await rewrite(pool._log, pool._final, pool._pending, lambda: 0.0)
    async with bench.pool() as pool:
        assert [item.id for item in await pool.take(10)] == ids
        assert pool.bytes_used == used


async def test_children_before_parents_in_one_call_are_handed_out_behind_them(bench: Any) -> None:
    raws, ids = bench.chain(6)
    async with bench.pool() as pool:
        answers = await pool.submit(raws[::-1])
        assert [answer.id for answer in answers if isinstance(answer, Admitted)] == ids[::-1]
        assert [item.id for item in await pool.take(10)] == ids
    async with bench.pool() as pool:
        assert [item.id for item in await pool.take(10)] == ids


async def test_journal_full_releases_what_stands_on_it(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raws, ids = bench.chain(4)
    real = files.write_all

    def full(descriptor: int, pieces: Any) -> int:
        real(descriptor, pieces[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    async with bench.pool() as pool:
        await pool.submit(raws[:1])
        monkeypatch.setattr(files, "write_all", full)
        answers: dict[int, Any] = {}

        async def submit(number: int) -> None:
            (answers[number],) = await pool.submit([raws[number]])

        bench.execution.pause = trio.Event()
        async with trio.open_nursery() as nursery:
            for number in (1, 2, 3):  # each in a batch of its own, the next admitted while one is journalled
                nursery.start_soon(submit, number)
                await trio.testing.wait_all_tasks_blocked()
            bench.execution.pause.set()
            monkeypatch.setattr(bench.execution, "pause", None)
        assert {answer.kind for answer in answers.values()} <= {"busy", "missing"}
        assert answers[1].kind == "busy"
        assert set(bench.execution.held) == {ids[0]} and bench.execution.confirmed == {ids[0]}
        assert len(pool) == 1
        monkeypatch.setattr(files, "write_all", real)
        assert all(isinstance(answer, Admitted) for answer in await pool.submit(raws[1:]))
    async with bench.pool() as pool:
        assert [item.id for item in await pool.take(10)] == ids


async def test_block_between_admission_and_journal(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block orders one and evicts another that are being journalled: neither becomes pending."""
    raws, ids = bench.make(3)
    async with bench.pool() as pool:
        real = pool._log.append
        gate = trio.Event()

        async def held_up(payloads: Any) -> int:
            monkeypatch.setattr(pool._log, "append", real)
            result = await real(payloads)
            await gate.wait()
            return result

        monkeypatch.setattr(pool._log, "append", held_up)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.submit, raws)
            await trio.testing.wait_all_tasks_blocked()
            await pool.settle({ids[0]: BLOCK}, replaced={ids[1]: b"w" * 32})
            gate.set()
        assert await names(pool, ids) == ["committed", "replaced", "pending"]
        assert [item.id for item in await pool.take(10)] == ids[2:]
    async with bench.pool() as pool:
        assert await names(pool, ids) == ["committed", "replaced", "pending"]


async def test_block_while_a_batch_is_admitted(bench: Any) -> None:
    raws, ids = bench.make(3)
    async with bench.pool() as pool:
        bench.execution.pause = trio.Event()
        answers: list[Any] = []

        async def submit() -> None:
            answers.extend(await pool.submit(raws))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit)
            await trio.testing.wait_all_tasks_blocked()
            await pool.settle({ids[0]: BLOCK}, replaced={ids[1]: b"w" * 32})
            bench.execution.pause.set()
        assert isinstance(answers[0], Admitted) and answers[0].known
        assert isinstance(answers[1], Refused) and answers[1].kind == "conflict"
        assert [item.id for item in pool.pending()] == ids[2:]


async def test_what_is_always_taken_expires_all_the_same(bench: Any, autojump_clock: trio.testing.MockClock) -> None:
    """A consensus that cannot use it yet gives it back and takes it again at once."""
    txs, ids = bench.make(1, b"gap", expires=1010)
    bench.environment.inline = True
    async with bench.pool() as pool:
        await pool.submit(txs)

        async def take_again() -> None:
            while True:
                taken = await pool.take(10)
                await trio.sleep(0.05)
                pool.give_back([one.id for one in taken])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_again)
            await trio.sleep(0.5)  # between two looks of the pool: at one instant, either could come first
            for _ in range(8):
                await trio.sleep(1)
                bench.environment.time += 2.0
            assert await names(pool, ids) == ["expired"]
            nursery.cancel_scope.cancel()


async def test_expiry(bench: Any, autojump_clock: trio.testing.MockClock) -> None:
    bench.environment.inline = True
    soon, soon_ids = bench.make(1, b"soon", expires=1010)
    late, late_ids = bench.make(1, b"late", expires=5000)
    held, held_ids = bench.make(1, b"held", expires=1010)
    child = bench.toy.make(b"child", soon_ids[0])
    async with bench.pool() as pool:
        await pool.submit([*held, *soon, *late, child])
        assert [item.id for item in await pool.take(1)] == held_ids
        bench.environment.time = 1011.0
        await trio.sleep(5)
        everything = [*soon_ids, bench.toy.id_of(child), *late_ids, *held_ids]
        assert await names(pool, everything) == ["expired", "rejected", "pending", "pending"]
        assert soon_ids[0] not in bench.execution.held
        pool.give_back(held_ids)
        bench.environment.time = 1020.0
        await trio.sleep(5)
        assert await names(pool, held_ids) == ["expired"]
        assert [item.id for item in await pool.take(10)] == late_ids
    async with bench.pool() as pool:
        assert await names(pool, everything) == ["expired", "rejected", "pending", "expired"]


async def test_ordering_keys(bench: Any) -> None:
    low = bench.toy.make(b"low", key=b"\x00" * 7 + b"\x09")
    high = bench.toy.make(b"high", key=b"\x00" * 7 + b"\x01")
    plain = bench.toy.make(b"plain")
    same = bench.toy.make(b"same", key=b"\x00" * 7 + b"\x01")
    async with bench.pool() as pool:
        await pool.submit([low, high, plain])
        await pool.submit([same])
        taken = [item.id for item in await pool.take(10)]
        assert taken == [bench.toy.id_of(raw) for raw in (plain, high, same, low)]


async def test_take_waits(bench: Any) -> None:
    raws, ids = bench.make(1)
    async with bench.pool() as pool:
        got: list[Any] = []

        async def take() -> None:
            got.extend(await pool.take(5))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            assert not got
            await pool.submit(raws)
        assert [item.id for item in got] == ids


async def test_statuses_are_kept_for_the_stated_time(bench: Any) -> None:
    raws, ids = bench.make(2)
    async with bench.pool(status_retention_seconds=100) as pool:
        await pool.submit(raws)
        await pool.settle({ids[0]: BLOCK})
        bench.environment.time += 99
        await pool.settle({ids[1]: BLOCK})
        assert await names(pool, ids) == ["committed", "committed"]
        bench.environment.time += 2
        await pool.settle({b"y" * 32: BLOCK})
        assert await names(pool, ids) == [None, "committed"]
    async with bench.pool(status_retention_seconds=100) as pool:
        assert await names(pool, ids) == [None, "committed"]


async def test_journal_is_compacted_and_loses_nothing(bench: Any) -> None:
    kept, kept_ids = bench.chain(20)
    limits = {"segment_bytes": 4096, "compact_bytes": 20_000, "status_max_count": 50}
    async with bench.pool(**limits) as pool:
        await pool.submit(kept)
        for round_ in range(60):
            raws, ids = bench.make(10, b"x" * 200 + b"%d-" % round_)
            await pool.submit(raws)
            await pool.settle(dict.fromkeys(ids, BLOCK))
            assert pool._log.bytes_used < 60_000
        last = ids
    copy = bench.folder / "copy"
    shutil.copytree(bench.folder / "journal", copy)
    async with bench.pool(**limits) as pool:
        assert [item.id for item in await pool.take(100)] == kept_ids
        assert await names(pool, last) == ["committed"] * 10


async def test_events(bench: Any) -> None:
    raws, ids = bench.chain(2)
    other = bench.toy.make(b"other", ids[0])
    async with bench.pool() as pool:
        await pool.submit(raws, source="local")
        await pool.submit([other, bench.toy.make(b"invalid"), raws[0]], source="peer")
        assert await bench.told("admitted") == [{"ids": [id.hex() for id in ids], "source": "local"}]
        (rejected,) = await bench.told("rejected")
        assert [item["kind"] for item in rejected["transactions"]] == ["conflict", "invalid"]
        (spent,) = await bench.told("double_spend")
        assert spent["transactions"] == [{"id": bench.toy.id_of(other).hex(), "winner": ids[1].hex()}]
        text = bench.metrics.render()
        assert "nodewright_pool_accepted_total 2" in text and "nodewright_pool_transactions 2" in text


async def test_stopping_answers_what_waits(bench: Any) -> None:
    raws, _ = bench.make(20)
    answers: list[Any] = []
    async with trio.open_nursery() as nursery, bench.pool() as pool:

        async def submit(raw: bytes) -> None:
            answers.extend(await pool.submit([raw]))

        for raw in raws:
            nursery.start_soon(submit, raw)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
    accepted = [answer.id for answer in answers if isinstance(answer, Admitted)]
    assert len(answers) == 20
    async with bench.pool() as pool:
        assert await names(pool, accepted) == ["pending"] * len(accepted)


async def test_execution_that_raises_ends_the_node_and_answers_all(bench: Any) -> None:
    async def broken(txs: Any, head: Any, time: int) -> Any:
        raise RuntimeError("a bug")

    failed = 0
    with pytest.raises(ExceptionGroup) as caught:
        async with bench.pool() as pool:
            bench.execution.admit = broken

            async def submit() -> None:
                nonlocal failed
                with trio.CancelScope(shield=True):  # as a component that may not be interrupted would
                    try:
                        (answer,) = await pool.submit([bench.toy.make(b"x")])
                        assert isinstance(answer, Refused) and answer.kind == "busy"
                    except NodewrightError:
                        pass
                failed += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(submit)
                nursery.start_soon(submit)
    assert caught.value.split(RuntimeError)[0] is not None
    assert failed == 2
