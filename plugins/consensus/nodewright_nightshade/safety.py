"""What this validator has signed: a local file, synced before anything is sent, outside snapshot, copy and restore.

Invariants: every number only rises; a height is signed (approved, a block made for it, a chunk made for it on a shard) only
after the file says so. No approval is signed on a tip that is lower than one approved before: a chain store that is older
than the file (a restored copy) follows first, and signs once it is as high again. Where the chain store holds blocks and
there is no file, nothing is signed until the operator says that no other node signs with this key (``allow_voting``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from attrs import define, field

from nodewright.interfaces.environment import Environment
from nodewright.storage.synced import SignedFile

FILE = "signed.json"


@define
class Safety:
    environment: Environment
    approved: int = 0
    tip: int = 0  # height of the highest tip that was approved
    block: int = 0
    chunks: dict[int, int] = field(factory=dict)
    file: SignedFile = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        self.file = SignedFile(self.environment, self.environment.data_dir / FILE, self._encode)

    @property
    def may_sign(self) -> bool:
        return self.file.may_sign

    @classmethod
    async def open(cls, environment: Environment, chain_is_empty: bool) -> Safety:
        """Raises StoreCorrupt, StoreError."""
        safety = cls(environment)
        await safety.file.load(safety._decode, chain_is_empty)
        return safety

    def _encode(self) -> bytes:
        kept = {"approved": self.approved, "tip": self.tip, "block": self.block, "chunks": self.chunks}
        return json.dumps(kept).encode()

    def _decode(self, raw: bytes) -> None:
        kept: Mapping[str, Any] = json.loads(raw)
        self.approved, self.tip, self.block = (int(kept[name]) for name in ("approved", "tip", "block"))
        self.chunks = {int(shard): int(height) for shard, height in kept["chunks"].items()}

    async def approve(self, target: int, tip: int) -> bool:
        """Whether this target may be signed now, on a tip of this height; then it never may again."""
        if not self.may_sign or target <= self.approved or tip < self.tip:
            return False
        self.approved, self.tip = target, tip
        await self.file.save()
        return True

    async def make_block(self, height: int) -> bool:
        if not self.may_sign or height <= self.block:
            return False
        self.block = height
        await self.file.save()
        return True

    async def make_chunk(self, shard: int, height: int) -> bool:
        if not self.may_sign or height <= self.chunks.get(shard, 0):
            return False
        self.chunks[shard] = height
        await self.file.save()
        return True
