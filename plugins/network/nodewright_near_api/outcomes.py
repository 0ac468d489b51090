"""What became of a transaction: its outcome and those of all receipts that came of it, and how sure that is.

Levels, as NEAR names them: ``INCLUDED`` in a block; ``EXECUTED_OPTIMISTIC`` all but refunds have run; ``INCLUDED_FINAL``
in a final block; ``EXECUTED`` both; ``FINAL`` everything, refunds too, has run in final blocks.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import field, frozen

from nodewright.interfaces.execution import HEAD
from nodewright.interfaces.service import NodeHandle
from nodewright_near.merkle import MerklePath
from nodewright_near.outcomes import Outcome, SuccessReceiptId, SuccessValue
from nodewright_near.receipts import Receipt
from nodewright_near.records import StoredOutcome
from nodewright_near.transactions import SignedTransaction
from nodewright_near_api.errors import internal_error
from nodewright_near_api.views import outcome_view, receipt_view, status_view, transaction_view

MAX_RECEIPTS: Final = 20_000
NONE, INCLUDED, OPTIMISTIC, INCLUDED_FINAL, EXECUTED, FINAL = (
    "NONE",
    "INCLUDED",
    "EXECUTED_OPTIMISTIC",
    "INCLUDED_FINAL",
    "EXECUTED",
    "FINAL",
)
# Which levels are enough for the one asked for: executed and final are two different things.
ENOUGH: Final = {
    NONE: frozenset({NONE, INCLUDED, OPTIMISTIC, INCLUDED_FINAL, EXECUTED, FINAL}),
    INCLUDED: frozenset({INCLUDED, OPTIMISTIC, INCLUDED_FINAL, EXECUTED, FINAL}),
    OPTIMISTIC: frozenset({OPTIMISTIC, EXECUTED, FINAL}),
    INCLUDED_FINAL: frozenset({INCLUDED_FINAL, EXECUTED, FINAL}),
    EXECUTED: frozenset({EXECUTED, FINAL}),
    FINAL: frozenset({FINAL}),
}


@frozen
class Told:
    stored: StoredOutcome
    outcome: Outcome


@frozen
class Fate:
    """``told`` begins with the transaction's own outcome, then receipts, each before those that it made. ``waiting`` are
    receipts without an outcome; ``refunds`` those of them that only give back."""

    level: str
    told: tuple[Told, ...] = ()
    waiting: tuple[bytes, ...] = ()
    refunds: frozenset[bytes] = field(factory=frozenset)

    def status(self) -> Any:
        """Where following the transaction's receipts leads."""
        if not self.told:
            return "NotStarted"
        by_id = {one.outcome.id: one.outcome for one in self.told}
        outcome = self.told[0].outcome
        while isinstance(outcome.status, SuccessReceiptId):
            following = by_id.get(outcome.status.receipt_id)
            if following is None:
                return "Started"
            outcome = following
        if isinstance(outcome.status, SuccessValue) or outcome.error is not None:
            return status_view(outcome)
        return "Started"


class Outcomes:
    def __init__(self, node: NodeHandle) -> None:
        self._node = node

    async def told(self, id: bytes) -> Told | None:
        """None also while the block in which it ran is being stored: who hears of an outcome reads its effects next, and
        reads are of the head."""
        stored: StoredOutcome | None = await self._node.execution.query(HEAD, "outcome", id=id)
        if stored is None or stored.height > self._node.consensus.head().height:
            return None
        return Told(stored, stored.outcome(id))

    async def path(self, told: Told) -> tuple[bytes, MerklePath] | None:
        """The outcome root of the chunk in which it ran, and the path from it to there."""
        found: tuple[bytes, MerklePath] | None = await self._node.execution.query(HEAD, "outcome_path", stored=told.stored)
        return found

    async def view(self, told: Told) -> dict[str, Any]:
        path = await self.path(told)
        return outcome_view(told.stored, told.outcome, path[1] if path is not None else ())

    async def receipt(self, id: bytes) -> Receipt | None:
        found: Receipt | None = await self._node.execution.query(HEAD, "receipt", id=id)
        return found

    async def fate(self, id: bytes) -> Fate:
        first = await self.told(id)
        final = self._node.consensus.final().height
        if first is None:
            (location,) = await self._node.consensus.locate([id])
            if location is None or location.block is None:
                return Fate(NONE)
            return Fate(INCLUDED_FINAL if location.block.height <= final else INCLUDED)
        told, waiting, refunds = [first], [], set()
        todo = list(reversed(first.outcome.receipt_ids))
        while todo:
            receipt_id = todo.pop()
            found = await self.told(receipt_id)
            if found is None:
                waiting.append(receipt_id)
                receipt = await self.receipt(receipt_id)
                if receipt is not None and receipt.is_refund:
                    refunds.add(receipt_id)
                continue
            told.append(found)
            if len(told) > MAX_RECEIPTS:
                raise internal_error(f"the transaction made more than {MAX_RECEIPTS} receipts: ask for them one by one")
            todo += reversed(found.outcome.receipt_ids)
        executed = len(waiting) == len(refunds)
        settled = first.stored.height <= final
        if executed and not waiting and all(one.stored.height <= final for one in told):
            level = FINAL
        elif executed:
            level = EXECUTED if settled else OPTIMISTIC
        else:
            level = INCLUDED_FINAL if settled else INCLUDED
        return Fate(level, tuple(told), tuple(waiting), frozenset(refunds))

    async def body(self, id: bytes) -> SignedTransaction | None:
        (raw,) = self._node.pool.bodies([id])
        if raw is None:
            (raw,) = await self._node.consensus.transactions([id])
        return None if raw is None else SignedTransaction.decode(raw)

    async def document(self, fate: Fate, signed: SignedTransaction | None, receipts: bool) -> dict[str, Any]:
        """``receipts``: with the receipts themselves. Without an outcome there is only the level to tell."""
        if not fate.told or signed is None:
            return {"final_execution_status": fate.level}
        views = [await self.view(one) for one in fate.told]
        answer: dict[str, Any] = {
            "final_execution_status": fate.level,
            "status": fate.status(),
            "transaction": transaction_view(signed),
            "transaction_outcome": views[0],
            "receipts_outcome": views[1:],
        }
        if receipts:
            ids = [one.outcome.id for one in fate.told[1:]]
            found = [await self.receipt(id) for id in [*ids, *fate.waiting]]
            answer["receipts"] = [receipt_view(one) for one in found if one is not None]
        return answer
