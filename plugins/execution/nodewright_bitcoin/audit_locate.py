"""Which outputs of a group of outpoints differ: a second pass over blocks and store, holding those groups alone.

Groups are done a few hundred at a time, so that memory stays bounded where everything differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set

from attrs import define, frozen

from nodewright.interfaces.audit import ChainAudit, ChainPart, Report
from nodewright.interfaces.storage import UtxoStore, UtxoTransaction
from nodewright_bitcoin.audit_sums import group_of, name
from nodewright_bitcoin.columns import output_spans
from nodewright_bitcoin.state import outpoint

GROUPS_AT_ONCE = 512
PASSES = 4  # beyond these the kinds are known, and only more of the same would be told
READ = 4096


@frozen
class Wanted:
    """Groups where values are left, and groups where transactions are gone."""

    outputs: Set[int]
    absent: Set[int]

    def __bool__(self) -> bool:
        return bool(self.outputs or self.absent)


@define
class Made:
    """An output as blocks have it. ``spender`` is the transaction that spends it, None where none does."""

    satoshis: int
    script: bytes
    spender: bytes | None = None


class Locator:
    def __init__(self, store: UtxoStore, report: Report, fix: str, wanted: Wanted) -> None:
        self._store = store
        self._report = report
        self._fix = fix
        self._wanted = sorted(wanted.outputs | wanted.absent)

    async def run(
        self,
        genesis: UtxoTransaction | None,
        chain: ChainAudit,
        effects: Callable[[ChainPart], Sequence[UtxoTransaction]],
        waiting: Sequence[UtxoTransaction],
    ) -> None:
        for turn, start in enumerate(range(0, len(self._wanted), GROUPS_AT_ONCE)):
            if turn == PASSES:
                left = len(self._wanted) - start
                self._report.note(f"{left} of 65536 groups of outputs differ as well, and were not looked at one by one")
                return
            groups = set(self._wanted[start : start + GROUPS_AT_ONCE])
            made: dict[bytes, Made] = {}
            self._collect(made, groups, [*([genesis] if genesis is not None else []), *waiting])
            async for part in chain.parts():
                self._collect(made, groups, effects(part))
            # Spends are looked at once all outputs are known: a pending transaction comes before what it spends here.
            await self._spenders(made, groups, chain, effects, waiting)
            await self._against_store(made)
            await self._against_blocks(made, groups)

    @staticmethod
    def _collect(made: dict[bytes, Made], groups: Set[int], transactions: Iterable[UtxoTransaction]) -> None:
        for effect in transactions:
            vector = effect.outputs
            for index, (at, begin, end) in enumerate(output_spans(vector)):
                point = outpoint(effect.txid, index)
                if group_of(point) in groups:
                    made[point] = Made(int.from_bytes(vector[at : at + 8], "little"), vector[begin:end])

    async def _spenders(
        self,
        made: dict[bytes, Made],
        groups: Set[int],
        chain: ChainAudit,
        effects: Callable[[ChainPart], Sequence[UtxoTransaction]],
        waiting: Sequence[UtxoTransaction],
    ) -> None:
        def look(transactions: Iterable[UtxoTransaction]) -> None:
            for effect in transactions:
                for point in effect.spends:
                    if group_of(point) not in groups:
                        continue
                    output = made.get(point)
                    by = effect.txid[::-1].hex()
                    if output is None:
                        self._differs(
                            "a transaction spends an output that no block or pending transaction makes", point, by
                        )
                    elif output.spender is not None and output.spender != effect.txid:
                        self._differs("an output is spent twice in the chain", point, by)
                    else:
                        output.spender = effect.txid

        async for part in chain.parts():
            look(effects(part))
        look(waiting)

    async def _against_store(self, made: dict[bytes, Made]) -> None:
        points = list(made)
        for start in range(0, len(points), READ):
            part = points[start : start + READ]
            known = await self._store.known([point[:32] for point in part])
            for point, held, there in zip(part, await self._store.get_outputs(part), known, strict=True):
                wanted = made[point]
                if held is None:
                    if wanted.spender is None or there:
                        self._differs("an output is gone from the store", point, "")
                    continue
                if held.satoshis != wanted.satoshis:
                    values = f"{held.satoshis} satoshis, not {wanted.satoshis}"
                    self._differs("an output has another value in the store than in its block", point, values)
                elif held.script != wanted.script and not held.spendable_from:
                    self._differs(
                        "an output has another script in the store than in its block", point, held.script.hex()[:80]
                    )
                if wanted.spender is None and held.spender is not None:
                    by = held.spender[:32][::-1].hex()
                    self._differs("an output is spent in the store by what no block or pending transaction is", point, by)

    async def _against_blocks(self, made: dict[bytes, Made], groups: Set[int]) -> None:
        """Unspent outputs of the store that nothing makes, and those that it does not list."""
        listed: set[bytes] = set()
        async for point, output in self._store.iterate_unspent():
            if group_of(point) not in groups:
                continue
            listed.add(point)
            if point not in made:
                self._differs(
                    "the store has an unspent output that no transaction makes", point, f"{output.satoshis} satoshis"
                )
        points = [point for point, output in made.items() if output.spender is None and point not in listed]
        for start in range(0, len(points), READ):
            part = points[start : start + READ]
            for point, held in zip(part, await self._store.get_outputs(part), strict=True):
                if held is not None and held.spender is None:
                    self._differs("an unspent output is not found by going through all of them", point, "")

    def _differs(self, kind: str, point: bytes, more: str) -> None:
        self._report.differs(kind, name(point) + (f", {more}" if more else ""), self._fix)
