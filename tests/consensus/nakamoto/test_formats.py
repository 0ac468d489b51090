"""Codecs against random data, Merkle composition against the flat tree, headers and difficulty against known values."""

from __future__ import annotations

import hashlib

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from nodewright.errors import ConfigurationError
from nodewright_nakamoto import blockwire, compact, genesis, merkle, messages, subtree
from nodewright_nakamoto.blockwire import Block
from nodewright_nakamoto.compact import MalformedError
from nodewright_nakamoto.difficulty import Difficulty
from nodewright_nakamoto.header import Header, bits_of, meets_target, search_nonce, sha256d, target_of, work_of
from nodewright_nakamoto.store import BundleRow
from nodewright_nakamoto.subtree import FirstSubtree, Subtree

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**40)
ID = st.binary(min_size=32, max_size=32)
QUICK = settings(max_examples=80, deadline=None)

GENESIS_COINBASE = (
    "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff4d04ffff001d0104455468652054696d"
    "65732030332f4a616e2f32303039204368616e63656c6c6f72206f6e206272696e6b206f66207365636f6e64206261696c6f757420666f7220"
    "62616e6b73ffffffff0100f2052a01000000434104678afdb0fe5548271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f"
    "4cef38c4f35504e51ec112de5c384df7ba0b8d578a4c702b6bf11d5fac00000000"
)
REGTEST = {
    "network": "regtest",
    "time": 1296688602,
    "consensus": {"version": 1, "bits": "207fffff", "nonce": 2},
    "execution": {"coinbase": GENESIS_COINBASE},
}


def leaves_of(count: int, placeholder: bool = False) -> bytes:
    ids = [hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(count)]
    return b"".join([subtree.PLACEHOLDER, *ids[1:]] if placeholder else ids)


@given(st.integers(0, 2**64 - 1))
@QUICK
def test_compact_size_round_trips_in_its_shortest_form(value: int) -> None:
    data = compact.encode(value)
    assert compact.decode(data, 0) == (value, len(data))
    with pytest.raises(MalformedError):
        compact.decode(data[:-1], 0)


@pytest.mark.parametrize("data", ["fd0100", "fe00010000", "ffffffffff00000000", "fd", "fe0000", ""])
def test_a_longer_form_than_needed_is_refused(data: str) -> None:
    with pytest.raises(MalformedError):
        compact.decode(bytes.fromhex(data), 0)


@given(U32, ID, ID, U32, U32, U32)
@QUICK
def test_header_round_trips(version: int, previous: bytes, root: bytes, time: int, bits: int, nonce: int) -> None:
    header = Header(version, previous, root, time, bits, nonce)
    assert Header.decode(header.encode()) == header
    assert header.id == sha256d(header.encode())


def test_the_regtest_genesis_block_comes_out_exactly() -> None:
    coinbase = genesis.coinbase_of(REGTEST)
    built = genesis.build(REGTEST, sha256d(coinbase))
    assert built.block.id[::-1].hex() == "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
    assert meets_target(built.block.id, built.block.header.bits)
    assert built.block.transaction_count == 1 and built.block.size == 285
    assert blockwire.decode(built.block.encode(), height=0) == built.block


def test_a_wrong_genesis_document_is_told_with_all_its_problems() -> None:
    document = {**REGTEST, "consensus": {"bits": "zz", "difficulty": "easy", "nonce": -1}}
    with pytest.raises(ConfigurationError) as caught:
        genesis.build(document, None)
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigurationError, match="the document states"):
        genesis.build({**REGTEST, "consensus": {"hash": "00" * 32}}, bytes(32))


@pytest.mark.parametrize(
    ("bits", "target"),
    [
        (0x1D00FFFF, 0xFFFF << 208),
        (0x207FFFFF, 0x7FFFFF << 232),
        (0x05009234, 0x92340000),
        (0x01123456, 0x12),
        (0x04923456, 0),
        (0xFF123456, 0),
        (0, 0),
    ],
)
def test_compact_targets(bits: int, target: int) -> None:
    assert target_of(bits) == target


@given(st.integers(1, 2**256 - 1))
@QUICK
def test_bits_round_down_and_are_stable(target: int) -> None:
    bits = bits_of(target)
    again = target_of(bits)
    assert again <= target and bits_of(again) == bits
    assert target - again < max(1, target >> 15)
    assert work_of(bits) >= 1


def test_a_nonce_is_found() -> None:
    header = Header(1, bytes(32), bytes(32), 5, 0x207FFFFF, 0)
    nonce = search_nonce(header.encode(), header.bits, 0, 1000)
    assert nonce is not None
    assert meets_target(Header(1, bytes(32), bytes(32), 5, 0x207FFFFF, nonce).id, header.bits)
    assert search_nonce(header.encode(), 0x03000001, 0, 100) is None


