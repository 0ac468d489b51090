"""Contracts that take long, called on a running node: it answers others, bounds how many run, and goes on making blocks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nodewright_near.transactions import DeployContract, FunctionCall

TERA = 10**12
# ``spin`` uses up its gas; ``ask`` does by asking for the height again and again.
BUSY = r"""
(module
  (import "env" "block_index" (func $height (result i64)))
  (memory 1)
  (func (export "spin") (loop $on (br $on)))
  (func (export "ask") (loop $on (drop (call $height)) (br $on))))
"""


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, helpers: Any) -> Iterator[Any]:
    """A node of its own with the contract at its root account."""
    wasmtime = pytest.importorskip("wasmtime")
    for client in helpers.started(tmp_path_factory.mktemp("busy"), **{"execution.view_seconds": "0.2"}):
        code = bytes(wasmtime.wat2wasm(BUSY))
        client.send(client.sign("sandbox", DeployContract(code)))
        yield client


def called(client: Any, method: str) -> tuple[int, dict[str, Any]]:
    named = {"request_type": "call_function", "finality": "optimistic", "account_id": "sandbox", "method_name": method}
    answer: tuple[int, dict[str, Any]] = client.call("query", named | {"args_base64": ""})
    return answer


def test_the_node_answers_while_contracts_spin(busy: Any) -> None:
    """A view call, and a call in a chunk, of 300 Tgas each."""
    with ThreadPoolExecutor(1) as pool:
        for begin in (
            lambda: called(busy, "spin"),
            lambda: busy.send(busy.sign("sandbox", FunctionCall("spin", b"", 300 * TERA, 0))),
        ):
            before, answered = busy.result("block", {"finality": "optimistic"})["header"]["height"], 0
            running = pool.submit(begin)
            while not running.done():
                assert busy.request("GET", "/status")[0] == 200
                answered += not running.done()
            assert answered > 10
            assert busy.result("block", {"finality": "optimistic"})["header"]["height"] >= before
    assert running.result()["status"]["Failure"]["ActionError"]["kind"]["FunctionCallError"]["ExecutionError"] == (
        "Exceeded the prepaid gas."
    )


def test_view_calls_are_bounded_in_number_and_time(busy: Any) -> None:
    with ThreadPoolExecutor(60) as pool:
        told = list(pool.map(lambda _: called(busy, "ask"), range(60)))
    by_status = {status: answer["error"] for status, answer in told if status != 200}
    assert set(by_status) == {408, 503}
    assert by_status[408]["cause"]["name"] == "TIMEOUT_ERROR" and "took longer than 0.2 s" in by_status[408]["data"]
    assert by_status[503]["cause"]["name"] == "INTERNAL_ERROR" and "ask again later" in by_status[503]["data"]
    status, answer = called(busy, "spin")
    assert status == 200 and answer["result"]["error"].endswith("HostError(GasLimitExceeded)")
