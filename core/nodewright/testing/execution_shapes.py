"""What the ``execution`` kit is given for the small chains' executions: a pattern for one's own.

Each is to be subclassed together with ``ExecutionTests``, the generator first::

    class TestCoins(CoinPayments, ExecutionTests):
        pass
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodewright.interfaces.execution import HEAD, Execution
from nodewright.testing.execution_base import ExecutionKit
from nodewright.testing.execution_terms import GENESIS, Sample
from nodewright.testing.shapes import plugin
from nodewright.testing.shapes.codec import u8
from nodewright.testing.shapes.coin_formats import transfer as pay
from nodewright.testing.shapes.keys import Key
from nodewright.testing.shapes.shard_rules import shard_of
from nodewright.testing.shapes.transfers import parse, transfer

_SPECS = {spec.name: spec for spec in plugin.register_execution()}
_PEOPLE = [Key(f"owner {number}") for number in range(40)]
_HERE, _THERE = ([key for key in _PEOPLE if shard_of(key.public, 2) == shard][:6] for shard in (0, 1))
OWNERS = [key for pair in zip(_HERE, _THERE, strict=True) for key in pair]  # by purse: of the first shard, of the second
SHOP = Key("shop")
PRICES = (7, 5)  # of the two variants
_MONEY = [(owner.public.hex(), 1000) for owner in OWNERS]
_COINS = {"execution": {"coins": _MONEY}}
_ONE_SHARD = {"execution": {"accounts": _MONEY, "shards": 1}}
_TWO_SHARDS = {"execution": {"accounts": _MONEY, "shards": 2}}


class CoinPayments(ExecutionKit):
    spec = _SPECS["coins"]
    genesis = _COINS

    def chain(self, purse: int, variant: int, length: int) -> Sequence[Sample]:
        made = []
        outpoint, left, owner = GENESIS.id + u8(purse), 1000, OWNERS[purse]
        for _ in range(length):
            left -= PRICES[variant]
            tx = pay([(outpoint, owner)], [(owner.public, left), (SHOP.public, PRICES[variant])])
            made.append(Sample(tx.id, tx.raw))
            outpoint = tx.outpoint(0)
        return made

    def invalid(self, purse: int) -> Sample:
        """Signed by somebody else."""
        tx = pay([(GENESIS.id + u8(purse), SHOP)], [(SHOP.public, 1)])
        return Sample(tx.id, tx.raw)

    async def state(self, execution: Execution) -> Any:
        return await execution.query(HEAD, "outputs")


class AccountPayments(ExecutionKit):
    spec = _SPECS["accounts"]
    genesis = _ONE_SHARD

    def chain(self, purse: int, variant: int, length: int) -> Sequence[Sample]:
        paid = [transfer(OWNERS[purse], nonce, SHOP.public, PRICES[variant]) for nonce in range(length)]
        return [self._sample(tx.raw) for tx in paid]

    def invalid(self, purse: int) -> Sample:
        """With a signature that is none."""
        raw = transfer(OWNERS[purse], 0, SHOP.public, 1).raw
        return self._sample(raw[:-1] + bytes([raw[-1] ^ 1]))

    def _sample(self, raw: bytes) -> Sample:
        tx = parse(raw)
        return Sample(tx.id, tx.raw, shard_of(tx.sender, self.shards))

    async def state(self, execution: Execution) -> Any:
        return await execution.query(HEAD, "accounts")


class ShardPayments(AccountPayments):
    spec = _SPECS["shards"]
    genesis = _TWO_SHARDS
    shards = 2

    async def state(self, execution: Execution) -> Any:
        return [await execution.query(HEAD, "accounts", shard=shard) for shard in range(self.shards)]
