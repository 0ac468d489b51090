"""The Jellyfish Merkle tree and the accumulator: against a plain reading of their definitions, and proofs against a checker
that shares no code with them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright_aptos import jmt
from nodewright_aptos.accumulator import PAGE_LEVEL, Accumulator, prove, read_accumulator, root_of, roots_of, verify
from nodewright_aptos.bcs import Malformed, whole
from nodewright_aptos.hashing import EMPTY_ACCUMULATOR, EMPTY_TREE, TRANSACTION_ACCUMULATOR
from nodewright_aptos.jmt import Change, Proof, Root, TreeUpdate
from nodewright_aptos.jmtnodes import Internal, Leaf, Node, decode_node, node_key

# --- the checker: from the definitions alone -----------------------------------------------------------------------------


def hashed(kind: str, data: bytes) -> bytes:
    return hashlib.sha3_256(hashlib.sha3_256(b"APTOS::" + kind.encode()).digest() + data).digest()


def bit(key: bytes, place: int) -> int:
    return key[place // 8] >> (7 - place % 8) & 1


def check(
    root: bytes, key: bytes, value: bytes | None, leaf: tuple[bytes, bytes] | None, siblings: Sequence[bytes]
) -> bool:
    """Whether ``key`` has ``value`` (hashes; None: it is not there) under ``root``. Siblings from the bottom up."""
    if len(siblings) > 256:
        return False
    if value is not None and leaf != (key, value):
        return False
    if value is None and leaf is not None:
        if leaf[0] == key:
            return False
        if any(bit(leaf[0], at) != bit(key, at) for at in range(len(siblings))):
            return False
    empty = b"SPARSE_MERKLE_PLACEHOLDER_HASH\0\0"
    current = empty if leaf is None else hashed("SparseMerkleLeafNode", leaf[0] + leaf[1])
    for place, sibling in zip(reversed(range(len(siblings))), siblings, strict=True):
        pair = sibling + current if bit(key, place) else current + sibling
        current = hashed("SparseMerkleInternal", pair)
    return current == root


def plain_root(values: Mapping[bytes, bytes], place: int = 0) -> bytes:
    """The root as it is defined, over all keys."""
    if not values:
        return b"SPARSE_MERKLE_PLACEHOLDER_HASH\0\0"
    if len(values) == 1:
        ((key, value),) = values.items()
        return hashed("SparseMerkleLeafNode", key + value)
    sides = [{key: value for key, value in values.items() if bit(key, place) == side} for side in (0, 1)]
    return hashed("SparseMerkleInternal", plain_root(sides[0], place + 1) + plain_root(sides[1], place + 1))


# --- a store of nodes -----------------------------------------------------------------------------------------------------


class Nodes:
    """All versions, and what each update made unused."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.stale: dict[int, list[bytes]] = {}
        self.roots: dict[int, Root] = {}
        self.root = Root()
        self.version = -1

    async def nodes(self, keys: Sequence[bytes]) -> list[Node | None]:
        return [decode_node(self.rows[key]) if key in self.rows else None for key in keys]

    async def update(self, changes: Mapping[bytes, bytes | None]) -> TreeUpdate:
        self.version += 1
        listed = [Change(key, value, b"\0" + bytes(32) + b"\0") for key, value in changes.items()]
        update = await jmt.update(self, self.root, listed, self.version)
        assert not set(update.nodes) & set(self.rows), "nodes are never changed"
        assert all(key in self.rows for key in update.stale)
        self.rows.update({key: node.encode() for key, node in update.nodes.items()})
        self.stale[self.version] = update.stale
        self.root = self.roots[self.version] = update.root
        return update


def key(number: int) -> bytes:
    """Keys that share long beginnings as often as not."""
    digits = hashlib.sha256(bytes([number % 7])).digest()[: number % 5]
    return digits + hashlib.sha256(number.to_bytes(4, "big")).digest()[: 32 - len(digits)]


def value(number: int) -> bytes:
    return hashlib.sha256(b"value" + number.to_bytes(8, "big")).digest()


keys = st.integers(0, 40).map(key)
changes = st.dictionaries(keys, st.none() | st.integers(0, 99).map(value), min_size=1, max_size=12)


