"""What a block changed of the state, by account: told where ``execution.save_state_changes`` is on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from nodewright.interfaces.execution import HEAD
from nodewright_near.accounts import ACCESS_KEY, ACCOUNT, CODE, DATA
from nodewright_near.genesis import account_of_key
from nodewright_near.primitives import base58
from nodewright_near_api import params as take
from nodewright_near_api.errors import handler_error
from nodewright_near_api.params import OPTIMISTIC, Params
from nodewright_near_api.reads import ChainReads

TOUCHED: Final = {
    ACCOUNT: "account_touched",
    ACCESS_KEY: "access_key_touched",
    CODE: "contract_code_touched",
    DATA: "data_touched",
}


class ChangeMethods:
    def __init__(self, reads: ChainReads) -> None:
        self._reads = reads

    def methods(self) -> dict[str, Callable[[Params], Awaitable[Any]]]:
        return {"EXPERIMENTAL_changes_in_block": self.changes_in_block, "block_effects": self.changes_in_block}

    async def changes_in_block(self, params: Params) -> dict[str, Any]:
        """Kinds and accounts, in the order of shards and then of their rows; the rows themselves are asked by ``query``."""
        found = await self._reads.want(take.block_reference(params.take(("block_id",)), OPTIMISTIC))
        execution = self._reads.node.execution
        told: dict[tuple[str, str], None] = {}
        for shard in range(len(found.block.body.chunks)):
            if not found.block.is_new(shard):
                continue
            changes = await execution.query(HEAD, "changes", block=found.info.hash, shard=shard)
            if changes is None:
                raise handler_error(
                    "NOT_SYNCED_YET",
                    f"what block {base58(found.info.hash)} changed in shard {shard} is not kept on this node: set "
                    "execution.save_state_changes = true for blocks to come",
                )
            for key in changes:
                kind, account = TOUCHED.get(key[0]), account_of_key(key)
                if kind is not None and account is not None:
                    told[kind, account] = None
        changed = [{"type": kind, "account_id": account} for kind, account in told]
        return {"block_hash": base58(found.info.hash), "changes": changed}
