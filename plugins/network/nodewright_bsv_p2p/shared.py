"""What the peers of one node share: the node, the settings, who is connected, who is to blame for what."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio
from attrs import define, field

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import HEAD
from nodewright.interfaces.service import NodeHandle
from nodewright_bsv_p2p.config import BsvP2pConfig

if TYPE_CHECKING:
    from nodewright_bsv_p2p.peer import Peer

MAX_REQUESTED = 200_000
REQUEST_SECONDS = 30.0


@define(eq=False)
class Shared:
    """``baton`` is held by the one peer whose blocks are fetched now. ``requested`` has transactions that some peer was
    asked for, with the time when: nobody else is within REQUEST_SECONDS."""

    node: NodeHandle
    environment: Environment
    config: BsvP2pConfig
    magic: bytes
    nonce: int
    blame: Callable[[Peer, int, str], None]
    peers: dict[int, Peer] = field(factory=dict)
    baton: trio.Lock = field(factory=trio.Lock)
    requested: OrderedDict[bytes, float] = field(factory=OrderedDict)

    async def query(self, kind: str, **arguments: Any) -> Any:
        return await self.node.consensus.query(kind, **arguments)

    async def unknown(self, ids: Sequence[bytes]) -> list[bytes]:
        """Those transactions that this node neither has nor had, and nobody was asked for just now; they count as asked
        for from here on."""
        now = self.environment.monotonic()
        bodies = self.node.pool.bodies(ids)
        absent = [
            id
            for id, body in zip(ids, bodies, strict=True)
            if body is None and now - self.requested.get(id, -REQUEST_SECONDS) >= REQUEST_SECONDS
        ]
        if not absent:
            return []
        known = await self.node.execution.query(HEAD, "known", txids=absent)
        wanted = [id for id, is_known in zip(absent, known, strict=True) if not is_known]
        for id in wanted:
            self.requested.pop(id, None)
            self.requested[id] = now
        while len(self.requested) > MAX_REQUESTED:
            self.requested.popitem(last=False)
        return wanted