@given(rounds=st.lists(changes, min_size=1, max_size=6))
@settings(max_examples=80)
async def test_any_history_gives_the_root_of_what_is_there_and_every_version_stays(
    rounds: list[dict[bytes, bytes | None]],
) -> None:
    nodes, state, states = Nodes(), {}, {}
    for one in rounds:
        await nodes.update(one)
        state = {key: value for key, value in {**state, **one}.items() if value is not None}
        states[nodes.version] = state
    for version, there in states.items():
        assert nodes.roots[version].hash == plain_root(there)
        for wanted in map(key, range(0, 41, 4)):
            proof = await jmt.prove(nodes, nodes.roots[version], wanted)
            leaf = None if proof.leaf is None else (proof.leaf.key_hash, proof.leaf.value_hash)
            assert check(nodes.roots[version].hash, wanted, there.get(wanted), leaf, proof.siblings)
    await assert_pruning_keeps(nodes, states)


async def assert_pruning_keeps(nodes: Nodes, states: Mapping[int, Mapping[bytes, bytes]]) -> None:
    """Version by version, pruning by the stale index removes exactly what only older versions need."""
    for oldest in sorted(states):
        for gone in nodes.stale[oldest]:
            del nodes.rows[gone]
        needed: dict[bytes, object] = {}
        for version in states:
            if version >= oldest:
                needed.update(await jmt.reachable(nodes, nodes.roots[version]))
        assert set(needed) == set(nodes.rows)


@given(order=st.permutations(range(25)), cuts=st.lists(st.integers(1, 24), max_size=3))
@settings(max_examples=50)
async def test_the_order_of_insertion_never_changes_the_root(order: list[int], cuts: list[int]) -> None:
    nodes = Nodes()
    edges = [0, *sorted(set(cuts)), 25]
    for start, end in itertools.pairwise(edges):
        await nodes.update({key(at): value(at) for at in order[start:end]})
    whole_tree = Nodes()
    await whole_tree.update({key(at): value(at) for at in range(25)})
    assert nodes.root.hash == whole_tree.root.hash == plain_root({key(at): value(at) for at in range(25)})


@given(data=st.data())
@settings(max_examples=60)
async def test_a_changed_proof_is_refused(data: st.DataObject) -> None:
    nodes = Nodes()
    await nodes.update({key(at): value(at) for at in range(0, 40, 2)})
    number = data.draw(st.integers(0, 40))
    wanted, there = key(number), value(number) if number % 2 == 0 and number < 40 else None
    proof = await jmt.prove(nodes, nodes.root, wanted)
    leaf = None if proof.leaf is None else (proof.leaf.key_hash, proof.leaf.value_hash)
    assert check(nodes.root.hash, wanted, there, leaf, proof.siblings)
    assert not check(nodes.root.hash, wanted, value(number + 1), leaf, proof.siblings)
    assert not check(nodes.root.hash, wanted, None if there is not None else value(number), leaf, proof.siblings)
    siblings = list(proof.siblings)
    at = data.draw(st.integers(0, len(siblings) - 1))
    siblings[at] = data.draw(st.binary(min_size=32, max_size=32).filter(lambda other: other != siblings[at]))
    assert not check(nodes.root.hash, wanted, there, leaf, siblings)
    assert not check(nodes.root.hash, wanted, there, leaf, proof.siblings[:-1])


async def test_small_trees_and_shards() -> None:
    nodes = Nodes()
    assert nodes.root.hash == EMPTY_TREE and await jmt.prove(nodes, nodes.root, key(1)) == Proof(None, ())
    await nodes.update({key(1): value(1)})
    assert isinstance(decode_node(nodes.rows[node_key(0, b"", 0)]), Leaf)
    await nodes.update({key(1): None, key(2): None})
    assert nodes.root == Root()
    await nodes.update({key(3): None})
    assert nodes.root == Root()
    update = await nodes.update({bytes([16 * shard]) + bytes(31): value(shard) for shard in range(16)})
    top = update.nodes[node_key(nodes.version, b"", 0)]
    assert isinstance(top, Internal) and top.leaf_count == 16
    assert [jmt.shard_of(bytes([16 * shard + 3])) for shard in range(16)] == list(range(16))


