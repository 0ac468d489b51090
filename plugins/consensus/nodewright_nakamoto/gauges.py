"""The figures of this consensus under the names that Teranode's own acceptance suite looks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nodewright.interfaces.service import Metrics

if TYPE_CHECKING:
    from nodewright_nakamoto.consensus import Nakamoto

STATES: Mapping[str, int] = {"idle": 0, "running": 1, "syncing": 2}
INTERVAL_SECONDS = 1.0


class Gauges:
    def __init__(self, metrics: Metrics, consensus: Nakamoto) -> None:
        self._consensus = consensus
        self._validated = 0
        self._height: Any = metrics.gauge("teranode_blockassembly_best_block_height", "height of the best block")
        self._state: Any = metrics.gauge(
            "teranode_blockchain_fsm_current_state", "0 idle, 1 running, 2 catching up with blocks"
        )
        self._assembled: Any = metrics.gauge("teranode_blockassembly_transactions", "transactions in block assembly")
        self._blocks: Any = metrics.counter("teranode_blockvalidation_validate_block_count", "blocks validated")

    def update(self) -> None:
        chain = self._consensus.chain
        self._height.set(chain.tip.height)
        self._state.set(STATES[self._consensus.status()["state"]])
        self._assembled.set(len(chain.assembler))
        self._blocks.inc(chain.validated_blocks - self._validated)
        self._validated = chain.validated_blocks

    async def run(self) -> None:
        while True:
            self.update()
            await self._consensus.chain.environment.sleep(INTERVAL_SECONDS)
