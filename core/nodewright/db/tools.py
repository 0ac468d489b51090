"""What is asked of stores before they are opened: whether they are there, what they would change, and repairs.

See ``nodewright.plugins.specs.StoreTools``. A store whose plugin does not say is opened as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from nodewright.composition.folders import folder_of
from nodewright.composition.plan import Plan, PlannedComponent
from nodewright.environment import NodeEnvironment
from nodewright.errors import StoreError
from nodewright.node.folder import held_folder
from nodewright.plugins.specs import Repair, StorageSpec, StoreMigration, StoreTools


@frozen
class Pending:
    """Migrations that a store would apply when it is opened."""

    slot: str
    store: str
    migrations: tuple[StoreMigration, ...]


def tools_of(planned: PlannedComponent) -> StoreTools:
    return planned.spec.tools if isinstance(planned.spec, StorageSpec) else StoreTools()


async def require_store(planned: PlannedComponent, environment: NodeEnvironment, folder: Path) -> None:
    """Raises StoreError where opening the store would make an empty one. ``environment`` is the slot's."""
    exists = tools_of(planned).exists
    if exists is not None and not await exists(planned.config, environment):
        raise StoreError(
            f"{planned.slot}: there is no {planned.spec.name} store yet where this profile has it ({folder} is its folder, "
            "if it has one): name the profile, with its --set, that the node ran with, or another --data-dir"
        )


async def pending_of(planned: PlannedComponent, environment: NodeEnvironment) -> tuple[StoreMigration, ...]:
    pending = tools_of(planned).pending
    return () if pending is None else tuple(await pending(planned.config, environment))


async def require_current(planned: PlannedComponent, environment: NodeEnvironment) -> None:
    """Raises StoreError where opening the store would change it."""
    migrations = await pending_of(planned, environment)
    if migrations:
        raise StoreError(
            f"{planned.slot}: {planned.spec.name} has {len(migrations)} migrations to apply first: run  nodewright db "
            "upgrade  (with --dry-run it only names them)"
        )


async def pending_migrations(plan: Plan, folder: Path, logger: object) -> list[Pending]:
    """Of every store of a stopped node; nothing is applied, and no store is made."""
    environment = NodeEnvironment(plan.node.name, folder, logger)
    found = []
    with held_folder(folder, environment):
        for planned in plan.of_kind("storage"):
            own = environment.for_slot(planned.slot)
            await require_store(planned, own, folder_of(planned, folder))
            migrations = await pending_of(planned, own)
            if migrations:
                found.append(Pending(planned.slot, planned.spec.name, migrations))
    return found


async def repair_stores(
    plan: Plan, folder: Path, logger: object, slots: tuple[str, ...], tell: Callable[[str, Repair | None], None]
) -> None:
    """Of a stopped node; ``slots`` empty is all. ``tell(slot, repair)`` after each, with None for a store that cannot be
    repaired by this tool. Raises StoreError for a slot that the profile does not have."""
    environment = NodeEnvironment(plan.node.name, folder, logger)
    known = [planned.slot for planned in plan.of_kind("storage")]
    for slot in slots:
        if slot not in known:
            raise StoreError(f"the profile has no store {slot}: name one of {', '.join(known)}")
    with held_folder(folder, environment):
        chosen = [planned for planned in plan.of_kind("storage") if not slots or planned.slot in slots]
        for planned in chosen:
            await require_store(planned, environment.for_slot(planned.slot), folder_of(planned, folder))
        for planned in chosen:
            repair = tools_of(planned).repair
            done = None if repair is None else await repair(planned.config, environment.for_slot(planned.slot))
            tell(planned.slot, done)
