"""Kit of the ``execution`` contract: what comes before a block. Admission, reservations, choice, and bundles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nodewright.interfaces.common import Admission, Admitted, Bundle, Refused
from nodewright.interfaces.execution import (
    BundleIncomplete,
    BundleInvalid,
    BundleValid,
    BundleVerdict,
    Candidate,
    Limits,
    Outcome,
    Unhurried,
    Upgrading,
)
from nodewright.testing.execution_base import ExecutionKit, Node, only
from nodewright.testing.execution_terms import GENESIS, GENESIS_TIME, Sample, bundle_of, first, merged

KINDS = {"malformed", "invalid", "policy", "conflict", "missing", "frozen", "locked", "expired", "busy"}
GARBAGE = (b"", b"\0", b"\xff" * 40, b"no transaction", b"\xff" * 2_000_000)


def taken(answer: Admission, sample: Sample, known: bool = False) -> Admitted:
    assert isinstance(answer, Admitted), answer
    assert answer.id == sample.id and answer.raw == sample.raw, "another transaction is answered"
    assert answer.known is known, "known is for what the execution already held"
    assert answer.shard == sample.shard
    return answer


def refused(answer: Admission, sample: Sample | None = None) -> Refused:
    assert isinstance(answer, Refused), answer
    assert answer.code and isinstance(answer.code, str), "a refusal has a code"
    assert answer.kind in KINDS, f"{answer.kind!r} is no kind of refusal that pools know"
    if sample is not None:
        assert answer.id == sample.id, "a refusal of what can be parsed names it"
    return answer


def candidate(answer: Admission) -> Candidate:
    assert isinstance(answer, Admitted), answer
    return Candidate(answer.id, answer.size, answer.fee, answer.ordering_key, answer.shard)


class AdmissionTests(ExecutionKit):
    async def test_ids_are_those_of_the_transactions(self, tmp_path: Path) -> None:
        samples = [self.tx(0), self.tx(1, 1), self.invalid(2)]
        async with self.world(tmp_path).node() as node:
            ids = await node.execution.identify([samples[0].raw, *GARBAGE, samples[1].raw, samples[2].raw])
        assert ids == [samples[0].id, *[None] * len(GARBAGE), samples[1].id, samples[2].id]

    async def test_each_is_answered_in_its_place(self, tmp_path: Path) -> None:
        one, other = self.pair(0)
        bad = self.invalid(1)
        async with self.world(tmp_path).node() as node:
            assert await node.admit() == []
            asked = [one, bad, one, other, self.tx(2), bad]
            answers = await node.admit(*asked)
            taken(answers[0], one)
            refused(answers[1], bad)
            taken(answers[2], one, known=True)
            clash = refused(answers[3], other)
            assert clash.kind == "conflict" and clash.data["winner"] == one.id, "a conflict names who was first"
            taken(answers[4], self.tx(2))
            refused(answers[5], bad)
            answers = await node.admit(self.tx(2), self.tx(3), one)
            for answer, sample, known in zip(answers, (self.tx(2), self.tx(3), one), (True, False, True), strict=True):
                taken(answer, sample, known)
            head, mixed = await node.head(), [self.tx(4).raw, *GARBAGE, self.tx(5).raw]
            first_one, *middle, last = await node.execution.admit(mixed, head, GENESIS_TIME)
            taken(first_one, self.tx(4))
            taken(last, self.tx(5))
            for answer in middle:
                assert refused(answer).kind == "malformed", "what cannot be parsed is malformed"

    async def test_a_batch_may_depend_on_itself(self, tmp_path: Path) -> None:
        chain = [self.tx(0, index) for index in range(3)]
        world = self.world(tmp_path)
        async with world.node() as node:
            for answer, sample in zip(await node.admit(*chain), chain, strict=True):
                taken(answer, sample)
        async with world.node("one by one") as node:
            for sample in chain:
                (answer,) = await node.admit(sample)
                taken(answer, sample)

    async def test_admission_leaves_blocks_alone(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        async with world.node() as node:
            before = await node.state()
            await node.admit(self.tx(0), self.tx(0, 1), self.tx(1, variant=1))
            assert await node.head() == GENESIS
            assert await node.state() == before
        async with world.node() as node:
            assert await node.state() == before

    async def test_nothing_of_a_refused_one_stays(self, tmp_path: Path) -> None:
        one, other = self.pair(0)
        bad = self.invalid(1)
        async with self.world(tmp_path).node() as node:
            await node.admit(one)
            answers = await node.admit(other, bad)
            for answer, sample in zip(answers, (other, bad), strict=True):
                refused(answer, sample)
            assert await node.execution.release([other.id, bad.id]) == [], "a refused transaction is reserved"
            (answer,) = await node.admit(self.tx(1))
            taken(answer, self.tx(1))
            assert await node.execution.release([one.id]) == [one.id]
            (answer,) = await node.admit(other)
            taken(answer, other)

    async def test_release_gives_back(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        parent, child = self.family(0)
        rival = self.tx(0, variant=1)
        async with world.node("child alone") as node:
            (alone,) = await node.admit(child)
        for confirm in (True, False):
            async with world.node(f"confirmed {confirm}") as node:
                before = await node.state()
                await node.admit(parent, child, self.tx(1), confirm=confirm)
                released = await node.execution.release([parent.id])
                assert parent.id in released and {*released} <= {parent.id, child.id}
                assert len(released) == len({*released}), "an id is released once"
                if isinstance(alone, Refused):
                    assert child.id in released, "what cannot stand alone is released with what it depends on"
                assert await node.execution.release([parent.id]) == []
                await node.execution.release([child.id])
                (answer,) = await node.admit(rival, confirm=confirm)
                taken(answer, rival)
                released = await node.execution.release([rival.id, self.tx(1).id, bytes(32)])
                assert sorted(released) == sorted([rival.id, self.tx(1).id])
                answers = await node.admit(parent, child, confirm=confirm)
                for answer, sample in zip(answers, (parent, child), strict=True):
                    taken(answer, sample)
                assert await node.state() == before

    async def test_what_is_in_a_block_is_not_released(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        block = first([self.tx(0), self.tx(1)], policy=self.policy)
        async with world.node() as node:
            await node.admit(self.tx(0), self.tx(2))
            await node.accept(block)
            released = await node.execution.release([self.tx(0).id, self.tx(1).id, self.tx(2).id])
            assert released == [self.tx(2).id], "mined ones are left"
            await node.checked(block)
        async with world.node("never admitted") as node:
            await node.accept(block)
            await node.checked(block)

    async def test_reservations_that_nobody_claims_are_let_go_after_a_restart(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        parent, child = self.family(0)
        samples = [parent, child, self.tx(1), self.tx(2)]
        async with world.node() as node:
            before = await node.state()
            await node.admit(*samples)
        async with world.node() as node:
            (answer,) = await node.admit(self.tx(2))  # the pool had it in its journal
            assert isinstance(answer, Admitted)
            let_go = await node.execution.release_unclaimed()
            assert {*let_go} <= {sample.id for sample in samples[:3]}, "one that was claimed is let go"
            assert await node.execution.release_unclaimed() == []
            for answer, sample in zip(await node.admit(*samples), samples, strict=True):
                assert isinstance(answer, Admitted) and answer.known is (sample.id == self.tx(2).id)
            assert await node.state() == before
            (answer,) = await node.admit(self.tx(0, variant=1))
            taken(answer, self.tx(0, variant=1))

    async def test_the_choice_keeps_to_its_limits_and_can_be_executed(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        samples = [self.tx(0), self.tx(0, 1), self.tx(0, 2), self.tx(1), self.tx(2), self.tx(3)]
        samples = [sample for sample in samples if sample.shard == samples[0].shard]
        async with world.node() as node:
            candidates = [candidate(answer) for answer in await node.admit(*samples)]
            gone = Candidate(self.tx(9).id, 100, 0, shard=samples[0].shard)  # never admitted here
            head, size = await node.head(), sum(one.size for one in candidates)
            limits = [(100, size), (2, size), (100, size - 1), (100, candidates[0].size), (0, size)]
            for max_count, max_bytes in limits:
                asked = [*candidates, gone]
                selection = await node.execution.select(head, asked, Limits(max_count, max_bytes))
                chosen = [one.id for one in selection.chosen]
                told = [*chosen, *selection.rejected, *(one.id for one in selection.deferred)]
                assert len(chosen) <= max_count and sum(one.size for one in selection.chosen) <= max_bytes
                assert sorted(told) == sorted(one.id for one in asked), "each candidate has one place in the selection"
                assert gone.id not in chosen
                by_id = {sample.id: sample for sample in samples}
                block = first([by_id[id] for id in chosen], policy=self.policy, salt=b"%d %d" % (max_count, max_bytes))
                outcomes = await node.run(block)
                assert not merged(outcomes, "discarded") and not merged(outcomes, "retry"), "what was chosen cannot run"
                if (max_count, max_bytes) == limits[0]:
                    assert sorted(chosen) == sorted(by_id), "there was room for all"

    @only("Unhurried")
    async def test_what_is_quick_is_admitted_as_by_admit(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        one, other = self.pair(0)
        raws = [one.raw, self.invalid(1).raw, other.raw, self.tx(2).raw, b"garbage", one.raw]
        async with world.node("whole") as node:
            assert isinstance(node.execution, Unhurried)
            whole = await node.execution.admit(raws, GENESIS, GENESIS_TIME)
        async with world.node("quick") as node:
            assert isinstance(node.execution, Unhurried)
            assert await node.execution.prepare(one.raw, GENESIS, GENESIS_TIME) is None
            refused_alone = await node.execution.prepare(self.invalid(1).raw, GENESIS, GENESIS_TIME)
            assert isinstance(refused_alone, Refused)
            assert await node.execution.release([one.id]) == [], "prepare stages nothing"
            quick = await node.execution.admit_quick(raws, GENESIS, GENESIS_TIME)
        for slow_answer, quick_answer in zip(whole, quick, strict=True):
            if isinstance(quick_answer, Refused) and quick_answer.kind == "busy":
                assert "slow" in quick_answer.data
            else:
                assert quick_answer == slow_answer

    @only("Upgrading")
    async def test_nothing_is_outdated_where_no_rule_changed(self, tmp_path: Path) -> None:
        async with self.world(tmp_path).node() as node:
            assert isinstance(node.execution, Upgrading)
            await node.admit(self.tx(0), self.tx(1))
            assert list(await node.execution.outdated()) == []

    # --- bundles -----------------------------------------------------------------------------------------------------

    def _alike(self, *samples: Sample) -> list[Sample]:
        """Those of the first one's shard: a bundle has one."""
        return [sample for sample in samples if sample.shard == samples[0].shard]

    async def _verdict(self, node: Node, samples: Sequence[Sample], bodies: bool = True) -> BundleVerdict:
        bundle = bundle_of(samples, bodies, samples[0].shard)
        return await node.execution.validate_bundle(bundle, await node.head())

    async def test_a_bundle_of_valid_transactions_is_valid(self, tmp_path: Path) -> None:
        samples = self._alike(self.tx(0), self.tx(1), *self.family(2), self.tx(3))
        world = self.world(tmp_path)
        async with world.node() as node:
            before = await node.state()
            for _ in range(2):
                verdict = await self._verdict(node, samples)
                assert isinstance(verdict, BundleValid), verdict
                for each, whole in ((verdict.each_fee, verdict.fees), (verdict.each_size, verdict.size)):
                    assert not each or (len(each) == len(samples) and sum(each) == whole)
            assert await node.execution.release([sample.id for sample in samples]) == [], "a bundle reserves nothing"
            assert await node.state() == before
            for answer, sample in zip(await node.admit(*samples), samples, strict=True):
                taken(answer, sample)
            assert isinstance(await self._verdict(node, samples), BundleValid)

    async def test_what_a_bundle_displaces_is_no_fault_of_it(self, tmp_path: Path) -> None:
        one, other = self.pair(0)
        async with self.world(tmp_path).node() as node:
            await node.admit(other)
            verdict = await self._verdict(node, [one])
            assert isinstance(verdict, BundleValid), "reservations give way to what is ordered"
            assert verdict.conflicts in ({}, {one.id: other.id}), "conflicts name who displaces and who is displaced"

    async def test_an_invalid_transaction_is_found_at_its_place(self, tmp_path: Path) -> None:
        bad = self.invalid(1)
        good = self._alike(bad, self.tx(0), self.tx(2), self.tx(3), self.tx(4), self.tx(5))[1:]
        async with self.world(tmp_path).node() as node:
            for place in range(3):
                samples = [*good[:place], bad, *good[place : place + 1]]
                verdict = await self._verdict(node, samples)
                assert isinstance(verdict, BundleInvalid), verdict
                assert verdict.index == samples.index(bad) and verdict.code, "the index is that of another transaction"
            assert isinstance(await self._verdict(node, good), BundleValid), "the others are good without it"

    async def test_bodies_that_are_not_those_of_the_ids_never_pass(self, tmp_path: Path) -> None:
        ours = self._alike(self.tx(0), *(self.tx(n) for n in range(1, self.purses)))
        one, two, three = ours[:3]
        ref = bundle_of([one, two], shard=one.shard).ref
        async with self.world(tmp_path).node() as node:
            for bodies in ([one.raw, three.raw], [two.raw, one.raw], [one.raw, b"garbage"], [one.raw, b""]):
                verdict = await node.execution.validate_bundle(Bundle(ref, one.id + two.id, bodies), await node.head())
                if isinstance(verdict, BundleIncomplete):
                    assert {*verdict.missing} <= {one.id, two.id} and verdict.missing
                else:
                    assert isinstance(verdict, BundleInvalid) and verdict.index in (0, 1), verdict
            assert isinstance(await self._verdict(node, [one, two]), BundleValid), "a lie about a bundle is remembered"

    async def test_what_is_missing_is_named_and_then_suffices(self, tmp_path: Path) -> None:
        ours = self._alike(*(self.tx(n) for n in range(self.purses)))[:4]
        async with self.world(tmp_path).node() as node:
            await node.admit(ours[0], ours[2])
            verdict = await self._verdict(node, ours, bodies=False)
            assert isinstance(verdict, BundleIncomplete), "never invalid: another peer may have it"
            assert sorted(verdict.missing) == sorted([ours[1].id, ours[3].id])
            await node.admit(ours[1])
            verdict = await self._verdict(node, ours, bodies=False)
            assert isinstance(verdict, BundleIncomplete) and [*verdict.missing] == [ours[3].id]
            await node.admit(ours[3])
            assert isinstance(await self._verdict(node, ours, bodies=False), BundleValid)

    async def test_a_parent_that_is_not_here_is_missing_or_no_matter(self, tmp_path: Path) -> None:
        parent, child = self.family(0)
        world = self.world(tmp_path)
        async with world.node() as node:
            verdict = await self._verdict(node, [child])
            if isinstance(verdict, BundleIncomplete):
                assert [*verdict.missing] == [parent.id]
                await node.admit(parent)
                verdict = await self._verdict(node, [child])
            assert isinstance(verdict, BundleValid), verdict
        async with world.node("parent in a block") as node:
            await node.accept(first([parent], policy=self.policy))
            assert isinstance(await self._verdict(node, [child]), BundleValid)
            answer = await node.execute(first([parent], policy=self.policy).after([child], policy=self.policy), child.shard)
            assert isinstance(answer, Outcome)
