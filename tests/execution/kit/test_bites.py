"""The kit bites: small executions with one fault each, and the test of the kit that must not pass over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve

from nodewright.errors import StoreCorrupt
from nodewright.interfaces import (
    Admission,
    Admitted,
    BlockRef,
    Bundle,
    BundleIncomplete,
    BundleInvalid,
    BundleVerdict,
    Candidate,
    Deferred,
    ExecutionRequest,
    ExecutionResult,
    Incomplete,
    Limits,
    Outcome,
    Parcel,
    Reverted,
    Selection,
    WriteBatch,
)
from nodewright.testing.execution import ExecutionTests
from nodewright.testing.execution_shapes import AccountPayments, CoinPayments, ShardPayments
from nodewright.testing.shapes import shard_rules
from nodewright.testing.shapes.accounts import Accounts
from nodewright.testing.shapes.coin_formats import parse
from nodewright.testing.shapes.coins import META, OUTPUTS, Coins
from nodewright.testing.shapes.shards import Shards


class Coin(CoinPayments, ExecutionTests):
    shape: Any = Coins

    @asynccontextmanager
    async def open_execution(self, dependencies: Any, environment: Any) -> AsyncIterator[Any]:
        made = self.shape(dependencies["stores.state"])
        await made.open()
        yield made


class Account(AccountPayments, Coin):
    shape = Accounts


class Sharded(ShardPayments, Coin):
    @staticmethod
    def shape(store: Any) -> Any:
        return Shards(store, 2, [0, 1])


class Changed:
    """A store of whose commits ``change`` makes others."""

    def __init__(self, store: Any, change: Any) -> None:
        self._store, self._change = store, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, batch: WriteBatch, durable: bool = True) -> None:
        for part, synced in self._change(batch):
            await self._store.commit(part, durable and synced)


def only(batch: WriteBatch, keep: Any) -> WriteBatch:
    made = WriteBatch()
    for table, rows in batch.tables.items():
        for key, value in rows.items():
            if keep(table, key, value):
                made.tables.setdefault(table, {})[key] = value
    return made


# --- blocks ---


class CommitsOnce(Coins):
    async def commit(self, block: BlockRef, shard: int = 0) -> Mapping[bytes, bytes] | None:
        if self._applied == block:
            raise StoreCorrupt("it is committed")
        return await super().commit(block, shard)


class CommitsAnything(Accounts):
    async def commit(self, block: BlockRef, shard: int = 0) -> Mapping[bytes, bytes] | None:
        layer = self._layers.get(block.id)
        if layer is not None:
            self._applied = layer.parent
        return await super().commit(block, shard)


class CommitsRivals(Coins):
    """What was executed on a parent is committed, whatever was since."""

    async def commit(self, block: BlockRef, shard: int = 0) -> Mapping[bytes, bytes] | None:
        before = dict(self._executed)
        if block.id in before and self._applied is not None:
            self._executed[block.id] = evolve(before[block.id], parent=self._applied)
        answer = await super().commit(block, shard)
        self._executed.update(before)
        return answer


class MarksFirst(Coins):
    def __init__(self, store: Any) -> None:
        super().__init__(Changed(store, self._parts))

    def _parts(self, batch: WriteBatch) -> list[tuple[WriteBatch, bool]]:
        return [
            (only(batch, lambda table, key, value: table == META), True),
            (only(batch, lambda table, key, value: table != META), True),
        ]


class NeverSyncs(Coins):
    def __init__(self, store: Any) -> None:
        super().__init__(Changed(store, lambda batch: [(batch, self._applied is None)]))


class ExecutesForGood(Accounts):
    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        outcome = await super().execute(request)
        if isinstance(outcome, Outcome):
            await self.commit(request.block)
        return outcome


class LooksAtReservations(Coins):
    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        outcome = await super().execute(request)
        if isinstance(outcome, Outcome) and outcome.evicted:
            return evolve(outcome, fees=outcome.fees + len(outcome.evicted))
        return outcome


class KeepsFirstSeen(Coins):
    """What was admitted wins over what was ordered."""

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        ordered = [
            evolve(bundle, ids=b"".join(ids), bodies=bodies)
            for bundle in request.bundles
            for ids, bodies in [self._first(bundle)]
        ]
        return await super().execute(evolve(request, bundles=ordered))

    def _first(self, bundle: Bundle) -> tuple[list[bytes], list[bytes]]:
        taken = {outpoint[:32] for outpoint in self._reserved}
        bodies = bundle.bodies or []
        kept = [n for n, raw in enumerate(bodies) if bundle.id_at(n) in self._pending or not any(id in raw for id in taken)]
        return [bundle.id_at(n) for n in kept], [bodies[n] for n in kept]


class RemembersTheFirst(Accounts):
    """A block of a height that was executed before has the outcome of that one."""

    heights: dict[int, Outcome]

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        outcome = await super().execute(request)
        self.heights = getattr(self, "heights", {})
        if isinstance(outcome, Outcome):
            known = self.heights.setdefault(request.block.height, outcome)
            return evolve(outcome, commitment=known.commitment)
        return outcome


class LosesTheChild(Coins):
    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        outcome = await super().execute(request)
        return evolve(outcome, retry={}) if isinstance(outcome, Outcome) else outcome


class DiscardsTheChild(Coins):
    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        outcome = await super().execute(request)
        if not isinstance(outcome, Outcome):
            return outcome
        early = {id: ("missing", told) for id, told in outcome.retry.items()}
        return evolve(outcome, retry={}, discarded={**outcome.discarded, **early})


class TellsOfRepetitions(Coins):
    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        outcome = await super().execute(request)
        ids = [bundle.id_at(n) for bundle in request.bundles for n in range(len(bundle))]
        twice = {id: ("known", "it is there already") for id in ids if ids.count(id) > 1}
        return evolve(outcome, discarded={**outcome.discarded, **twice}) if isinstance(outcome, Outcome) else outcome


class ExecutesAnywhere(Coins):
    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        answer = await super().execute(request)
        if isinstance(answer, Deferred) and self._applied is not None:
            answer = await super().execute(evolve(request, parent=self._applied))
        return answer


class ForgetsNothing(Coins):
    async def abandon(self, block: BlockRef, shard: int = 0) -> None:
        pass


class TellsOfNoLateLoser(Coins):
    async def commit(self, block: BlockRef, shard: int = 0) -> Mapping[bytes, bytes] | None:
        await super().commit(block, shard)
        return None


class SaysSoBefore(Coins):
    """The applied block is told before it is one."""

    said: BlockRef | None = None

    async def commit(self, block: BlockRef, shard: int = 0) -> Mapping[bytes, bytes] | None:
        self.said = block
        await trio.lowlevel.checkpoint()
        return await super().commit(block, shard)

    async def applied(self, shard: int = 0) -> BlockRef | None:
        return self.said or await super().applied()


class InstallsAgain(Accounts):
    async def genesis(self, document: Mapping[str, Any], block: BlockRef) -> bytes | None:
        self._applied = None
        return await super().genesis(document, block)


# --- going back ---


class LeavesWhatWasMade(Coins):
    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        store = self._store
        kept = Changed(store, lambda batch: [(only(batch, lambda table, key, value: table != OUTPUTS or value), True)])
        self._store = kept  # type: ignore[assignment]
        try:
            return await super().revert(block, shard)
        finally:
            self._store = store


class GivesChildrenFirst(Coins):
    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        reverted = await super().revert(block, shard)
        return evolve(reverted, transactions=list(reverted.transactions)[::-1])


class GivesNothingBack(Coins):
    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        return evolve(await super().revert(block, shard), transactions=())


class RevertsTwice(Coins):
    async def revert(self, block: BlockRef, shard: int = 0) -> Reverted:
        if self._applied is not None and self._applied != block:
            block = self._applied
        return await super().revert(block, shard)


# --- admission and bundles ---


class KnowsNobody(Coins):
    async def admit(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        return [
            evolve(one, known=False) if isinstance(one, Admitted) else one for one in await super().admit(txs, head, time)
        ]


class SortsAnswers(Coins):
    async def admit(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        answers = await super().admit(txs, head, time)
        return sorted(answers, key=lambda one: not isinstance(one, Admitted))


class ReservesTheRefused(Coins):
    async def admit(self, txs: Sequence[bytes], head: BlockRef, time: int) -> list[Admission]:
        answers = await super().admit(txs, head, time)
        for raw, answer in zip(txs, answers, strict=True):
            if not isinstance(answer, Admitted):
                self._reserved.update((outpoint, bytes(32)) for outpoint in parse(raw).spends)
        return answers


class LeavesTheChildren(Coins):
    async def release(self, ids: Sequence[bytes]) -> list[bytes]:
        here = [id for id in ids if id in self._pending]
        for id in here:
            self._drop(id)
        return here


class ChoosesAll(Coins):
    async def select(self, parent: BlockRef, candidates: Sequence[Candidate], limits: Limits) -> Selection:
        return Selection(list(candidates))


class NamesAll(Coins):
    async def validate_bundle(self, bundle: Bundle, head: BlockRef) -> BundleVerdict:
        verdict = await super().validate_bundle(bundle, head)
        if isinstance(verdict, BundleIncomplete):
            return BundleIncomplete([bundle.id_at(n) for n in range(len(bundle))])
        return verdict


class BlamesTheFirst(Coins):
    async def validate_bundle(self, bundle: Bundle, head: BlockRef) -> BundleVerdict:
        verdict = await super().validate_bundle(bundle, head)
        return evolve(verdict, index=0) if isinstance(verdict, BundleInvalid) else verdict


class BelievesLies(Coins):
    """A verdict is remembered by the bundle's name alone."""

    verdicts: dict[bytes, BundleVerdict]

    async def validate_bundle(self, bundle: Bundle, head: BlockRef) -> BundleVerdict:
        self.verdicts = getattr(self, "verdicts", {})
        if bundle.ref.id not in self.verdicts:
            self.verdicts[bundle.ref.id] = await super().validate_bundle(bundle, head)
        return self.verdicts[bundle.ref.id]


