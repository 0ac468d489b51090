"""Sums of hashes by groups of outpoints: whether two multisets of outputs are equal, in four megabytes.

A sum modulo 2**256 of SHA-256 digests over (outpoint ‖ satoshis u64 ‖ script), little-endian as in ``gettxoutsetinfo``:
what is added and taken again in whatever order leaves nothing. Made to find damage, not to withstand someone who looks
for outputs whose hashes cancel out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Set

from attrs import define, field

from nodewright.interfaces.storage import UtxoTransaction
from nodewright_bitcoin.columns import output_count, output_spans
from nodewright_bitcoin.state import outpoint

GROUPS = 1 << 16
_WHOLE = 1 << 256
_STRIDE = 40503  # odd: the outputs of one large transaction fall into different groups


def group_of(point: bytes) -> int:
    return (int.from_bytes(point[:2], "little") + _STRIDE * int.from_bytes(point[32:], "little")) % GROUPS


def name(point: bytes) -> str:
    """As operators read it."""
    return f"{point[:32][::-1].hex()}:{int.from_bytes(point[32:], 'little')}"


def same_outputs(one: bytes, other: bytes) -> bool:
    """Two serialised vectors with the same amounts and scripts, however their lengths are written."""
    try:
        mine, its = output_spans(one), output_spans(other)
    except (ValueError, IndexError):
        return False
    return len(mine) == len(its) and all(
        one[a : a + 8] + one[b:c] == other[x : x + 8] + other[y:z] for (a, b, c), (x, y, z) in zip(mine, its, strict=True)
    )


@define
class Sums:
    _groups: list[int] = field(factory=lambda: [0] * GROUPS)

    def _add(self, point: bytes, digest: Callable[[bytes], bytes], rest: bytes, sign: int) -> None:
        group = group_of(point)
        number = int.from_bytes(digest(point + rest), "little")
        self._groups[group] = (self._groups[group] + sign * number) % _WHOLE

    def created(self, effect: UtxoTransaction) -> None:
        """Add every output of a transaction."""
        vector = effect.outputs
        for index, (at, begin, end) in enumerate(output_spans(vector)):
            self._add(outpoint(effect.txid, index), _digest, vector[at : at + 8] + vector[begin:end], 1)

    def take(self, point: bytes, satoshis: int, script: bytes) -> None:
        self._add(point, _digest, satoshis.to_bytes(8, "little") + script, -1)

    def outpoints(self, effect: UtxoTransaction) -> None:
        """Add every output of a transaction, without what is in it."""
        for index in range(output_count(effect.outputs)):
            self._add(outpoint(effect.txid, index), _digest, b"", 1)

    def take_outpoint(self, point: bytes) -> None:
        self._add(point, _digest, b"", -1)

    def left(self) -> Set[int]:
        """Groups that are not empty."""
        return {group for group, number in enumerate(self._groups) if number}


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
