"""SV Node and this node are sent the same transactions, valid ones and broken ones, and take the same ones.

By default each kind some times; ``--budget`` multiplies. Both stand on one chain and do not hear of one another meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from nodewright.bench.node import NodeProcess
from nodewright_bitcoin.encoding import sha256d
from nodewright_bitcoin.network import REGTEST, address_of_pubkey
from nodewright_bitcoin.testing.mutations import KINDS, Offer, Purse, offer
from nodewright_bsv_api.bench.wallet import Coin, Key, fan_out
from nodewright_bsv_api.client import BsvClient
from nodewright_bsv_p2p.testing.svnode import SvNode, SvNodeError

SEED = 11
TIMES = 6
MINER = Key(SEED, 0)
ADDRESS = address_of_pubkey(MINER.public, REGTEST)
SATOSHIS = 20_000
POLICY = {
    # Neither is asked of a block, and nodes differ: SV Node keeps both in pools of their own that it does not mine from.
    "lock not passed": "bad-txns-nonfinal",
    "no fee": "mempool min fee not met",
}
"""Kinds that SV Node takes and this node does not relay, and by which name (docs/svnode.md lists them)."""
DUST = ("output of nothing", "data without a zero")
"""Kinds that this node relays and SV Node calls dust: an output of no amount that is no data by its standards."""


class Owner(Key):
    """A key that is made of its private bytes."""

    __slots__ = ("secret",)

    def __init__(self, index: int) -> None:
        super().__init__(SEED, 1 + index)
        self.secret = self.private.secret


def purses_on(node: SvNode, count: int) -> list[Purse]:
    node.mine(100 + -(-count // 500), ADDRESS)
    owners = [Owner(index) for index in range(count)]
    purses: list[Purse] = []
    for at, start in enumerate(range(0, count, 500)):
        part = owners[start : start + 500]
        txid = node.rpc("getblockbyheight", at + 1, 1)["tx"][0]
        coin = Coin(bytes.fromhex(txid)[::-1] + bytes(4), 50 * 100_000_000, MINER)
        raw, coins = fan_out(coin, part, SATOSHIS)
        assert not node.rpc("sendrawtransactions", [{"hex": raw.hex(), "allowhighfees": True}]).get("invalid")
        purses += [Purse(one.outpoint, SATOSHIS, owner.secret) for one, owner in zip(coins, part, strict=False)]
    node.mine(2, ADDRESS)
    return purses


def theirs_says(node: SvNode, raw: bytes) -> str:
    """'' where it is taken, else the reason."""
    try:
        answer = node.rpc("sendrawtransactions", [{"hex": raw.hex(), "allowhighfees": True}])
    except SvNodeError as error:
        return str(error)
    invalid = answer.get("invalid")
    return str(invalid[0].get("reject_reason")) or "invalid" if invalid else ""


def ours_says(client: BsvClient, raw: bytes) -> str:
    status, text = client.post_tx(raw)
    return "" if status == 200 else f"{status} {text}"


@pytest.mark.slow
def test_both_take_the_same_transactions(
    svnode: Callable[..., SvNode],
    ours: Callable[..., NodeProcess],
    client_of: Callable[[NodeProcess], BsvClient],
    until: Callable[..., None],
    budget: int,
) -> None:
    theirs = svnode(whitelist="127.0.0.1", txindex=1, acceptnonstdtxn=0)
    random = Random(SEED)
    kinds = KINDS * (TIMES * budget)
    purses = purses_on(theirs, 2 * len(kinds))
    first = ours("follower", connect=[theirs.address])
    client = client_of(first)
    until(lambda: client.rpc("getbestblockhash") == theirs.rpc("getbestblockhash"), "one chain")
    theirs.rpc("setnetworkactive", False)
    offers: list[Offer] = []
    for index, kind in enumerate(kinds):
        both = random.random() < 0.3
        offers.append(offer(random, purses[2 * index : 2 * index + 1 + both], kind))
    differ: list[str] = []
    for one in offers:
        there, here = theirs_says(theirs, one.raw), ours_says(client, one.raw)
        if one.what in POLICY and not there and POLICY[one.what] in here:
            continue
        if one.what in DUST and there == "dust" and not here:
            continue
        if bool(there) != bool(here):
            differ.append(
                f"{one.what}: SV Node {there or 'takes it'!r}, ours {here or 'takes it'!r}: {one.raw.hex()[:400]}"
            )
    taken = sum(not ours_says(client, one.raw) for one in offers)
    assert not differ, f"{len(differ)} of {len(offers)}:\n" + "\n".join(differ[:20])
    assert len(offers) // 5 < taken < len(offers)
    # And what both took, each puts into a block that the other takes.
    theirs.rpc("setnetworkactive", True)
    while client.rpc("getmininginfo")["pooledtx"]:
        client.rpc("generatetoaddress", 1, ADDRESS)
    until(lambda: client.rpc("getbestblockhash") == theirs.rpc("getbestblockhash"), "one chain again")
    kept = {sha256d(one.raw)[::-1].hex() for one in offers if one.what in POLICY}
    assert set(theirs.rpc("getrawmempool")) <= kept
