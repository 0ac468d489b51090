"""The API of one running node: shapes that clients of the family decode, metrics, input that is none of what was asked."""

from __future__ import annotations

import base64
import http.client
import inspect
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.bench.node import NodeProcess
from nodewright_bitcoin.network import REGTEST, address_of_pubkey, decode_address
from nodewright_bitcoin.transaction import Transaction
from nodewright_bsv_api.bench.wallet import Coin, Key, fan_out, spend
from nodewright_bsv_api.client import BsvClient, RpcFailure
from nodewright_bsv_api.rpc import methods_of
from nodewright_bsv_api.rpc_chain import ChainMethods
from nodewright_bsv_api.rpc_control import ControlMethods
from nodewright_bsv_api.rpc_transactions import TransactionMethods

MINER = Key(11, 0)
ADDRESS = address_of_pubkey(MINER.public, REGTEST)
HOLDERS = (ChainMethods, ControlMethods, TransactionMethods)


class Chain:
    """A node with a block of two transactions on top, and one transaction pending."""

    def __init__(self, node: NodeProcess, client: BsvClient) -> None:
        self.node, self.client = node, client
        client.rpc("generatetoaddress", 101, ADDRESS)
        self.coinbase = client.rpc("getblockbyheight", 1, 1)["tx"][0]
        coin = Coin(bytes.fromhex(self.coinbase)[::-1] + bytes(4), 5_000_000_000, MINER)
        self.mined_raw, coins = fan_out(coin, [Key(11, 1)], 10_000)
        status, self.mined = client.post_tx(self.mined_raw)
        assert status == 200, self.mined
        (self.block,) = client.rpc("generatetoaddress", 1, ADDRESS)
        self.pending_raw = spend(coins[0], [(9_000, Key(11, 2).script), (0, b"\x00\x6a\x05hello")])
        status, self.pending = client.post_tx(self.pending_raw)
        assert status == 200, self.pending

    def post(self, body: bytes) -> tuple[int, Any]:
        credentials = base64.b64encode((self.node.data_dir / ".cookie").read_bytes()).decode()
        status, answer = self.client.request("POST", "/", body, {"authorization": "Basic " + credentials})
        return status, json.loads(answer) if answer else None

    def call(self, method: str, *parameters: Any) -> tuple[int, Any]:
        return self.post(json.dumps({"id": 1, "method": method, "params": parameters}).encode())

    def metrics(self) -> dict[str, float]:
        status, body = self.client.request("GET", "/metrics")
        assert status == 200
        lines = [line.split() for line in body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    listen = {"services.bsv_api.listen": "127.0.0.1:0", "transport.listen": "127.0.0.1:0", "consensus.mine": "false"}
    stores = {f"stores.{name}.use": "memory" for name in ("utxo", "chain", "blobs")}
    node = NodeProcess("teranode", tmp_path_factory.mktemp("node") / "alpha", listen | stores)
    with node, BsvClient(node.service("bsv_api"), node.data_dir / ".cookie") as client:
        yield Chain(node, client)


def test_the_metrics_that_acceptance_suites_look_for_count(chain: Chain) -> None:
    for _ in range(20_000):  # consensus renews its own once a second
        before = chain.metrics()
        if before["teranode_blockassembly_best_block_height"] == 102:
            break
    assert before["teranode_blockassembly_best_block_height"] == 102
    assert before["teranode_blockchain_fsm_current_state"] == 1
    assert before["teranode_blockvalidation_validate_block_count"] >= 102
    assert "teranode_blockassembly_transactions" in before
    name = "teranode_validator_transactions_count"
    assert before[name] >= 2
    status, _ = chain.client.post_tx(spend(Coin(bytes([7]) * 32 + bytes(4), 1000, Key(11, 5)), [(900, MINER.script)]))
    assert status == 422
    assert chain.metrics()[name] == before[name] + 1


def test_a_transaction_document_has_what_clients_decode(chain: Chain) -> None:
    told = chain.client.rpc("getrawtransaction", chain.mined, True)
    assert set(told) == {
        *("txid", "hash", "version", "size", "locktime", "vin", "vout", "hex"),
        *("blockhash", "confirmations", "time", "blocktime", "blockheight"),
    }
    assert told["hex"] == chain.mined_raw.hex() == chain.client.rpc("getrawtransaction", chain.mined, 0)
    assert (told["size"], told["confirmations"], told["blockheight"]) == (len(chain.mined_raw), 1, 102)
    assert told["blockhash"] == chain.block
    (spent,) = told["vin"]
    assert set(spent) == {"txid", "vout", "scriptSig", "sequence"}
    assert set(spent["scriptSig"]) == {"asm", "hex"}
    assert "[ALL|FORKID] " in spent["scriptSig"]["asm"]
    script = told["vout"][1]["scriptPubKey"]
    assert set(script) == {"asm", "hex", "reqSigs", "type", "addresses"}
    assert script["addresses"] == [ADDRESS]
    assert decode_address(ADDRESS, REGTEST).hex() in script["asm"]
    pending = chain.client.rpc("getrawtransaction", chain.pending, True)
    assert not {"blockhash", "confirmations", "time"} & set(pending)
    assert pending["vout"][1]["scriptPubKey"]["type"] == "nulldata"
    assert pending == chain.client.rpc("decoderawtransaction", chain.pending_raw.hex())
    coinbase = chain.client.rpc("getrawtransaction", chain.coinbase, True)
    assert set(coinbase["vin"][0]) == {"coinbase", "sequence"}


def test_an_output_has_the_same_script_document(chain: Chain) -> None:
    told = chain.client.rpc("gettxout", chain.mined, 1)
    assert set(told) == {"bestblock", "confirmations", "value", "scriptPubKey", "coinbase", "confiscation"}
    assert told["scriptPubKey"] == chain.client.rpc("getrawtransaction", chain.mined, True)["vout"][1]["scriptPubKey"]
    assert chain.client.rpc("gettxout", chain.pending, 0, False) is None
    assert chain.client.rpc("gettxout", "00" * 32, 0) is None
    (row,) = chain.client.rpc("gettxouts", [{"txid": chain.mined, "n": 1}], ["*"])["txouts"]
    assert set(row) == {"scriptPubKey", "scriptPubKeyLen", "value", "isStandard", "confirmations"}
    with pytest.raises(RpcFailure, match="Wrong return field: nope"):
        chain.client.rpc("gettxouts", [{"txid": chain.mined, "n": 1}], ["nope"])


def test_a_block_in_every_form(chain: Chain) -> None:
    rpc = chain.client.rpc
    document = rpc("getblock", chain.block)
    assert set(document) == {
        *("hash", "confirmations", "size", "height", "version", "versionHex", "merkleroot", "num_tx", "time", "mediantime"),
        *("nonce", "bits", "difficulty", "chainwork", "previousblockhash", "tx", "subtrees"),
    }
    assert document["tx"][1] == chain.mined
    assert document["num_tx"] == len(document["tx"]) == 2
    for form in (1, True, "DECODE_HEADER"):
        assert rpc("getblock", chain.block, form) == document
    raw = bytes.fromhex(rpc("getblock", chain.block, 0))
    assert raw == bytes.fromhex(rpc("getblock", chain.block, "RAW_BLOCK"))
    assert raw[:80].hex() == rpc("getblockheader", chain.block, False)
    assert raw[80] == 2
    assert raw.endswith(chain.mined_raw)
    full = rpc("getblock", chain.block, 2)
    assert full == rpc("getblock", chain.block, "DECODE_TRANSACTIONS")
    assert [tx["txid"] for tx in full["tx"]] == document["tx"]
    assert full["tx"][1]["vout"][1]["scriptPubKey"]["addresses"] == [ADDRESS]
    assert len(raw) == 81 + sum(tx["size"] for tx in full["tx"])
    first = rpc("getblockbyheight", 102, 3)
    assert first["tx"] == full["tx"][:1]
    assert rpc("getblockheader", chain.block, "DECODE_HEADER_AND_COINBASE")["tx"] == full["tx"][:1]
    with pytest.raises(RpcFailure, match="RAW_BLOCK"):
        rpc("getblock", chain.block, 4)


def test_the_info_methods_have_the_fields_and_types_of_the_family(chain: Chain) -> None:
    rpc = chain.client.rpc
    info = rpc("getinfo")
    assert type(info["version"]) is int
    assert {"protocolversion", "blocks", "timeoffset", "connections", "proxy", "difficulty", "testnet", "errors"} <= set(
        info
    )
    assert info["testnet"] is False, "a regtest is not the test network"
    mining = rpc("getmininginfo")
    fields = {"blocks", "currentblocksize", "currentblocktx", "difficulty", "errors", "networkhashps", "pooledtx", "chain"}
    assert set(mining) == fields
    assert mining["pooledtx"] >= 1
    assert type(mining["networkhashps"]) is float
    assert type(rpc("getnetworkinfo")["version"]) is int
    assert rpc("getconnectioncount") == 0
    assert rpc("getmempoolinfo")["size"] == mining["pooledtx"]
    entry = rpc("getrawmempool", True)[chain.pending]
    assert set(entry) == {"size", "fee", "modifiedfee", "height", "depends"}
    assert (entry["size"], entry["fee"], entry["depends"]) == (len(chain.pending_raw), 1000 / 1e8, [])
    assert rpc("getblockchaininfo")["bestblockhash"] == chain.block


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 500, -32700),
        (b"", 500, -32700),
        (b"\xff\xfe", 500, -32700),
        (b"5", 500, -32700),
        (b'{"id":NaN,"method":"getblockcount"}', 500, -32700),
        (b'{"id":1e999,"method":"getblockcount"}', 500, -32700),
        (b"9" * 5000, 500, -32700),
        (b"[" * 100_000, 500, -32700),
        (b"[" + b"{}," * 400_000 + b"{}]", 500, -32700),
        (b"[" + b"{}," * 1000 + b"{}]", 400, -32600),
        (b"{}", 400, -32600),
        (b'{"method":5}', 400, -32600),
        (b'{"method":"getblockcount","params":5}', 400, -32600),
        (b'{"method":"nope"}', 404, -32601),
        (b'{"method":"\\ud800"}', 404, -32601),
        (b'{"method":"getblock"}', 500, -1),
        (b'{"method":"getblock","params":["zz"]}', 500, -8),
        (b'{"method":"getblock","params":["%s"]}' % (b"00" * 32), 500, -5),
        (b'{"method":"getblock","params":["%s  "]}' % (b"00" * 31), 500, -8),
        (b'{"method":"getblockhash","params":[-1]}', 500, -8),
        (b'{"method":"getblockhash","params":[1000000]}', 500, -8),
        (b'{"method":"getblockhash","params":["x"]}', 500, -1),
        (b'{"method":"getblockhash","params":[1180591620717411303424]}', 500, -1),
        (b'{"method":"getrawtransaction","params":["%s"]}' % (b"00" * 32), 500, -5),
        (b'{"method":"sendrawtransaction","params":["00"]}', 500, -22),
    ],
    ids=range(25),
)
def test_errors_have_the_familys_codes_and_statuses(chain: Chain, body: bytes, status: int, code: int) -> None:
    got, answer = chain.post(body)
    assert (got, answer["error"]["code"]) == (status, code)
    assert answer["result"] is None
    assert "internal" not in answer["error"]["message"]


