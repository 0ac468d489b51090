"""Following the node's final blocks from outside: what was in their chunks, what ran, how fast they came. Blocking code."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import define, field

from nodewright.errors import NodewrightError
from nodewright_near.parameters import Parameters
from nodewright_near.primitives import NO_HASH, base58

NO_HEADERS: Final[Mapping[str, str]] = {}
NOTHING: Final = base58(NO_HASH)  # the root of no transactions


class Rpc:
    """One keep-alive connection. ``account``: any name of a shard that the node keeps."""

    def __init__(self, url: str, account: str = "sandbox", timeout_seconds: float = 120.0) -> None:
        self._account = account
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_seconds)

    def __call__(self, method: str, **params: Any) -> Any:
        answer = self.answer(method, **params)
        if "error" in answer:
            raise NodewrightError(f"{method}: {answer['error'].get('data') or answer['error']['cause']['name']}")
        return answer["result"]

    def answer(self, method: str, **params: Any) -> dict[str, Any]:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        answer: dict[str, Any] = json.loads(self._read("POST", "/", body, {"content-type": "application/json"}))
        return answer

    def _read(self, method: str, path: str, body: str | None = None, headers: Mapping[str, str] = NO_HEADERS) -> bytes:
        """All that is asked may be asked again: a connection that was idle for long is closed by the node."""
        try:
            self._connection.request(method, path, body, dict(headers))
            return self._connection.getresponse().read()
        except (http.client.RemoteDisconnected, ConnectionError):
            self._connection.close()
            self._connection.request(method, path, body, dict(headers))
            return self._connection.getresponse().read()

    def metric(self, name: str) -> int:
        for line in self._read("GET", "/metrics").decode().splitlines():
            if line.startswith(name + " "):
                return int(float(line.split()[1]))
        raise NodewrightError(f"the node has no metric {name}")

    def final_height(self) -> int:
        """Asked for so that no block has to be read."""
        answer = self.answer("query", request_type="view_account", finality="final", account_id=self._account)
        found = answer["error"]["cause"]["info"] if "error" in answer else answer["result"]
        if "block_height" not in found:
            raise NodewrightError(f"the node says no final height: {answer['error'].get('data')}")
        return int(found["block_height"])

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

    def missed(self) -> list[int]:
        """For each shard: places for a chunk that stayed empty."""
        missed = [0] * len(self.blocks[-1]["chunks"])
        for block in self.blocks:
            new = {chunk["shard_id"] for chunk in self._new(block)}
            for shard in range(len(missed)):
                missed[shard] += shard not in new
        return missed

    def included(self, rpcs: Sequence[Rpc], progress: Callable[[str, int, int], None]) -> Counter[int]:
        """Transactions in these blocks' chunks, by shard; a chunk is asked of whoever has it."""
        chunks = [chunk for block in self.blocks for chunk in self._new(block) if chunk["tx_root"] != NOTHING]
        found: Counter[int] = Counter()
        for number, chunk in enumerate(chunks):
            for rpc in rpcs:
                answer = rpc.answer("chunk", chunk_id=chunk["chunk_hash"])
                if "error" not in answer:
                    found[chunk["shard_id"]] += len({one["hash"] for one in answer["result"]["transactions"]})
                    break
            progress("accounting", number + 1, len(chunks))
        return found

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
