"""Merkle paths as wallets read them: BUMP (BRC-74), of one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from nodewright_bitcoin.encoding import write_compact_size

DUPLICATE, TXID = 1, 2


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(left + right).digest()).digest()


def bump(id: bytes, proof: Mapping[str, Any]) -> bytes:
    """Block height, tree height, then per level the offsets, flags and hashes.

    ``proof`` has ``height``, ``index`` and ``siblings``: display hex, from the leaves up. Where a node is its own sibling
    (the last of an odd level) the flag says duplicate and no hash is written."""
    index, node = int(proof["index"]), id
    siblings = [bytes.fromhex(text)[::-1] for text in proof["siblings"]]
    out = bytearray(write_compact_size(int(proof["height"])))
    out.append(len(siblings))
    for level, sibling in enumerate(siblings):
        at = index >> level
        last = sibling == node and not at & 1
        entries = [(at ^ 1, DUPLICATE if last else 0, b"" if last else sibling)]
        if level == 0:
            entries.append((index, TXID, id))
        out += write_compact_size(len(entries))
        for offset, flag, value in sorted(entries):
            out += write_compact_size(offset)
            out.append(flag)
            out += value
        node = _parent(sibling, node) if at & 1 else _parent(node, sibling)
    return bytes(out)
