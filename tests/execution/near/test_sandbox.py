"""Records that a sandbox puts into the state."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from nodewright.errors import ConfigurationError
from nodewright.interfaces.execution import HEAD


def account(name: str, amount: int) -> dict[str, Any]:
    return {"Account": {"account_id": name, "account": {"amount": str(amount), "locked": "0", "storage_usage": 182}}}


async def test_records_are_in_the_state_with_the_next_chunk(world: Any) -> None:
    w = await world({"alice.near": 10**24}).open()
    key, value = (base64.b64encode(part).decode() for part in (b"greeting", b"hello"))
    data = {"Data": {"account_id": "patched", "data_key": key, "value": value}}
    await w.engine.patch([account("patched", 7 * 10**24), data])
    assert await w.account("patched") is None
    await w.block()
    found = await w.account("patched")
    assert found is not None
    assert (found.amount, found.storage_usage) == (7 * 10**24, 182)
    assert await w.engine.query(HEAD, "state", account_id="patched") == {b"greeting": b"hello"}
    await w.block()
    assert await w.amount("patched") == 7 * 10**24


@pytest.mark.parametrize(
    "record", [{}, {"Account": {}}, {"Account": {"account_id": "A"}}, {"Nothing": {"account_id": "aa"}}]
)
async def test_what_is_no_record_is_refused(world: Any, record: Any) -> None:
    w = await world({"alice.near": 10**24}).open()
    with pytest.raises(ConfigurationError):
        await w.engine.patch([record])
    assert not w.engine.patches.pending


async def test_a_patch_is_put_on_again_when_its_block_is_run_after_a_crash(world: Any) -> None:
    w = await world({"alice.near": 10**24}).open()
    await w.engine.patch([account("patched", 7 * 10**24)])
    (request,) = w.requests([])
    outcome = await w.engine.execute(request)
    await w.engine.patch([account("later", 10**24)])
    engine = type(w.engine)(w.store, w.engine.environment, w.rules, None, 1 << 22)
    await engine.open()
    again = await engine.execute(request)
    assert again.commitment == outcome.commitment
    w.engine = engine
    await w.accept(request.block, {0: again})
    assert await w.amount("patched") == 7 * 10**24 and await w.account("later") is None
    assert not w.disk.live["near_patches"].rows