class Chain:
    """A chain as the difficulty rules see it, grown by the rule itself."""

    class At:
        def __init__(self, height: int, time: int, bits: int) -> None:
            self.height, self.time, self.bits = height, time, bits

    def __init__(self, rule: Difficulty, bits: int) -> None:
        self.rule = rule
        self.blocks = [Chain.At(0, 0, bits)]

    def ancestor(self, height: int) -> Chain.At:
        return self.blocks[height]

    def grow(self, count: int, seconds: float) -> None:
        for _ in range(count):
            parent = self.blocks[-1]
            bits = self.rule.next_bits(parent, self)
            self.blocks.append(Chain.At(parent.height + 1, parent.time + round(seconds), bits))


def test_the_fixed_rule_follows_the_hash_rate() -> None:
    limit = 0x207FFFFF
    rule = Difficulty("fixed", limit, target_interval_seconds=10, half_life_seconds=100)
    chain = Chain(rule, 0x1F00FFFF)
    chain.blocks.append(Chain.At(1, 1_000_000, 0x1F00FFFF))  # an old genesis time does not count
    chain.grow(50, 10)
    start = target_of(0x1F00FFFF)
    assert abs(target_of(chain.blocks[-1].bits) / start - 1) < 0.001
    chain.grow(20, 5)  # twice too fast for one half-life of drift
    assert target_of(rule.next_bits(chain.blocks[-1], chain)) / start == pytest.approx(0.5, rel=0.01)
    chain.grow(10, 20)
    assert target_of(rule.next_bits(chain.blocks[-1], chain)) / start == pytest.approx(1.0, rel=0.01)
    chain.grow(3, 10**6)
    assert chain.rule.next_bits(chain.blocks[-1], chain) == limit
    regtest = Difficulty("regtest", limit)
    assert regtest.next_bits(Chain.At(7, 1, limit), chain) == limit


def test_the_classic_rule_retargets_every_2016_blocks() -> None:
    rule = Difficulty("classic", 0x1D00FFFF, 600)
    chain = Chain(rule, 0x1B0404CB)
    chain.grow(2015, 300)
    assert {one.bits for one in chain.blocks} == {0x1B0404CB}
    ratio = target_of(rule.next_bits(chain.blocks[-1], chain)) / target_of(0x1B0404CB)
    assert ratio == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("compiled", [True, False], ids=["columns", "plain"])
@given(count=st.integers(1, 70), placeholder=st.booleans(), data=st.data())
@QUICK
def test_subtree_round_trips(compiled: bool, count: int, placeholder: bool, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subtree.kernels, "ready", lambda: compiled)
        subtree_round_trips(count, placeholder, data)


def subtree_round_trips(count: int, placeholder: bool, data: st.DataObject) -> None:
    leaves = leaves_of(count, placeholder)
    fees = data.draw(st.lists(U64, min_size=count, max_size=count))
    sizes = data.draw(st.lists(st.integers(0, 50), min_size=count, max_size=count))
    if placeholder:
        fees[0] = sizes[0] = 0
    built = subtree.build(leaves, fees, sizes, [bytes(32)][: count - 1])
    encoded = subtree.encode(built)
    assert subtree.decode(encoded) == built
    assert subtree.decode_leaves(encoded) == leaves
    records = messages.encode_records(leaves, fees, sizes)
    assert encoded[56 : 56 + 48 * count] == records
    column, *others = messages.decode_records(records)
    assert (column, *map(list, others)) == (leaves, fees, sizes)
    bodies = [bytes([1]) * size for size in built.body_sizes()]
    assert subtree.split_data(b"".join(bodies), built.body_sizes()) == bodies
    for cut in (0, 55, len(encoded) - 1):
        with pytest.raises(MalformedError):
            subtree.decode(encoded[:cut])
    with pytest.raises(MalformedError):
        subtree.decode(encoded + b"\0")


@given(st.lists(st.lists(st.tuples(ID, st.lists(U32, max_size=3)), max_size=3), min_size=1, max_size=4))
@QUICK
def test_subtree_meta_round_trips(inpoints: list[list[tuple[bytes, list[int]]]]) -> None:
    data = subtree.encode_meta(bytes(32), inpoints)
    root, found = subtree.decode_meta(data)
    assert root == bytes(32)
    assert found == [[(parent, tuple(outputs)) for parent, outputs in leaf] for leaf in inpoints]
    with pytest.raises(MalformedError):
        subtree.decode_meta(data[:-1])


@given(st.binary(max_size=300))
@QUICK
def test_garbage_is_malformed_and_nothing_else(data: bytes) -> None:
    for decode in (
        subtree.decode,
        subtree.decode_meta,
        blockwire.decode,
        messages.decode_announcement,
        messages.decode_records,
        messages.decode_headers,
        lambda raw: messages.decode_transactions(raw, 5),
        messages.Tip.decode,
    ):
        try:
            decode(data)
        except MalformedError:
            pass


