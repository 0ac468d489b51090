"""Reservations: every transaction that is valid on the applied head and in no block of it, and who spends what.

Invariants:
- The UTXO state always equals replay(blocks up to applied) + reservations. The store holds the blocks and the reservations
  that were confirmed; this table holds all reservations, *staged* ones (not yet confirmed, in memory alone) included.
- ``unmined`` has exactly the transactions that are reserved. One whose effect is None is *bare*: the store holds it, but
  its body has not been seen since the node started or a block was reverted. Fee and size of a bare one are unknown, so it
  is neither selected nor part of a bundle until its body comes again; it can still lose to a block (the store has its
  effect).
- ``bare`` counts those; ``bare_rules`` has the script rules of the block context that each was accepted under.
- ``judged_by`` counts the reservations that are not bare by the script rules they were judged by.
- ``staged`` has the ids of the reservations that the store does not hold yet.
- ``departed`` grows whenever an id leaves ``unmined``: while it stands, what was reserved still is.
- ``timed`` has the ids of those that are bound to a height, a time or the age of what they spend: no other waits.
- ``spenders`` maps every outpoint spent by a reservation that is not bare to its id. No outpoint has two.
- No method awaits: a caller never sees half a change.

Nothing here is durable, nothing here talks to a store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from attrs import define

from nodewright.interfaces.execution import Candidate
from nodewright.interfaces.storage import UtxoTransaction
from nodewright.storage.prefix import in_parts, take_all, take_first
from nodewright_bitcoin.columns import output_count
from nodewright_bitcoin.relative import Locks

VOUT = [index.to_bytes(4, "little") for index in range(256)]


def outpoint(txid: bytes, index: int) -> bytes:
    return txid + (VOUT[index] if index < 256 else index.to_bytes(4, "little"))


@define
class Reservation:
    """``min_height`` is the lowest block that may hold it (lock time, coinbase maturity), ``min_time`` the least value of
    the time its lock is compared with; ``height`` the block context it was admitted under; ``rules`` the script rules
    (``rules.era_flags``) it was judged by."""

    effect: UtxoTransaction
    fee: int
    size: int
    height: int
    min_height: int = 0
    min_time: int = 0
    stored: bool = False
    rules: int = 0

    @property
    def locks(self) -> Locks:
        """Relative lock times that blocks of its ``rules`` are asked for. Nearly none has any, so that only the few pay."""
        return ()


@define
class LockedReservation(Reservation):
    locks: Locks = ()


class Reservations:
    def __init__(self) -> None:
        self.unmined: dict[bytes, Reservation | None] = {}
        self.spenders: dict[bytes, bytes] = {}
        self.bare = 0
        self.bare_rules: dict[bytes, int] = {}
        self.judged_by: dict[int, int] = {}
        self.staged: set[bytes] = set()
        self.timed: set[bytes] = set()
        self.departed = 0

    def __contains__(self, txid: bytes) -> bool:
        return txid in self.unmined

    def get(self, txid: bytes) -> Reservation | None:
        """None where it is not reserved, or bare."""
        return self.unmined.get(txid)

    def add(self, reservation: Reservation) -> None:
        effect = reservation.effect
        txid = effect.txid
        if txid in self.unmined:
            self._uncount(txid, self.unmined[txid])
        self.unmined[txid] = reservation
        if not reservation.stored:
            self.staged.add(txid)
        if reservation.min_height or reservation.min_time or type(reservation) is LockedReservation:
            self.timed.add(txid)
        rules = reservation.rules
        self.judged_by[rules] = self.judged_by.get(rules, 0) + 1
        for spent in effect.spends:
            self.spenders[spent] = txid

    def add_fresh(self, reservations: Sequence[Reservation]) -> None:
        """As ``add`` for each, where none is reserved or bound to a time, and no outpoint is spent yet: one pass per
        column."""
        txids = [one.effect.txid for one in reservations]
        self.unmined.update(zip(txids, reservations, strict=True))
        self.staged.update([one.effect.txid for one in reservations if not one.stored])
        for rules, count in Counter([one.rules for one in reservations]).items():
            self.judged_by[rules] = self.judged_by.get(rules, 0) + count
        spends = [one.effect.spends for one in reservations]
        if len(spends) == sum(map(len, spends)) and all(spends):
            self.spenders.update(zip(chain.from_iterable(spends), txids, strict=True))
        else:
            self.spenders.update((point, txid) for points, txid in zip(spends, txids, strict=True) for point in points)

    def add_bare(self, txids: Iterable[bytes], rules: int) -> None:
        for txid in txids:
            if txid not in self.unmined:
                self.unmined[txid] = None
                self.bare_rules[txid] = rules
                self.bare += 1

    def now_stored(self, reservation: Reservation) -> None:
        """The store holds it from now on."""
        reservation.stored = True
        self.staged.discard(reservation.effect.txid)

    def _uncount(self, txid: bytes, reservation: Reservation | None) -> None:
        self.staged.discard(txid)
        self.timed.discard(txid)
        if reservation is None:
            self.bare -= 1
            del self.bare_rules[txid]
            return
        left = self.judged_by[reservation.rules] - 1
        if left:
            self.judged_by[reservation.rules] = left
        else:
            del self.judged_by[reservation.rules]

    def judged_otherwise(self, rules: int) -> list[bytes]:
        """Ids of reservations that are not bare and were judged by other rules. O(1) where there are none."""
        if not self.judged_by.keys() - {rules}:
            return []
        return [txid for txid, one in self.unmined.items() if one is not None and one.rules != rules]

    def drop(self, txid: bytes) -> Reservation | None:
        """Released, evicted or mined. Unknown ids are ignored."""
        if txid not in self.unmined:
            return None
        self.departed += 1
        reservation = self.unmined.pop(txid)
        self._uncount(txid, reservation)
        if reservation is not None:
            spenders = self.spenders
            for spent in reservation.effect.spends:
                if spenders.get(spent) == txid:
                    del spenders[spent]
        return reservation

    def drop_all(self, txids: Sequence[bytes]) -> None:
        """As ``drop`` for each, for a block's worth of them: one pass per column, each at the speed of the dictionary."""
        self.departed += 1
        if self.staged:
            self.staged.difference_update(txids)
        if self.timed:
            self.timed.difference_update(txids)
        if self.bare:
            for txid in txids:
                if self.bare_rules.pop(txid, None) is not None:
                    self.bare -= 1
        # No outpoint has two spenders, so that each of these was held by who leaves.
        spends: list[bytes] = []
        judged: Counter[int] = Counter()
        taken = take_all(self.unmined, txids)
        for part in in_parts(taken):
            dropped = [reservation for reservation in part if reservation is not None]
            spends.extend(chain.from_iterable([reservation.effect.spends for reservation in dropped]))
            judged.update([reservation.rules for reservation in dropped])
            del part, dropped
        if take_first(self.spenders, spends) is None:
            release = self.spenders.pop
            for spent in spends:
                release(spent, None)
        for rules, count in judged.items():
            self.judged_by[rules] -= count
            if not self.judged_by[rules]:
                del self.judged_by[rules]

    def is_stored(self, txid: bytes) -> bool:
        """Reserved, and the store holds it."""
        if txid not in self.unmined:
            return False
        reservation = self.unmined[txid]
        return reservation is None or reservation.stored

    def children(self, effect: UtxoTransaction) -> list[bytes]:
        """Reservations (not bare ones) that spend outputs of ``effect``."""
        found = []
        for index in range(output_count(effect.outputs)):
            child = self.spenders.get(outpoint(effect.txid, index))
            if child is not None:
                found.append(child)
        return found


