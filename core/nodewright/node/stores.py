"""Opening one planned component: its dependencies, the adapter over a key-value store, and the store's format record.

A store's record is compared in two steps. Before anything reads the store: network and genesis. Once execution and
consensus are open, and before consensus recovers: everything, and a store without a record gets one.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from attrs import evolve, frozen

from nodewright.composition.plan import PlannedComponent
from nodewright.errors import NodewrightError
from nodewright.genesis import Genesis
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.storage import FormatRecord
from nodewright.plugins.specs import BLOB, KEY_VALUE, UTXO, Dependencies
from nodewright.storage.blob_adapter import open_blobs
from nodewright.storage.formats import (
    FORMAT_KEY,
    META_KIND,
    check_blob_format,
    check_format,
    decode_format,
    merge,
    read_format,
)
from nodewright.storage.utxo_adapter import open_utxo


@frozen
class OpenedStore:
    """``raw`` is what the plugin gave, ``contract`` how its format record is kept."""

    slot: str
    raw: Any
    contract: str
    adapter: str | None


async def open_component(
    planned: PlannedComponent, given: Dependencies, environment: Environment, stack: AsyncExitStack
) -> Any:
    """The component as its plugin gives it, inside ``stack``. An error that is not ours names the slot."""
    try:
        return await stack.enter_async_context(planned.spec.open(planned.config, given, environment))
    except NodewrightError:
        raise
    except Exception as error:
        while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]  # a component that opens a nursery says the same thing in a group of one
        if isinstance(error, NodewrightError):
            raise error from None
        raise NodewrightError(
            f"{planned.slot}: {planned.spec.name} of {planned.plugin} failed to open: {type(error).__name__}: {error}"
        ) from error


async def adapted(planned: PlannedComponent, raw: Any, environment: Environment, stack: AsyncExitStack) -> Any:
    """What dependents of a storage slot get: where it is asked for another contract than key-value, the store's own way
    of giving it, or else the core's adapter."""
    if planned.native is not None:
        return await stack.enter_async_context(planned.native(raw, environment))
    if planned.adapter == UTXO:
        return await stack.enter_async_context(open_utxo(raw, environment))
    if planned.adapter == BLOB:
        return await stack.enter_async_context(open_blobs(raw, environment))
    return raw


def opened_store(planned: PlannedComponent, raw: Any) -> OpenedStore | None:
    """None for a store that keeps its record itself (a native ``utxo`` store without key-value tables), and for one behind
    another, whose record it holds."""
    if planned.behind is not None:
        return None
    provides = planned.spec.provides
    contract = KEY_VALUE if KEY_VALUE in provides else BLOB if BLOB in provides else None
    return None if contract is None else OpenedStore(planned.slot, raw, contract, planned.adapter)


async def check_network(store: OpenedStore, genesis: Genesis) -> None:
    """Raises FormatMismatch if the store was made for another network."""
    if store.contract == KEY_VALUE:
        held = await read_format(store.raw, store.slot)
    else:
        blob = await store.raw.get(META_KIND, FORMAT_KEY)
        held = None if blob is None else decode_format(blob, store.slot)
    if held is not None:
        merge(held, evolve(held, network=genesis.network, genesis=genesis.hash, extra={}), store.slot)


async def check_formats(store: OpenedStore, genesis: Genesis, consensus: str, execution: str) -> None:
    """Compare or write the whole record. Raises FormatMismatch."""
    record = FormatRecord(
        store=store.adapter or store.contract,
        consensus=consensus,
        execution=execution,
        network=genesis.network,
        genesis=genesis.hash,
    )
    if store.contract == KEY_VALUE:
        await check_format(store.raw, record, store.slot)
    else:
        await check_blob_format(store.raw, record, store.slot)
