"""Whether the driver that a component needs is there, known without importing it: its spec names an extra, and the metadata
of the distribution that brought it says what the extra consists of."""

from __future__ import annotations

import importlib.metadata
import re

from nodewright.plugins.registry import Registry
from nodewright.plugins.specs import ComponentSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def missing_driver(spec: ComponentSpec, registry: Registry) -> str | None:
    """A sentence that names what to install; None where all is there, or where it is not known what is needed."""
    provider = next((provided.provider for provided in registry.components if provided.value is spec), None)
    if spec.extra is None or provider is None or provider.distribution is None:
        return None
    missing = [name for name in _requirements(provider.distribution, spec.extra) if not _installed(name)]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    return (
        f"{spec.name!r} needs {' and '.join(missing)}, which {verb} not installed: run  pip install "
        f"'{provider.distribution}[{spec.extra}]'"
    )


def _requirements(distribution: str, extra: str) -> list[str]:
    """Names of the distributions that an extra brings whatever the platform. Another extra of the same distribution stands
    for what it brings itself."""
    found: list[str] = []
    wanted, seen = [extra], set[str]()
    while wanted:
        asked = wanted.pop()
        if asked in seen:
            continue
        seen.add(asked)
        marker = re.compile(rf"""\s*extra\s*==\s*["']{re.escape(asked)}["']\s*\Z""")
        for line in importlib.metadata.requires(distribution) or ():
            requirement, _, condition = line.partition(";")
            name = _NAME.match(requirement.strip())
            if name is None or not marker.match(condition):
                continue
            if _same(name[0], distribution):
                wanted += re.findall(r"[A-Za-z0-9._-]+", requirement.partition("[")[2].partition("]")[0])
            else:
                found.append(name[0])
    return found


def _same(one: str, other: str) -> bool:
    return re.sub(r"[-_.]+", "-", one).lower() == re.sub(r"[-_.]+", "-", other).lower()


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
