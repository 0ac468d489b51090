"""The next chunk's transactions, chosen as soon as the state that it will stand on is known, and not when it is made.

Invariants: what is prepared belongs to one (head, shard) and is forgotten with that head; it is used only where choosing
again could add nothing: the chunk is full with it, or nothing new has come to wait since.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from attrs import define, field, frozen

from nodewright_near.transactions import SignedTransaction
from nodewright_nightshade.chain import Chain, Held
from nodewright_nightshade.waiting import Chosen, Waiting


@frozen
class Prepared:
    chosen: Chosen
    arrived: int


@define
class Preparing:
    """``mine`` says of which shards this node makes the chunks on a head."""

    chain: Chain
    waiting: Waiting
    mine: Callable[[Held], Awaitable[Sequence[int]]]
    used: int = 0
    _head: bytes = b""
    _prepared: dict[int, Prepared] = field(factory=dict)

    async def run(self) -> None:
        while True:
            head = self.chain.head
            if head.info.hash != self._head:
                self._head, self._prepared = head.info.hash, {}
                for shard in await self.mine(head):
                    if not await self.waiting.settled(head, shard):
                        continue
                    arrived = self.waiting.arrived
                    chosen = await self.waiting.look(head, shard)
                    if self._head != self.chain.head.info.hash:
                        break
                    self._prepared[shard] = Prepared(chosen, arrived)
            if head.info.hash == self.chain.head.info.hash:
                await self.chain.moved()

    def take(self, head: Held, shard: int) -> list[SignedTransaction] | None:
        """None where it has to be chosen now."""
        prepared = self._prepared.pop(shard, None)
        if prepared is None or self._head != head.info.hash:
            return None
        if not prepared.chosen.full and prepared.arrived != self.waiting.arrived:
            return None
        self.used += 1
        return prepared.chosen.transactions
