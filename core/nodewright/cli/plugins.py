"""``nodewright plugins``: what is installed, what each plugin provides, and which are broken and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import click

from nodewright.cli.common import plugins_dir_option
from nodewright.composition.wiring import provided
from nodewright.config.structure import config_fields, describe, key_of, plain
from nodewright.plugins.host import PluginHost
from nodewright.plugins.registry import Provider, Registry
from nodewright.plugins.specs import ComponentSpec


@click.command()
@plugins_dir_option
@click.option("--settings", is_flag=True, help="Also every setting of each component: type, default and meaning.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with plugins and broken.")
def plugins(plugin_directories: tuple[Path, ...], settings: bool, as_json: bool) -> None:
    """List the installed plugins, what each provides, and the broken ones with the reason.

    A profile names a component by its name; where two plugins claim one, as plugin:name or distribution:name. A broken
    plugin stops nothing but the profiles that need it.

    \b
    nodewright plugins
    nodewright plugins --settings
    nodewright plugins --plugins-dir ./my-plugins --json
    """
    registry = PluginHost(plugin_directories).registry
    if as_json:
        click.echo(json.dumps(as_document(registry), indent=2))
        return
    for line in listing(registry, settings):
        click.echo(line)


def listing(registry: Registry, settings: bool) -> Iterator[str]:
    for provider in registry.plugins:
        yield f"{provider.name}  ({_from(provider)})"
        for entry in registry.components:
            if entry.provider is provider:
                spec = entry.value
                yield f"    {spec.kind} {spec.name}: {spec.summary}"
                extra = sorted(provided(spec) - {spec.kind})
                if extra:
                    yield f"        provides {', '.join(extra)}"
                if spec.requires:
                    yield "        requires " + ", ".join(_requirements(spec))
                if settings:
                    yield from (f"        {line}" for line in _settings(spec))
        for profile in registry.profiles:
            if profile.provider is provider:
                yield f"    profile {profile.name}"
    for broken in registry.broken:
        yield f"BROKEN {broken.provider.name}  ({_from(broken.provider)}): {broken.reason}"


def as_document(registry: Registry) -> dict[str, Any]:
    """The same for machines."""
    return {
        "plugins": [
            _identity(provider)
            | {
                "components": [_component(entry.value) for entry in registry.components if entry.provider is provider],
                "profiles": [profile.name for profile in registry.profiles if profile.provider is provider],
            }
            for provider in registry.plugins
        ],
        "broken": [_identity(broken.provider) | {"reason": broken.reason} for broken in registry.broken],
    }


def _identity(provider: Provider) -> dict[str, Any]:
    return {
        "name": provider.name,
        "distribution": provider.distribution,
        "version": provider.version,
        "location": provider.location,
    }


def _component(spec: ComponentSpec) -> dict[str, Any]:
    return {
        "kind": spec.kind,
        "name": spec.name,
        "summary": spec.summary,
        "provides": sorted(provided(spec)),
        "requires": _requirements(spec),
        "settings": [
            {
                "key": key_of(field),
                "type": describe(field.type),
                "default": _default(field),
                "required": field.default is attrs.NOTHING,
                "help": field.metadata.get("help", ""),
            }
            for field in config_fields(spec.config)
        ],
    }


def _requirements(spec: ComponentSpec) -> list[str]:
    return [
        f"{requirement.slot} ({', '.join([requirement.contract, *sorted(requirement.capabilities)])}"
        f"{', optional' if requirement.optional else ''})"
        for requirement in spec.requires
    ]


def _settings(spec: ComponentSpec) -> Iterator[str]:
    for field in config_fields(spec.config):
        default = "required" if field.default is attrs.NOTHING else f"default {json.dumps(_default(field))}"
        if field.metadata.get("secret"):
            default = "secret: from the environment or a file, never from a profile"
        yield f"{key_of(field)}: {describe(field.type)}, {default}. {field.metadata.get('help', '')}"


def _default(field: attrs.Attribute[Any]) -> Any:
    default: Any = field.default
    if default is attrs.NOTHING or field.metadata.get("secret"):
        return None
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return None if default.takes_self else plain(default.factory())
    return plain(default)


def _from(provider: Provider) -> str:
    if provider.distribution is None:
        return provider.location
    return f"{provider.distribution} {provider.version}"
