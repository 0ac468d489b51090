"""``nodewright verify``: clean nodes pass; every kind of damage is found, and named, and its remedy works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from nodewright.bench.node import NodeProcess
from nodewright.cli.app import invoke
from nodewright.cli.common import ProfileRequest
from nodewright.db.stopped import stopped_node
from nodewright.interfaces import WriteBatch
from nodewright.storage.utxo_records import ADMITTED, BUNDLE, META, MINED, SPENT, TX, UNDO
from nodewright_bsv_api.bench.wallet import payments
from nodewright_bsv_api.client import BsvClient

COINS = 20
WAITING = 5
LOCAL = {"services.bsv_api.listen": "127.0.0.1:0", "transport.listen": "127.0.0.1:0", "consensus.mine": "false"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a stopped node: transactions in blocks, spent outputs, transactions that wait for a block."""
    from nodewright_bitcoin.network import REGTEST, address_of_pubkey
    from nodewright_bsv_api.bench.wallet import Coin, Key, fan_out

    folder = tmp_path_factory.mktemp("verify") / "alpha"
    miner = Key(7, 0)
    address = address_of_pubkey(miner.public, REGTEST)
    with NodeProcess("teranode", folder, LOCAL) as node, BsvClient(node.service("bsv_api"), folder / ".cookie") as client:
        client.rpc("generatetoaddress", 101, address)
        txid = client.rpc("getblockbyheight", 1, 1)["tx"][0]
        value = client.rpc("getrawtransaction", txid, True)["vout"][0]["value"]
        coin = Coin(bytes.fromhex(txid)[::-1] + bytes(4), round(value * 100_000_000), miner)
        raw, coins = fan_out(coin, [Key(7, number) for number in range(1, COINS + 1)], 10_000)
        assert client.post_tx(raw)[0] == 200
        client.rpc("generatetoaddress", 1, address)
        raws = list(payments(coins[:COINS], 7))
        assert client.post_txs(b"".join(raws[WAITING:]))[0] == 200
        client.rpc("generatetoaddress", 2, address)
        assert client.post_txs(b"".join(raws[:WAITING]))[0] == 200
    return folder


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "copy"))


