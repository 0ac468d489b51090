"""The kit on the small chains' executions."""

from __future__ import annotations

from nodewright.testing.execution import ExecutionTests
from nodewright.testing.execution_shapes import AccountPayments, CoinPayments, ShardPayments


class TestCoins(CoinPayments, ExecutionTests):
    pass


class TestAccounts(AccountPayments, ExecutionTests):
    pass


class TestShards(ShardPayments, ExecutionTests):
    pass
