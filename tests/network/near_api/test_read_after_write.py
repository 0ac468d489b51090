"""Who is told that his transaction ran reads its effects, also where a block takes long to store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewright_near.transactions import Transfer

SLOW = {
    "stores.chain.use": "faulty",
    "stores.chain.allow_faults": "true",
    "stores.chain.delay_rate": "1",
    "stores.chain.max_delay_seconds": "0.2",
    "stores.chain.inner": "chain-disk",
    "stores.chain-disk.use": "leveldb",
}


@pytest.fixture
def slow(tmp_path: Path, helpers: Any) -> Iterator[Any]:
    yield from helpers.started(tmp_path, **SLOW)


def test_an_outcome_is_told_once_its_effects_can_be_read(slow: Any) -> None:
    account = bytes(range(32)).hex()
    for paid in range(10**24, 4 * 10**24, 10**24):
        slow.send(slow.sign(account, Transfer(10**24)))
        assert int(slow.query("view_account", account_id=account)["amount"]) == paid
