"""Where a configuration value comes from, so that an error and ``nodewright show`` can say so."""

from __future__ import annotations

from attrs import frozen

KeyPath = tuple[str, ...]


@frozen
class Origin:
    """``source`` is a file, ``--set`` or ``default``; ``line`` counts from 1 and is None where there is none."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}, line {self.line}"


OVERRIDE = Origin("--set")
DEFAULT = Origin("default")


def plugin_default(component: str) -> Origin:
    return Origin(f"default of {component}")
