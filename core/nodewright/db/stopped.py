"""A stopped node's stores, opened for an operator's tool: the plan's storage components and nothing else of it.

Invariants:

- the data folder's lease is held before anything in it is opened, and each store takes its own: a running node is refused
  by name, and a node that starts meanwhile is refused in turn;
- what depends on a store decides how it is looked at: ``rows`` (tables of a key-value store, also under the ``utxo``
  adapter) or ``bodies`` (a blob store, or what gives ``blob`` over a key-value store). A store that keeps unspent outputs
  in a form of its own has neither, unless it shows them as those rows (capability ``utxo-rows``);
- no store is made and none is changed by looking at it (``tools``), except where it is to be filled or upgraded;
- a store behind another is opened for that one, and is looked at through it only.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from attrs import frozen

from nodewright.composition.folders import folder_of
from nodewright.composition.plan import Plan, PlannedComponent
from nodewright.db.tools import require_current, require_store, tools_of
from nodewright.environment import NodeEnvironment
from nodewright.errors import FormatMismatch, StoreCorrupt, StoreError
from nodewright.interfaces.storage import BlobStore, Compaction, FormatRecord, KeyValueStore, KindListing, TableListing
from nodewright.node.folder import MAX_RECORD_BYTES, RECORD_FILE, held_folder, write_whole
from nodewright.node.stores import adapted, open_component
from nodewright.plugins.specs import BLOB, KEY_VALUE, UTXO, UTXO_ROWS, Dependencies
from nodewright.storage.formats import FORMAT_KEY, META_KIND, decode_format, encode_format, read_format, write_format
from nodewright.storage.lease import Owner, read_owner

ANY, EXISTING, UPGRADED = "any", "existing", "upgraded"
UNFINISHED = "unfinished "  # what the family of a folder starts with while a copy or restore fills it


@frozen
class FolderRecord:
    """``network.json``: what the data folder was made for."""

    family: str
    network: str
    genesis: bytes


@frozen
class StoreSlot:
    """An opened store. ``contract`` is what its dependents ask for; ``owner`` is who held its lease before, where it lives
    in a folder. Exactly one of ``rows`` and ``bodies`` is set, except for a store of unspent outputs in its own form."""

    planned: PlannedComponent
    folder: Path
    contract: str
    owner: Owner | None
    raw: object
    rows: KeyValueStore | None
    bodies: BlobStore | None

    @property
    def slot(self) -> str:
        return self.planned.slot

    @property
    def keeps_outputs(self) -> bool:
        """Whether the tables of the ``utxo`` adapter are among the rows."""
        return self.contract == UTXO and self.rows is not None

    @property
    def ordered(self) -> bool:
        return "ordered" in self._capabilities

    @property
    def volatile(self) -> bool:
        return "volatile" in self._capabilities

    @property
    def _capabilities(self) -> frozenset[str]:
        """Its own words where it has some: a store over another has those of that one."""
        named: frozenset[str] = getattr(self.raw, "capabilities", self.planned.spec.provides)
        return named

    @property
    def kind_of_store(self) -> str:
        """As the format record names it."""
        return self.planned.adapter or (KEY_VALUE if KEY_VALUE in self.planned.spec.provides else BLOB)

    def describe(self) -> str:
        by_adapter = self.planned.adapter and self.planned.native is None
        adapter = f" under the {self.planned.adapter} adapter" if by_adapter else ""
        return f"{self.planned.spec.name} of {self.planned.plugin}{adapter}"

    async def tables(self) -> list[str]:
        """Tables with rows, the reserved one among them. Raises StoreError where the store cannot name them."""
        if not isinstance(self.rows, TableListing):
            raise StoreError(
                f"{self.slot}: {self.planned.spec.name} of {self.planned.plugin} cannot name its tables, so that some "
                "could be missed: use a version of that plugin whose store has tables()"
            )
        return await self.rows.tables()

    async def kinds(self) -> list[str]:
        if not isinstance(self.bodies, KindListing):
            raise StoreError(
                f"{self.slot}: {self.planned.spec.name} of {self.planned.plugin} cannot name the kinds of its blobs, so "
                "that some could be missed: use a version of that plugin whose store has kinds()"
            )
        return await self.bodies.kinds()

    async def format(self) -> FormatRecord | None:
        if KEY_VALUE in self.planned.spec.provides:
            return await read_format(self.raw)  # type: ignore[arg-type]
        if self.bodies is None:
            return None
        raw = await self.bodies.get(META_KIND, FORMAT_KEY)
        return None if raw is None else decode_format(raw)

    async def set_format(self, record: FormatRecord) -> None:
        if KEY_VALUE in self.planned.spec.provides:
            await write_format(self.raw, record)  # type: ignore[arg-type]
        elif self.bodies is not None:
            await self.bodies.delete(META_KIND, [FORMAT_KEY])
            await self.bodies.put(META_KIND, FORMAT_KEY, encode_format(record))

    async def is_empty(self) -> bool:
        if self.rows is not None:
            for table in await self.tables():
                if (await self.rows.scan(table, limit=1)).items:
                    return False
        elif self.bodies is not None:
            for kind in await self.kinds():
                async for _ in self.bodies.iterate(kind):
                    return False
        return await self.format() is None

    @property
    def compaction(self) -> Compaction | None:
        return self.raw if isinstance(self.raw, Compaction) else None


@frozen
class StoppedNode:
    """``owner`` is who held the data folder before this tool."""

    plan: Plan
    folder: Path
    record: FolderRecord
    owner: Owner | None
    stores: tuple[StoreSlot, ...]
    environment: NodeEnvironment


def read_record(folder: Path) -> FolderRecord:
    """Raises StoreError where the folder holds no node's data, StoreCorrupt."""
    path = folder / RECORD_FILE
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(MAX_RECORD_BYTES))
        record = FolderRecord(str(document["family"]), str(document["network"]), bytes.fromhex(document["genesis"]))
    except FileNotFoundError:
        raise StoreError(f"{folder} holds no node's data (it has no {RECORD_FILE}): name another --data-dir") from None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreCorrupt(f"{path} is unreadable ({error}): restore it from a copy of the data directory") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    if record.family.startswith(UNFINISHED):
        raise StoreError(f"{folder} is an {record.family}: remove it and begin again")
    return record