def test_heights_out_of_range_and_bad_credentials_read_as_elsewhere(chain: Chain) -> None:
    assert chain.call("getblockhash", -1)[1]["error"]["message"] == "Block height out of range"
    status, answer = chain.client.request("POST", "/", b"{}", {"authorization": "Basic eDp5"})
    assert (status, answer) == (401, b"")
    assert chain.client.request("GET", "/")[0] == 405


def test_batches_answer_in_order_and_ids_come_back(chain: Chain) -> None:
    calls = [{"id": "a", "method": "getblockcount"}, {"id": 2, "method": "nope"}, 5, {"id": {"x": 1}, "method": "version"}]
    status, answers = chain.post(json.dumps(calls).encode())
    assert status == 200
    assert [answer["id"] for answer in answers] == ["a", 2, None, None]
    assert [answer["error"] and answer["error"]["code"] for answer in answers] == [None, -32601, -32600, None]
    assert chain.post(b"[]") == (200, [])
    assert chain.post(b'{"id":"\\ud800","method":"getblockcount"}')[1]["id"] == "\ud800"


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
        st.sampled_from(["00" * 32, "zz" * 32, "add", "²" * 5, "RAW_BLOCK", "*", ADDRESS]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["txid", "n", "hex", "id", "nonce", "coinbase", "time"]), inner, max_size=4),
    ),
    max_leaves=8,
)
NAMES = sorted({name for holder in HOLDERS for name in methods_of(holder)} - {"stop", "generate", "generatetoaddress"})


