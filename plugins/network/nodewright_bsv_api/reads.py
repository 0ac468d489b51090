"""Reads the asset routes and the JSON-RPC share: blocks by hash or height, transactions with where they stand."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from nodewright.interfaces.common import BlockRecord, BlockRef, Location
from nodewright.interfaces.execution import HEAD
from nodewright.interfaces.service import NodeHandle
from nodewright_bitcoin.network import ChainParameters
from nodewright_bsv_api import documents
from nodewright_bsv_api.errors import parse_id


@frozen
class FoundTransaction:
    raw: bytes
    location: Location | None

    @property
    def block(self) -> BlockRef | None:
        return self.location.block if self.location else None


class ChainReads:
    def __init__(self, node: NodeHandle) -> None:
        self.node = node

    async def chain(self) -> ChainParameters:
        parameters: ChainParameters = await self.node.execution.query(HEAD, "chain")
        return parameters

    async def block_by(self, text: str) -> BlockRecord | None:
        """A block by display hash or by decimal height on the best chain."""
        id = parse_id(text)
        if id is not None:
            return await self.node.consensus.block(id)
        if text.isascii() and text.isdigit() and len(text) < 12:
            return await self.node.consensus.block_at(int(text))
        return None

    async def confirmations(self, record: BlockRecord) -> int:
        """-1 off the best chain, else 1 for the head."""
        there = await self.node.consensus.block_at(record.ref.height)
        if there is None or there.ref.id != record.ref.id:
            return -1
        return self.node.consensus.head().height - record.ref.height + 1

    async def header_document(self, record: BlockRecord) -> dict[str, Any]:
        confirmations = await self.confirmations(record)
        following = await self.node.consensus.block_at(record.ref.height + 1) if confirmations > 1 else None
        return documents.header_document(record, confirmations, following.ref.id if following else None)

    async def transaction(self, id: bytes) -> FoundTransaction | None:
        """From the pool, a bundle or a block; None where the node does not hold the body."""
        (location,) = await self.node.consensus.locate([id])
        (raw,) = self.node.pool.bodies([id])
        if raw is None:
            (raw,) = await self.node.consensus.transactions([id])
        return None if raw is None else FoundTransaction(raw, location)

    async def last_blocks(self, below: int | None, count: int) -> list[BlockRecord]:
        """``count`` blocks of the best chain from height ``below`` (default the head) downwards."""
        top = self.node.consensus.head().height if below is None else min(below, self.node.consensus.head().height)
        records = []
        for height in range(top, max(-1, top - count), -1):
            record = await self.node.consensus.block_at(height)
            if record is not None:
                records.append(record)
        return records
