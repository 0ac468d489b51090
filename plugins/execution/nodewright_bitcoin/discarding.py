"""Blocks of a consensus that discards: what of an ordered block can be judged, when its bundles cannot be as a whole.

Invariants:
- What becomes of a transaction follows from the applied state and the block alone. One that spends from what is neither
  mined nor kept before it in the block is to be ordered again, whether this node has its parent reserved or not, and
  whatever else is wrong with it; any other that breaks a rule is discarded, and with it what descends from it in the block.
- What is left are bundles that pass ``Bundles.validate`` as a whole, in the order of the block, each transaction once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import define, evolve, field

from nodewright.interfaces.common import Bundle
from nodewright.interfaces.execution import BundleIncomplete, BundleInvalid, ExecutionRequest
from nodewright_bitcoin.bundles import Checked
from nodewright_bitcoin.columns import Parsed, parse_batch
from nodewright_bitcoin.encoding import sha256d
from nodewright_bitcoin.transaction import MAX_TRANSACTION_BYTES

if TYPE_CHECKING:
    from nodewright_bitcoin.engine import BitcoinEngine

MISSING = "bad-txns-inputs-missingorspent"


@define
class Sifted:
    """``judged``: bundles and what is known of them. The others of the block's transactions are in one of the rest."""

    judged: list[tuple[Bundle, Checked]] = field(factory=list)
    discarded: dict[bytes, tuple[str, str]] = field(factory=dict)
    retry: dict[bytes, str] = field(factory=dict)


@define
class Sieve:
    engine: BitcoinEngine
    height: int
    parents: dict[bytes, list[bytes]] = field(factory=dict)  # in block order; ids of transactions spent from
    bodies: dict[bytes, bytes] = field(factory=dict)
    result: Sifted = field(factory=Sifted)

    async def run(self, bundles: Sequence[Bundle]) -> Sifted | BundleIncomplete:
        """Incomplete only where a bundle came without its bodies."""
        lots: list[tuple[Bundle, list[bytes]]] = []
        missing: list[bytes] = []
        for bundle in bundles:
            if bundle.bodies is None or len(bundle.bodies) != len(bundle):
                missing += [bundle.id_at(index) for index in range(len(bundle))]
            elif not missing:
                lots.append((bundle, await self._read(bundle, bundle.bodies)))
        if missing:
            return BundleIncomplete(missing)
        mined = await self._mined()
        for key in self.parents:
            if key in mined:
                self.result.discarded[key] = "txn-already-mined", "an ancestor of the block holds the transaction"
        self._close(mined)
        for bundle, keys in lots:
            await self._judge(bundle, keys, mined)
        return self.result

    async def _read(self, bundle: Bundle, bodies: Sequence[bytes]) -> list[bytes]:
        """Its transactions that did not stand before in the block, in order."""
        batch = await self.engine.offload_batch(len(bodies), parse_batch, bodies, 2 * MAX_TRANSACTION_BYTES)
        keys: list[bytes] = []
        for index, item in enumerate(batch.items):
            key = bundle.id_at(index)
            if key in self.parents:
                continue
            if not isinstance(item, Parsed) or item.txid != key:
                self.parents[key] = []
                self.result.discarded[key] = "malformed", "its bytes are no transaction of that id"
                continue
            self.parents[key] = list(dict.fromkeys(spent[:32] for spent in item.spends))
            self.bodies[key] = bodies[index]
            keys.append(key)
        return keys

    async def _mined(self) -> set[bytes]:
        """Of the block's transactions and those that they spend from. Under the lock, so that no reservation comes or goes
        between the two looks."""
        asked = list(dict.fromkeys([*self.parents, *(one for parents in self.parents.values() for one in parents)]))
        async with self.engine.lock:
            known = await self.engine.store.known(asked) if asked else []
            return {key for key, here in zip(asked, known, strict=True) if here and key not in self.engine.state.unmined}

    def _close(self, mined: set[bytes]) -> None:
        """What cannot run for what it spends from."""
        result, before = self.result, set[bytes]()
        for key, parents in self.parents.items():
            if key in result.discarded or key in result.retry:
                continue
            for parent in parents:
                if parent in before or parent in mined:
                    continue
                if parent in result.discarded:
                    result.discarded[key] = MISSING, "a transaction that it spends from was discarded"
                else:
                    result.retry[key] = f"{parent[::-1].hex()}, which it spends from, is not before it"
                break
            else:
                before.add(key)

    async def _judge(self, bundle: Bundle, keys: Sequence[bytes], mined: set[bytes]) -> None:
        result = self.result
        while True:
            left = [key for key in keys if key not in result.discarded and key not in result.retry]
            if not left:
                return
            whole = bundle
            if len(left) != len(bundle):
                ids = b"".join(left)
                reference = evolve(bundle.ref, id=sha256d(bundle.ref.id + ids), count=len(left))
                whole = Bundle(reference, ids, [self.bodies[key] for key in left])
            checked = await self.engine.validate_for_block(whole, self.height)
            if isinstance(checked, Checked):
                result.judged.append((whole, checked))
                return
            if isinstance(checked, BundleInvalid):
                result.discarded[left[checked.index]] = checked.code, checked.message
            else:  # an output that its mined transaction does not have any more
                missing = set(checked.missing)
                for key in left:
                    if not missing.isdisjoint(self.parents[key]):
                        result.retry[key] = "a transaction that it spends from is not known"
                mined -= missing
            self._close(mined)


async def sift(engine: BitcoinEngine, request: ExecutionRequest) -> Sifted | BundleIncomplete:
    return await Sieve(engine, request.block.height).run(request.bundles)