async def test_node_bytes_are_those_of_the_reference() -> None:
    """Key: version big-endian, nibble count, nibbles. Internal: bitmaps, then version and hash (and leaf count) of each."""
    assert node_key(258, bytes.fromhex("abcdef"), 3) == bytes.fromhex("000000000000010203abc0")
    children: list[jmt.Child | None] = [None] * 16
    children[1], children[15] = (300, b"x" * 32, 1), (7, b"y" * 32, 200)
    node = Internal(children)
    raw = bytes.fromhex("0102800200") + b"\xac\x02" + b"x" * 32 + b"\x07" + b"y" * 32 + b"\xc8\x01"
    assert node.encode() == raw and decode_node(raw) == node and node.leaf_count == 201
    leaf = Leaf(b"k" * 32, b"v" * 32, b"\0" + b"a" * 32 + b"\2\1z", 9)
    assert leaf.encode() == b"\2" + b"k" * 32 + b"v" * 32 + leaf.state_key + (9).to_bytes(8, "little")
    assert decode_node(leaf.encode()) == leaf
    for bad in (b"", b"\0", b"\3" * 80, raw[:-1], raw + b"\0", b"\1\0\0\1\0"):
        with pytest.raises(Malformed):
            decode_node(bad)


# --- the accumulator ------------------------------------------------------------------------------------------------------


def plain_accumulator(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return EMPTY_ACCUMULATOR
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << ((len(leaves) - 1).bit_length() - 1)

    def padded(part: Sequence[bytes], width: int) -> bytes:
        if not part:
            return EMPTY_ACCUMULATOR
        if width == 1:
            return part[0]
        left, right = padded(part[: width // 2], width // 2), padded(part[width // 2 :], width // 2)
        return hashed("TransactionAccumulator", left + right)

    return padded(leaves, 2 * half)


@given(blocks=st.lists(st.integers(1, 40), min_size=1, max_size=8))
@settings(max_examples=50)
def test_blocks_appended_give_the_tree_over_all_leaves(blocks: list[int]) -> None:
    accumulator, leaves = Accumulator(), []
    for count in blocks:
        fresh = [value(len(leaves) + at) for at in range(count)]
        accumulator, _ = accumulator.append(fresh)
        leaves += fresh
        assert accumulator.leaves == len(leaves)
        assert accumulator.root == plain_accumulator(leaves) == root_of(TRANSACTION_ACCUMULATOR, leaves)
    assert whole(accumulator.encode(), read_accumulator) == accumulator
    assert [root is not None for root in accumulator.frozen] == [
        bool(len(leaves) >> level & 1) for level in range(len(leaves).bit_length())
    ]


@given(counts=st.lists(st.integers(0, 9), max_size=12))
@settings(max_examples=30)
def test_many_small_trees_in_batches(counts: list[int]) -> None:
    trees = [[value(100 * at + leaf) for leaf in range(count)] for at, count in enumerate(counts)]
    assert roots_of(TRANSACTION_ACCUMULATOR, trees) == [plain_accumulator(tree) for tree in trees]


def test_stored_nodes_are_every_eighth_level_once_and_complete() -> None:
    accumulator, leaves, stored = Accumulator(), [], {}
    for count in (1, 300, 255, 1, 700):
        fresh = [value(len(leaves) + at) for at in range(count)]
        accumulator, nodes = accumulator.append(fresh)
        assert not set(nodes) & set(stored)
        stored.update(nodes)
        leaves += fresh
    assert set(stored) == {(PAGE_LEVEL, index) for index in range(len(leaves) >> PAGE_LEVEL)}
    for (_, index), hash in stored.items():
        assert hash == plain_accumulator(leaves[256 * index : 256 * index + 256])


@given(leaves=st.integers(1, 70), data=st.data())
@settings(max_examples=60)
def test_proofs_of_leaves(leaves: int, data: st.DataObject) -> None:
    hashes = [value(at) for at in range(leaves)]
    leaf = data.draw(st.integers(0, leaves - 1))
    root = plain_accumulator(hashes)
    siblings = prove(leaf, leaves, lambda level, index: plain_accumulator(hashes[index << level : (index + 1) << level]))
    assert verify(root, leaf, hashes[leaf], siblings)
    assert not verify(root, leaf, value(1000), siblings)
    assert not verify(root, leaf ^ 1, hashes[leaf], siblings) or leaves == 1
    with pytest.raises(ValueError):
        prove(leaves, leaves, lambda level, index: b"")
