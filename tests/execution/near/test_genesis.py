"""The main network's genesis: its state root and block hash come out of its 64 records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nodewright.errors import ConfigurationError
from nodewright_near.genesis import (
    check_boundaries,
    first_block_v1,
    nanoseconds,
    records_of_document,
    shard_of,
    split_rows,
    state_of_records,
    total_supply,
)
from nodewright_near.headers import ValidatorStakeV1
from nodewright_near.parameters import Parameters
from nodewright_near.primitives import base58, parse_key
from nodewright_near.trie import EMPTY_ROOT, NoNodes, update

STATE_ROOT = "8EhZRfDTYujfZoUZtZ3eSMB9gJyFo5zjscR12dEcaxGU"
BLOCK_HASH = "EPnLgE7iEq9s7yTkos96M3cWymH5avBAPm3qx3NXqR8H"
# The order in which the draw of seats of protocol 29 put the four validators, all of equal stake.
DRAWN = (1, 0, 3, 2)


@pytest.fixture(scope="module")
def document(vectors: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((vectors / "near" / "mainnet_genesis.json").read_text())
    return loaded


def test_the_main_network_begins_with_its_own_state_root_and_block_hash(document: dict[str, Any]) -> None:
    rows = state_of_records(document["records"], Parameters())
    root = update(NoNodes(), EMPTY_ROOT, rows, {})
    assert base58(root) == STATE_ROOT
    assert total_supply(rows) == int(document["total_supply"])
    validators = [
        ValidatorStakeV1(given["account_id"], parse_key(given["public_key"]), int(given["amount"]))
        for given in document["validators"]
    ]
    header = first_block_v1(document, root, [validators[index] for index in DRAWN])
    assert base58(header.hash()) == BLOCK_HASH


def test_shards_are_ranges_of_names() -> None:
    boundaries = check_boundaries(["bb", "m.near"])
    assert [shard_of(name, boundaries) for name in ("aa", "bb", "bc", "m.near", "m.neas", "zz")] == [0, 1, 1, 2, 2, 2]
    rows = state_of_records(
        records_of_document({"accounts": [{"id": name, "amount": 5} for name in ("aa", "zz")]}), Parameters()
    )
    assert [len(shard) for shard in split_rows(rows, boundaries)] == [1, 0, 1]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"accounts": [{"id": "A", "amount": 1}]}, "not an account name"),
        ({"accounts": [{"id": "aa"}]}, "lacks 'amount'"),
        ({"accounts": [{"id": "aa", "amount": -1}]}, "out of range"),
        ({"accounts": [{"id": "aa", "amount": "x"}]}, "not a whole number"),
        ({"records": [{"Contract": {"account_id": "aa", "code": "AA=="}}]}, "no account of that name"),
        ({"records": [{"DelayedReceipt": {"account_id": "aa"}}]}, "not taken"),
        ({"records": [{"Account": {}}]}, "cannot be read"),
    ],
)
def test_a_bad_record_is_one_sentence(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        state_of_records(records_of_document(table), Parameters())


@pytest.mark.parametrize("given", [["b", "aa"], ["bb", "bb"], ["B"], ["bb", "aa"]])
def test_bad_boundaries_are_refused(given: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="genesis"):
        check_boundaries(given)


def test_times_have_nanoseconds() -> None:
    assert nanoseconds("2020-07-21T16:55:51.591948000Z") == 1595350551591948000
    assert nanoseconds("1970-01-01T01:00:00+01:00") == 0
