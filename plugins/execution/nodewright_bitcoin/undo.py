"""What reverting a block needs: its parent, its coinbase, its bundles. O(bundles), stored beside the applied marker.

Layout: version u8 ‖ parent height u64 ‖ n u8 ‖ parent id ‖ bundle count u32 ‖ (n u8 ‖ bundle id)* ‖ coinbase txid 32 ‖ its
output vector; the last two are absent where the block had no coinbase. Little-endian.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from nodewright.errors import StoreCorrupt
from nodewright.interfaces.common import BlockRef
from nodewright.interfaces.storage import UtxoTransaction

VERSION = 1


@frozen
class Undo:
    parent: BlockRef
    coinbase: UtxoTransaction | None
    bundles: Sequence[bytes]

    def encode(self) -> bytes:
        pieces = [bytes((VERSION,)), self.parent.height.to_bytes(8, "little")]
        pieces += [bytes((len(self.parent.id),)), self.parent.id, len(self.bundles).to_bytes(4, "little")]
        for bundle in self.bundles:
            pieces += (bytes((len(bundle),)), bundle)
        if self.coinbase is not None:
            pieces += (self.coinbase.txid, self.coinbase.outputs)
        return b"".join(pieces)

    @classmethod
    def decode(cls, row: bytes) -> Undo:
        """Raises StoreCorrupt."""
        try:
            if row[0] != VERSION:
                raise StoreCorrupt(f"an undo record has version {row[0]}, this node reads {VERSION}")
            height = int.from_bytes(row[1:9], "little")
            parent, at = _named(row, 9)
            count = int.from_bytes(row[at : at + 4], "little")
            at += 4
            bundles = []
            for _ in range(count):
                bundle, at = _named(row, at)
                bundles.append(bundle)
        except IndexError:
            raise StoreCorrupt("an undo record is cut short; restore the store from a copy") from None
        rest = row[at:]
        coinbase = UtxoTransaction(rest[:32], (), rest[32:], coinbase=True) if rest else None
        return cls(BlockRef(height, parent), coinbase, bundles)


def _named(row: bytes, at: int) -> tuple[bytes, int]:
    end = at + 1 + row[at]
    if end > len(row):
        raise IndexError
    return row[at + 1 : end], end
