"""The kit on the small chains' executions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodewright.interfaces import HEAD, Execution
from nodewright.testing.execution import GENESIS, ExecutionTests, Sample
from nodewright.testing.shapes import plugin
from nodewright.testing.shapes.codec import u8
from nodewright.testing.shapes.coin_formats import transfer as pay
from nodewright.testing.shapes.keys import Key
from nodewright.testing.shapes.shard_rules import shard_of
from nodewright.testing.shapes.transfers import parse, transfer

SPECS = {spec.name: spec for spec in plugin.register_execution()}
PEOPLE = [Key(f"owner {number}") for number in range(40)]
HERE, THERE = ([key for key in PEOPLE if shard_of(key.public, 2) == shard][:6] for shard in (0, 1))
OWNERS = [key for pair in zip(HERE, THERE, strict=True) for key in pair]
SHOP = Key("shop")
PRICES = (7, 5)  # of the two variants
COINS = {"execution": {"coins": [(owner.public.hex(), 1000) for owner in OWNERS]}}
ACCOUNTS = [(owner.public.hex(), 1000) for owner in OWNERS]
ONE_SHARD = {"execution": {"accounts": ACCOUNTS, "shards": 1}}
TWO_SHARDS = {"execution": {"accounts": ACCOUNTS, "shards": 2}}


class TestCoins(ExecutionTests):
    spec = SPECS["coins"]
    genesis = COINS

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
        tx = pay([(GENESIS.id + u8(purse), SHOP)], [(SHOP.public, 1)])
        return Sample(tx.id, tx.raw)

    async def state(self, execution: Execution) -> Any:
        return await execution.query(HEAD, "outputs")


class Transfers(ExecutionTests):
    def chain(self, purse: int, variant: int, length: int) -> Sequence[Sample]:
        paid = [transfer(OWNERS[purse], nonce, SHOP.public, PRICES[variant]) for nonce in range(length)]
        return [self.sample(tx.raw) for tx in paid]

    def invalid(self, purse: int) -> Sample:
        raw = transfer(OWNERS[purse], 0, SHOP.public, 1).raw
        return self.sample(raw[:-1] + bytes([raw[-1] ^ 1]))

    def sample(self, raw: bytes) -> Sample:
        tx = parse(raw)
        return Sample(tx.id, tx.raw, shard_of(tx.sender, self.shards))


class TestAccounts(Transfers):
    spec = SPECS["accounts"]
    genesis = ONE_SHARD

    async def state(self, execution: Execution) -> Any:
        return await execution.query(HEAD, "accounts")


class TestShards(Transfers):
    spec = SPECS["shards"]
    genesis = TWO_SHARDS
    shards = 2

    async def state(self, execution: Execution) -> Any:
        return [await execution.query(HEAD, "accounts", shard=shard) for shard in range(self.shards)]


class TestOneShard(TestShards):
    genesis = ONE_SHARD
    config = plugin.ShardsConfig(kept=[0])
    shards = 1
