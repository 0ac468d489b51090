"""What commands share: the profile argument with its options, and the way from them to a plan.

A command of a profile is written as::

    @click.command()
    @profile_options
    def check(request: ProfileRequest) -> None:
        host, plan = request.compose()
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from attrs import frozen

from nodewright.composition.compose import compose
from nodewright.composition.plan import Plan
from nodewright.config.profile import load_profile
from nodewright.errors import ConfigurationError
from nodewright.genesis import Genesis, resolve
from nodewright.plugins.host import DIRECTORIES_VARIABLE, PluginHost, directories_from_environment

DIRECTORIES_KEY = "nodewright.plugins_directories"  # in click's context: those given before the command's name


@frozen
class ProfileRequest:
    """What the operator asked for. ``reference`` is a profile name or a TOML file."""

    reference: str
    overrides: tuple[str, ...] = ()
    plugin_directories: tuple[Path, ...] = ()

    def host(self) -> PluginHost:
        return PluginHost(self.plugin_directories)

    def plan(self, host: PluginHost) -> Plan:
        """Raises ConfigurationError with all problems."""
        return compose(load_profile(self.reference, host.find_profile, self.overrides), host.registry)

    def compose(self) -> tuple[PluginHost, Plan]:
        host = self.host()
        return host, self.plan(host)

    def arguments(self) -> list[str]:
        """The same request as command-line arguments, for a child process."""
        return [
            self.reference,
            *(part for assignment in self.overrides for part in ("--set", assignment)),
            *(part for path in self.plugin_directories for part in ("--plugins-dir", str(path.absolute()))),
        ]


def plan_genesis(plan: Plan) -> Genesis:
    """The genesis that a plan names, read and checked. Raises ConfigurationError."""
    source = plan.genesis.file if plan.genesis.file is not None else plan.genesis.document
    genesis = resolve(source if source is not None else {})
    if genesis.family != plan.family:
        raise ConfigurationError(
            f"{plan.source}: family is {plan.family!r}, and the genesis is one of family {genesis.family!r}: name the "
            f"same family in both"
        )
    return genesis


def plugins_dir_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--plugins-dir``, passed on as ``plugin_directories`` with those of the environment and of the main command."""

    @click.option(
        "--plugins-dir",
        "plugins_dir",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="DIR",
        help=f"Also load every *.py file of DIR as a plugin. Repeatable; also {DIRECTORIES_VARIABLE}.",
    )
    @click.pass_context
    @functools.wraps(function)
    def wrapper(context: click.Context, /, plugins_dir: tuple[Path, ...], **arguments: Any) -> Any:
        return function(plugin_directories=directories(context, plugins_dir), **arguments)

    return wrapper


def directories(context: click.Context, given: tuple[Path, ...] = ()) -> tuple[Path, ...]:
    before: tuple[Path, ...] = context.find_root().meta.get(DIRECTORIES_KEY, ())
    return tuple(dict.fromkeys((*directories_from_environment(), *before, *given)))


def profile_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``PROFILE --set --plugins-dir``, passed on as ``request``."""

    @click.argument("profile", metavar="PROFILE|FILE.toml")
    @click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override one key, for example --set stores.utxo.use=memory. Repeatable. VALUE is read as TOML, else as text.",
    )
    @plugins_dir_option
    @functools.wraps(function)
    def wrapper(profile: str, overrides: tuple[str, ...], plugin_directories: tuple[Path, ...], **arguments: Any) -> Any:
        return function(request=ProfileRequest(profile, overrides, plugin_directories), **arguments)

    return wrapper
