"""The ground moves under pending transactions: full disks, journals out of order, winners that give way, new rules."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio

from nodewright.errors import StoreFull
from nodewright.interfaces import Admitted, BlockRef, Location, Refused
from nodewright.node import segment as files
from nodewright.node.pooljournal import rewrite
from nodewright.node.records import AdmittedRecord, encode_admitted

HEAD = BlockRef(0, bytes(32))
BLOCK = BlockRef(1, b"\x01" * 32)
WINNER, OTHER = b"w" * 32, b"v" * 32


class Disk:
    """What the journal writes to: full as long as a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.dice: random.Random | None = None
        self._real = files.write_all
        monkeypatch.setattr(files, "write_all", self._write)

    def _write(self, descriptor: int, pieces: Any) -> int:
        if self.full or (self.dice is not None and self.dice.random() < 0.4):
            self._real(descriptor, pieces[:1])
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._real(descriptor, pieces)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def names(pool: Any, ids: Sequence[bytes]) -> list[str | None]:
    return [status.status if status else None for status in await pool.status(ids)]


def in_blocks(places: dict[bytes, BlockRef]) -> Callable[..., Any]:
    async def locate(ids: Sequence[bytes]) -> list[Location | None]:
        return [Location(b"", 0, places[id]) if id in places else None for id in ids]

    return locate


async def test_a_journal_with_children_first_is_read_in_two_offers_each(bench: Any) -> None:
    raws, ids = bench.chain(7000)
    raws, ids = raws[::-1], ids[::-1]
    async with bench.pool() as pool:
        for start in range(0, len(ids), 1000):
            record = AdmittedRecord(0.0, ids[start : start + 1000], raws[start : start + 1000])
            await pool._log.append([encode_admitted(record)])
    said: list[tuple[str, Any]] = []

    class Slow(bench.toy.ToyExecution):  # type: ignore[misc, name-defined]
        async def admit(self, *arguments: Any) -> Any:
            bench.environment.time += 3.0
            return await super().admit(*arguments)

    bench.environment.logger.info = lambda text, **data: said.append((text, data))
    async with bench.pool(execution=Slow()) as pool:
        assert [item.id for item in pool.pending()] == ids[::-1]
        offered = sum(count for call, count in bench.execution.calls if call == "admit")
        assert offered <= 2 * len(ids)
        assert len([data for text, data in said if text == "offering accepted transactions again"]) >= 3


async def test_statuses_outlive_a_full_disk(bench: Any, disk: Disk, autojump_clock: Any) -> None:
    bench.environment.inline = True
    raws, ids = bench.make(5)
    async with bench.pool() as pool:
        await pool.submit(raws)
        disk.full = True
        await pool.settle({ids[0]: BLOCK}, {ids[1]: "no"}, {ids[2]: WINNER})
        assert await names(pool, ids) == ["committed", "rejected", "replaced", "pending", "pending"]
        (answer,) = await pool.submit([bench.toy.make(b"more")])
        assert isinstance(answer, Refused) and answer.kind == "busy"
        disk.full = False
        await trio.sleep(5)  # virtual: it saves them by itself
        assert not pool._journal.unsaved
        (answer,) = await pool.submit([bench.toy.make(b"more")])
        assert isinstance(answer, Admitted)
    async with bench.pool() as pool:
        assert await names(pool, ids) == ["committed", "rejected", "replaced", "pending", "pending"]


async def test_what_a_crash_with_a_full_disk_forgets_is_found_in_the_chain(bench: Any, disk: Disk) -> None:
    raws, ids = bench.make(3)
    async with bench.pool() as pool:
        await pool.submit(raws)
        disk.full = True
        await pool.settle({ids[0]: BLOCK}, {ids[1]: "no"})
        assert await names(pool, ids) == ["committed", "rejected", "pending"]
    disk.full = False
    execution = bench.toy.ToyExecution()
    execution.held[ids[0]] = raws[0]
    execution.mined.add(ids[0])
    bench.locate = in_blocks({ids[0]: BLOCK})
    async with bench.pool(execution=execution) as pool:
        assert await names(pool, ids) == ["committed", "pending", "pending"]
    async with bench.pool() as pool:
        assert await names(pool, ids) == ["committed", "pending", "pending"]


async def test_restoring_with_a_full_disk_keeps_everything_and_says_so(bench: Any, disk: Disk) -> None:
    raws, ids = bench.chain(4)
    async with bench.pool() as pool:
        await pool.submit(raws)
        await pool.settle(dict.fromkeys(ids[:2], BLOCK))
        disk.full = True
        pairs = list(zip(ids[:2], raws[:2], strict=True))
        with pytest.raises(StoreFull):
            await pool.restore(pairs)
        # Reserved with all that stands on it, and pending; whoever restores keeps them until it was told otherwise.
        assert set(bench.execution.held) == set(ids)
        assert [item.id for item in pool.pending()] == ids
        disk.full = False
        assert all(isinstance(answer, Admitted) for answer in await pool.restore(pairs))
        assert [item.id for item in await pool.take(10)] == ids
    async with bench.pool() as pool:
        assert [item.id for item in await pool.take(10)] == ids


