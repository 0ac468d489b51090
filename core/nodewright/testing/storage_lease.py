"""Conformance kit of the exclusive lease, for any store: whoever comes second is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nodewright.errors import LeaseLost, StoreLocked
from nodewright.testing.storage_base import StoreKit, tolerant


class LeaseTests(StoreKit):
    """Beside ``open_store``, a subclass gives ``write`` and, where owners can be put out, ``take_over``."""

    owner = "test"  # the node name that open_store opens under
    can_take_over: bool = False

    async def write(self, store: Any) -> None:
        """One change, with whatever the store offers."""
        raise TypeError(f"{type(self).__name__} does not say how to write: give it a write(store)")

    def take_over(self, store: Any, path: Path) -> None:
        """What another owner does to put the one who has ``store`` open out."""
        raise TypeError(f"{type(self).__name__} sets can_take_over and does not say how: give it a take_over(store, path)")

    async def test_a_second_owner_is_refused_by_name(self, tmp_path: Path) -> None:
        async with self.open_store(tmp_path) as store:
            with pytest.raises(StoreLocked, match=self.owner):
                async with self.open_store(tmp_path):
                    pass
            await self.write(store)
        async with self.open_store(tmp_path) as store:
            await self.write(store)

    async def test_an_owner_that_was_put_out_commits_nothing(self, tmp_path: Path) -> None:
        if not self.can_take_over:
            pytest.skip("owners cannot be put out")
        async with tolerant(self.open_store(tmp_path)) as store:
            await self.write(store)
            self.take_over(store, tmp_path)
            for _ in range(2):
                with pytest.raises(LeaseLost):
                    await self.write(store)