def test_leaves_that_are_not_a_subtree() -> None:
    leaves = leaves_of(5)
    assert subtree.check_leaves(leaves, merkle.root(leaves)) is None
    doubled = leaves + leaves[-32:]  # the same root: CVE-2012-2459
    assert merkle.root(doubled) == merkle.root(leaves)
    assert "twice" in (subtree.check_leaves(doubled, merkle.root(leaves)) or "")
    assert "identifier" in (subtree.check_leaves(leaves, bytes(32)) or "")
    middle = leaves + subtree.PLACEHOLDER
    assert "elsewhere" in (subtree.check_leaves(middle, merkle.root(middle)) or "")
    assert subtree.check_leaves(b"", bytes(32)) and subtree.check_leaves(b"x", bytes(32))
    assert "nothing but" in (subtree.check_leaves(subtree.PLACEHOLDER, subtree.PLACEHOLDER) or "")


@given(st.integers(0, 4), st.integers(1, 5), st.data())
@QUICK
def test_a_blocks_root_and_branches_equal_the_flat_tree(exponent: int, full: int, data: st.DataObject) -> None:
    size = 2 << exponent
    last = data.draw(st.integers(1, size))
    ids = leaves_of((full - 1) * size + last)
    if len(ids) < 64:
        ids = leaves_of(2)
    leaves = subtree.PLACEHOLDER + ids[32:]
    parts = [leaves[i : i + 32 * size] for i in range(0, len(leaves), 32 * size)]
    roots, counts = [merkle.root(part) for part in parts], [len(part) // 32 for part in parts]
    assert subtree.check_shape(counts) is None
    first = FirstSubtree.of(parts[0])
    prologue = ids[:32]
    flat = merkle.root(ids)
    assert subtree.block_root(prologue, first, roots, counts) == flat
    assert merkle.climb(prologue, 0, subtree.coinbase_branch(first, roots, counts)) == flat
    position = data.draw(st.integers(0, len(parts) - 1))
    leaf = data.draw(st.integers(0 if position else 1, counts[position] - 1))
    held = Subtree(roots[position], parts[position], [], [])
    siblings, index = subtree.transaction_branch(held, position, leaf, prologue, first, roots, counts)
    assert index == position * size + leaf
    assert siblings == merkle.branch(ids, index)


@pytest.mark.parametrize("counts", [[3, 4], [3, 3], [4, 2, 4], [4, 8], [6, 6, 1]])
def test_a_blocks_subtrees_must_have_one_power_of_two_length(counts: list[int]) -> None:
    assert subtree.check_shape(counts) is not None


@given(st.lists(ID, max_size=4), st.binary(max_size=80), U32, U64, U64)
@QUICK
def test_a_block_round_trips_where_its_height_is_known(
    subtrees: list[bytes], prologue: bytes, height: int, count: int, size: int
) -> None:
    block = Block(Header(1, bytes(32), bytes(32), 1, 2, 3), count, size, tuple(subtrees), prologue, height)
    assert blockwire.decode(block.encode(), height=height) == block
    assert blockwire.decode(block.encode(), extent=lambda raw: len(prologue)) == block
    try:  # the coinbase is opaque, so a cut may leave a block: never this one
        assert blockwire.decode(block.encode()[:-1], height=height) != block
    except MalformedError:
        pass


def test_an_ambiguous_end_is_refused_without_a_hint() -> None:
    prologue = bytes.fromhex("aafd00")  # ends so that V height could also begin inside it: fd 00 01
    block = Block(Header(1, bytes(32), bytes(32), 1, 2, 3), 1, 1, (), prologue, 1)
    with pytest.raises(MalformedError, match="exactly one"):
        blockwire.decode(block.encode())
    assert blockwire.decode(block.encode(), height=1) == block


@given(st.integers(1, 100), st.lists(ID, max_size=3), st.lists(ID, max_size=3), st.lists(ID, max_size=3), st.booleans())
@QUICK
def test_bundle_rows_round_trip(
    leaves: int, siblings: list[bytes], blocks: list[bytes], overlaps: list[bytes], placeholder: bool
) -> None:
    row = BundleRow(leaves, leaves - placeholder, 7, 8, tuple(siblings), tuple(blocks), tuple(overlaps))
    assert BundleRow.decode(row.encode()) == row
    assert row.placeholder is placeholder


@given(st.lists(st.none() | st.binary(max_size=50), min_size=1, max_size=10))
@QUICK
def test_transactions_in_a_reply_round_trip(bodies: list[bytes | None]) -> None:
    found = messages.decode_transactions(messages.encode_transactions(bodies), len(bodies))
    assert found == [False if body is None else body for body in bodies]


def test_a_large_transaction_is_fetched_as_a_body() -> None:
    large = bytes(messages.MAX_REPLY_BYTES + 1)
    assert messages.decode_transactions(messages.encode_transactions([large, b"x"]), 2) == [True, b"x"]
    half = bytes(messages.MAX_REPLY_BYTES * 2 // 3)
    assert messages.decode_transactions(messages.encode_transactions([half, half]), 2) == [half]