class CallsMissingInvalid(Coins):
    async def validate_bundle(self, bundle: Bundle, head: BlockRef) -> BundleVerdict:
        verdict = await super().validate_bundle(bundle, head)
        return BundleInvalid("missing", "it is not here", 0) if isinstance(verdict, BundleIncomplete) else verdict


COINS = [
    (CommitsOnce, "test_commit_advances_once_and_outlives_the_process"),
    (CommitsRivals, "test_what_was_not_executed_or_lacks_its_parent_is_not_committed"),
    (MarksFirst, "test_power_may_go_before_and_after_every_write"),
    (NeverSyncs, "test_commit_advances_once_and_outlives_the_process"),
    (LooksAtReservations, "test_an_outcome_depends_on_parent_and_request_alone"),
    (KeepsFirstSeen, "test_an_outcome_depends_on_parent_and_request_alone"),
    (LosesTheChild, "test_discard_lets_a_child_before_its_parent_run_later"),
    (DiscardsTheChild, "test_discard_lets_a_child_before_its_parent_run_later"),
    (TellsOfRepetitions, "test_discard_passes_over_repetitions"),
    (ExecutesAnywhere, "test_a_parent_whose_state_is_not_here_defers"),
    (ForgetsNothing, "test_an_abandoned_block_is_forgotten"),
    (TellsOfNoLateLoser, "test_what_is_ordered_overrides_what_was_reserved"),
    (SaysSoBefore, "test_a_call_that_is_cancelled_leaves_a_usable_instance"),
    (LeavesWhatWasMade, "test_revert_restores_exactly_one_block_and_several"),
    (LeavesWhatWasMade, "test_another_branch_is_as_if_the_first_had_never_been"),
    (GivesChildrenFirst, "test_what_came_out_can_be_admitted_and_ordered_again"),
    (GivesNothingBack, "test_revert_restores_exactly_one_block_and_several"),
    (RevertsTwice, "test_only_the_applied_block_is_undone"),
    (KnowsNobody, "test_each_is_answered_in_its_place"),
    (SortsAnswers, "test_each_is_answered_in_its_place"),
    (ReservesTheRefused, "test_nothing_of_a_refused_one_stays"),
    (LeavesTheChildren, "test_release_gives_back"),
    (ChoosesAll, "test_the_choice_keeps_to_its_limits_and_can_be_executed"),
    (NamesAll, "test_what_is_missing_is_named_and_then_suffices"),
    (BlamesTheFirst, "test_an_invalid_transaction_is_found_at_its_place"),
    (BelievesLies, "test_bodies_that_are_not_those_of_the_ids_never_pass"),
    (CallsMissingInvalid, "test_what_is_missing_is_named_and_then_suffices"),
]
ACCOUNTS = [
    (CommitsAnything, "test_what_was_not_executed_or_lacks_its_parent_is_not_committed"),
    (ExecutesForGood, "test_nothing_changes_before_commit"),
    (RemembersTheFirst, "test_an_outcome_depends_on_parent_and_request_alone"),
    (RemembersTheFirst, "test_blocks_stand_on_uncommitted_parents_and_beside_each_other"),
    (InstallsAgain, "test_a_new_instance_stands_on_its_genesis"),
]


