"""What the API takes and answers, apart from a node: ARC bodies, BUMP bytes, problem documents, credentials."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewright.errors import ConfigurationError
from nodewright.interfaces.common import Refused
from nodewright_bsv_api import errors
from nodewright_bsv_api.bump import bump
from nodewright_bsv_api.rpc_auth import BasicAuth, open_auth, write_private
from nodewright_bsv_api.submit import _arc_raw, _arc_raws


def test_arc_takes_a_transaction_as_json_hex_text_or_bytes() -> None:
    raw = bytes(range(60))
    assert _arc_raw(json.dumps({"rawTx": raw.hex()}).encode(), "application/json; charset=utf-8") == raw
    assert _arc_raw(raw.hex().encode() + b"\n", "text/plain") == raw
    assert _arc_raw(raw, "application/octet-stream") == raw


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        (b"{", "application/json", "no JSON"),
        (b"[]", "application/json", "rawTx is missing"),
        (b'{"rawTx": 7}', "application/json", "rawTx is missing"),
        (b'{"rawTx": "zz"}', "application/json", "not hexadecimal"),
        (b"zz", "text/plain", "not hexadecimal"),
        (b"", "text/plain", "no transaction"),
        (b"[" * 100_000, "application/json", "no JSON"),
    ],
)
def test_a_bad_arc_body_is_one_sentence(body: bytes, kind: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        _arc_raw(body, kind)


def test_arc_batches_are_bounded() -> None:
    assert _arc_raws(b'[{"rawTx":"00"},{"rawTx":"01"}]', "application/json", 2) == [b"\0", b"\1"]
    with pytest.raises(ValueError, match="more than 1"):
        _arc_raws(b"00\n01\n", "text/plain", 1)


def test_a_conflict_names_the_winner_once() -> None:
    winner = hashlib.sha256(b"w").digest()
    refused = Refused("txn-mempool-conflict", "an input is spent", "conflict", data={"winner": winner})
    assert errors.http_status(refused) == 409
    assert errors.sentence(refused).count(errors.display(winner)) == 1
    assert errors.problem(refused, None)["competingTxs"] == [errors.display(winner)]


def test_busy_says_when_to_come_back() -> None:
    refused = Refused("busy", "the pool is full", "busy", data={"retry_after_seconds": 2.4})
    assert errors.http_status(refused) == 503
    assert errors.retry_after(refused) == {"retry-after": "2"}


@given(st.binary(min_size=32, max_size=32))
def test_display_ids_round_trip(id: bytes) -> None:
    assert errors.parse_id(errors.display(id)) == id


@pytest.mark.parametrize("text", ["", "zz" * 32, "00" * 31, "00" * 33])
def test_no_id_is_none(text: str) -> None:
    assert errors.parse_id(text) is None


def _sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


@given(st.integers(1, 40), st.data())
def test_a_bump_proves_its_leaf_to_the_wallet_library(count: int, data: st.DataObject) -> None:
    """Another implementation, the SDK's MerklePath, computes the root from our bytes."""
    merkle_path = pytest.importorskip("bsv.merkle_path").MerklePath
    index = data.draw(st.integers(0, count - 1))
    level = [hashlib.sha256(bytes([n])).digest() for n in range(count)]
    leaf, at, path = level[index], index, []
    while len(level) > 1:
        sibling = at ^ 1
        path.append(level[min(sibling, len(level) - 1)][::-1].hex())
        level += level[-1:] if len(level) % 2 else []
        level = [_sha256d(level[n] + level[n + 1]) for n in range(0, len(level), 2)]
        at >>= 1
    if not path:
        return  # a block of its coinbase alone has no path to prove
    raw = bump(leaf, {"height": 813_706, "index": index, "siblings": path})
    parsed = merkle_path.from_hex(raw.hex())
    assert parsed.block_height == 813_706
    assert parsed.compute_root(leaf[::-1].hex()) == level[0][::-1].hex()


class Secrets:
    slot = "services.bsv_api"

    def __init__(self, **values: str) -> None:
        self._values = values

    def secret(self, name: str) -> str | None:
        return self._values.get(name)

    def entropy(self, count: int) -> bytes:
        return bytes(count)


def _header(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def test_without_credentials_a_private_cookie_is_written(tmp_path: Path) -> None:
    environment: Any = Secrets()
    auth = open_auth("", tmp_path, environment)
    cookie = tmp_path / ".cookie"
    assert stat.S_IMODE(cookie.stat().st_mode) == 0o600
    assert auth.allows(_header(cookie.read_text()))
    assert not auth.allows(_header("__cookie__:wrong"))


def test_a_user_without_a_password_names_where_to_put_it(tmp_path: Path) -> None:
    environment: Any = Secrets()
    with pytest.raises(ConfigurationError, match="NODEWRIGHT_BSV_API_RPC_PASSWORD"):
        open_auth("alice", tmp_path, environment)
    environment = Secrets(bsv_api_rpc_password="pass")
    assert open_auth("alice", tmp_path, environment).allows(_header("alice:pass"))


@pytest.mark.parametrize("header", [None, "", "Basic", "Basic !!!", "Bearer x", "Basic " + "A" * 10])
def test_a_bad_header_is_refused(header: str | None) -> None:
    assert not BasicAuth("a", "b").allows(header)


def test_a_private_file_replaces_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
