"""What a plugin registers: one frozen spec per component, never a live object.

``open(config, dependencies, environment)`` returns an async context manager that yields the component. ``config`` is an
instance of the spec's attrs class, already checked. ``dependencies`` maps slot names to opened components: every
requirement declared, plus what the core itself provides: ``pool``, ``events``, ``metrics``, ``genesis`` (the parsed
document), ``health``. A plugin module is light: it imports its driver inside ``open``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, TypeVar, cast

import attrs
from attrs import field, frozen

from nodewright.interfaces.environment import Environment
from nodewright.storage.lease import Owner

API_VERSION = 1

# Contracts a slot can ask for.
KEY_VALUE = "key-value"
UTXO = "utxo"
BLOB = "blob"
# A capability of a store that is key-value and utxo both: its unspent outputs can be read and written as rows of the core's
# adapter (``nodewright.storage.utxo_records``), which is how tools copy and check them.
UTXO_ROWS = "utxo-rows"
EXECUTION = "execution"
CONSENSUS = "consensus"
TRANSPORT = "transport"
SERVICE = "service"
VERIFIER = "verifier"

C = TypeVar("C")


@frozen
class Requirement:
    """What a component needs in a slot: a contract and capabilities. The composition inserts an adapter where a store
    has the capability by way of another contract (``utxo`` or ``blob`` over ``key-value``)."""

    slot: str
    contract: str
    capabilities: frozenset[str] = frozenset()
    optional: bool = False


class Dependencies(dict[str, Any]):
    """Opened components by slot name."""

    def typed(self, slot: str, protocol: type[C]) -> C:
        return cast(C, self[slot])


Open = Callable[[Any, Dependencies, Environment], AbstractAsyncContextManager[Any]]
Native = Callable[[Any, Environment], AbstractAsyncContextManager[Any]]


@attrs.define
class NoConfig:
    """For components with nothing to set."""


@frozen(kw_only=True)
class ComponentSpec:
    """``provides`` is the contract and the capabilities; ``check`` may return problems of a config (sentences) that a
    type cannot express; ``extra`` is the pip extra that brings the driver."""

    kind: ClassVar[str] = "component"
    name: str
    summary: str
    open: Open
    config: type[Any] = NoConfig
    provides: frozenset[str] = frozenset()
    requires: tuple[Requirement, ...] = ()
    check: Callable[[Any], list[str]] | None = None
    extra: str | None = None
    api_version: int = API_VERSION


@frozen
class StoreMigration:
    """One that a store applies when it is opened: numbered within the store."""

    number: int
    summary: str


@frozen
class Repair:
    """What a repair did, in sentences; ``lost`` where something could not be saved."""

    lines: tuple[str, ...]
    lost: bool


@frozen(kw_only=True)
class StoreTools:
    """What ``nodewright db`` asks of a store before it opens it, or instead. Each takes the config and the environment of
    the slot, and raises what ``open`` would. A store that is made by opening it gives ``exists``; one that changes what it
    finds when it is opened by a newer version gives ``pending`` (in order, nothing applied); ``repair`` saves what can be
    saved, under the store's own lease; ``owner`` says who held the lease last, of a store whose lease is in no folder."""

    exists: Callable[[Any, Environment], Awaitable[bool]] | None = None
    pending: Callable[[Any, Environment], Awaitable[list[StoreMigration]]] | None = None
    repair: Callable[[Any, Environment], Awaitable[Repair]] | None = None
    owner: Callable[[Any, Environment], Awaitable[Owner | None]] | None = None


@frozen(kw_only=True)
class StorageSpec(ComponentSpec):
    """``inherits`` are capabilities that it has where every store that its settings name (``setting(store=...)``) has
    them: of a wrapper, usually ``ordered``, ``snapshot`` and ``volatile``.

    ``native`` is how a key-value store gives ``utxo`` or ``blob`` itself, by contract: (the opened store, environment) ->
    context manager of what the slot's dependents get, in place of the core's adapter. It keeps the rows of that adapter, as
    the store's tables show them: a store stands behind a wrapper, is copied and is checked as before."""

    kind: ClassVar[str] = "storage"
    native: Mapping[str, Native] = field(factory=dict, eq=False)
    inherits: frozenset[str] = frozenset()
    tools: StoreTools = StoreTools()


@frozen(kw_only=True)
class ExecutionSpec(ComponentSpec):
    """``audit`` (config, dependencies, environment) -> context manager of an ``interfaces.audit.StateAudit`` over the
    stores of a stopped node, which are in the dependencies with ``genesis``."""

    kind: ClassVar[str] = "execution"
    audit: Open | None = None


@frozen(kw_only=True)
class ConsensusSpec(ComponentSpec):
    """``complete_genesis`` (config, document) -> document: what a local network's settings say of its genesis (how many
    validators and shards). It leaves the document of any other network as it is, and may raise ConfigurationError.

    ``audit`` as that of an execution, of an ``interfaces.audit.ChainAudit``; ``identify`` (``interfaces.audit.Identify``)
    and ``report`` are among the dependencies."""

    kind: ClassVar[str] = "consensus"
    audit: Open | None = None
    complete_genesis: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None


@frozen(kw_only=True)
class TransportSpec(ComponentSpec):
    kind: ClassVar[str] = "transport"


@frozen(kw_only=True)
class ServiceSpec(ComponentSpec):
    kind: ClassVar[str] = "service"


@frozen(kw_only=True)
class VerifierSpec(ComponentSpec):
    kind: ClassVar[str] = "verifier"


def setting(
    default: Any = attrs.NOTHING,
    *,
    help: str,
    factory: Callable[[], Any] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    secret: bool = False,
    store: str | None = None,
) -> Any:
    """An attrs field of a config class with its documentation and bounds (checked with file and line by the loader).

    ``store`` is for settings of a store: the text is the NAME of another [stores.NAME] of the profile, of which this
    contract is needed. It is opened before, found in ``dependencies["stores.NAME"]``, and used by nothing else."""
    metadata: Mapping[str, Any] = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "secret": secret,
        "store": store,
    }
    if factory is not None:
        return field(factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)
