"""A real SV Node and a node of this project follow one another over Bitcoin's own wire."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nodewright.bench.node import NodeProcess
from nodewright_bitcoin.network import REGTEST, address_of_pubkey
from nodewright_bsv_api.bench.wallet import Coin, Key, fan_out, payments, spend
from nodewright_bsv_api.client import BsvClient
from nodewright_bsv_p2p.testing.liar import Liar
from nodewright_bsv_p2p.testing.svnode import SvNode

MINER = Key(3, 0)
ADDRESS = address_of_pubkey(MINER.public, REGTEST)
ELSEWHERE = address_of_pubkey(Key(3, 10_000).public, REGTEST)
MATURITY = 100
TIP_AGE = 10 * 365 * 86400

pytestmark = pytest.mark.slow


def coinbase_coin(node: SvNode, height: int) -> Coin:
    txid = node.rpc("getblockbyheight", height, 1)["tx"][0]
    satoshis = round(node.rpc("getrawtransaction", txid, True)["vout"][0]["value"] * 100_000_000)
    return Coin(bytes.fromhex(txid)[::-1] + bytes(4), satoshis, MINER)


def send(node: SvNode, raws: list[bytes]) -> None:
    answer = node.rpc("sendrawtransactions", [{"hex": raw.hex(), "allowhighfees": True} for raw in raws])
    assert not answer.get("invalid"), answer


def fund(node: SvNode, count: int, first_key: int = 1) -> list[Coin]:
    """Mines to maturity if need be, and fans the first coinbase out."""
    height = node.rpc("getblockcount")
    if height <= MATURITY:
        node.mine(MATURITY + 1 - height, ADDRESS)
    raw, coins = fan_out(coinbase_coin(node, 1), [Key(3, first_key + n) for n in range(count)], 10_000)
    send(node, [raw])
    node.mine(1, ADDRESS)
    return coins[:-1]


def theirs_with(svnode: Callable[..., SvNode], name: str = "theirs", **options: object) -> SvNode:
    return svnode(name, whitelist="127.0.0.1", maxtipage=TIP_AGE, txindex=1, **options)


def mine_all(client: BsvClient) -> None:
    """Blocks until nothing is pending here."""
    while client.rpc("getmininginfo")["pooledtx"]:
        client.rpc("generatetoaddress", 1, ADDRESS)


def mined_since(node: SvNode, height: int) -> int:
    """Transactions in blocks above a height, coinbases apart."""
    blocks = range(height + 1, node.rpc("getblockcount") + 1)
    return sum(len(node.rpc("getblockbyheight", at, 1)["tx"]) - 1 for at in blocks)


def wire(node: NodeProcess) -> str:
    return node.service("bsv_p2p").removeprefix("tcp://")


def same_tip(theirs: SvNode, client: BsvClient) -> bool:
    return bool(theirs.rpc("getbestblockhash") == client.rpc("getbestblockhash"))


def test_what_it_mined_is_had_here_and_what_is_mined_here_it_follows(
    svnode: Callable[..., SvNode],
    ours: Callable[..., NodeProcess],
    client_of: Callable[[NodeProcess], BsvClient],
    until: Callable[..., None],
) -> None:
    theirs = theirs_with(svnode)
    coins = fund(theirs, 500)
    raws = list(payments(coins, 3))
    for start in range(0, 400, 4):
        send(theirs, raws[start : start + 4])
        theirs.mine(1, ADDRESS)
    assert theirs.rpc("getblockcount") >= 200

    node = ours(connect=[theirs.address])
    client = client_of(node)
    until(lambda: same_tip(theirs, client), "the chain of the SV Node is here")
    # The same unspent outputs: number, height and sum.
    there, here = theirs.rpc("gettxoutsetinfo"), client.rpc("gettxoutsetinfo")
    assert (here["height"], here["txouts"]) == (there["height"], there["txouts"])
    assert round(here["total_amount"] * 1e8) == round(there["total_amount"] * 1e8)

    # Its transactions come by the wire, and a block made of them here is followed there.
    send(theirs, raws[400:450])
    until(lambda: client.rpc("getmininginfo")["pooledtx"] == 50, "its transactions are in the pool here")
    # And ours go there.
    status, text = client.post_txs(b"".join(raws[450:]))
    assert status == 200, text
    until(lambda: theirs.rpc("getmempoolinfo")["size"] == 100, "our transactions are in its pool")
    height = client.rpc("getblockcount")
    mine_all(client)
    until(lambda: same_tip(theirs, client), "it follows the blocks mined here")
    assert theirs.rpc("getmempoolinfo")["size"] == 0
    assert mined_since(theirs, height) == 100
    theirs.mine(2, ADDRESS)
    until(lambda: same_tip(theirs, client), "and we follow it again")
    here, there = client.rpc("gettxoutsetinfo"), theirs.rpc("gettxoutsetinfo")
    assert here["txouts"] == there["txouts"]


def test_a_reorganisation_there_is_followed_here(
    svnode: Callable[..., SvNode],
    ours: Callable[..., NodeProcess],
    client_of: Callable[[NodeProcess], BsvClient],
    until: Callable[..., None],
) -> None:
    theirs = theirs_with(svnode)
    coins = fund(theirs, 40)
    node = ours(connect=[theirs.address])
    client = client_of(node)
    raws = list(payments(coins, 3))
    send(theirs, raws[:20])
    abandoned = theirs.mine(6, ADDRESS)
    until(lambda: same_tip(theirs, client), "the chain of the SV Node is here")
    theirs.rpc("invalidateblock", abandoned[0])
    # Another spend of what the abandoned blocks had mined goes into the new ones.
    other = spend(coins[0], [(9_000, MINER.script)])
    pooled = set(theirs.rpc("getrawmempool"))
    kept = theirs.mine(8, ELSEWHERE)
    until(lambda: same_tip(theirs, client), "the reorganisation is followed")
    assert client.rpc("getblockhash", theirs.rpc("getblockcount") - 7) == kept[0]
    mined = {txid for block in kept for txid in theirs.rpc("getblock", block)["tx"][1:]}
    assert pooled <= mined
    status, _ = client.post_tx(other)
    assert status == 409
    here, there = client.rpc("gettxoutsetinfo"), theirs.rpc("gettxoutsetinfo")
    assert here["txouts"] == there["txouts"]
    # Back again: what it thought invalid is the better chain when it is told so.
    theirs.rpc("reconsiderblock", abandoned[0])
    theirs.rpc("invalidateblock", kept[0])
    theirs.mine(3, ADDRESS)
    until(lambda: same_tip(theirs, client), "the way back is followed as well")


def test_it_fetches_a_chain_that_was_mined_here(
    svnode: Callable[..., SvNode],
    ours: Callable[..., NodeProcess],
    client_of: Callable[[NodeProcess], BsvClient],
    until: Callable[..., None],
) -> None:
    node = ours()
    client = client_of(node)
    client.rpc("generatetoaddress", MATURITY + 20, ADDRESS)
    theirs = theirs_with(svnode, connect=wire(node))
    until(lambda: same_tip(theirs, client), "it has our chain")
    raw, coins = fan_out(coinbase_coin(theirs, 1), [Key(3, n) for n in range(1, 300)], 10_000)
    assert client.post_tx(raw)[0] == 200
    mine_all(client)
    assert client.post_txs(b"".join(payments(coins[:-1], 3)))[0] == 200
    mine_all(client)
    until(lambda: same_tip(theirs, client), "it follows")
    assert mined_since(theirs, MATURITY + 20) == 300


@pytest.mark.parametrize("lie", ["withhold", "garbage", "other", "drip", "silent"])
def test_a_liar_on_the_wire_does_not_stop_following(
    lie: str,
    svnode: Callable[..., SvNode],
    ours: Callable[..., NodeProcess],
    client_of: Callable[[NodeProcess], BsvClient],
    until: Callable[..., None],
) -> None:
    """It shows a chain with more work than the true one, and has no true body for it."""
    theirs = theirs_with(svnode)
    theirs.mine(150, ADDRESS)
    genesis = bytes.fromhex(theirs.rpc("getblockheader", theirs.rpc("getblockhash", 0), False))
    with Liar(genesis, 400, lie) as liar:
        node = ours(connect=[liar.address, theirs.address])
        client = client_of(node)
        until(lambda: same_tip(theirs, client), "the true chain is here")
        theirs.mine(5, ADDRESS)
        until(lambda: same_tip(theirs, client), "and it is followed on")
        if lie != "silent":
            until(lambda: liar.cut_off, "the liar is cut off")
            said = node.log.read_text()
            assert "node penalised" in said and liar.address in said
        theirs.mine(5, ADDRESS)
        until(lambda: same_tip(theirs, client), "and on")


def test_killed_while_it_follows_it_goes_on(
    svnode: Callable[..., SvNode],
    ours: Callable[..., NodeProcess],
    client_of: Callable[[NodeProcess], BsvClient],
    until: Callable[..., None],
    budget: int,
) -> None:
    """Blocks of hundreds of transactions, killed wherever it stands, again and again."""
    theirs = theirs_with(svnode)
    raws = list(payments(fund(theirs, 3000), 3))
    for start in range(0, 3000, 600):
        send(theirs, raws[start : start + 600])
        theirs.mine(20, ADDRESS)
    node = ours(connect=[theirs.address])
    for at in range(1, 5 * budget + 1):
        client = client_of(node)
        goal = min(at * 40 // budget, theirs.rpc("getblockcount"))
        until(lambda goal=goal, client=client: client.rpc("getblockcount") >= goal, f"block {goal} is here")
        node.kill()
        node.start()
    client = client_of(node)
    until(lambda: same_tip(theirs, client), "the whole chain is here")
    here, there = client.rpc("gettxoutsetinfo"), theirs.rpc("gettxoutsetinfo")
    assert here["txouts"] == there["txouts"]
    assert round(here["total_amount"] * 1e8) == round(there["total_amount"] * 1e8)


def test_a_chain_that_goes_into_genesis_is_followed(
    svnode: Callable[..., SvNode],
    ours: Callable[..., NodeProcess],
    client_of: Callable[[NodeProcess], BsvClient],
    until: Callable[..., None],
) -> None:
    """Outputs of before are spent before and after the upgrade, and blocks of ours are taken on both sides of it."""
    upgrade = 130
    theirs = theirs_with(svnode, genesisactivationheight=upgrade)
    coins = fund(theirs, 100)
    node = ours(connect=[theirs.address], **{"execution.genesis_height": str(upgrade)})
    client = client_of(node)
    raws = list(payments(coins, 3))
    for start in range(0, 80, 4):
        send(theirs, raws[start : start + 4])
        theirs.mine(2, ADDRESS)
    assert theirs.rpc("getblockcount") > upgrade
    until(lambda: same_tip(theirs, client), "the chain is here, across the upgrade")
    assert client.post_txs(b"".join(raws[80:]))[0] == 200
    mine_all(client)
    until(lambda: same_tip(theirs, client), "it follows our block")
    # Back across the upgrade and over it again.
    theirs.rpc("invalidateblock", theirs.rpc("getblockhash", upgrade - 5))
    theirs.mine(upgrade + 45 - theirs.rpc("getblockcount"), ELSEWHERE)
    until(lambda: same_tip(theirs, client), "and another chain from below it")
    here, there = client.rpc("gettxoutsetinfo"), theirs.rpc("gettxoutsetinfo")
    assert here["txouts"] == there["txouts"]


def test_two_sv_nodes_know_one_another_through_this_one(
    svnode: Callable[..., SvNode],
    ours: Callable[..., NodeProcess],
    client_of: Callable[[NodeProcess], BsvClient],
    until: Callable[..., None],
) -> None:
    one, two = theirs_with(svnode, "one"), theirs_with(svnode, "two")
    coins = fund(one, 60)
    client = client_of(ours(connect=[one.address, two.address]))

    def same() -> bool:
        return same_tip(one, client) and same_tip(two, client)

    until(same, "the first one's chain is everywhere")
    raws = list(payments(coins, 3))
    send(one, raws[:30])
    until(lambda: two.rpc("getmempoolinfo")["size"] == 30, "transactions cross")
    send(two, raws[30:])
    until(lambda: one.rpc("getmempoolinfo")["size"] == 60, "both ways")
    two.mine(1, ADDRESS)
    until(same, "a block crosses")
    assert not one.rpc("getmempoolinfo")["size"] and not client.rpc("getmininginfo")["pooledtx"]
    # Both find one at once: the next one decides, and all agree.
    one.rpc("setnetworkactive", False)
    one.mine(1, ADDRESS)
    two.mine(1, ELSEWHERE)
    one.rpc("setnetworkactive", True)
    one.mine(1, ADDRESS)
    until(same, "one chain of two that were as long")
