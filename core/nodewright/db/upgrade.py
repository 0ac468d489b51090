"""Numbered migrations of what the core itself keeps in stores, and what each store would need of them.

A migration leads from one format to the next. None has been needed so far: the first format of everything is the one that
this version writes. A store with tables of its own (a server's schema) migrates those itself when it is opened; formats of
execution and consensus are compared by the node when it starts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import frozen

from nodewright.db.stopped import StoreSlot
from nodewright.interfaces.storage import KeyValueStore
from nodewright.plugins.specs import UTXO
from nodewright.storage.utxo_adapter import FORMAT
from nodewright.storage.utxo_records import META


@frozen
class Migration:
    """``owner`` is whose rows it changes: ``utxo`` for the tables of the UTXO adapter. ``apply`` may be run again after it
    was interrupted, and writes the new format last."""

    number: int
    owner: str
    before: str
    after: str
    summary: str
    apply: Callable[[KeyValueStore], Awaitable[None]]


MIGRATIONS: tuple[Migration, ...] = ()


@frozen
class Upgrade:
    """What one store has, and the migrations that lead from there to ``wanted``. ``stuck`` where none does."""

    store: StoreSlot
    owner: str
    held: str | None
    wanted: str
    steps: tuple[Migration, ...]

    @property
    def stuck(self) -> bool:
        reached = self.steps[-1].after if self.steps else self.held
        return self.held is not None and reached != self.wanted


def path_of(owner: str, held: str | None, wanted: str, known: tuple[Migration, ...] = MIGRATIONS) -> tuple[Migration, ...]:
    """Migrations in order; those up to the last that applies where they do not reach ``wanted``."""
    steps: list[Migration] = []
    at = held
    for migration in sorted(known, key=lambda migration: migration.number):
        if at != wanted and migration.owner == owner and migration.before == at:
            steps.append(migration)
            at = migration.after
    return tuple(steps)


async def plan_upgrade(store: StoreSlot) -> Upgrade:
    """Reads only."""
    if store.keeps_outputs:
        assert store.rows is not None
        (row,) = await store.rows.get_many(META, [b"format"])
        held = None if row is None else row.decode(errors="replace")
        wanted = FORMAT.decode()
        return Upgrade(store, UTXO, held, wanted, path_of(UTXO, held, wanted))
    record = await store.format()
    held = None if record is None else record.store
    return Upgrade(store, "store", held, store.kind_of_store, path_of("store", held, store.kind_of_store))


async def apply_upgrade(upgrade: Upgrade) -> None:
    assert upgrade.store.rows is not None or not upgrade.steps
    for step in upgrade.steps:
        await step.apply(upgrade.store.rows)  # type: ignore[arg-type]
