"""The store that a benchmark's state is made durable in: any key-value plugin, by its name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from nodewright.composition.compose import compose_stores
from nodewright.config.profile import profile_from_text
from nodewright.environment import NodeEnvironment
from nodewright.errors import NodewrightError
from nodewright.interfaces.storage import KeyValueStore
from nodewright.node.stores import adapted, open_component
from nodewright.plugins.host import PluginHost
from nodewright.plugins.specs import Dependencies
from nodewright_aptos.bench.plan import Plan


@asynccontextmanager
async def opened(plan: Plan, environment: NodeEnvironment) -> AsyncIterator[KeyValueStore | None]:
    """None for ``memory``. ``settings`` of the plan are keys of the store. Raises NodewrightError."""
    if plan.state == "memory":
        yield None
        return
    host = PluginHost(())
    overrides = (f"stores.state.use={plan.state}", *(f"stores.state.{key}={value}" for key, value in plan.settings.items()))
    components = compose_stores(profile_from_text("", "bench", host.find_profile, overrides), host.registry)
    async with AsyncExitStack() as stack:
        behind: dict[str, Any] = {}
        store: Any = None
        for component in components:
            dependencies = Dependencies({slot: behind[slot] for slot in component.requires})
            own = environment.for_slot(component.slot)
            raw = await open_component(component, dependencies, own, stack)
            store = behind[component.slot] = raw if component.behind is None else await adapted(component, raw, own, stack)
        if store is None or not isinstance(store, KeyValueStore):
            raise NodewrightError(f"--state {plan.state}: that is no key-value store; name another")
        yield store
