"""Reservations of (sender, nonce) by admitted transfers: what a node promises before blocks decide.

Invariants
- A (sender, nonce) is reserved by at most one transfer.
- What is reserved is never looked at by ``execute`` other than to report which reservations a block defeats.
- Dropping a transfer drops the sender's later nonces with it: they cannot run without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nodewright.interfaces import Admission, Admitted, Candidate, Limits, Refused, Selection
from nodewright.testing.shapes.codec import Malformed, u64
from nodewright.testing.shapes.transfers import Account, Transfer, check, parse

MAX_AHEAD = 64


class Reservations:
    def __init__(self) -> None:
        self._by_id: dict[bytes, Transfer] = {}
        self._by_nonce: dict[tuple[bytes, int], bytes] = {}

    def identify(self, txs: Sequence[bytes]) -> list[bytes | None]:
        ids: list[bytes | None] = []
        for raw in txs:
            try:
                ids.append(parse(raw).id)
            except Malformed:
                ids.append(None)
        return ids

    def admit(self, raw: bytes, accounts: Mapping[bytes, Account], shard: int = 0, stateless: bool = False) -> Admission:
        """``stateless`` where the sender's state is kept by another shard's nodes: only the signature is checked, and
        nothing is reserved: its keepers do that."""
        try:
            tx = parse(raw)
        except Malformed as error:
            return Refused("malformed", str(error), "malformed")
        key = u64(tx.nonce)
        if tx.id in self._by_id:
            return Admitted(tx.id, raw, ordering_key=key, known=True, shard=shard)
        if not tx.signed:
            return Refused("signature", "it is not signed by its sender", id=tx.id)
        if stateless:
            return Admitted(tx.id, raw, ordering_key=key, shard=shard)
        holder = self._by_nonce.get((tx.sender, tx.nonce))
        if holder is not None:
            return Refused("conflict", "first seen wins", "conflict", tx.id, {"winner": holder})
        account = accounts.get(tx.sender, Account())
        nonce, balance = account.nonce, account.balance
        while (earlier := self._by_nonce.get((tx.sender, nonce))) is not None:
            balance -= self._by_id[earlier].amount
            nonce += 1
        refusal = check(tx, Account(nonce, balance)) if tx.nonce <= nonce else None
        if refusal is None and tx.nonce > account.nonce + MAX_AHEAD:
            return Refused("nonce-gap", f"nonce {tx.nonce} is too far ahead of {account.nonce}", "missing", tx.id)
        if refusal is not None:
            return Refused(refusal.code, refusal.message, "invalid", tx.id)
        self._by_id[tx.id] = tx
        self._by_nonce[(tx.sender, tx.nonce)] = tx.id
        return Admitted(tx.id, raw, ordering_key=key, shard=shard)

    def body(self, id: bytes) -> bytes | None:
        tx = self._by_id.get(id)
        return tx.raw if tx is not None else None

    def select(self, candidates: Sequence[Candidate], limits: Limits) -> Selection:
        chosen: list[Candidate] = []
        deferred: list[Candidate] = []
        rejected: dict[bytes, str] = {}
        room = limits.max_bytes
        for candidate in candidates:
            if candidate.id not in self._by_id:
                rejected[candidate.id] = "its reservation was lost to a block"
            elif len(chosen) < limits.max_count and candidate.size <= room:
                chosen.append(candidate)
                room -= candidate.size
            else:
                deferred.append(candidate)
        return Selection(chosen, rejected, deferred)

    def conflicts(self, txs: Sequence[Transfer]) -> dict[bytes, bytes]:
        holders = {tx.id: self._by_nonce.get((tx.sender, tx.nonce), tx.id) for tx in txs}
        return {id: holder for id, holder in holders.items() if id != holder}

    def losers(self, nonces: Mapping[tuple[bytes, int], bytes]) -> dict[bytes, bytes]:
        """Reservations that executed transfers defeat: {loser: winner}. A later nonce may still run after the winner."""
        held = {self._by_nonce[slot]: winner for slot, winner in nonces.items() if slot in self._by_nonce}
        return {loser: winner for loser, winner in held.items() if loser != winner}

    def settle(self, nonces: Mapping[tuple[bytes, int], bytes]) -> dict[bytes, bytes]:
        """A block with these was committed: nothing about them is reserved any more. Returns ``losers``."""
        lost = self.losers(nonces)
        for slot in nonces:
            holder = self._by_nonce.pop(slot, None)
            if holder is not None:
                del self._by_id[holder]
        return lost

    def release(self, ids: Sequence[bytes]) -> list[bytes]:
        released: list[bytes] = []
        for id in ids:
            tx = self._by_id.get(id)
            nonce = tx.nonce if tx is not None else 0
            while tx is not None:
                del self._by_id[tx.id], self._by_nonce[(tx.sender, tx.nonce)]
                released.append(tx.id)
                nonce += 1
                tx = self._by_id.get(self._by_nonce.get((tx.sender, nonce), b""))
        return released
