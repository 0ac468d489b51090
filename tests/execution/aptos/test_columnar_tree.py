"""The columnar tree has the root of the plain one after any history of insertions, changes and removals."""

from __future__ import annotations

import random
from collections.abc import Iterator
from hashlib import sha3_256
from typing import Any

import pytest

from nodewright.kernels import sha3, switch
from nodewright_aptos import hashing

KERNELS = "nodewright_aptos.columnar.treekernels"


@pytest.fixture(scope="module", autouse=True)
def kernels() -> Iterator[None]:
    pytest.importorskip("numba")
    reason = switch.warm_up(sha3.KERNELS, KERNELS)
    assert reason is None, reason
    yield
    switch.disable()


def plain_root(items: dict[bytes, bytes], depth: int = 0) -> bytes:
    """By the definition of the tree."""
    if not items:
        return hashing.EMPTY_TREE
    if len(items) == 1:
        ((key, value),) = items.items()
        return sha3_256(hashing.TREE_LEAF + key + value).digest()
    sides: tuple[dict[bytes, bytes], dict[bytes, bytes]] = ({}, {})
    for key, value in items.items():
        sides[key[depth >> 3] >> (7 - depth % 8) & 1][key] = value
    left, right = (plain_root(side, depth + 1) for side in sides)
    return sha3_256(hashing.TREE_INTERNAL + left + right).digest()


def rows(items: list[bytes]) -> Any:
    import numpy as np

    return np.frombuffer(b"".join(items), np.uint8).reshape(-1, 32)


def test_any_history_has_the_plain_root(budget: int) -> None:
    import numpy as np

    from nodewright_aptos.columnar.tree import ColumnarTree

    for seed in range(6 * budget):
        rng = random.Random(seed)
        tree, state, codes = ColumnarTree(), {}, {}
        for _ in range(10):
            fresh: dict[bytes, bytes] = {}
            for _ in range(rng.choice([0, 1, 2, 30, 300])):
                key = rng.randbytes(32)
                if state and rng.random() < 0.5:  # one that shares up to 31 bytes with another
                    key = rng.choice(list(state))[: rng.randrange(32)] + key
                if key[:32] not in state:
                    fresh[key[:32]] = rng.randbytes(32)
            if fresh:
                codes.update(zip(fresh, tree.add(rows(list(fresh)), rows(list(fresh.values()))).tolist(), strict=True))
                state.update(fresh)
            changed = [key for key in state if rng.random() < rng.choice([0.01, 0.3])]
            changed += changed[:3]
            if changed:
                values = [rng.randbytes(32) for _ in changed]
                tree.update(np.array([codes[key] for key in changed], np.int32), rows(values))
                state.update(zip(changed, values, strict=True))
            if state and rng.random() < 0.3:
                gone = rng.sample(list(state), rng.choice([1, 1, 1, len(state)]))
                tree.remove(np.array([codes.pop(key) for key in gone], np.int32))
                for key in gone:
                    del state[key]
            assert tree.root() == plain_root(state), seed
            assert len(tree) == len(state)
            for key in list(state)[:20]:
                assert tree.find(key) == codes[key]
            assert tree.find(rng.randbytes(32)) == -1


async def test_the_root_is_that_of_the_versioned_tree() -> None:
    from nodewright_aptos.columnar.tree import ColumnarTree
    from nodewright_aptos.jmt import Change, Root, update

    class Nodes:
        def __init__(self) -> None:
            self.held: dict[bytes, bytes] = {}

        async def nodes(self, keys: Any) -> list[bytes | None]:
            return [self.held.get(key) for key in keys]

    rng = random.Random(1)
    state = {rng.randbytes(32): rng.randbytes(32) for _ in range(2000)}
    tree = ColumnarTree()
    codes = dict(zip(state, tree.add(rows(list(state)), rows(list(state.values()))).tolist(), strict=True))
    nodes, root = Nodes(), Root()
    import numpy as np

    for version in range(4):
        after = await update(nodes, root, [Change(key, value, b"\1" + key + key) for key, value in state.items()], version)
        nodes.held.update(after.nodes)
        root = after.root
        assert tree.root() == root.hash
        state = {key: rng.randbytes(32) for key in rng.sample(list(codes), 300)}
        tree.update(np.array([codes[key] for key in state], np.int32), rows(list(state.values())))


def test_an_empty_tree_and_one_leaf() -> None:
    from nodewright_aptos.columnar.tree import ColumnarTree

    tree = ColumnarTree()
    assert tree.root() == hashing.EMPTY_TREE
    tree.add(rows([b"\x7f" * 32]), rows([b"v" * 32]))
    assert tree.root() == sha3_256(hashing.TREE_LEAF + b"\x7f" * 32 + b"v" * 32).digest()


def test_a_key_that_comes_twice_is_refused() -> None:
    from nodewright_aptos.columnar.tree import ColumnarTree

    key = b"\x70" * 32
    with pytest.raises(ValueError, match="same key"):
        ColumnarTree().add(rows([key, key]), rows([key, key]))
    tree = ColumnarTree()
    tree.add(rows([b"\x71" + bytes([at]) * 31 for at in range(40)]), rows([key] * 40))
    with pytest.raises(ValueError, match="same key"):
        tree.add(rows([b"\x71" + bytes(31)]), rows([key]))


def test_what_is_hashed_lies_in_one_cache_line() -> None:
    """Numpy's own large arrays begin in the middle of one."""
    import numpy as np

    from nodewright_aptos.columnar.ledger import ColumnarLedger

    rng = random.Random(1)
    ledger = ColumnarLedger()
    for _ in range(2):  # and after growing
        fresh = np.frombuffer(rng.randbytes(32 * 20_000), np.uint8).reshape(-1, 32)
        ledger.found(fresh, np.full(20_000, 5, np.uint64))
        assert ledger.tree is not None
        for shard in ledger.tree.shards:
            assert [one.ctypes.data % 64 for one in (ledger.rows, ledger.addresses, shard.payload, shard.hashes)] == [0] * 4