async def anything_passes(self: Any, request: ExecutionRequest, witness: bytes) -> ExecutionResult:
    return Outcome(request.block, bytes(32))


async def never_passes(self: Any, request: ExecutionRequest, witness: bytes) -> ExecutionResult:
    return Incomplete([request.parent.id])


def believed(parcel: Parcel) -> bool:
    return True


SHARDS = [
    ((Shards, "verify_witness", anything_passes), "test_a_witness_that_shows_another_state_is_incomplete"),
    ((Shards, "verify_witness", never_passes), "test_a_witness_alone_gives_the_same_outcome"),
    ((shard_rules, "proves", believed), "test_a_parcel_is_taken_only_with_what_proves_it"),
]


FAILURES = (Exception, BaseExceptionGroup, pytest.fail.Exception)
PROGRAM = [
    ("admit", 0, [(0, 0, 0)], True),
    ("block", [[(0, 0, 1), (1, 0, 0)]], 0, "commit"),
    ("restart", True, True),
    ("block", [[(2, 0, 0)]], 0, "commit"),
]


def attempt(kit: ExecutionTests, test: str, folder: Path) -> None:
    trio.run(getattr(kit, test), folder)


def named(cases: Sequence[tuple[Any, str]]) -> list[str]:
    return [f"{fault.__name__ if isinstance(fault, type) else fault[2].__name__}: {test[5:]}" for fault, test in cases]


