"""Conformance kit of the contract ``utxo``.

Programs move like a chain does: blocks are mined on top of each other and undone from the top, a bundle is mined when its
transactions are known and their parents mined, what is mined is not removed, nothing pruned is undone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import strategies as st

from nodewright.errors import StoreError
from nodewright.interfaces.storage import UtxoStore, UtxoTransaction
from nodewright.testing.storage_base import StoreKit, tolerant
from nodewright.testing.storage_utxo_model import (
    MATURITY,
    Flags,
    Universe,
    UtxoModel,
    block_at,
    observe,
    outpoint,
    output_vector,
    universe,
)

INDEX = st.integers(0, 11)
SOME = st.lists(INDEX, min_size=1, max_size=8)
MANY = st.sets(INDEX, min_size=4).map(sorted)
# Two coinbases of three outputs, then whatever spends them or each other.
SHAPE = st.lists(
    st.tuples(st.integers(1, 3), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=3)),
    min_size=4,
    max_size=10,
).map(lambda drawn: [(3, []), (3, []), *drawn])
UNIVERSE = st.builds(universe, SHAPE)
SPEND = st.tuples(st.just("spend"), SOME | MANY, st.booleans())
MINE = st.tuples(st.just("mine"), MANY, st.sampled_from([1, 1, 3, MATURITY]))
ONE_COMMIT = [
    SPEND,
    SPEND,
    MINE,
    MINE,
    st.tuples(st.just("replace"), SOME, SOME | MANY, MANY, st.sampled_from([1, MATURITY])),
    st.tuples(st.just("remove"), SOME),
    st.tuples(st.just("undo")),
    st.tuples(st.just("undo and replace")),
    st.tuples(st.sampled_from(["freeze", "unfreeze", "reassign"]), INDEX, st.integers(0, 3)),
    st.tuples(st.sampled_from(["lock", "conflict"]), SOME, st.booleans()),
]
OPERATION = st.one_of(*ONE_COMMIT, st.tuples(st.just("prune"), st.sampled_from([0, 1, 5])), st.tuples(st.just("reopen")))
# Most programs begin where there is something to do: the coinbases are there, and mature.
BEGINNING = st.sampled_from([[("spend", [0, 1], False), ("replace", [], [], [], MATURITY)]] * 4 + [[]])


def programs(operation: st.SearchStrategy[Any], longest: int) -> st.SearchStrategy[list[Any]]:
    return st.builds(lambda first, rest: [*first, *rest], BEGINNING, st.lists(operation, min_size=1, max_size=longest))


class UtxoStoreTests(StoreKit):
    """Subclass with ``open_store``; name the class ``Test…``. A coinbase matures after 100 blocks."""

    # --- against a model ---------------------------------------------------------------------------------------------

    def test_behaves_as_the_model(self) -> None:
        self.run(st.tuples(UNIVERSE, programs(OPERATION, 30)), self._against_model)

    async def _against_model(self, program: tuple[Universe, list[Any]], path: Path) -> None:
        world, remaining = program[0], list(program[1])
        model = UtxoModel(world)
        ordered = "ordered" in self.capabilities
        while remaining:
            async with self.open_store(path) as store:
                assert await observe(store, world, ordered) == model.observe()
                while remaining:
                    operation = remaining.pop(0)
                    if operation[0] == "reopen":
                        if not self.volatile:
                            break
                        continue
                    await self._step(store, model, operation)
                    assert await store.get_outputs(world.outpoints()) == model.observe()["outputs"], operation
                assert await observe(store, world, ordered) == model.observe()

    async def _step(self, store: UtxoStore, model: UtxoModel, operation: Any) -> None:
        match operation:
            case "spend", indexes, durable:
                batch = [tx for tx in self._txs(model, indexes) if tx.txid not in model.pruned]
                results = await store.spend_and_create(batch, model.height + 1, durable)
                assert results == [model.create(tx, model.height + 1) for tx in batch]
            case "remove", indexes:
                gone = self._removable(model, indexes)
                await store.remove(gone)
                model.remove(gone)
            case "mine", indexes, ahead:
                await self._mine(store, model, model.minable(indexes), ahead)
            case ("undo",):
                if model.chain and model.height > model.buried:
                    block, bundle = model.chain.pop()
                    await store.unset_mined(block, [model.universe.bundle_id(bundle)] if bundle else [])
            case ("undo and replace",):
                if model.chain and model.height > model.buried:
                    _, bundle = model.chain.pop()
                    before = model.chain[-1][0] if model.chain else block_at(0)
                    ids = [model.universe.bundle_id(bundle)] if bundle else []
                    await store.replace([], [], before.height, before, unmined=ids)
                    model.applied = before
            case "replace", remove, create, mine, ahead:
                await self._replace(store, model, remove, create, mine, ahead)
            case "prune", retention:
                await self._prune(store, model, retention)
            case ("lock" | "conflict") as what, indexes, on:
                await self._flag(store, model, what, indexes, on)
            case action, number, index:
                await self._mark(store, model, action, number, index)

    def _txs(self, model: UtxoModel, indexes: list[int]) -> list[UtxoTransaction]:
        return [model.universe.txs[index % len(model.universe.txs)] for index in indexes]

    def _removable(self, model: UtxoModel, indexes: list[int]) -> list[UtxoTransaction]:
        gone = model.with_descendants([index % len(model.universe.txs) for index in indexes])
        mined = model.mined()
        return [] if any(tx.txid in mined for tx in gone) else gone

    async def _mine(self, store: UtxoStore, model: UtxoModel, bundle: tuple[int, ...], ahead: int) -> None:
        if not bundle:
            return
        block = block_at(model.height + ahead)
        model.chain.append((block, bundle))
        await store.assign_bundle(model.universe.bundle_id(bundle), model.universe.bundle_txids(bundle))
        for _ in range(2):
            await store.set_mined(block, [model.universe.bundle_id(bundle)])

    async def _replace(
        self, store: UtxoStore, model: UtxoModel, remove: list[int], create: list[int], mine: list[int], ahead: int
    ) -> None:
        """A block that evicts, brings transactions of its own, and mines some; refused ones must change nothing."""
        block = block_at(model.height + ahead)
        gone = self._removable(model, remove)
        made = [tx for tx in self._txs(model, create) if tx.txid not in model.pruned]
        after = model.copy()
        after.remove(gone)
        if any([after.create(tx, block.height) is not None for tx in made]):
            with pytest.raises(StoreError):
                await store.replace(gone, made, block.height, block)
            after = model.copy()
            after.remove(gone)
            made = [tx for tx in made if after.create(tx, block.height) is None]
        bundle = after.minable(mine)
        if bundle:
            await store.assign_bundle(model.universe.bundle_id(bundle), model.universe.bundle_txids(bundle))
        ids = [model.universe.bundle_id(bundle)] if bundle else []
        await store.replace(gone, made, block.height, block, mined=ids)
        model.heights, model.spenders, model.flags = after.heights, after.spenders, after.flags
        model.locked, model.conflicting, model.applied = after.locked, after.conflicting, block
        model.chain.append((block, bundle))

    async def _prune(self, store: UtxoStore, model: UtxoModel, retention: int) -> None:
        limit = model.height - retention
        if limit < 0:
            assert await store.prune(model.height, retention) == 0
            return
        deleted = 0
        for _ in range(3):
            deleted += await store.prune(model.height, retention)
        assert deleted == model.prune(limit)

    async def _flag(self, store: UtxoStore, model: UtxoModel, what: str, indexes: list[int], on: bool) -> None:
        txids = [tx.txid for tx in self._txs(model, indexes)]
        flagged = model.locked if what == "lock" else model.conflicting
        await (store.set_locked if what == "lock" else store.set_conflicting)(txids, on)
        known = {txid for txid in txids if txid in model.heights}
        if on:
            flagged |= known
        else:
            flagged -= known

    async def _mark(self, store: UtxoStore, model: UtxoModel, action: str, number: int, index: int) -> None:
        number %= len(model.universe.txs)
        held = outpoint(model.universe.txs[number].txid, index)
        flags = model.flags.get(held, Flags())
        script = b"new script"
        if action == "reassign":
            (result,) = await store.reassign([(held, script)], model.height + 2)
        else:
            (result,) = await (store.freeze if action == "freeze" else store.unfreeze)([held])
        if held[:32] not in model.heights or index >= len(model.universe.outputs[number]):
            expected: str | None = "missing"
        elif held in model.spenders and action != "unfreeze":
            expected = "spent"
        elif action == "reassign" and not flags.frozen:
            again = (flags.script, flags.spendable_from) == (script, model.height + 2)
            expected = None if again else "not-frozen"
        else:
            expected = None
            reassigned = action == "reassign"
            model.flags[held] = Flags(
                frozen=action == "freeze",
                spendable_from=model.height + 2 if reassigned else flags.spendable_from,
                script=script if reassigned else flags.script,
            )
        assert (result.code if result else None) == expected

    # --- stories -----------------------------------------------------------------------------------------------------

    async def test_an_empty_store(self, tmp_path: Path) -> None:
        async with self.open_store(tmp_path) as store:
            assert await store.applied() is None
            assert await store.get_outputs([]) == []
            assert await store.get_outputs([bytes(36)]) == [None]
            assert await store.known([bytes(32)]) == [False]
            assert await store.spend_and_create([], 1) == []
            assert [item async for item in store.iterate_unmined()] == []
            assert [item async for item in store.iterate_unspent()] == []
            assert await store.prune(1000) == 0
            with pytest.raises(ValueError):
                await store.get_outputs([bytes(35)])

    async def test_one_output_has_one_spender(self, tmp_path: Path) -> None:
        """Many race for one output: one wins, and every other one is told who."""
        root = UtxoTransaction(b"r" * 32, (), output_vector([(1, b"x")]))
        rivals = [
            UtxoTransaction(bytes([n]) * 32, (outpoint(root.txid, 0),), output_vector([(1, b"y")])) for n in range(12)
        ]
        results: dict[bytes, Any] = {}
        async with self.open_store(tmp_path) as store:
            await store.spend_and_create([root], 1)

            async def spend(tx: UtxoTransaction) -> None:
                await store.get_outputs(tx.spends)
                (results[tx.txid],) = await store.spend_and_create([tx], 1)

            async with trio.open_nursery() as nursery:
                for tx in rivals:
                    nursery.start_soon(spend, tx)
            (winner,) = [txid for txid, result in results.items() if result is None]
            for txid, result in results.items():
                if txid != winner:
                    assert (result.code, result.input, result.spender) == ("spent", 0, winner + bytes(4))
            (output,) = await store.get_outputs([outpoint(root.txid, 0)])
            assert output is not None and output.spender == winner + bytes(4)
            assert await store.known([winner]) == [True]

    async def test_parent_and_child_applied_again_together(self, tmp_path: Path) -> None:
        """A batch that was applied before, from its coinbase on, changes nothing, also where nothing of it is in memory."""
        root = UtxoTransaction(b"r" * 32, (), output_vector([(1, b"x"), (2, b"y")]), coinbase=True)
        child = UtxoTransaction(b"c" * 32, (outpoint(root.txid, 0),), output_vector([(1, b"y")]))
        grandchild = UtxoTransaction(b"g" * 32, (outpoint(child.txid, 0),), output_vector([(1, b"y")]))
        late = UtxoTransaction(b"l" * 32, (outpoint(root.txid, 1),), output_vector([(1, b"y")]))
        async with self.open_store(tmp_path) as store:
            await store.spend_and_create([root], 1)
            await store.spend_and_create([child, grandchild], 1 + MATURITY, durable=True)
        if self.volatile:
            return
        async with self.open_store(tmp_path) as store:
            again = await store.spend_and_create([root, child, grandchild, late], 500)
            assert again == [None] * 4
            outputs = await store.get_outputs([outpoint(tx.txid, 0) for tx in (root, child, grandchild, late)])
            assert [o.height for o in outputs if o] == [1, 1 + MATURITY, 1 + MATURITY, 500]
            assert [o.spender for o in outputs if o] == [child.txid + bytes(4), grandchild.txid + bytes(4), None, None]
            assert {held.txid async for held in store.iterate_unmined()} == {child.txid, grandchild.txid, late.txid}

    async def test_a_transaction_spends_an_output_once(self, tmp_path: Path) -> None:
        root = UtxoTransaction(b"r" * 32, (), output_vector([(1, b"x")]))
        twice = UtxoTransaction(b"t" * 32, (outpoint(root.txid, 0),) * 2, output_vector([(1, b"y")]))
        async with self.open_store(tmp_path) as store:
            first, second = await store.spend_and_create([root, twice], 1)
            assert first is None and second is not None
            assert (second.code, second.input) == ("spent", 1)

    async def test_transactions_of_many_megabytes(self, tmp_path: Path) -> None:
        """60,000 outputs, a script of 3 MiB among small ones, 40,000 inputs: all read back, in pages or whole."""
        many = [(index, index.to_bytes(4, "big") * (index % 17)) for index in range(60_000)]
        mixed = [(1, b"a"), (2, b"b" * (3 << 20)), (3, b"c"), (4, b""), (5, b"d" * (1 << 20))]
        wide = UtxoTransaction(b"w" * 32, (), output_vector(many))
        heavy = UtxoTransaction(b"h" * 32, (), output_vector(mixed))
        spends = tuple(outpoint(wide.txid, index) for index in range(40_000))
        eater = UtxoTransaction(b"e" * 32, spends, output_vector([(9, b"z")]))
        asked = [0, 1, 252, 253, 254, 29_999, 30_000, 59_999]
        async with self.open_store(tmp_path) as store:
            assert await store.spend_and_create([wide, heavy], 1) == [None, None]
            for tx, outputs, indexes in ((wide, many, asked), (heavy, mixed, range(5))):
                found = await store.get_outputs([outpoint(tx.txid, index) for index in indexes])
                assert [(o.satoshis, o.script) for o in found if o] == [outputs[index] for index in indexes]
            assert await store.get_outputs([outpoint(wide.txid, 60_000), outpoint(heavy.txid, 5)]) == [None, None]
            assert await store.spend_and_create([eater, eater], 2) == [None, None]
            unspent = {held: (o.satoshis, o.script) async for held, o in store.iterate_unspent()}
            expected = {outpoint(wide.txid, index): many[index] for index in range(40_000, 60_000)}
            expected |= {outpoint(heavy.txid, index): mixed[index] for index in range(5)}
            assert unspent == expected | {outpoint(eater.txid, 0): (9, b"z")}
            await store.remove([eater])
            (back,) = await store.get_outputs([spends[39_999]])
            assert back is not None and back.spender is None
            await store.remove([heavy, wide])
            assert [item async for item in store.iterate_unspent()] == []

    async def test_a_fork_takes_over_bundle_by_bundle(self, tmp_path: Path) -> None:
        """Two bundles name the same transaction; the new one is mined before the old one is taken out."""
        root = UtxoTransaction(b"r" * 32, (), output_vector([(1, b"x")]), coinbase=True)
        shared, ours = (UtxoTransaction(name * 32, (), output_vector([(1, b"y")])) for name in (b"s", b"o"))
        old, new = b"o" * 32, b"n" * 32
        async with self.open_store(tmp_path) as store:

            async def unmined() -> set[bytes]:
                return {held.txid async for held in store.iterate_unmined()}

            await store.spend_and_create([root, shared, ours], 1)
            await store.assign_bundle(old, shared.txid + ours.txid)
            await store.assign_bundle(new, shared.txid)
            await store.set_mined(block_at(5), [old])
            assert await unmined() == set()
            await store.prune(5)  # a chance to tidy up: nothing is deep enough to go
            await store.set_mined(block_at(5, fork=1), [new])
            await store.prune(5)
            await store.unset_mined(block_at(5), [old])
            assert await unmined() == {ours.txid}
            await store.unset_mined(block_at(5, fork=1), [new])
            assert await unmined() == {ours.txid, shared.txid}
            await store.set_mined(block_at(6), [old])
            await store.prune(6)
            assert await unmined() == set()

    async def test_pruning_waits_for_depth_and_for_every_output(self, tmp_path: Path) -> None:
        root = UtxoTransaction(b"r" * 32, (), output_vector([(1, b"x"), (2, b"y")]))
        first, second, third = (
            UtxoTransaction(name * 32, (spent,), output_vector([(1, b"z")]))
            for name, spent in (
                (b"a", outpoint(root.txid, 0)),
                (b"b", outpoint(root.txid, 1)),
                (b"c", outpoint(b"a" * 32, 0)),
            )
        )
        bundles = {name * 32: tx for name, tx in ((b"1", root), (b"2", first), (b"3", second), (b"4", third))}
        everyone = [root.txid, first.txid, second.txid, third.txid]
        async with self.open_store(tmp_path) as store:
            await store.spend_and_create([root, first, second, third], 1)
            for height, (bundle, tx) in enumerate(bundles.items(), start=10):
                await store.assign_bundle(bundle, tx.txid)
                await store.set_mined(block_at(height), [bundle])
            assert await store.prune(21, retention=10) == 0  # one of two outputs of the root is spent deep enough
            assert await store.prune(22, retention=10) == 1
            assert await store.known(everyone) == [False, True, True, True]
            assert await store.prune(22, retention=10) == 0
            assert await store.get_outputs([outpoint(root.txid, 0)]) == [None]
            assert await store.spend_and_create([first, third], 30) == [None, None], "applied before, whoever was pruned"
            assert await store.prune(300, retention=10) == 1
            assert await store.known(everyone) == [False, False, True, True]
            assert await store.prune(1000, retention=10) == 0
            assert [item async for item in store.iterate_unmined()] == []

    async def test_parents_of_an_old_unmined_transaction_stay(self, tmp_path: Path) -> None:
        """However deep they are: it may be mined yet, or give way and leave their outputs to another."""
        root = UtxoTransaction(b"r" * 32, (), output_vector([(1, b"x")]))
        parent = UtxoTransaction(b"a" * 32, (outpoint(root.txid, 0),), output_vector([(1, b"y")]))
        waiting = UtxoTransaction(b"b" * 32, (outpoint(parent.txid, 0),), output_vector([(1, b"z")]))
        other = UtxoTransaction(b"c" * 32, waiting.spends, waiting.outputs)
        async with self.open_store(tmp_path) as store:
            await store.spend_and_create([root, parent, waiting], 1)
            for height, tx in enumerate((root, parent), start=1):
                await store.assign_bundle(tx.txid, tx.txid)
                await store.set_mined(block_at(height), [tx.txid])
            assert await store.prune(100_000) == 1, "the root alone: a mined transaction spent it"
            assert await store.known([root.txid, parent.txid, waiting.txid]) == [False, True, True]
            await store.remove([waiting])
            assert await store.spend_and_create([other], 100_000) == [None]
            await store.assign_bundle(other.txid, other.txid)
            await store.set_mined(block_at(100_000), [other.txid])
            assert await store.prune(100_000 + 288) == 1
            assert await store.known([parent.txid, other.txid]) == [False, True]

    async def test_locked_until_unlocked(self, tmp_path: Path) -> None:
        root = UtxoTransaction(b"r" * 32, (), output_vector([(1, b"x")]), locked=True)
        child = UtxoTransaction(b"c" * 32, (outpoint(root.txid, 0),), output_vector([(1, b"y")]))
        async with self.open_store(tmp_path) as store:
            _, refused = await store.spend_and_create([root, child], 1)
            assert refused is not None and refused.code == "locked"
        if self.volatile:
            return
        async with self.open_store(tmp_path) as store:
            (refused,) = await store.spend_and_create([child], 1)
            assert refused is not None and refused.code == "locked"
            await store.set_locked([root.txid], False)
            assert await store.spend_and_create([child], 1) == [None]

    # --- what survives -----------------------------------------------------------------------------------------------

    def test_a_crash_keeps_a_prefix(self) -> None:
        if not self.can_crash:
            pytest.skip("cannot be crashed in this process")
        self.run(st.tuples(UNIVERSE, programs(st.one_of(*ONE_COMMIT), 15), st.integers(0, 7)), self._crashed)

    async def _crashed(self, program: tuple[Universe, list[Any], int], path: Path) -> None:
        world, operations, keep = program
        model = UtxoModel(world)
        states = [model.observe()]
        synced = 0
        async with tolerant(self.open_store(path)) as store:
            for operation in operations:
                applied = model.applied
                await self._step(store, model, operation)
                states.append(model.observe())
                if (operation[0] == "spend" and operation[2]) or model.applied != applied:
                    synced = len(states) - 1
            survived = await self.crash(store, path, keep)
        async with self.open_store(survived) as store:
            found = await observe(store, world)
            assert found in states[synced:], "what survived is no prefix that holds every durable change"
