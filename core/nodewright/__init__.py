"""Nodewright: a blockchain node composed from plugins by one TOML profile."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("nodewright")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