@pytest.mark.parametrize(("fault", "test"), [*COINS, *ACCOUNTS], ids=named([*COINS, *ACCOUNTS]))
def test_a_faulty_execution_does_not_pass(fault: Any, test: str, tmp_path: Path) -> None:
    kit = type("Faulty", (Coin if issubclass(fault, Coins) else Account,), {"shape": fault})()
    with pytest.raises(FAILURES):
        attempt(kit, test, tmp_path)


@pytest.mark.parametrize(("fault", "test"), SHARDS, ids=named(SHARDS))
def test_faulty_shards_do_not_pass(fault: Any, test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*fault)
    with pytest.raises(FAILURES):
        attempt(Sharded(), test, tmp_path)


async def test_programs_find_what_depends_on_this_node(tmp_path: Path) -> None:
    faulty = type("Faulty", (Coin,), {"shape": KeepsFirstSeen})()
    with pytest.raises(FAILURES):
        await faulty._run_program(PROGRAM, tmp_path / "faulty")
    await Coin()._run_program(PROGRAM, tmp_path / "good")


def test_without_a_fault_they_pass(tmp_path: Path) -> None:
    """As opened here: what fails above fails for its fault."""
    for kit, cases in ((Coin(), COINS), (Account(), ACCOUNTS), (Sharded(), SHARDS)):
        for test in sorted({test for _, test in cases}):  # type: ignore[attr-defined]
            folder = tmp_path / type(kit).__name__ / test
            folder.mkdir(parents=True)
            attempt(kit, test, folder)
