"""Genesis documents: one hash for one meaning, every problem at once, and the built-in network's well-known block hash."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright import genesis
from nodewright.errors import ConfigurationError

MINIMAL = {"network": "dev", "family": "toy", "time": 5}


def sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def test_regtest_gives_the_well_known_block_hash() -> None:
    document = genesis.builtin("regtest")
    coinbase = bytes.fromhex(document["execution"]["coinbase"])
    consensus = document["consensus"]
    header = (
        struct.pack("<i", consensus["version"])
        + bytes(32)
        + sha256d(coinbase)
        + struct.pack("<III", document.time, int(consensus["bits"], 16), consensus["nonce"])
    )
    assert sha256d(coinbase)[::-1].hex() == "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
    assert document.display(sha256d(header)) == "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"


def test_hash_is_of_the_meaning_not_of_the_file(tmp_path: Path) -> None:
    toml = tmp_path / "g.toml"
    toml.write_text('time = 5\nfamily = "toy"\nnetwork = "dev"\n[execution]\nb = 2\na = [1, true, "x"]\n')
    other = tmp_path / "g.json"
    other.write_text(json.dumps({**MINIMAL, "execution": {"a": [1, True, "x"], "b": 2}, "protocol_versions": {}}))
    assert genesis.load(toml) == genesis.load(other)
    assert genesis.load(toml)["hash"] == genesis.load(other).hash
    assert genesis.build({**MINIMAL, "time": 6}) != genesis.build(MINIMAL)


def test_dump_reads_back(tmp_path: Path) -> None:
    document = genesis.builtin("regtest")
    path = tmp_path / "out.json"
    path.write_text(document.dump())
    assert genesis.load(path) == document


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        genesis.build({"network": "No!", "time": 1.5, "execution": {"x": 0.1}, "colour": 1})
    assert len(caught.value.problems) == 5
    assert any("execution.x" in problem for problem in caught.value.problems)


def test_extends_merges_tables() -> None:
    document = genesis.build({"extends": "regtest", "network": "mine", "consensus": {"bits": "1d00ffff"}})
    assert document.network == "mine"
    assert dict(document["consensus"]) == {"version": 1, "bits": "1d00ffff", "nonce": 2}


def test_unknown_network_names_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="regtest"):
        genesis.resolve("nowhere")


@pytest.mark.parametrize("text", ["[", '"a"', "\xff", "[" * 100_000])
def test_garbage_file_is_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "g.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError):
        genesis.load(path)


def test_protocol_version_by_height() -> None:
    document = genesis.build({**MINIMAL, "protocol_versions": {"0": 1, "100": 3, "20": 2}})
    assert [document.protocol_version(height) for height in (0, 19, 20, 99, 100, 10**9)] == [1, 1, 2, 2, 3, 3]


def test_documents_are_read_only() -> None:
    document = genesis.build({**MINIMAL, "execution": {"list": [1], "table": {"a": 1}}})
    with pytest.raises(TypeError):
        document["execution"]["table"]["a"] = 2
    assert document["execution"]["list"] == (1,)


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_documents_round_trip(table: dict[str, object]) -> None:
    document = genesis.build({**MINIMAL, "execution": table})
    again = genesis.build(json.loads(document.dump()))
    assert again == document
    assert again.document() == document.document()