def write_record(folder: Path, record: FolderRecord) -> None:
    write_whole(folder / RECORD_FILE, {"family": record.family, "network": record.network, "genesis": record.genesis.hex()})


@asynccontextmanager
async def stopped_node(
    plan: Plan, folder: Path, logger: object, upgrading: bool = False, without: frozenset[str] = frozenset()
) -> AsyncIterator[StoppedNode]:
    """``upgrading`` lets stores apply their migrations; slots ``without``, and what stands before them, are not opened.
    Raises StoreLocked naming the node that runs, StoreError, FormatMismatch where the profile is of another network."""
    record = read_record(folder)
    if (plan.family, plan.network.id) != (record.family, record.network):
        raise FormatMismatch(
            f"the data directory {folder} is of the family {record.family!r} and the network {record.network!r}, the "
            f"profile {plan.profile} of {plan.family!r} and {plan.network.id!r}: name the profile that it was made with"
        )
    owner = read_owner(folder)
    environment = NodeEnvironment(plan.node.name, folder, logger)
    async with AsyncExitStack() as stack:
        stack.enter_context(held_folder(folder, environment))
        stores = await open_stores(plan, environment, stack, EXISTING if not upgrading else UPGRADED, without)
        yield StoppedNode(plan, folder, record, owner, stores, environment)


def require_empty_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder} is not an empty folder: name one that is, or that is not there yet")


@contextmanager
def fresh_folder(folder: Path, environment: NodeEnvironment, record: FolderRecord, what: str) -> Iterator[None]:
    """An empty data folder to be filled: no node runs on it, nor does another tool, until ``write_record`` at the end."""
    require_empty_folder(folder)
    with held_folder(folder, environment):
        write_record(folder, FolderRecord(UNFINISHED + what, record.network, record.genesis))
        yield


async def open_stores(
    plan: Plan,
    environment: NodeEnvironment,
    stack: AsyncExitStack,
    expect: str = ANY,
    without: frozenset[str] = frozenset(),
) -> tuple[StoreSlot, ...]:
    """In the plan's order, without those behind others. ``expect`` is ANY, where stores are made that are not there;
    EXISTING, where that is refused, and one that would migrate as well; UPGRADED, where only the first is."""
    opened: dict[str, object] = {}  # by slot: what a store in front of it is given
    await _look(plan, environment, expect, without)
    left = set(without)
    stores = []
    for planned in plan.of_kind("storage"):
        if planned.slot in left or planned.requires.keys() & left:
            left.add(planned.slot)
            continue
        store = await _open(plan, planned, environment, stack, opened)
        if store is not None:
            stores.append(store)
    return tuple(stores)


async def _look(plan: Plan, environment: NodeEnvironment, expect: str, without: frozenset[str]) -> None:
    """All are looked for before any is opened: a refusal leaves everything as it was."""
    for planned in plan.of_kind("storage"):
        if planned.slot not in without and expect != ANY:
            own = environment.for_slot(planned.slot)
            await require_store(planned, own, folder_of(planned, environment.root))
            if expect == EXISTING:
                await require_current(planned, own)


async def _open(
    plan: Plan,
    planned: PlannedComponent,
    environment: NodeEnvironment,
    stack: AsyncExitStack,
    opened: dict[str, object],
) -> StoreSlot | None:
    own = environment.for_slot(planned.slot)
    folder = folder_of(planned, environment.root)
    owner = read_owner(folder)
    ask = tools_of(planned).owner
    if owner is None and ask is not None:
        owner = await ask(planned.config, own)
    if not planned.requires.keys() <= opened.keys():
        raise StoreError(f"{planned.slot}: {planned.spec.name} needs other components; this tool opens stores alone")
    raw = await open_component(planned, Dependencies({slot: opened[slot] for slot in planned.requires}), own, stack)
    if planned.behind is not None:
        opened[planned.slot] = await adapted(planned, raw, own, stack)
        return None
    contract = _contract(plan, planned)
    rows = bodies = None
    if contract == BLOB:
        bodies = await adapted(planned, raw, own, stack)
    elif contract == KEY_VALUE or planned.adapter == UTXO or UTXO_ROWS in planned.spec.provides:
        rows = raw
    return StoreSlot(planned, folder, contract, owner, raw, rows, bodies)


def _contract(plan: Plan, planned: PlannedComponent) -> str:
    if planned.adapter is not None:
        return planned.adapter
    asked = {dependent.requires[planned.slot] for dependent in plan.dependents(planned.slot)}
    for contract in (UTXO, BLOB, KEY_VALUE):
        if contract in asked or (not asked and contract in planned.spec.provides):
            return contract
    return KEY_VALUE
