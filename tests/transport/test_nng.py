"""The nng transport under the kit every transport passes."""

import pytest

from nodewright.testing.transport_kit import TransportTests


class TestNng(TransportTests):
    @pytest.fixture
    def world(self, nng_world):
        return nng_world

    @pytest.fixture(autouse=True)
    def more_with_budget(self, budget: int) -> None:
        self.body_megabytes = 16 if budget == 1 else 200