def verify(folder: Path, capsys: Any, *arguments: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = invoke(["verify", "teranode", f"--data-dir={folder}", "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def kinds(document: dict[str, Any]) -> set[str]:
    assert all(one["examples"] and one["fix"] for one in document["differences"])
    return {one["kind"] for one in document["differences"]}


@contextmanager
def damaging(folder: Path) -> Iterator[Callable[[Callable[[dict[str, Any]], Awaitable[None]]], None]]:
    """Run something on the bare stores of the stopped node."""
    plan = ProfileRequest("teranode").compose()[1]

    def run(damage: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        async def main() -> None:
            async with stopped_node(plan, folder, None) as node:
                await damage({store.slot: store for store in node.stores})

        trio.run(main)

    yield run


async def rows(store: Any, table: str) -> list[tuple[bytes, bytes]]:
    return list((await store.rows.scan(table, limit=10_000)).items)


async def write(store: Any, table: str, changes: dict[bytes, bytes | None]) -> None:
    batch = WriteBatch()
    batch.tables[table] = changes
    await store.rows.commit(batch)


async def a_payment(utxo: Any, waiting: bool = False) -> tuple[bytes, bytes]:
    """A transaction row that spends one output (as payments do): mined, or one that waits for a block."""
    unmined = b"".join([row[1:] for _, row in await rows(utxo, ADMITTED)])
    ids = {unmined[at : at + 32] for at in range(0, len(unmined), 32)}
    found = [(txid, row) for txid, row in await rows(utxo, TX) if row[5:7] == b"\x01\x00" and len(row) < 200]
    spent = {key[:32] for key, _ in await rows(utxo, SPENT)}
    return next((txid, row) for txid, row in found if (txid in ids) is waiting and txid not in spent and row[0] == 0)


async def missing_row(stores: dict[str, Any]) -> None:
    txid, _ = await a_payment(stores["stores.utxo"])
    await write(stores["stores.utxo"], TX, {txid: None})


async def extra_row(stores: dict[str, Any]) -> None:
    _, row = await a_payment(stores["stores.utxo"])
    # It spends nothing: its inputs would give it away.
    await write(stores["stores.utxo"], TX, {bytes(range(32)): row[:5] + bytes(2) + row[43:]})


async def wrong_value(stores: dict[str, Any]) -> None:
    txid, row = await a_payment(stores["stores.utxo"])
    at = 7 + 36 + 1
    value = int.from_bytes(row[at : at + 8], "little") + 1
    await write(stores["stores.utxo"], TX, {txid: row[:at] + value.to_bytes(8, "little") + row[at + 8 :]})


async def wrong_inputs(stores: dict[str, Any]) -> None:
    txid, row = await a_payment(stores["stores.utxo"])
    await write(stores["stores.utxo"], TX, {txid: row[:7] + bytes(36) + row[43:]})


async def revived(stores: dict[str, Any]) -> None:
    _, row = await a_payment(stores["stores.utxo"])
    await write(stores["stores.utxo"], SPENT, {row[7:43]: None})


async def wrong_spender(stores: dict[str, Any]) -> None:
    _, row = await a_payment(stores["stores.utxo"])
    other, _ = await a_payment(stores["stores.utxo"], waiting=True)
    await write(stores["stores.utxo"], SPENT, {row[7:43]: other + bytes(4)})


async def spent_by_nobody(stores: dict[str, Any]) -> None:
    txid, _ = await a_payment(stores["stores.utxo"])
    await write(stores["stores.utxo"], SPENT, {txid + bytes(4): bytes(36)})


async def forgotten(stores: dict[str, Any]) -> None:
    """Pending ones that no block would take: whoever lists the unmined does not find them."""
    await write(
        stores["stores.utxo"], ADMITTED, dict.fromkeys([key for key, _ in await rows(stores["stores.utxo"], ADMITTED)])
    )


async def mined_again(stores: dict[str, Any]) -> None:
    utxo = stores["stores.utxo"]
    txid, _ = await a_payment(utxo)
    number = (await utxo.rows.get_many(META, [b"sequence"]))[0]
    await write(utxo, ADMITTED, {number: b"\x00" + txid})


async def named(chain: Any) -> bytes:
    """A subtree that a block names."""
    return (await rows(chain, "bundles"))[0][0]


async def no_subtree(stores: dict[str, Any]) -> None:
    await stores["stores.blobs"].bodies.delete("subtree", [await named(stores["stores.chain"])])


async def no_bodies(stores: dict[str, Any]) -> None:
    await stores["stores.blobs"].bodies.delete("subtree_data", [await named(stores["stores.chain"])])


async def other_blob(kind: str, stores: dict[str, Any], at: int) -> None:
    id, blobs = await named(stores["stores.chain"]), stores["stores.blobs"].bodies
    data = bytearray(await blobs.get(kind, id))
    data[at] ^= 1
    await blobs.delete(kind, [id])
    await blobs.put(kind, id, bytes(data))


async def damaged_subtree(stores: dict[str, Any]) -> None:
    await other_blob("subtree", stores, 56 + 48)  # a leaf


async def damaged_bodies(stores: dict[str, Any]) -> None:
    await other_blob("subtree_data", stores, 60)


async def damaged_block(stores: dict[str, Any]) -> None:
    chain = stores["stores.chain"]
    id = next(key for key, value in await rows(chain, "headers") if key[:4] == b"\x00\x00\x00\x67")[4:]
    ((_, wire),) = [one for one in await rows(chain, "blocks") if one[0] == id]
    await write(chain, "blocks", {id: wire[:84] + bytes([wire[84] ^ 1]) + wire[85:]})


async def no_block(stores: dict[str, Any]) -> None:
    chain = stores["stores.chain"]
    id = next(key for key, _ in await rows(chain, "headers") if key[:4] == b"\x00\x00\x00\x67")[4:]
    await write(chain, "blocks", {id: None})


async def damaged_header(stores: dict[str, Any]) -> None:
    chain = stores["stores.chain"]
    key, value = (await rows(chain, "headers"))[50]
    await write(chain, "headers", {key: value[:40] + bytes([value[40] ^ 1]) + value[41:]})


async def no_index(stores: dict[str, Any]) -> None:
    chain = stores["stores.chain"]
    await write(chain, "txs", {(await rows(chain, "txs"))[0][0]: None})


async def no_undo(stores: dict[str, Any]) -> None:
    await write(stores["stores.utxo"], UNDO, {(await rows(stores["stores.utxo"], UNDO))[0][0]: None})


async def undo_of_another(stores: dict[str, Any]) -> None:
    (_, other), *_, (block, _) = await rows(stores["stores.utxo"], UNDO)
    await write(stores["stores.utxo"], UNDO, {block: other})


async def no_list(stores: dict[str, Any]) -> None:
    await write(stores["stores.utxo"], BUNDLE, {(await rows(stores["stores.utxo"], BUNDLE))[0][0]: None})


async def other_list(stores: dict[str, Any]) -> None:
    key, row = (await rows(stores["stores.utxo"], BUNDLE))[0]
    await write(stores["stores.utxo"], BUNDLE, {key: row[:-1] + bytes([row[-1] ^ 1])})


async def not_mined(stores: dict[str, Any]) -> None:
    """A reorganisation would not make its transactions pending again. Only the rows themselves show it."""
    await write(stores["stores.utxo"], MINED, {(await rows(stores["stores.utxo"], MINED))[0][0]: None})


async def no_applied(stores: dict[str, Any]) -> None:
    await write(stores["stores.utxo"], META, {b"applied": None})


async def cut_row(stores: dict[str, Any]) -> None:
    """Cannot be parsed."""
    txid, row = await a_payment(stores["stores.utxo"])
    await write(stores["stores.utxo"], TX, {txid: row[:-1]})


DAMAGE: dict[Callable[[dict[str, Any]], Awaitable[None]], str] = {
    missing_row: "an output is gone from the store",
    extra_row: "the store has an unspent output that no transaction makes",
    wrong_value: "an output has another value in the store than in its block",
    wrong_inputs: "the store has other inputs of a transaction than its bytes",
    revived: "a spent output has come back: the store has it as unspent",
    wrong_spender: "the store names another spender of an output",
    spent_by_nobody: "an output is spent in the store by what no block or pending transaction is",
    forgotten: "a pending transaction is not listed as unmined: no block would take it",
    mined_again: "a transaction of the chain is listed as unmined",
    no_undo: "the record by which a block is taken back is gone from the store",
    undo_of_another: "the record by which a block is taken back is not the block's",
    no_list: "the list of a subtree's transactions is gone from the store",
    other_list: "the store's lists of a block's subtrees are not the block's transactions",
    not_mined: "stores.utxo: a block names a bundle that is not mined in it",
    no_applied: "the store holds outputs and does not say of which block they are",
    cut_row: "the store has other outputs of a transaction than its bytes",
    no_subtree: "a subtree of a block is gone from stores.blobs",
    damaged_subtree: "a subtree's blob is damaged",
    no_bodies: "the bodies of a subtree are gone from stores.blobs",
    damaged_bodies: "a stored body is not the transaction that its block names",
    damaged_block: "a block is not what its header commits to",
    no_block: "a block is in the headers table and its body is gone",
    damaged_header: "a row of the headers table is not what was stored",
    no_index: "a transaction of a block is not in the index",
}


def test_a_clean_node_and_one_that_cannot_be_looked_at(stopped: Path, tmp_path: Path, capsys: Any) -> None:
    code, document = verify(stopped, capsys)
    assert (code, document["clean"], document["differences"]) == (0, True, [])
    assert f"{WAITING} of them pending" in document["notes"][0]
    before = {path: path.stat().st_mtime_ns for path in (stopped / "pool").rglob("*")}
    assert invoke(["verify", "teranode", f"--data-dir={stopped}"]) == 0
    assert capsys.readouterr().out.endswith("OK: no differences\n")
    assert before == {path: path.stat().st_mtime_ns for path in (stopped / "pool").rglob("*")}
    assert invoke(["verify", "teranode", f"--data-dir={tmp_path / 'nothing'}"]) == 2
    assert invoke(["verify", "teranode", f"--data-dir={stopped}", "--set", "genesis.document.time=1"]) == 2
    capsys.readouterr()
    assert invoke(["verify", "teranode", f"--data-dir={stopped}", "--set=stores.utxo.use=memory"]) == 2
    assert "stores.utxo: memory of" in (said := capsys.readouterr().err) and "nothing to compare" in said, said
    for profile in ("near", "aptos"):
        assert invoke(["verify", profile, f"--data-dir={stopped}"]) == 2
        said = capsys.readouterr().err
        assert f"execution: {profile} has no way to compute a state anew from blocks: run  nodewright db verify" in said


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_found_and_named(copy: Path, capsys: Any, damage: Any) -> None:
    with damaging(copy) as run:
        run(damage)
    code, document = verify(copy, capsys)
    assert code == 1
    assert DAMAGE[damage] in kinds(document)


def test_what_is_pruned_is_not_missed(copy: Path, capsys: Any) -> None:
    """Deep in the chain the store forgets its lists of subtrees."""
    settings = {"execution.retention_blocks": "100"}
    with (
        NodeProcess("teranode", copy, LOCAL | settings) as node,
        BsvClient(node.service("bsv_api"), copy / ".cookie") as client,
    ):
        address = client.rpc("getrawtransaction", client.rpc("getblockbyheight", 1, 1)["tx"][0], True)
        owner = address["vout"][0]["scriptPubKey"]["addresses"][0]
        for _ in range(5):
            client.rpc("generatetoaddress", 22, owner)
    left: list[bytes] = []

    async def look(stores: dict[str, Any]) -> None:
        left.extend([key for key, _ in await rows(stores["stores.utxo"], BUNDLE)])

    with damaging(copy) as run:
        run(look)
    assert len(left) < 2  # of the three that held transactions
    code, document = verify(copy, capsys, "--set=execution.retention_blocks=100")
    assert (code, document["differences"]) == (0, [])


def test_a_flipped_byte_of_a_file(copy: Path, capsys: Any) -> None:
    """Wherever it falls: what the recomputation does not need is read as well."""
    largest = max((copy / "stores" / "utxo").rglob("*.ldb"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    for at in (50, len(data) // 2):
        data[at] ^= 1
        largest.write_bytes(data)
        data[at] ^= 1
        assert invoke(["verify", "teranode", f"--data-dir={copy}"]) == 1
        assert f"{copy / 'stores' / 'utxo'}/leveldb: the database is damaged" in capsys.readouterr().err


def test_the_journal(copy: Path, capsys: Any) -> None:
    """Unreadable: named. Gone: what it held is in the store and nowhere else, and the next start takes it out."""
    (segment,) = (copy / "pool" / "journal").glob("*.log")
    whole = segment.read_bytes()
    segment.write_bytes(whole[:3] + b"x" + whole[4:])
    code, document = verify(copy, capsys)
    assert code == 1
    journal, unclaimed = document["differences"]
    assert "the pool's journal cannot be read" in journal["kind"]
    segment.unlink()
    code, document = verify(copy, capsys)
    assert (code, len(document["differences"])) == (1, 1)
    assert document["differences"][0] == unclaimed
    assert (unclaimed["kind"], unclaimed["count"]) == (
        "the store holds a transaction that is in no block and is not pending",
        WAITING,
    )
    with NodeProcess("teranode", copy, LOCAL) as node, BsvClient(node.service("bsv_api"), copy / ".cookie") as client:
        assert client.rpc("getrawmempool") == []
    assert verify(copy, capsys)[0] == 0


def test_what_it_says_to_do_about_a_damaged_state_works(copy: Path, capsys: Any) -> None:
    for damage in (missing_row, wrong_value, revived):
        with damaging(copy) as run:
            run(damage)
    assert invoke(["verify", "teranode", f"--data-dir={copy}"]) == 1
    said = capsys.readouterr().err
    assert all(said.count(f"difference: {DAMAGE[damage]} (") == 1 for damage in (missing_row, wrong_value, revived))
    assert "empty stores.utxo (move its folder away, or rename its schema on a database server) and start the node" in said
    (copy / "stores" / "utxo").rename(copy.with_name("utxo"))
    with NodeProcess("teranode", copy, LOCAL) as node, BsvClient(node.service("bsv_api"), copy / ".cookie") as client:
        assert len(client.rpc("getrawmempool")) == WAITING
    code, document = verify(copy, capsys)
    assert (code, document["differences"]) == (0, [])
    assert f"{WAITING} of them pending" in document["notes"][0]
