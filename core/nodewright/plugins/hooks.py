"""The hooks of a Nodewright plugin. All are synchronous, all are optional, and none is called per transaction.

pluggy is used to *collect* specs and to *observe* a node, never to select: the profile selects, by name. A plugin marks
its functions with ``hookimpl``::

    from nodewright.plugins.hooks import hookimpl
    from nodewright.plugins.specs import StorageSpec

    @hookimpl
    def register_storage() -> list[StorageSpec]:
        return [StorageSpec(name="mystore", summary="...", open=open_store, provides=frozenset({"key-value"}))]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from nodewright.plugins.specs import (
    ConsensusSpec,
    ExecutionSpec,
    ServiceSpec,
    StorageSpec,
    TransportSpec,
    VerifierSpec,
)

if TYPE_CHECKING:
    import click

    from nodewright.composition.plan import Plan

PROJECT = "nodewright"

ProfileSource = str | Path | Traversable

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_storage() -> Sequence[StorageSpec]:  # type: ignore[empty-body]
    """Databases and file stores. ``provides`` names the contract (``key-value``, ``utxo``, ``blob``) and capabilities."""


@hookspec
def register_execution() -> Sequence[ExecutionSpec]:  # type: ignore[empty-body]
    """Execution engines: what transactions mean."""


@hookspec
def register_consensus() -> Sequence[ConsensusSpec]:  # type: ignore[empty-body]
    """Consensus engines: who orders blocks of bundles, and when they are final."""


@hookspec
def register_transport() -> Sequence[TransportSpec]:  # type: ignore[empty-body]
    """Networks: authenticated peers, channels and streamed bodies."""


@hookspec
def register_services() -> Sequence[ServiceSpec]:  # type: ignore[empty-body]
    """Anything beside the chain: APIs, faucets, dashboards, load generators."""


@hookspec
def register_verifiers() -> Sequence[VerifierSpec]:  # type: ignore[empty-body]
    """Batch signature checkers."""


@hookspec
def register_profiles() -> Mapping[str, ProfileSource]:  # type: ignore[empty-body]
    """Profiles by name: the TOML text itself, or a file that holds it (a path or an importlib.resources file)."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add commands to the command line. Called once, before arguments are parsed."""


@hookspec
def check_plan(plan: Plan) -> Sequence[str]:  # type: ignore[empty-body]
    """Problems (one sentence each) of a composed plan that only this plugin can see. Changes nothing."""


@hookspec
def node_ready(node: Any) -> None:
    """The node (a ``nodewright.interfaces.NodeHandle``) answers requests. Observe only; must return at once."""


@hookspec
def node_stopping(node: Any) -> None:
    """The node begins to stop; its components are still open. Observe only; must return at once."""
