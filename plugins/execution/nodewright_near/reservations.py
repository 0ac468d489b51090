"""What this node promised for transactions it admitted: each key's nonces, and the balance that they will cost.

Invariants
- A (signer, key, nonce) is reserved by at most one transaction.
- ``owed`` of a signer is the sum of the costs of its reservations.
- Nothing here is seen by the execution of a block, other than to report which reservations the block defeats.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from attrs import define

from nodewright_near.transactions import SignedTransaction

Slot = bytes  # ``SignedTransaction.slot``
_NONE: Final[Mapping[int, bytes]] = {}


@define
class Reservation:
    signed: SignedTransaction
    cost: int
    shard: int


class Reservations:
    def __init__(self) -> None:
        self.by_id: dict[bytes, Reservation] = {}
        self.nonces: dict[Slot, dict[int, bytes]] = {}
        self.owed: dict[str, int] = {}
        # Whether each key's nonces rose in the order in which they were reserved, since nothing was.
        self.in_order = True

    def holder(self, slot: Slot, nonce: int) -> bytes | None:
        """Who has this nonce; None where it is free."""
        held = self.nonces.get(slot)
        return held.get(nonce) if held is not None else None

    def add(self, signed: SignedTransaction, cost: int, shard: int) -> None:
        id, slot, signer, nonce = signed.id, signed.slot, signed.signer, signed.nonce
        self.by_id[id] = Reservation(signed, cost, shard)
        nonces = self.nonces.get(slot)
        if nonces is None:
            self.nonces[slot] = {nonce: id}
        else:
            if self.in_order and next(reversed(nonces)) > nonce:
                self.in_order = False
            nonces[nonce] = id
        self.owed[signer] = self.owed.get(signer, 0) + cost

    def drop(self, ids: Iterable[bytes]) -> list[bytes]:
        """Those that were here."""
        dropped = []
        take, by_slot, owed = self.by_id.pop, self.nonces, self.owed
        for id in ids:
            reservation = take(id, None)
            if reservation is None:
                continue
            dropped.append(id)
            signed = reservation.signed
            slot, signer = signed.slot, signed.signer
            nonces = by_slot[slot]
            if len(nonces) == 1:
                del by_slot[slot]
            else:
                del nonces[signed.nonce]
            left = owed[signer] - reservation.cost
            if left:
                owed[signer] = left
            else:
                del owed[signer]
        self.in_order = self.in_order or not self.by_id
        return dropped

    def losers(self, nonces: Mapping[Slot, tuple[int, bytes]], ordered: Collection[bytes]) -> dict[bytes, bytes]:
        """Reservations whose nonce a block has passed, and that are not in it: {loser: winner}."""
        lost = {}
        by_slot = self.nonces.get
        for slot, (nonce, winner) in nonces.items():
            for held, id in by_slot(slot, _NONE).items():
                if held <= nonce and id not in ordered:
                    lost[id] = winner
        return lost
