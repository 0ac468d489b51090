"""What the methods share: blocks by any reference, and the state of an account after one of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import trio
from attrs import frozen

from nodewright.errors import Pruned
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.execution import HEAD, View
from nodewright.interfaces.service import NodeHandle
from nodewright.services.pulse import Pulse
from nodewright_near.config import parameters
from nodewright_near.parameters import Parameters
from nodewright_near.primitives import base58
from nodewright_near.queries import Passed
from nodewright_near_api.errors import RpcError, handler_error, unknown_block
from nodewright_near_api.params import BlockReference
from nodewright_nightshade.blocks import Block, Info

T = TypeVar("T")
# A block is the head a moment before its chunks have run everywhere on this node.
EXECUTION_SECONDS: Final = 2.0
# What the head shows is final a few blocks later.
FINALITY_SECONDS: Final = 5.0
# How often a read is begun again because later blocks were committed under it.
MAX_PASSED: Final = 5


class NotYet(Exception):
    """The final state lacks what the head's has. ``answer`` holds if that does not change in time."""

    def __init__(self, answer: Any) -> None:
        super().__init__("not final yet")
        self.answer = answer


@frozen
class Found:
    block: Block
    info: Info

    @property
    def ref(self) -> BlockRef:
        return self.info.ref

    def place(self) -> dict[str, Any]:
        """What every answer to a query says of the block whose state it shows."""
        return {"block_height": self.info.height, "block_hash": base58(self.info.hash)}


class ChainReads:
    def __init__(self, node: NodeHandle, pulse: Pulse) -> None:
        self.node = node
        self.pulse = pulse
        self.parameters: Parameters = parameters(node.genesis.get("execution", {}))
        self._boundaries: tuple[str, ...] | None = None

    # --- blocks ------------------------------------------------------------------------------------------------------

    async def block(self, **which: Any) -> Found | None:
        """``id``, ``height`` or ``finality`` ("final" or "optimistic")."""
        found = await self.node.consensus.query("block", **which)
        return None if found is None else Found(*found)

    async def find(self, reference: BlockReference) -> Found | None:
        if reference.id is not None:
            return await self.block(id=reference.id)
        if reference.height is not None:
            return await self.block(height=reference.height)
        if reference.checkpoint is not None:
            return await self.genesis()
        if reference.finality == "near-final":
            head = await self.block(finality="optimistic")
            return None if head is None else await self.block(id=head.info.last_ds_final)
        return await self.block(finality=reference.finality)

    async def want(self, reference: BlockReference) -> Found:
        found = await self.find(reference)
        if found is None:
            raise unknown_block(reference.missing())
        return found

    async def genesis(self) -> Found | None:
        return await self.block(height=(await self.network())["genesis_height"])

    async def head(self) -> Found:
        found = await self.block(finality="optimistic")
        if found is None:
            raise handler_error("NO_SYNCED_BLOCKS", "There are no fully synchronized blocks on the node yet")
        return found

    async def network(self) -> dict[str, Any]:
        network: dict[str, Any] = await self.node.consensus.query("network")
        return network

    async def author(self, block: BlockRef) -> str:
        return str(await self.node.consensus.query("producer", id=block.id) or "")

    # --- the state ---------------------------------------------------------------------------------------------------

    async def shard(self, account: str) -> int:
        shard: int = await self.node.execution.query(HEAD, "shard", account_id=account)
        return shard

    async def at(self, reference: BlockReference, account: str, read: Callable[[View, Found], Awaitable[T]]) -> T:
        """``read`` the state of the account's shard after the block. The head may still be running, and a final block may
        pass out of what is held while it is read: both are tried again, and so is what raises ``NotYet``."""
        shard = await self.shard(account)
        if shard not in await self.node.execution.query(HEAD, "kept"):
            info = {"requested_shard_id": shard}
            raise handler_error("UNAVAILABLE_SHARD", f"The node does not track the shard ID {shard}", info)
        start, passed = trio.current_time(), 0
        while True:
            found = await self.find(reference)
            if found is None:
                raise unknown_block(reference.missing(), reference.document())
            ran = found.info.ran[shard].ref
            try:
                return await read(View("block", ran), found)
            except Passed:
                passed += 1
                if passed > MAX_PASSED:
                    raise collected(found) from None
                continue
            except Pruned:
                applied = await self.node.execution.applied(shard)
                gone = applied is not None and ran.height < applied.height and reference.finality is None
                if gone or trio.current_time() > start + EXECUTION_SECONDS:
                    raise collected(found) from None
            except NotYet as error:
                if trio.current_time() > start + FINALITY_SECONDS:
                    answer: T = error.answer
                    return answer
            await self.pulse.wait(0.05)


def collected(found: Found) -> RpcError:
    return handler_error(
        "GARBAGE_COLLECTED_BLOCK",
        f"The data for block #{found.info.height} is garbage collected on this node, use an archival node to fetch "
        "historical data",
        found.place(),
    )
