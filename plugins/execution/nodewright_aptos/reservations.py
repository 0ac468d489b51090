"""What this node promised for transactions it admitted: sequence numbers of senders, and what their payers may come to pay.

Invariants
- A (sender, sequence number) is reserved by at most one transaction.
- ``sizes`` of a sender is the bytes of what it has reserved.
- ``owed`` of an account is the sum of what the reservations that it pays for may cost it at most.
- Nothing here is seen by the execution of a block, other than to report which reservations the block defeats.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from attrs import define

from nodewright_aptos.transactions import UserTransaction


@define
class Reservation:
    """``charges``: account -> octas at most."""

    transaction: UserTransaction
    charges: Mapping[bytes, int]


class Reservations:
    def __init__(self) -> None:
        self.by_id: dict[bytes, Reservation] = {}
        self.sequences: dict[bytes, dict[int, bytes]] = {}
        self.owed: dict[bytes, int] = {}
        self.sizes: dict[bytes, int] = {}

    def holder(self, transaction: UserTransaction) -> bytes | None:
        """Who has this transaction's sequence number; None where it is free."""
        return self.sequences.get(transaction.sender, {}).get(transaction.sequence_number)

    def count(self, sender: bytes) -> int:
        return len(self.sequences.get(sender, ()))

    def bytes_of(self, sender: bytes) -> int:
        return self.sizes.get(sender, 0)

    def add(self, transaction: UserTransaction, charges: Mapping[bytes, int]) -> None:
        self.by_id[transaction.id] = Reservation(transaction, charges)
        self.sequences.setdefault(transaction.sender, {})[transaction.sequence_number] = transaction.id
        self.sizes[transaction.sender] = self.bytes_of(transaction.sender) + len(transaction.raw)
        for account, amount in charges.items():
            self.owed[account] = self.owed.get(account, 0) + amount

    def drop(self, ids: Iterable[bytes]) -> list[bytes]:
        """Those that were here."""
        dropped = []
        for id in ids:
            reservation = self.by_id.pop(id, None)
            if reservation is None:
                continue
            dropped.append(id)
            transaction = reservation.transaction
            held = self.sequences[transaction.sender]
            del held[transaction.sequence_number]
            self.sizes[transaction.sender] -= len(transaction.raw)
            if not held:
                del self.sequences[transaction.sender], self.sizes[transaction.sender]
            for account, amount in reservation.charges.items():
                self.owed[account] -= amount
                if not self.owed[account]:
                    del self.owed[account]
        return dropped

    def losers(self, sequences: Mapping[bytes, tuple[int, bytes]], ordered: Collection[bytes]) -> dict[bytes, bytes]:
        """Reservations whose sequence number a block has passed, and that are not in it: {loser: winner}."""
        lost = {}
        for sender, (number, winner) in sequences.items():
            for held, id in self.sequences.get(sender, {}).items():
                if held <= number and id not in ordered:
                    lost[id] = winner
        return lost

    def earlier(self, transaction: UserTransaction, first: int) -> list[Reservation] | None:
        """The sender's reservations from sequence number ``first`` up to the transaction's; None where one is missing."""
        held = self.sequences.get(transaction.sender, {})
        if transaction.sequence_number - first > len(held):
            return None
        found = []
        for number in range(first, transaction.sequence_number):
            id = held.get(number)
            if id is None:
                return None
            found.append(self.by_id[id])
        return found
