"""Registers the profiles that come with the package: one TOML file each, beside this module."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

from nodewright.plugins.hooks import hookimpl


@hookimpl
def register_profiles() -> dict[str, Traversable]:
    folder = files("nodewright_profiles")
    return {
        entry.name.removesuffix(".toml"): entry
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".toml")
    }
