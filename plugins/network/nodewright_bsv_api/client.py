"""A small blocking client of this service, for the benchmark, the demo and tests. Wallets use their family's SDKs."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from nodewright.errors import NodewrightError

OCTETS = "application/octet-stream"


class RpcFailure(NodewrightError):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code


def _result(answer: dict[str, Any]) -> Any:
    if answer["error"] is not None:
        raise RpcFailure(answer["error"]["code"], answer["error"]["message"])
    return answer["result"]


class BsvClient:
    """One keep-alive connection. ``cookie`` is the node's ``.cookie`` file (read at each connection)."""

    def __init__(self, url: str, cookie: Path | None = None, timeout_seconds: float = 120.0) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_seconds)
        self._cookie = cookie

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """(status, body). A connection that the server closed while idle is opened again once."""
        for attempt in (0, 1):
            try:
                self._connection.request(method, path, body=body or None, headers=headers or {})
                response = self._connection.getresponse()
                return response.status, response.read()
            except (http.client.RemoteDisconnected, BrokenPipeError):
                self._connection.close()
                if attempt:
                    raise
        raise AssertionError

    def post_tx(self, raw: bytes) -> tuple[int, str]:
        status, body = self.request("POST", "/tx", raw, {"content-type": OCTETS})
        return status, body.decode()

    def post_txs(self, raws: bytes) -> tuple[int, str]:
        """``raws`` concatenated. (200, "OK"), or a status with one line per failed transaction."""
        status, body = self.request("POST", "/txs", raws, {"content-type": OCTETS})
        return status, body.decode()

    def get_json(self, path: str) -> Any:
        status, body = self.request("GET", path)
        if status != 200:
            raise NodewrightError(f"GET {path} answered {status}: {body[:300].decode(errors='replace')}")
        return json.loads(body)

    def rpc(self, method: str, *parameters: Any) -> Any:
        """The result; raises RpcFailure."""
        return _result(self._call({"id": 1, "method": method, "params": list(parameters)}))

    def rpc_many(self, method: str, each: Iterable[Any], at_once: int = 500) -> list[Any]:
        """The results of one call per item, each with that item as its parameter, in batches; raises RpcFailure."""
        calls = [{"id": index, "method": method, "params": [item]} for index, item in enumerate(each)]
        answers = [answer for at in range(0, len(calls), at_once) for answer in self._call(calls[at : at + at_once])]
        return [_result(answer) for answer in answers]

    def _call(self, document: Any) -> Any:
        headers = {"content-type": "application/json"}
        if self._cookie is not None:
            headers["authorization"] = "Basic " + base64.b64encode(self._cookie.read_text().strip().encode()).decode()
        status, body = self.request("POST", "/", json.dumps(document).encode(), headers)
        if status == 401:
            raise RpcFailure(401, "the node refused the JSON-RPC credentials")
        return json.loads(body)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> BsvClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