@pytest.mark.parametrize("method", [*NAMES, "help"])
@settings(max_examples=25)
@given(parameters=st.lists(ANYTHING, max_size=4))
def test_wrong_parameters_are_an_error_and_never_a_fault(chain: Chain, method: str, parameters: list[Any]) -> None:
    status, answer = chain.call(method, *parameters)
    assert status in (200, 500)
    if answer["error"] is not None:
        assert "internal" not in answer["error"]["message"], answer
        assert type(answer["error"]["code"]) is int


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/blocks?limit=-1&offset=99999999999999999999",
        "/api/v1/blocks?offset=99999999999",
        "/api/v1/blocks?n=%C2%B2",
        "/api/v1/blocks?fromHeight=x",
        "/api/v1/headers/0?n=-5",
        "/api/v1/utxos/{mined}?offset=1e3",
    ],
)
def test_a_number_that_is_none_is_400(chain: Chain, path: str) -> None:
    status, body = chain.client.request("GET", path.replace("{mined}", chain.mined))
    assert status == 400
    assert b"whole number" in body


@pytest.mark.parametrize("id", ["%C2%B2", "%20" * 64, "0" * 62 + "%20%20", "-1", "9" * 40, "%ff%fe", "a" * 5000])
def test_ids_that_are_none_are_an_answer(chain: Chain, id: str) -> None:
    connection = http.client.HTTPConnection(chain.node.service("bsv_api").removeprefix("http://"), timeout=60)
    for route in ("tx", "txmeta", "header", "headers", "block", "subtree", "subtree_data", "utxos", "merkle_proof"):
        connection.request("GET", f"/api/v1/{route}/{id}")
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (400, 404), route
    connection.close()
    assert chain.client.request("GET", "/api/v1/search?q=" + id)[0] in (400, 404)


def test_a_child_before_its_parent_is_422_until_the_parent_is_there(chain: Chain) -> None:
    coin = Coin(Transaction.parse(chain.pending_raw).txid + bytes(4), 9_000, Key(11, 2))
    parent = spend(coin, [(8_000, Key(11, 3).script)])
    child = spend(Coin(Transaction.parse(parent).txid + bytes(4), 8_000, Key(11, 3)), [(7_000, MINER.script)])
    status, text = chain.client.post_tx(child)
    assert status == 422
    assert Transaction.parse(parent).txid[::-1].hex() in text
    assert chain.client.post_tx(parent)[0] == 200
    assert chain.client.post_tx(child)[0] == 200


def test_every_method_says_what_it_is(chain: Chain) -> None:
    text = chain.client.rpc("help")
    for holder in HOLDERS:
        for name, method in methods_of(holder).items():
            assert any(line.split()[0].rstrip(":") == name for line in text.splitlines()), name
            assert inspect.getdoc(method)
