"""Following the node's final blocks from outside: what was in their chunks, what ran, how fast they came. Blocking code."""

from __future__ import annotations

import http.client
import json
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field

from nodewright.errors import NodewrightError
from nodewright_near.parameters import Parameters


class Rpc:
    """One keep-alive connection."""

    def __init__(self, url: str, timeout_seconds: float = 120.0) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_seconds)

    def __call__(self, method: str, **params: Any) -> Any:
        answer = self.answer(method, **params)
        if "error" in answer:
            raise NodewrightError(f"{method}: {answer['error'].get('data') or answer['error']['cause']['name']}")
        return answer["result"]

    def answer(self, method: str, **params: Any) -> dict[str, Any]:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        self._connection.request("POST", "/", body, {"content-type": "application/json"})
        answer: dict[str, Any] = json.loads(self._connection.getresponse().read())
        return answer

    def metric(self, name: str) -> int:
        self._connection.request("GET", "/metrics")
        for line in self._connection.getresponse().read().decode().splitlines():
            if line.startswith(name + " "):
                return int(float(line.split()[1]))
        raise NodewrightError(f"the node has no metric {name}")

    def final_height(self) -> int:
        """Asked for so that no block has to be read."""
        return int(self("query", request_type="view_account", finality="final", account_id="sandbox")["block_height"])

    def close(self) -> None:
        self._connection.close()


@define
class FinalBlocks:
    """Final blocks after the height ``last``, in order, of which each is asked for once.

    A chunk's header says how much gas the shard's chunk before it used; nothing but the benchmark's transfers runs, and a
    transfer uses the same twice: taken into a chunk, and when its receipt runs. So the gas says how much has run."""

    rpc: Rpc
    last: int
    blocks: list[dict[str, Any]] = field(factory=list)
    gas_used: int = 0

    def follow(self) -> int:
        """Take what has become final; the gas used by what these blocks show to have run."""
        final = self.rpc.final_height()
        while self.last < final:
            self.last += 1
            answer = self.rpc.answer("block", block_id=self.last)
            if "error" in answer:  # a height that was skipped
                continue
            block = answer["result"]
            self.blocks.append(block)
            self.gas_used += sum(chunk["gas_used"] for chunk in self._new(block))
        return self.gas_used

    def _new(self, block: dict[str, Any]) -> list[dict[str, Any]]:
        height = block["header"]["height"]
        return [chunk for chunk in block["chunks"] if chunk["height_included"] == height]

    def missed(self) -> int:
        """Places for a chunk that stayed empty."""
        return sum(len(block["chunks"]) - len(self._new(block)) for block in self.blocks)

    def chunks(self) -> list[str]:
        """Hashes, of those that are no repetition of an older one."""
        return [chunk["chunk_hash"] for block in self.blocks for chunk in self._new(block)]

    def times(self) -> list[float]:
        """Seconds between one block and the next."""
        stamps = [int(block["header"]["timestamp_nanosec"]) / 1e9 for block in self.blocks]
        return [later - earlier for earlier, later in pairwise(stamps)]

    def roots(self) -> list[str]:
        """The state that the newest final chunk of each shard stands on."""
        return [chunk["prev_state_root"] for chunk in self.blocks[-1]["chunks"]]


def transfer_gas(parameters: Parameters) -> int:
    """What a transfer burns when it is sent, and once more when it runs."""
    fees = parameters.fees
    return fees.action_receipt.send_not_sir + fees.transfer.send_not_sir
