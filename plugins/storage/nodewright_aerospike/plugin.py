"""Registers the store ``aerospike``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from nodewright.errors import StoreCorrupt, StoreError
from nodewright.interfaces.environment import Environment
from nodewright.node.folder import write_whole
from nodewright.node.journal import SegmentLog
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import KEY_VALUE, UTXO, UTXO_ROWS, Dependencies, StorageSpec
from nodewright.storage.lease import acquire, this_process
from nodewright.storage.utxo_records import SPENT, TX
from nodewright_aerospike.applier import Applier
from nodewright_aerospike.config import MIB, AerospikeConfig, check_config
from nodewright_aerospike.driver import Driver, load_driver
from nodewright_aerospike.layout import Layout
from nodewright_aerospike.owner import claim
from nodewright_aerospike.server import Server
from nodewright_aerospike.store import CAPABILITIES, Rows
from nodewright_aerospike.utxo import AerospikeStore

JOURNAL_FOLDER = "journal"
JOURNAL_FILE = "journal.json"
_MAX_FILE_BYTES = 4096


@asynccontextmanager
async def open_aerospike(
    config: AerospikeConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[AerospikeStore]:
    driver = load_driver()
    folder = Path(environment.data_dir, config.path) if config.path else environment.data_dir
    lease = await environment.offload(acquire, folder, environment)
    server = Server(driver, config, environment)
    try:
        journal = await environment.offload(journal_name, folder, environment)
        await server.patiently(server.connect)
        async with SegmentLog.open(environment, folder / JOURNAL_FOLDER, config.journal_mib * MIB) as log:
            applier = await _claimed(driver, server, log, journal, environment)
            rows = Rows(applier, lease, environment)
            async with _running(applier):
                try:
                    store = AerospikeStore(rows, environment, config.cache_mib * MIB)
                    await store.load()
                    yield store
                finally:
                    await rows.aclose()
    finally:
        with trio.CancelScope(shield=True):
            await environment.offload(server.close)
        lease.release()


async def _claimed(driver: Driver, server: Server, log: SegmentLog, journal: str, environment: Environment) -> Applier:
    """The store is this node's, and has all that the journal holds."""
    config = server.config
    layout = Layout(driver, config.namespace, config.sets, server.place.store)
    ownership = await server.patiently(
        claim, server, layout, driver, this_process(environment), journal, log.first_sequence, log.next_sequence
    )
    if ownership.number >= log.next_sequence:
        await log.skip_to(ownership.number + 1)
    applier = Applier(server, layout, ownership, log, environment)
    await applier.redo()
    for table in ownership.tables - {TX, SPENT}:  # those are never looked for among others
        await server.patiently(server.with_set_index, layout.set_of(table))
    return applier


@asynccontextmanager
async def _running(applier: Applier) -> AsyncIterator[None]:
    """The applier in the background. What the body raises leaves as it was raised, not in a group."""
    raised: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(applier.run)
        try:
            yield
        except BaseException as error:
            raised = error
        nursery.cancel_scope.cancel()
    if raised is not None:
        try:
            raise raised
        finally:
            raised = None


def journal_name(folder: Path, environment: Environment) -> str:
    """What the server knows this folder's journal by: made once."""
    path = folder / JOURNAL_FILE
    try:
        return str(json.loads(path.read_bytes()[:_MAX_FILE_BYTES])["journal"])
    except FileNotFoundError:
        name = environment.entropy(16).hex()
        write_whole(path, {"journal": name})
        return name
    except (ValueError, KeyError, TypeError) as error:
        raise StoreCorrupt(f"{path} is unreadable ({error}): restore the folder from a copy") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}); check its owner and mode") from error


@hookimpl
def register_storage() -> list[StorageSpec]:
    return [
        StorageSpec(
            name="aerospike",
            summary="rows and unspent outputs in a namespace of an Aerospike server, behind a journal of the node's own",
            open=open_aerospike,
            config=AerospikeConfig,
            provides=CAPABILITIES | {KEY_VALUE, UTXO, UTXO_ROWS},
            check=check_config,
            extra="aerospike",
        )
    ]
