"""Nodewright: a blockchain node composed from plugins by one TOML profile."""


def __getattr__(name: str) -> str:
    """``__version__``: looked up when it is asked for, which takes longer than all that is imported here."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("nodewright")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0.0.0"
