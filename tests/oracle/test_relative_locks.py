"""SV Node and this node agree when an output is old enough (BIP68, before Genesis): in blocks, in the pool, in templates.

Each step mines a block there, at a time of our choosing, and follows it here. Then every child is put to both as a block of
its own (theirs by ``getblocktemplate`` in mode ``proposal``), some are sent to both pools, and what this node would mine is
held against its pool. Blocks are taken back, and this node starts again, in between. ``--budget`` multiplies the runs.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import attrs
import pytest
from attrs import define, field, frozen

from nodewright.bench.node import NodeProcess
from nodewright.interfaces.common import Admitted, BlockContext, BlockRef, Bundle, BundleRef
from nodewright.interfaces.execution import Candidate, ExecutionRequest, Limits, Outcome
from nodewright.kernels.signatures import NativeVerifier
from nodewright.storage.utxo_adapter import open_utxo
from nodewright.testing.simulation import SimulatedEnvironment
from nodewright_bitcoin import coinbase
from nodewright_bitcoin.block import Block, BlockHeader, merkle_root
from nodewright_bitcoin.engine import BitcoinEngine
from nodewright_bitcoin.network import REGTEST, ChainParameters, address_of_pubkey
from nodewright_bitcoin.policy import Policy
from nodewright_bitcoin.script.opcodes import push_data
from nodewright_bitcoin.signing import build_transaction, derive_key, p2pkh_script, public_key, sign_p2pkh_inputs
from nodewright_bitcoin.transaction import Transaction
from nodewright_bsv_api.client import BsvClient
from nodewright_bsv_p2p.testing.svnode import SvNode, SvNodeError
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore
from nodewright_nakamoto.chainindex import ChainIndex, Node
from nodewright_nakamoto.header import Header

KEY = derive_key(b"ages", 0)
SCRIPT = p2pkh_script(public_key(KEY))
ADDRESS = address_of_pubkey(public_key(KEY), REGTEST)
BY_TIME, DISABLED = 1 << 22, 1 << 31
CHILDREN = 6
COIN = 100_000
FEE = 1_000
DAYS = 86_400
TIP_AGE = 10 * 365 * DAYS
POOLED = {"genesisactivationheight": REGTEST.genesis_height, "acceptnonstdtxn": 0, "txindex": 1}

pytestmark = pytest.mark.slow


def pay(coin: tuple[bytes, int, int], amounts: Sequence[int], version: int = 1, sequence: int = 0xFFFFFFFF) -> Transaction:
    txid, index, satoshis = coin
    outputs = [(amount, SCRIPT) for amount in amounts]
    tx = build_transaction([(txid, index, satoshis, SCRIPT)], outputs, version, 0, sequence)
    return sign_p2pkh_inputs(tx, [KEY])


def first_of_block(height: int) -> bytes:
    return coinbase.build(coinbase.height_push(height) + push_data(b"ages"), [(1, b"\x51")])


@frozen
class Family:
    parent: Transaction
    children: Sequence[Transaction]


def family(dice: random.Random, coin: tuple[bytes, int, int]) -> Family:
    each = (coin[2] - FEE) // CHILDREN
    parent = pay(coin, [each] * CHILDREN)
    children = []
    for index in range(CHILDREN):
        by_time = dice.choice((0, BY_TIME))
        # Of the bits that mean nothing, some; now and then it is switched off, or too old a version to be asked.
        noise = dice.choice((0, 0, 1 << 16, 0x3F << 24, 1 << 21)) | dice.choice((0, 0, 0, 0, DISABLED))
        distance = dice.randrange(5) if by_time else dice.randrange(7)
        version = dice.choice((2, 2, 2, 2, 2, 1))
        children.append(pay((parent.txid, index, each), [each - FEE], version, distance | by_time | noise))
    return Family(parent, children)


class Ours:
    """The engine, and a chain that is moved by hand."""

    def __init__(self, genesis: Header, stack: AsyncExitStack, parameters: ChainParameters = REGTEST) -> None:
        self.parameters = parameters
        self.index = ChainIndex(genesis)
        self.disk = MemoryDisk("ages")
        self.stack = stack
        self.raws: dict[bytes, bytes] = {}

    async def open(self) -> Ours:
        environment = SimulatedEnvironment()
        store = MemoryStore(self.disk, "ages")
        self.stack.callback(store.close)
        utxo = await self.stack.enter_async_context(open_utxo(store, environment))
        self.engine = BitcoinEngine(utxo, NativeVerifier(), environment, self.parameters, Policy(), b"\x51", 1 << 20)
        await self.engine.load()
        await self.engine.genesis({}, self.index.root.ref)
        self.engine.use_times(self.index)
        return self

    async def restart(self) -> None:
        await self.stack.aclose()
        await self.open()
        waiting = [txid for txid, one in self.engine.state.unmined.items() if one is None]
        for txid in waiting:
            assert isinstance(await self.admit(self.raws[txid]), Admitted)

    def request(self, block: BlockRef, at: int, prologue: bytes, txs: Sequence[Transaction]) -> ExecutionRequest:
        tip = self.index.tip
        ids = b"".join(tx.txid for tx in txs)
        reference = BundleRef(hashlib.sha256(ids).digest(), len(txs), sum(len(tx.raw) for tx in txs))
        bundles = [Bundle(reference, ids, [tx.raw for tx in txs])] if txs else []
        extra = self.index.median_time(tip).to_bytes(8, "little")
        return ExecutionRequest(tip.ref, block, BlockContext(block.height, at, extra=extra), bundles, prologue)

    async def follow(self, raw: bytes) -> None:
        block = Block.parse(raw)
        node = self.index.add(Header.decode(raw[:80]))
        request = self.request(node.ref, node.time, block.transactions[0].raw, block.transactions[1:])
        self.raws.update((tx.txid, tx.raw) for tx in block.transactions)
        result = await self.engine.execute(request)
        assert isinstance(result, Outcome), (node, result)
        await self.engine.commit(node.ref)
        self.index.active.append(node)

    async def back(self) -> None:
        await self.engine.revert(self.index.tip.ref)
        self.index.active.pop()

    async def admit(self, raw: bytes):
        (answer,) = await self.engine.admit([raw], self.index.tip.ref, self.index.tip.time)
        if isinstance(answer, Admitted):
            self.raws[answer.id] = raw
            await self.engine.confirm([answer.id])
        return answer

    async def mineable(self) -> set[bytes]:
        asked = [Candidate(txid, one.size, one.fee) for txid, one in self.engine.state.unmined.items() if one is not None]
        selection = await self.engine.select(self.index.tip.ref, asked, Limits(1000, 1 << 30))
        return {one.id for one in selection.chosen}


@define
class Theirs:
    """A node whose clock is ours."""

    node: SvNode
    now: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.wait(int(time.time()) - 40 * DAYS)

    def wait(self, until: int) -> None:
        self.now = until
        self.node.rpc("setmocktime", until)

    def raw(self, block: str) -> bytes:
        return bytes.fromhex(self.node.rpc("getblock", block, 0))

    def proposal(self, tip: Node, txs: Sequence[Transaction]) -> str:
        """'' where it would take a block of these on its tip, else the reason."""
        first = Transaction.parse(first_of_block(tip.height + 1))
        root, _ = merkle_root([first.txid, *[tx.txid for tx in txs]])
        header = BlockHeader(0x20000000, tip.id, root, self.now, tip.bits, 0)
        data = Block(header, [first, *txs]).serialize().hex()
        return self.node.rpc("getblocktemplate", {"mode": "proposal", "data": data}) or ""

    def send(self, tx: Transaction) -> str:
        """'' where it is in its pool now, else the reason."""
        try:
            self.node.rpc("sendrawtransaction", tx.raw.hex(), True)
        except SvNodeError as error:
            return str(error)
        return ""

    def pool(self) -> set[bytes]:
        return {bytes.fromhex(txid)[::-1] for txid in self.node.rpc("getrawmempool")}


def coins(node: SvNode, height: int, count: int) -> tuple[Transaction, list[tuple[bytes, int, int]]]:
    """A transaction that splits the coinbase of that height, and its outputs."""
    found = Block.parse(bytes.fromhex(node.rpc("getblockbyheight", height, 0))).transactions[0]
    amount = found.outputs[0].satoshis
    each = (amount - 100 * FEE) // count
    tx = pay((found.txid, 0, amount), [each] * count)
    return tx, [(tx.txid, index, each) for index in range(count)]


@define
class Run:
    theirs: Theirs
    ours: Ours
    dice: random.Random
    families: list[Family] = field(factory=list)
    judged: dict[str, int] = field(factory=dict)
    dropped: set[bytes] = field(factory=set)

    def count(self, what: str) -> None:
        self.judged[what] = self.judged.get(what, 0) + 1

    async def mine(self, step: int) -> None:
        self.theirs.wait(self.theirs.now + step)
        (block,) = self.theirs.node.mine(1, ADDRESS)
        await self.ours.follow(self.theirs.raw(block))

    async def send(self, tx: Transaction) -> bool:
        there, here = self.theirs.send(tx), await self.ours.admit(tx.raw)
        assert (not there) == isinstance(here, Admitted), (there, here, tx.raw.hex())
        if there:
            assert "non-BIP68-final" in there and here.code == "non-BIP68-final", (there, here)
        self.count("sent refused" if there else "sent taken")
        return not there

    async def compare_blocks(self) -> None:
        ours = self.ours
        height = ours.index.tip.height + 1
        for one in self.families:
            made = bool((await ours.engine.store.known([one.parent.txid]))[0]) and one.parent.txid not in ours.engine.state
            for child in one.children:
                if (await ours.engine.store.known([child.txid]))[0] and child.txid not in ours.engine.state:
                    continue  # mined
                txs = [child] if made else [one.parent, child]
                there = self.theirs.proposal(ours.index.tip, txs)
                block = BlockRef(height, hashlib.sha256(b"".join(tx.txid for tx in txs)).digest())
                here = await ours.engine.execute(ours.request(block, self.theirs.now, first_of_block(height), txs))
                await ours.engine.abandon(block)
                said = "" if isinstance(here, Outcome) else here.code
                assert there == said, (height, there, here, [tx.raw.hex() for tx in txs])
                self.count(there or "taken")

    async def compare_pools(self) -> None:
        """What it would mine, this node would mine. What a reorganisation made unripe it drops, and this node keeps."""
        there, here = self.theirs.pool(), await self.ours.mineable()
        assert there <= here, [txid[::-1].hex() for txid in there - here]
        again = here - there
        assert again <= self.dropped, [txid[::-1].hex() for txid in again - self.dropped]
        for txid in [txid for txid in self.ours.engine.state.unmined if txid in again]:
            assert not self.theirs.send(Transaction.parse(self.ours.raws[txid]))
        self.dropped -= again


@pytest.mark.seeds(1)
async def test_the_same_blocks_and_the_same_pool(svnode: Callable[..., SvNode], seed: int) -> None:
    dice = random.Random(seed)
    theirs = Theirs(svnode(**POOLED))
    blocks = theirs.node.mine(REGTEST.csv_height - 4, ADDRESS)  # three more, and it is asked of blocks
    genesis = bytes.fromhex(theirs.node.rpc("getblockheader", theirs.node.rpc("getblockhash", 0), False))
    async with AsyncExitStack() as stack:
        ours = await Ours(Header.decode(genesis), stack).open()
        for block in blocks:
            await ours.follow(theirs.raw(block))
        run = Run(theirs, ours, dice)
        split, purses = coins(theirs.node, 1, 40)
        assert await run.send(split)
        await run.mine(600)
        for turn in range(22):
            if turn % 2 == 0 and purses:
                run.families.append(family(dice, purses.pop()))
            for one in run.families:
                if one.parent.txid not in ours.raws and dice.random() < 0.6:
                    assert await run.send(one.parent)
            await run.compare_blocks()
            for one in run.families:
                left = [child for child in one.children if child.txid not in ours.raws]
                if one.parent.txid in ours.raws and left and dice.random() < 0.7:
                    await run.send(dice.choice(left))
            await run.compare_pools()
            if turn in (9, 16):
                for _ in range(dice.randrange(3, 6)):
                    theirs.node.rpc("invalidateblock", theirs.node.rpc("getbestblockhash"))
                    await ours.back()
                await run.compare_blocks()
                run.dropped |= ours.engine.state.unmined.keys() - theirs.pool()
            if turn in (5, 9, 13):
                await ours.restart()
            await run.mine(dice.choice((1, 200, 600, 600, 2000)))
        assert min(run.judged[name] for name in ("taken", "bad-txns-nonfinal", "sent taken", "sent refused")) >= 10, (
            run.judged
        )
        assert ours.index.tip.height > REGTEST.csv_height


async def test_genesis_ends_them(svnode: Callable[..., SvNode]) -> None:
    """For its first block, and for what is relayed on it."""
    end = REGTEST.csv_height + 8
    theirs = Theirs(svnode(**(POOLED | {"genesisactivationheight": end})))
    blocks = theirs.node.mine(REGTEST.csv_height, ADDRESS)
    genesis = bytes.fromhex(theirs.node.rpc("getblockheader", theirs.node.rpc("getblockhash", 0), False))
    async with AsyncExitStack() as stack:
        parameters = attrs.evolve(REGTEST, genesis_height=end)
        ours = await Ours(Header.decode(genesis), stack, parameters).open()
        for block in blocks:
            await ours.follow(theirs.raw(block))
        run = Run(theirs, ours, random.Random(0))
        split, purses = coins(theirs.node, 1, 4)
        assert await run.send(split)
        await run.mine(600)
        children = [
            pay(one, [one[2] - FEE], 2, sequence) for one, sequence in zip(purses, (50, 50 | BY_TIME), strict=False)
        ]
        run.families.append(Family(split, children))
        taken = []
        while ours.index.tip.height < end:
            await run.compare_blocks()
            taken.append(await run.send(children[0]))
            await run.mine(600)
        assert not any(taken)
        await run.compare_blocks()
        assert [await run.send(child) for child in children] == [True, True]
        assert run.judged["taken"] == 4
        await run.mine(600)
        assert not theirs.pool()


def test_each_follows_the_others_blocks(
    svnode: Callable[..., SvNode],
    ours: Callable[..., NodeProcess],
    client_of: Callable[[NodeProcess], BsvClient],
    until: Callable[..., None],
) -> None:
    theirs = Theirs(svnode(whitelist="127.0.0.1", maxtipage=TIP_AGE, **POOLED))
    theirs.node.mine(REGTEST.csv_height, ADDRESS)
    node = ours(connect=[theirs.node.address], **{"execution.genesis_height": str(REGTEST.genesis_height)})
    client = client_of(node)

    def same() -> None:
        until(lambda: client.rpc("getbestblockhash") == theirs.node.rpc("getbestblockhash"), "one chain")

    def mine(count: int = 1) -> list[str]:
        found = theirs.node.mine(count, ADDRESS)
        same()
        return found

    def verdicts(tx: Transaction) -> bool:
        """Both take it, or neither for want of age."""
        status, text = client.post_tx(tx.raw)
        there = theirs.send(tx)
        assert (status == 200) == (not there or "already" in there), (status, text, there)
        if status != 200:
            assert status == 400
            assert "non-BIP68-final" in text
            assert "non-BIP68-final" in there
        return status == 200

    def pooled(tx: Transaction) -> bool:
        return tx.txid[::-1].hex() in theirs.node.rpc("getrawmempool")

    same()
    split, purses = coins(theirs.node, 1, 4)
    assert verdicts(split)
    mine()
    in_blocks, in_time, late = (
        pay(purse, [purse[2] - FEE], 2, sequence) for purse, sequence in zip(purses, (3, 1 | BY_TIME, 3), strict=False)
    )
    assert [verdicts(in_blocks) or mine() for _ in range(3)][-1] is True
    until(lambda: pooled(in_blocks), "what is old enough is in both pools")
    # By the clocks of both it is two days later now: only the median time says when the other may come.
    theirs.wait(int(time.time()))
    mined = client.rpc("generatetoaddress", 1, ADDRESS)
    same()
    assert in_blocks.txid[::-1].hex() in theirs.node.rpc("getblock", mined[0])["tx"]
    waited = 0
    while not verdicts(in_time):
        waited += 1
        mine()
    assert waited >= 4
    # The block that made the outputs goes, with all since; on the new chain they are younger.
    assert verdicts(late)
    first = theirs.node.rpc("getblockhash", REGTEST.csv_height + 1)
    gone = theirs.node.rpc("getblockcount") - REGTEST.csv_height
    theirs.node.rpc("invalidateblock", first)
    mine(gone + 1)
    made = REGTEST.csv_height + 1
    assert split.txid[::-1].hex() in theirs.node.rpc("getblockbyheight", made, 1)["tx"]
    until(lambda: client.rpc("getmininginfo")["pooledtx"] == 3, "all three are pending here")
    children = {tx.txid[::-1].hex() for tx in (in_blocks, in_time, late)}
    for _ in range(15):
        client.rpc("generatetoaddress", 1, ADDRESS)
        same()
        if not client.rpc("getmininginfo")["pooledtx"]:
            break
    heights = range(made, theirs.node.rpc("getblockcount") + 1)
    where = {txid: at for at in heights for txid in theirs.node.rpc("getblockbyheight", at, 1)["tx"][1:]}
    assert children <= where.keys()
    assert not theirs.node.rpc("getrawmempool")
