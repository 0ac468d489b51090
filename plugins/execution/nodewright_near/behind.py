"""Trie nodes of the applied state that the store does not have yet.

The rows of a state alone say what its trie is. So a commit writes rows, and its nodes only once many are held back: most
are replaced by the next blocks before they were ever written. After the death of a process they are made again, from the
nodes that are there and the rows that have changed since.

``near_behind``: shard u16 ‖ height u64, big-endian → the keys of the rows that this block changed; ``near_meta``: shard u16
‖ ``n`` → the root that the nodes in the store have. Both change in the commit that makes them so.

Invariants
- The nodes in the store, with ``nodes`` over them, are those of the applied state.
- The nodes in the store are those of the root ``mark`` (None: of the applied state), and every row that is different in the
  applied state is named by ``near_behind``.
- At most ``budget`` bytes and MAX_BLOCKS blocks are held back; of those that came as layers, as many bytes again may be
  of nodes that later layers replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from nodewright.interfaces.storage import KeyValueReader, WriteBatch
from nodewright_near.borsh import Blob, Vector, decode
from nodewright_near.layers import Layer

BEHIND: Final = "near_behind"
MAX_BLOCKS: Final = 256
MAX_KEYS: Final = 1 << 24
KEYS: Final = Vector(Blob(), MAX_KEYS)
_NODE_BYTES: Final = 120  # beside path and bytes


def mark_key(shard: int) -> bytes:
    """Of ``near_meta``."""
    return shard.to_bytes(2, "big") + b"n"


class Behind:
    """Of one shard. ``put`` says what a commit writes; once it has returned, ``done`` takes note of it."""

    def __init__(self, shard: int, budget: int) -> None:
        self._nodes: dict[bytes, bytes | None] = {}
        # Layers over these, the oldest first; of their steps (all of one list of paths) whether each is held back.
        self._layers: list[Layer] = []
        self._layered = 0
        self._paths: Sequence[bytes] | None = None
        self._steps: Any = None
        self.mark: bytes | None = None
        self._shard = shard.to_bytes(2, "big")
        self._mark_key = mark_key(shard)
        self._budget = budget
        self._used = 0
        self._blocks: list[bytes] = []

    def __bool__(self) -> bool:
        """Whether anything is held back."""
        return bool(self._blocks)

    @property
    def nodes(self) -> dict[bytes, bytes | None]:
        """Those held back, by path."""
        layers, self._layers, self._layered = self._layers, [], 0
        if layers:
            import numpy as np

            # Of each step the newest.
            seen, found = np.zeros(len(layers[-1].paths), np.bool_), dict[bytes, bytes | None]()
            for layer in reversed(layers):
                fresh = ~seen[layer.steps]
                seen[layer.steps] = True
                for path, raw in layer.picked(fresh):
                    found.setdefault(path, raw)
            self._nodes.update(found)
        return self._nodes

    def grown(self, nodes: Mapping[bytes, bytes | None]) -> int | None:
        """How many bytes more these are to hold back; None where that is too much."""
        if isinstance(nodes, Layer):
            fresh = ~self._held(nodes)[nodes.steps]
            more = int(nodes.sizes[fresh].sum()) + _NODE_BYTES * int(fresh.sum())
        else:
            held = self.nodes
            more = sum(
                [_NODE_BYTES if raw is None else _NODE_BYTES + len(raw) for path, raw in nodes.items() if path not in held]
            )
        return more if len(self._blocks) < MAX_BLOCKS and self._used + more <= self._budget else None

    def _held(self, layer: Layer) -> Any:
        """By step, whether its node is held back."""
        import numpy as np

        paths = layer.paths
        if self._paths is not paths:
            self._steps, self._paths, _ = np.zeros(0, np.bool_), paths, self.nodes
        begin, held = len(self._steps), self._nodes
        if begin < len(paths):
            more = np.fromiter([path in held for path in paths[begin:]], np.bool_, len(paths) - begin)
            self._steps = np.concatenate((self._steps, more))
        return self._steps

    def hold(self, batch: WriteBatch, height: int, before: bytes, keys: Collection[bytes]) -> None:
        """What stands for the nodes of a block that changed these keys. ``before``: the root that it changed."""
        if keys:
            told = [part for key in keys for part in (len(key).to_bytes(4, "little"), key)]
            batch.put(BEHIND, self._shard + height.to_bytes(8, "big"), len(keys).to_bytes(4, "little") + b"".join(told))
            if self.mark is None:
                batch.put("near_meta", self._mark_key, before)

    def held(self, height: int, before: bytes, nodes: Mapping[bytes, bytes | None], grown: int) -> None:
        """That is committed."""
        if nodes:
            self._used += grown
            if isinstance(nodes, Layer):
                self._held(nodes)[nodes.steps] = True
                self._layers.append(nodes)
                self._layered += nodes.size
                if self._layered > self._budget:
                    self.nodes  # noqa: B018  # lets go of what was replaced
            else:
                self.nodes.update(nodes)
                self._paths = None
            self._blocks.append(self._shard + height.to_bytes(8, "big"))
            if self.mark is None:
                self.mark = before

    def release(self, batch: WriteBatch) -> None:
        """The nodes held back are written by the caller: nothing stands for them any more."""
        batch.delete_many(BEHIND, self._blocks)
        if self.mark is not None:
            batch.delete("near_meta", self._mark_key)

    def released(self) -> dict[bytes, bytes | None]:
        """That is committed; what was held back until then."""
        gone, self._nodes, self._used, self._blocks, self.mark = self.nodes, {}, 0, [], None
        self._paths = None
        return gone

    # --- after a start ---

    async def read(self, store: KeyValueReader) -> list[bytes]:
        """The keys of rows whose nodes are not in the store."""
        (self.mark,) = await store.get_many("near_meta", [self._mark_key])
        found: dict[bytes, None] = {}
        if self.mark is None:
            return []
        after: bytes | None = None
        while True:
            page = await store.scan(BEHIND, self._shard, after)
            for block, raw in page.items:
                self._blocks.append(block)
                found.update(dict.fromkeys(decode(KEYS, raw)))
            after = page.after
            if after is None:
                return list(found)

    def made(self, nodes: Mapping[bytes, bytes | None]) -> None:
        """From those keys."""
        self._used += self.grown(nodes) or self._budget
        self.nodes.update(nodes)
        self._paths = None
