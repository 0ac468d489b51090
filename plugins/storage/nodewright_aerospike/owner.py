"""The exclusive lease of a store: a record on the server that names the owner, its epoch and its journal.

Invariants:

- who opens the store holds the lock of the journal's folder, so that no other process has that journal;
- the epoch grows by one with every owner, by a write on condition that nobody else wrote since it was read;
- before a commit enters the journal its number is written here, on condition that the epoch is still this owner's: a stale
  owner's commit is refused, and a namespace that takes no writes refuses it before it is promised;
- what an owner's journal holds from before another owner took the store over is never redone (``base``);
- a node with another journal becomes owner only where the one before said that the server has all there is (``clean``):
  what was acknowledged may be in that journal alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from nodewright.errors import FormatMismatch, LeaseLost, StoreCorrupt, StoreLocked
from nodewright.storage.lease import Owner
from nodewright_aerospike.driver import Driver
from nodewright_aerospike.layout import Layout
from nodewright_aerospike.problems import EXISTS, FILTERED, GENERATION, MISSING, OK, ServerAway
from nodewright_aerospike.server import Server

FORMAT = 1


class Ownership:
    """Made by ``claim``. ``number`` is the highest commit number that an owner before this one has used, ``done`` the last
    one that the server is known to have for good, and all before it."""

    def __init__(self, server: Server, layout: Layout, driver: Driver, owner: Owner, journal: str) -> None:
        self._server = server
        self._layout = layout
        self._driver = driver
        self.owner = owner
        self.journal = journal
        self.number = 0
        self.base = 0  # entries of this journal up to here are of an owner that others have followed: never redone
        self.done = 0
        self.tables: set[str] = set()
        self.large: set[str] = set()  # tables that have had values in parts
        expressions = driver.expressions
        mine = expressions.And(
            expressions.Eq(expressions.IntBin("epoch"), owner.epoch),
            expressions.Eq(expressions.StrBin("journal"), journal),
        )
        self._condition = {"expressions": mine.compile(), "exists": driver.aerospike.POLICY_EXISTS_UPDATE}

    def record(self) -> dict[str, Any]:
        """All bins, as of now."""
        owner = self.owner
        return {
            "format": FORMAT,
            "store": self._server.place.store,
            "node": owner.node,
            "pid": owner.pid,
            "host": owner.host,
            "since": repr(owner.since),
            "epoch": owner.epoch,
            "journal": self.journal,
            "number": self.number,
            "base": self.base,
            "clean": 0,
            "tables": sorted(self.tables),
            "large": sorted(self.large),
        }

    def start(self, number: int, tables: set[str], large: set[str]) -> None:
        """Before commit ``number``, which may be the first with rows in ``tables``, or with large values in ``large``.
        Raises LeaseLost, StoreFull, ServerAway."""
        bins: dict[str, Any] = {"number": number}
        if not tables <= self.tables:
            bins["tables"] = sorted(self.tables | tables)
        if not large <= self.large:
            bins["large"] = sorted(self.large | large)
        self._write(bins)
        self.number = number
        self.tables |= tables
        self.large |= large

    def again(self) -> None:
        """After the server was started anew: it may have lost what was written here last."""
        self._write(self.record())

    def still(self) -> None:
        """Raises LeaseLost where another owner has taken over."""
        found = self._server.get(self._layout.owner)
        if found is None or not self._is_mine(found[0]):
            self._claim_again(found)

    def finish(self, number: int) -> None:
        """The server has all commits up to ``number`` for good: anybody may be the next owner."""
        self._write({"clean": 1, "done": number})

    def _is_mine(self, bins: dict[str, Any]) -> bool:
        return bins.get("epoch") == self.owner.epoch and bins.get("journal") == self.journal

    def _write(self, bins: dict[str, Any]) -> None:
        result = self._server.write(self._layout.owner, bins, self._condition)
        if result in (FILTERED, MISSING):
            self._claim_again(self._server.get(self._layout.owner))
            result = self._server.write(self._layout.owner, bins, self._condition)
        if result != OK:
            raise ServerAway(result, "the owner's record was written by somebody else meanwhile")

    def _claim_again(self, found: tuple[dict[str, Any], int] | None) -> None:
        """The record is not this owner's. Where it is that of an *earlier* owner, or the store is so new that nothing of it
        was kept for good, then the server lost the claim when it was killed, and it is made again: nobody else has taken
        over, for epochs only grow. Else raises LeaseLost."""
        if found is None:
            if self.done:
                raise self._lost(None)
            policy, generation = {"exists": self._driver.aerospike.POLICY_EXISTS_CREATE}, None
        else:
            if int(found[0].get("epoch", 0)) >= self.owner.epoch:
                raise self._lost(found)
            policy, generation = {"gen": self._driver.aerospike.POLICY_GEN_EQ}, found[1]
        self._server.write(self._layout.owner, self.record(), policy, generation)
        after = self._server.get(self._layout.owner)
        if after is None or not self._is_mine(after[0]):
            raise self._lost(after)

    def _lost(self, found: tuple[dict[str, Any], int] | None) -> LeaseLost:
        place = self._server.place
        if found is None:
            return LeaseLost(
                f"{place}: the server has lost this store (a namespace without a disk that was restarted?); stop this node "
                "and restore the server's data"
            )
        other = _owner(found[0])
        return LeaseLost(
            f"{place}: {_named(other)} took this store over at epoch {other.epoch}; stop this node, its commits are refused"
        )


def claim(server: Server, layout: Layout, driver: Driver, me: Owner, journal: str, first: int, following: int) -> Ownership:
    """Become the owner. ``first`` and ``following`` are the lowest number that the journal holds and the next one it gives
    out. Raises StoreLocked naming the owner, FormatMismatch, StoreCorrupt, ServerAway."""
    place, config = server.place, server.config
    found = server.get(layout.owner)
    bins, generation = found if found is not None else ({}, 0)
    before = _owner(bins)
    mine = bins.get("journal") == journal
    lost = int(bins.get("number", 0)) < first - 1 and (mine or found is None)
    if found is not None and bins.get("format") != FORMAT:
        raise FormatMismatch(
            f"{place} was written in format {bins.get('format')}, this node writes {FORMAT}: install the version of "
            f"nodewright that wrote it, or choose another store with --set {place.slot}.store=NAME"
        )
    if lost and not config.allow_volatile:
        raise StoreCorrupt(
            f"{place}: the server lacks commits that it had kept for good (it has {bins.get('number', 0)}, the journal "
            f"begins at {first}); restore its data, or remove the data directory and choose another store with "
            f"--set {place.slot}.store=NAME"
        )
    if found is not None and not mine and not bins.get("clean") and not config.take_over:
        raise StoreLocked(
            f"{place} is in use by {_named(before)}, or was when that node ended without closing it: stop that node, or "
            "start and stop it once on its own data directory, which has commits that the server may lack"
        )
    owner = Owner(me.node, me.pid, me.host, me.since, before.epoch + 1)
    ownership = Ownership(server, layout, driver, owner, journal)
    ownership.number = max(int(bins.get("number", 0)), following - 1)
    ownership.base = int(bins.get("base", 0)) if mine or found is None else ownership.number
    ownership.done = max(first - 1, ownership.base, int(bins.get("done", 0)) if mine and bins.get("clean") else 0)
    ownership.tables = set(bins.get("tables", ()))
    ownership.large = set(bins.get("large", ()))
    written = ownership.record()
    aerospike = driver.aerospike
    if found is None:
        result = server.write(
            layout.owner, written, {"exists": aerospike.POLICY_EXISTS_CREATE, "key": aerospike.POLICY_KEY_SEND}
        )
    else:
        result = server.write(layout.owner, written, {"gen": aerospike.POLICY_GEN_EQ}, generation)
    if result in (GENERATION, EXISTS):
        after = server.get(layout.owner)
        if after is None or not _same(after[0], written):  # else: this very write, whose answer was lost
            raise StoreLocked(f"{place} is just being opened by another node: stop one of the two")
    return ownership


def _same(bins: dict[str, Any], written: dict[str, Any]) -> bool:
    return all(bins.get(name) == value for name, value in written.items())


def _owner(bins: dict[str, Any]) -> Owner:
    return Owner(
        str(bins.get("node", "")),
        int(bins.get("pid", 0)),
        str(bins.get("host", "")),
        float(bins.get("since", 0)),
        int(bins.get("epoch", 0)),
    )


def _named(owner: Owner) -> str:
    return f"{owner}, since {datetime.fromtimestamp(owner.since, UTC).strftime('%Y-%m-%d %H:%M:%S UTC')}"
