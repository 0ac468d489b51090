"""``Plan``: everything the node runtime needs to open a node, and nothing that is open yet.

Invariants: ``components`` is in opening order (whatever a component requires stands before it); slots are unique; every
``config`` is an instance of its spec's config class and has been checked; every requirement that is not optional names a
slot that is in the plan and provides the contract, natively or through the slot's adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from nodewright.config.core_settings import GenesisSettings, LogSettings, NetworkSettings, NodeSettings, PoolSettings
from nodewright.config.origin import Origin
from nodewright.plugins.specs import ComponentSpec, Native, StorageSpec

# What the core itself puts among the dependencies of every component, beside the slots that it requires.
CORE_DEPENDENCIES = ("events", "genesis", "health", "metrics", "pool")


@frozen
class Effective:
    """One effective value: TOML-ready, with where it came from."""

    value: Any
    origin: Origin


@frozen
class PlannedComponent:
    """``slot`` is ``stores.utxo``, ``verifier``, ``execution``, ``transport``, ``consensus`` or ``services.bsv_api``.

    ``adapter`` is None, or the contract (``utxo``, ``blob``) that an adapter gives over this key-value store, the core's or
    the plugin's own (``native``): dependents then get the adapter's object, never the bare store. ``requires`` maps each
    slot this component is given to the contract that it asked for there; optional requirements that nothing fills are left
    out. ``behind`` is the slot of the store that names this one, through which alone it is used.
    """

    slot: str
    kind: str
    spec: ComponentSpec
    config: Any
    plugin: str
    adapter: str | None = None
    requires: Mapping[str, str] = field(factory=dict)
    behind: str | None = None

    @property
    def native(self) -> Native | None:
        """How this store gives the contract of ``adapter`` itself, in place of the core's adapter."""
        if self.adapter is None or not isinstance(self.spec, StorageSpec):
            return None
        return self.spec.native.get(self.adapter)


@frozen(kw_only=True)
class Plan:
    """``profile`` is its name, ``family`` that of its wire formats, ``source`` the file or name it was loaded from.
    ``effective`` maps dotted keys (``stores.utxo.use``, ``pool.max_bytes``) to values with their origins."""

    profile: str
    family: str
    source: str
    network: NetworkSettings
    genesis: GenesisSettings
    pool: PoolSettings
    log: LogSettings
    node: NodeSettings
    components: tuple[PlannedComponent, ...]
    effective: Mapping[str, Effective]

    def component(self, slot: str) -> PlannedComponent | None:
        return next((component for component in self.components if component.slot == slot), None)

    def of_kind(self, kind: str) -> tuple[PlannedComponent, ...]:
        """In opening order; ``kind`` as in specs: ``storage``, ``service`` and so on."""
        return tuple(component for component in self.components if component.kind == kind)

    def dependents(self, slot: str) -> tuple[PlannedComponent, ...]:
        return tuple(component for component in self.components if slot in component.requires)
