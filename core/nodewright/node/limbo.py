"""Accepted transactions that the execution does not hold: after a restart, or when its rules have changed under them. They
are offered to it again.

Invariant: a transaction leaves limbo when the execution takes it or when it gets a final status, never otherwise.

Parents come before children in most journals, and then each is offered once. In one that has children first, what was
refused for want of a parent is offered once more, in the order that the refusals tell, so that a chain written backwards
costs two offers each and not one for every transaction before it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from attrs import evolve

from nodewright.interfaces.common import Admission, Admitted, Refused
from nodewright.interfaces.environment import Environment
from nodewright.node.ordering import retry_order, waits_for

BATCH = 2048
TOLD_EVERY_SECONDS = 5.0

Offer = Callable[[Sequence[bytes]], Awaitable[list[Admission]]]
TakeUp = Callable[[list[Admitted]], Awaitable[None]]


class Limbo:
    """id → (raw, the last refusal), in the order to offer them."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._held: dict[bytes, tuple[bytes, Refused | None]] = {}
        self.known: list[bytes] = []  # the execution had these before they were offered: a block may hold them

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, id: bytes) -> bool:
        return id in self._held

    def put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        self._held.update((id, (raw, None)) for id, raw in items)

    def raw(self, id: bytes) -> bytes | None:
        found = self._held.get(id)
        return found[0] if found is not None else None

    def drop(self, id: bytes) -> bool:
        return self._held.pop(id, None) is not None

    def ids(self) -> list[bytes]:
        return list(self._held)

    def refusals(self) -> tuple[dict[bytes, str], dict[bytes, bytes]]:
        """Why those that are left were refused: reasons, and winners of conflicts."""
        reasons: dict[bytes, str] = {}
        winners: dict[bytes, bytes] = {}
        for id, (_, answer) in self._held.items():
            winner = answer.data.get("winner") if answer is not None and answer.kind == "conflict" else None
            if isinstance(winner, bytes):
                winners[id] = winner
            elif answer is not None:
                reasons[id] = f"{answer.code}: {answer.message}"
        return reasons, winners

    async def offer(self, offer: Offer, take_up: TakeUp) -> None:
        """All of them, in order; then, parents first, those refused for want of one that came after them. ``take_up`` gets
        what was admitted, and is to take it out of here."""
        order = self.ids()
        told = self._environment.now()
        while order:
            asked: list[bytes] = []
            answers: list[Admission] = []
            taken = 0
            for start in range(0, len(order), BATCH):
                part = [id for id in order[start : start + BATCH] if id in self._held]
                if not part:
                    continue
                given = await offer([self._held[id][0] for id in part])
                asked += part
                answers += given
                taken += await self._take_up(part, given, take_up)
                if (now := self._environment.now()) >= told + TOLD_EVERY_SECONDS:
                    told = now
                    self._environment.logger.info(
                        "offering accepted transactions again", offered=len(asked), of=len(order), left=len(self)
                    )
            if not taken:
                return
            order = self._again(asked, answers)

    async def _take_up(self, ids: Sequence[bytes], answers: Sequence[Admission], take_up: TakeUp) -> int:
        admitted: list[Admitted] = []
        for id, answer in zip(ids, answers, strict=True):
            held = self._held.get(id)
            if held is None:
                continue  # it got a final status meanwhile
            if isinstance(answer, Refused):
                self._held[id] = (held[0], answer)
            else:
                if answer.known:
                    self.known.append(id)
                admitted.append(evolve(answer, id=id, known=False))
        await take_up(admitted)
        return len(admitted)

    def _again(self, asked: Sequence[bytes], answers: Sequence[Admission]) -> list[bytes]:
        missing = {
            at: asked[at]
            for at, answer in enumerate(answers)
            if isinstance(answer, Refused) and answer.kind == "missing" and asked[at] in self._held
        }
        order = [asked[at] for at in retry_order(answers, missing)]
        # Those whose execution does not say what they miss: again, as long as that helps others.
        return order + [id for at, id in missing.items() if not waits_for(answers[at])]
