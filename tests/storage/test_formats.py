"""Format records: written at the first open, compared at the next, each difference named with what to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewright.errors import FormatMismatch, StoreCorrupt
from nodewright.interfaces import FormatRecord, WriteBatch
from nodewright.plugins.specs import Dependencies
from nodewright.storage.formats import (
    FORMAT_KEY,
    META_TABLE,
    check_blob_format,
    check_format,
    decode_format,
    encode_format,
    merge,
    write_format,
)
from nodewright.testing.environment import LocalEnvironment
from nodewright_files.plugin import FilesConfig, open_files
from nodewright_memory.plugin import MemoryConfig, open_memory

RECORD = FormatRecord("1", "nakamoto 1", "bitcoin 1", "regtest", b"\x01" * 32, {"pool": "1"})
NONE = Dependencies()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "mainnet"}, ["another network", "'regtest'", "'mainnet'", "--data-dir"]),
        ({"genesis": b"\x02" * 32}, ["another network", "01" * 32, "02" * 32]),
        ({"store": "2"}, ["store format '1'", "'2'", "db upgrade --dry-run"]),
        ({"consensus": "jolteon 1"}, ["consensus format 'nakamoto 1'", "'jolteon 1'"]),
        ({"execution": "bitcoin 2", "consensus": "x"}, ["execution format 'bitcoin 1'", "consensus format"]),
        ({"extra": {"pool": "2"}}, ["pool format '1'"]),
    ],
)
def test_each_difference_is_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(FormatMismatch) as caught:
        merge(RECORD, attrs.evolve(RECORD, **changes), "stores.chain")
    for word in ["stores.chain", *words]:
        assert word in str(caught.value)


async def test_in_a_key_value_store(tmp_path: Path) -> None:
    async with open_memory(MemoryConfig(), NONE, LocalEnvironment(tmp_path)) as store:
        assert await check_format(store, RECORD, "stores.chain") == RECORD
        assert await check_format(store, RECORD, "stores.chain") == RECORD
        other = attrs.evolve(RECORD, extra={"events": "3"})
        merged = await check_format(store, other, "stores.chain")
        assert merged.extra == {"pool": "1", "events": "3"}
        with pytest.raises(FormatMismatch):
            await check_format(store, attrs.evolve(RECORD, store="2"), "stores.chain")
        await write_format(store, attrs.evolve(RECORD, store="2"))
        await check_format(store, attrs.evolve(RECORD, store="2"), "stores.chain")
        batch = WriteBatch()
        batch.put(META_TABLE, FORMAT_KEY, b"[]")
        await store.commit(batch)
        with pytest.raises(StoreCorrupt, match=r"^stores\.chain: .*restore"):
            await check_format(store, RECORD, "stores.chain")


async def test_in_a_blob_store(tmp_path: Path) -> None:
    for _ in range(2):
        async with open_files(FilesConfig(), NONE, LocalEnvironment(tmp_path)) as store:
            assert await check_blob_format(store, RECORD, "stores.blobs") == RECORD
            with pytest.raises(FormatMismatch):
                await check_blob_format(store, attrs.evolve(RECORD, network="x"), "stores.blobs")
    async with open_files(FilesConfig(), NONE, LocalEnvironment(tmp_path)) as store:
        merged = await check_blob_format(store, attrs.evolve(RECORD, extra={"subtree": "1"}), "stores.blobs")
        assert merged.extra == {"pool": "1", "subtree": "1"}


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda raw: raw[:-5], "no JSON"),
        (lambda raw: b"\xff" + raw, "no JSON"),
        (lambda raw: b"[]", "no table"),
        (lambda raw: raw.replace(b'"genesis": "', b'"genesis": "zz'), "genesis"),
        (lambda raw: raw.replace(b'"network"', b'"netwerk"'), "network"),
        (lambda raw: b" " * 100_000, "100000 bytes"),
    ],
)
def test_damage_is_said_in_words(damage: Any, what: str) -> None:
    with pytest.raises(StoreCorrupt) as caught:
        decode_format(damage(encode_format(RECORD)), "stores.blobs")
    sentence = str(caught.value)
    assert sentence.startswith("stores.blobs: ") and what in sentence and "restore" in sentence
    assert "fromhex" not in sentence and "position" not in sentence and "char" not in sentence


@given(
    st.builds(
        FormatRecord,
        st.text(),
        st.text(),
        st.text(),
        st.text(),
        st.binary(max_size=32),
        st.dictionaries(st.text(), st.text()),
    )
)
def test_records_round_trip(record: FormatRecord) -> None:
    assert decode_format(encode_format(record)) == record
