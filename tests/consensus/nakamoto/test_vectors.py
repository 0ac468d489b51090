"""Real blocks: Teranode's block 171 with its 32 subtrees, and main-network block 413567."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodewright_nakamoto import blockwire, compact, merkle, subtree
from nodewright_nakamoto.header import Header, meets_target, sha256d


@pytest.fixture
def vectors() -> Path:
    folder = os.environ.get("NODEWRIGHT_VECTORS")
    if not folder:
        pytest.skip("NODEWRIGHT_VECTORS is not set: the real blocks are not part of the repository")
    return Path(folder)


def parse(data: bytes, at: int = 0) -> tuple[int, bytes]:
    """(end, standard form) of the Bitcoin transaction at ``at``, in standard or extended form."""
    standard = [data[at : at + 4]]
    at += 4
    extended = data[at : at + 6] == bytes(5) + b"\xef"
    start = at = at + 6 if extended else at
    inputs, at = compact.decode(data, at)
    for _ in range(inputs):
        length, at = compact.decode(data, at + 36)
        at += length + 4
        if extended:
            standard.append(data[start:at])
            length, at = compact.decode(data, at + 8)
            start = at = at + length
    outputs, at = compact.decode(data, at)
    for _ in range(outputs):
        length, at = compact.decode(data, at + 8)
        at += length
    standard.append(data[start : at + 4])
    return at + 4, b"".join(standard)


def extent(data: bytes, at: int = 0) -> int:
    return parse(data, at)[0]


def standard(data: bytes) -> bytes:
    return parse(data)[1]


def test_block_171_round_trips_and_its_subtrees_compose_to_the_header(vectors: Path) -> None:
    folder = vectors / "teranode" / "block171"
    (path,) = folder.glob("*.block")
    raw = path.read_bytes()
    block = blockwire.decode(raw, extent=extent)
    assert block.encode() == raw
    assert block.id[::-1].hex() == path.stem
    assert blockwire.decode(raw, height=block.height) == block
    assert block.height == 171 and len(block.subtrees) == 32 and block.transaction_count == 1024

    roots, counts, first, size = [], [], None, 0
    flat = []
    for position, identifier in enumerate(block.subtrees):
        leaves = (folder / f"{identifier[::-1].hex()}.subtree").read_bytes()
        assert subtree.check_leaves(leaves, identifier) is None
        roots.append(merkle.root(leaves))
        counts.append(len(leaves) // 32)
        flat.append(leaves)
        if position == 0:
            first = subtree.FirstSubtree.of(leaves)
        data = (folder / f"{identifier[::-1].hex()}.subtree_data").read_bytes()
        bodies = subtree.parse_data(data, extent)
        bodies = [standard(body) for body in bodies]  # the files hold them in extended form
        assert [sha256d(body) for body in bodies] == subtree.split_ids(leaves[32:] if position == 0 else leaves)
        built = subtree.build(leaves, [0] * counts[-1], [0] * (position == 0) + [len(body) for body in bodies])
        assert subtree.decode(subtree.encode(built)) == built
        assert subtree.split_data(b"".join(bodies), built.body_sizes()) == bodies
        size += sum(built.sizes)
    assert subtree.check_shape(counts) is None
    prologue_id = sha256d(block.prologue)
    assert subtree.block_root(prologue_id, first, roots, counts) == block.header.merkle_root
    assert merkle.root(prologue_id + b"".join(flat)[32:]) == block.header.merkle_root
    branch = subtree.coinbase_branch(first, roots, counts)
    assert merkle.climb(prologue_id, 0, branch) == block.header.merkle_root
    assert block.size == blockwire.flat_size(1024, len(block.prologue), size)


def test_block_413567_meets_its_target(vectors: Path) -> None:
    raw = (vectors / "bitcoin" / "block413567.raw").read_bytes()
    header = Header.decode(raw[:80])
    assert header.encode() == raw[:80]
    assert meets_target(header.id, header.bits)
    count, at = compact.decode(raw, 80)
    ids = []
    for _ in range(count):
        end = extent(raw, at)
        ids.append(sha256d(raw[at:end]))
        at = end
    assert at == len(raw) and count == 1557
    assert merkle.root(b"".join(ids)) == header.merkle_root
