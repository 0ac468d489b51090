"""A genesis of generated accounts: the same roots as from rows one knows, in bounded memory, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.errors import ConfigurationError
from nodewright.interfaces.storage import WriteBatch
from nodewright_memory.store import MemoryStore
from nodewright_near import engine, founding
from nodewright_near.bulk import Bulk
from nodewright_near.generated import Generated, read_generated
from nodewright_near.genesis import GenesisRows, records_of_document, split_rows, state_of_records, total_supply
from nodewright_near.parameters import Parameters
from nodewright_near.primitives import key_text
from nodewright_near.transactions import Transfer
from nodewright_near.trie import EMPTY_ROOT, NoNodes, update
from nodewright_near.trienodes import value_ref

SECTION = {"count": 150, "seed": "one", "amount": str(10**24), "suffix": "gen"}
NAMED = [{"id": name, "amount": str(7 * 10**24), "keys": []} for name in ("sandbox", "aa", "zz", "m3")]


def root_of(rows: dict[bytes, bytes], nodes: dict[bytes, bytes | None] | None = None) -> bytes:
    return update(NoNodes(), EMPTY_ROOT, rows, {} if nodes is None else nodes)


@settings(max_examples=100)
@given(st.dictionaries(st.binary(max_size=6), st.binary(max_size=4), max_size=40))
def test_a_trie_built_at_once_is_the_one_that_grows(rows: dict[bytes, bytes]) -> None:
    grown: dict[bytes, bytes | None] = {}
    root = root_of(rows, grown)
    bulk = Bulk()
    for key in sorted(rows):
        bulk.add(key, value_ref(rows[key]))
    assert bulk.finish() == root
    assert bulk.nodes == {path: raw for path, raw in grown.items() if raw is not None}


def test_keys_that_do_not_rise_are_refused() -> None:
    bulk = Bulk()
    bulk.add(b"b", value_ref(b""))
    with pytest.raises(ValueError, match="rise"):
        bulk.add(b"a", value_ref(b""))


@pytest.mark.parametrize("boundaries", [(), ("5", "gg", "p")])
def test_generated_accounts_are_those_that_one_could_have_named(boundaries: tuple[str, ...]) -> None:
    (section,) = read_generated({"generated_accounts": [SECTION]})
    spelled = [
        {"id": section.name(at), "amount": str(section.amount), "keys": [key_text(section.public(at))]}
        for at in range(section.count)
    ]
    rows = state_of_records(records_of_document({"accounts": NAMED + spelled}), Parameters())
    made = GenesisRows({"accounts": NAMED, "generated_accounts": [SECTION]}, Parameters(), boundaries)
    assert made.supply == total_supply(rows)
    assert made.count == len(rows)
    parts = split_rows(rows, boundaries)
    assert [dict(made.shard(at)) for at in range(made.shards)] == parts
    assert made.roots() == [root_of(part) for part in parts]
    if boundaries:
        assert min(map(len, parts)) > 20  # spread over all names


def test_names_rise_with_numbers() -> None:
    for count in (1, 2, 1295, 1297, 5000):
        names = [Generated(count, "x", 1, "gen").name(at) for at in range(count)]
        assert names == sorted(set(names))


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"generated_accounts": SECTION}, "must be a list"),
        ({"generated_accounts": [SECTION, SECTION]}, "suffix of its own"),
        ({"generated_accounts": [{**SECTION, "more": 1}]}, "nothing else"),
        ({"generated_accounts": [{**SECTION, "count": 0}]}, "count must be"),
        ({"generated_accounts": [{**SECTION, "count": "many"}]}, "whole numbers"),
        ({"generated_accounts": [{**SECTION, "amount": -1}]}, "out of range"),
        ({"generated_accounts": [{**SECTION, "suffix": "NO"}]}, "no account names"),
        ({"generated_accounts": [SECTION], "accounts": [{"id": "x.gen", "amount": 1}]}, "rename it"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(table: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        GenesisRows(table, Parameters(), ())


async def test_the_state_is_made_once_and_every_restart_finds_it(
    world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await world({"alice.near": 5}, ("5", "z"), generated_accounts=[SECTION]).open()
    (section,) = read_generated({"generated_accounts": [SECTION]})
    assert await one.supply() == 5 + section.count * section.amount
    assert await one.amount(section.name(149)) == section.amount
    before = one.commitments

    def never(*_: object) -> None:
        raise AssertionError("the genesis is made a second time")

    monkeypatch.setattr(engine, "GenesisRows", never)
    one.disk.crash()
    assert (await one.open()).commitments == before


async def test_a_start_that_was_cut_off_begins_again(world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await world({"alice.near": 5}, ("5", "z"), generated_accounts=[SECTION]).open()
    monkeypatch.setattr(founding, "SLICE_ROWS", 20)
    half = world({"alice.near": 5}, ("5", "z"), generated_accounts=[SECTION])
    commit, left = MemoryStore.commit, iter(range(7))

    async def dies(store: MemoryStore, batch: WriteBatch, durable: bool = True) -> None:
        if next(left, None) is None:
            raise OSError("killed")
        await commit(store, batch, durable)

    with monkeypatch.context() as patched:
        patched.setattr(MemoryStore, "commit", dies)
        with pytest.raises(OSError, match="killed"):
            await half.open()
    half.disk.crash()
    await half.open()
    assert half.commitments == whole.commitments
    assert half.disk.live["near_nodes"].rows == whole.disk.live["near_nodes"].rows
    assert half.disk.live["near_state"].rows == whole.disk.live["near_state"].rows


async def test_a_state_larger_than_its_caches_runs_like_any_other(
    world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(founding, "SLICE_ROWS", 50)
    roots = []
    for room in (1 << 22, 0):
        monkeypatch.setattr(founding, "_CACHED_ROW", 120 if room else 1 << 30)
        one = await world({"alice.near": 10**26, "bob.near": 0}, (), generated_accounts=[SECTION]).open()
        (section,) = read_generated({"generated_accounts": [SECTION]})
        await one.settle(*(one.sign("alice.near", section.name(at), Transfer(at)) for at in range(0, 150, 7)))
        assert await one.amount(section.name(147)) == section.amount + 147
        roots.append(one.commitments)
    assert roots[0] == roots[1]