async def test_a_full_utxo_store_loses_nothing_and_takes_nothing_more(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raws, ids = bench.chain(3)
    async with bench.pool() as pool:
        real = bench.execution.confirm

        async def full(ids: Sequence[bytes]) -> None:
            raise StoreFull("stores.utxo: the disk is full; make room")

        monkeypatch.setattr(bench.execution, "confirm", full)
        (first,) = await pool.submit(raws[:1])
        assert isinstance(first, Admitted) and await names(pool, ids[:1]) == ["pending"], "it is in the journal"
        (second,) = await pool.submit(raws[1:2])
        assert isinstance(second, Refused) and second.kind == "busy"
        assert set(bench.execution.held) == {ids[0]}
        monkeypatch.setattr(bench.execution, "confirm", real)
        assert all(isinstance(answer, Admitted) for answer in await pool.submit(raws[1:]))
        assert bench.execution.confirmed == set(ids)
    async with bench.pool() as pool:
        assert [item.id for item in await pool.take(10)] == ids


@pytest.mark.parametrize("seed", range(12))
async def test_nothing_acknowledged_is_lost_whatever_the_disk_refuses(bench: Any, disk: Disk, seed: int) -> None:
    """Random lives over a journal that refuses four writes of ten, with restarts, against what was acknowledged."""
    dice = random.Random(seed)
    raws, ids = bench.chain(12)
    more, more_ids = bench.make(40)
    body = dict(zip([*ids, *more_ids], [*raws, *more], strict=True))
    left = [raws[at : at + 3] for at in range(0, 12, 3)] + [more[at : at + 4] for at in range(0, 40, 4)]
    acknowledged: dict[bytes, bytes] = {}
    mined: dict[bytes, BlockRef] = {}
    rejected: set[bytes] = set()
    loose: list[tuple[bytes, bytes]] = []  # of blocks undone, until the pool has them in its journal
    for life in range(5):
        execution = bench.toy.ToyExecution()
        execution.held.update({id: body[id] for id in mined})
        execution.child_of.update({body[id][:32]: id for id in mined if any(body[id][:32])})
        execution.mined.update(mined)
        bench.locate = in_blocks(mined)
        disk.dice = None
        async with bench.pool(recovered=False, execution=execution) as pool:
            pool.attach(lambda: HEAD, bench.locate)  # consensus recovers: it restores what it had not restored
            await pool.restore(loose)
            loose = []
            await pool.recovered()
            disk.dice = dice
            for _ in range(12):
                action = dice.choice(["submit", "submit", "mine", "reject", "undo"])
                pending = [item.id for item in pool.pending()]
                if action == "submit" and left:
                    batch = left.pop(0)
                    answers = await pool.submit(batch)
                    if not all(isinstance(answer, Admitted) for answer in answers):
                        left.insert(0, batch)
                    acknowledged |= {one.id: one.raw for one in answers if isinstance(one, Admitted)}
                elif action == "mine" and pending:
                    block = pending[: dice.randint(1, len(pending))]
                    execution.mined.update(block)
                    mined |= dict.fromkeys(block, BlockRef(life, b"\x02" * 32))
                    await pool.settle(dict.fromkeys(block, mined[block[0]]))
                elif action == "reject" and dice.random() < 0.3:
                    victims = [id for id in pending if id in more_ids][:1]
                    rejected.update(victims)
                    await pool.settle(rejected=dict.fromkeys(victims, "no"))
                elif action == "undo" and mined:
                    undone = list(mined)[-2:]
                    for id in undone:
                        del mined[id]
                        execution.mined.discard(id)
                    loose = [*[(id, body[id]) for id in undone], *loose]
                loose = [(id, raw) for id, raw in loose if id not in mined]
                if loose:
                    try:
                        await pool.restore(loose)
                        loose = []
                    except StoreFull:
                        pass
                for id, status in zip(acknowledged, await pool.status(list(acknowledged)), strict=True):
                    expected = {"committed"} if id in mined else {"pending"} | ({"rejected"} if id in rejected else set())
                    assert status is not None and status.status in expected, (id in mined, status)
                    assert id in execution.held or id in rejected
            # A rejection that the disk never took is forgotten: then it is pending again.
            disk.dice = dice if dice.random() < 0.5 else None
    disk.dice = None
    execution = bench.toy.ToyExecution()
    execution.held.update({id: body[id] for id in mined})
    execution.child_of.update({body[id][:32]: id for id in mined if any(body[id][:32])})
    execution.mined.update(mined)
    bench.locate = in_blocks(mined)
    async with bench.pool(recovered=False, execution=execution) as pool:
        pool.attach(lambda: HEAD, bench.locate)
        await pool.restore(loose)
        await pool.recovered()
        for id, status in zip(acknowledged, await pool.status(list(acknowledged)), strict=True):
            assert status is not None
            assert status.status == "committed" if id in mined else status.status in ("pending", "rejected")


@pytest.mark.parametrize("between", ["nothing", "restart", "compaction"])
async def test_what_gave_way_comes_back_when_the_winner_gives_way(bench: Any, between: str) -> None:
    """A gave way to B, B gives way to C, which does not conflict with A."""
    a, a_id = bench.toy.make(b"a"), bench.toy.id_of(bench.toy.make(b"a"))
    child, child_id = bench.toy.make(b"child", a_id), bench.toy.id_of(bench.toy.make(b"child", a_id))
    parent, parent_id = bench.toy.make(b"parent"), bench.toy.id_of(bench.toy.make(b"parent"))
    rival, rival_id = bench.toy.make(b"rival", parent_id), bench.toy.id_of(bench.toy.make(b"rival", parent_id))
    third_id = bench.toy.id_of(bench.toy.make(b"third", parent_id))

    def gives_way(*ids: bytes) -> None:  # what a block's commit does to reservations
        for id in ids:
            bench.execution.held.pop(id, None)
        bench.execution.child_of = {key: one for key, one in bench.execution.child_of.items() if one not in ids}

    async with bench.pool() as pool:
        assert all(isinstance(one, Admitted) for one in await pool.submit([a, child, parent, rival]))
        gives_way(a_id, child_id, rival_id)
        await pool.settle(replaced={a_id: WINNER, child_id: WINNER, rival_id: WINNER})
        assert await names(pool, [a_id, child_id, rival_id]) == ["replaced"] * 3
        if between == "compaction":
            first = await rewrite(pool._log, pool._final, pool._pending, lambda: 1000.0, pool._held.displaced)
            await pool._log.drop_before(first)
    execution = bench.execution if between == "nothing" else bench.toy.ToyExecution()
    async with bench.pool(execution=execution) as pool:
        if between != "nothing":
            assert await names(pool, [a_id, child_id, rival_id]) == ["replaced"] * 3
        bench.execution.child_of[parent_id] = third_id  # the third conflicts with the rival alone
        await pool.settle(replaced={WINNER: OTHER})
        assert await names(pool, [a_id, child_id, rival_id]) == ["pending", "pending", "replaced"]
        assert (await pool.status([rival_id]))[0].detail == third_id.hex()
        assert [item.id for item in await pool.take(10)] == [parent_id, a_id, child_id]
    async with bench.pool(execution=execution) as pool:
        assert await names(pool, [a_id, child_id, rival_id]) == ["pending", "pending", "replaced"]


@pytest.mark.parametrize("between", ["nothing", "restart"])
async def test_what_gave_way_and_is_in_a_block_now_stays_there(bench: Any, between: str) -> None:
    """A gave way to B. A reorganisation's block holds A, and B gives way to it."""
    ((a, other), (a_id, other_id)) = bench.make(2)
    async with bench.pool() as pool:
        await pool.submit([a, other])
        await pool.settle(replaced={a_id: WINNER})
        assert await names(pool, [a_id]) == ["replaced"]
    async with bench.pool(execution=bench.execution) as pool:
        if between == "restart":
            await pool.settle({a_id: HEAD})
        else:
            await pool.settle({a_id: HEAD}, replaced={WINNER: a_id})
    async with bench.pool(execution=bench.execution) as pool:
        await pool.settle(replaced={WINNER: OTHER})  # as a reorganisation and a restart in the middle of it leave it
        assert await names(pool, [a_id, other_id]) == ["committed", "pending"]
        assert [item.id for item in pool.pending()] == [other_id]


async def test_new_rules_judge_pending_ones_again_before_anything_newer(bench: Any) -> None:
    raws, ids = bench.chain(4)
    other, other_ids = bench.make(2, b"plain")

    class Changing(bench.toy.ToyExecution):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.old: set[bytes] = set()

        async def outdated(self) -> list[bytes]:
            return [id for id in self.held if id in self.old and id not in self.mined]

        def _admit(self, raw: bytes, time: int) -> Any:
            if bench.toy.id_of(raw) == ids[2] and time > 2000:
                return Refused("too-old", "not under these rules", "invalid", ids[2])
            self.old.discard(bench.toy.id_of(raw))
            return super()._admit(raw, time)

    async with bench.pool(execution=Changing()) as pool:
        await pool.submit([*raws, *other])
        assert len(await pool.take(5)) == 5
        bench.environment.time = 3000.0
        bench.execution.old = {*ids, *other_ids}
        bench.execution.calls.clear()
        await pool.settle({other_ids[0]: BLOCK})
        assert await names(pool, [*ids, *other_ids]) == [
            *("pending", "pending", "rejected", "rejected"),
            *("committed", "pending"),
        ]
        # What was taken stays taken: consensus has it, and keeps what is still pending.
        assert [item.id for item in await pool.take(10)] == other_ids[1:]
        assert set(bench.execution.held) == {*ids[:2], other_ids[1]}
        assert pool.bytes_used == sum(map(len, [*raws[:2], other[1]]))