def parents_first(state: Reservations, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """The same candidates, each after those among them that it spends from; as given where that holds already."""
    unmined = state.unmined
    place = {candidate.id: index for index, candidate in enumerate(candidates)}
    held = [reserved.effect.spends for id in place if (reserved := unmined.get(id)) is not None]
    if place.keys().isdisjoint([spent[:32] for spends in held for spent in spends]):
        return candidates  # none stands on another
    wrong = False
    parents: list[list[int]] = []
    for index, candidate in enumerate(candidates):
        reserved = unmined.get(candidate.id)
        above: list[int] = []
        if reserved is not None:
            for spent in reserved.effect.spends:
                parent = place.get(spent[:32])
                if parent is not None and parent != index:
                    above.append(parent)
                    wrong = wrong or parent > index
        parents.append(above)
    if not wrong:
        return candidates
    ordered: list[Candidate] = []
    done = [False] * len(candidates)
    for start in range(len(candidates)):
        stack = [start]
        while stack:
            index = stack[-1]
            open_parents = [parent for parent in parents[index] if not done[parent]]
            if open_parents:
                stack += open_parents
                continue
            stack.pop()
            if not done[index]:
                done[index] = True
                ordered.append(candidates[index])
    return ordered


def descendants_first(effects: Sequence[UtxoTransaction]) -> list[UtxoTransaction]:
    """The same effects, each after all those among them that spend its outputs."""
    by_id = {effect.txid: effect for effect in effects}
    children: dict[bytes, int] = dict.fromkeys(by_id, 0)
    parents: dict[bytes, set[bytes]] = {}
    for effect in by_id.values():
        parents[effect.txid] = {spent[:32] for spent in effect.spends if spent[:32] in by_id}
        for parent in parents[effect.txid]:
            children[parent] += 1
    ready = [txid for txid, count in children.items() if not count]
    ordered = []
    while ready:
        txid = ready.pop()
        ordered.append(by_id[txid])
        for parent in parents[txid]:
            children[parent] -= 1
            if not children[parent]:
                ready.append(parent)
    return ordered
