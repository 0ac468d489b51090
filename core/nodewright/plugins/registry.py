"""The registry: specs by kind and name, profiles by name, and who brought them. Filled by the host, then only read.

Invariants: a registry never picks between two plugins that claim a name: asked for such a name it raises and tells the
qualified forms. ``plugin:name`` and ``distribution:name`` are both understood. What a broken plugin would have brought is
unknown, but its name and reason are kept, to be told where a name is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from attrs import field, frozen

from nodewright.config.names import listed, nearest, suggestion
from nodewright.errors import PluginError
from nodewright.plugins.specs import ComponentSpec

KINDS = ("storage", "execution", "consensus", "transport", "service", "verifier")

V = TypeVar("V")


@frozen
class Provider:
    """A plugin: ``name`` is its entry point's name or its file's stem, ``distribution`` None for a one-file plugin,
    ``location`` what the entry point names, or the file."""

    name: str
    distribution: str | None
    version: str | None
    location: str

    def __str__(self) -> str:
        if self.distribution is None:
            return f"plugin {self.name!r} (file {self.location})"
        version = f" {self.version}" if self.version else ""
        return f"plugin {self.name!r} (distribution {self.distribution}{version})"


@frozen
class Broken:
    """A plugin that gives nothing, and why."""

    provider: Provider
    reason: str

    def __str__(self) -> str:
        return f"{self.provider}: {self.reason}"


@frozen
class Provided(Generic[V]):
    name: str
    value: V
    provider: Provider


@frozen
class PlanCheck:
    """A plugin's ``check_plan`` hook."""

    check: Callable[[Any], Sequence[str]]
    provider: Provider


@frozen
class Registry:
    """``components`` of all kinds in order of registration; ``profiles`` are ``ProfileSource``."""

    components: tuple[Provided[ComponentSpec], ...] = ()
    profiles: tuple[Provided[Any], ...] = ()
    plugins: tuple[Provider, ...] = ()
    broken: tuple[Broken, ...] = ()
    plan_checks: tuple[PlanCheck, ...] = field(default=())

    def of_kind(self, kind: str) -> list[Provided[ComponentSpec]]:
        return [provided for provided in self.components if provided.value.kind == kind]

    def get(self, kind: str, name: str) -> Provided[ComponentSpec]:
        """Raises PluginError with one sentence: not known (with the nearest name), or claimed by several."""
        return self._select(kind, name, self.of_kind(kind))

    def profile(self, name: str) -> Provided[Any]:
        return self._select("profile", name, list(self.profiles))

    def _select(self, kind: str, name: str, among: list[Provided[V]]) -> Provided[V]:
        qualifier, _, plain = name.rpartition(":")
        found = [provided for provided in among if provided.name == plain and _matches(qualifier, provided.provider)]
        if len(found) == 1:
            return found[0]
        if found:
            claimants = " and ".join(str(provided.provider) for provided in found)
            forms = " or ".join(repr(form) for form in qualified_names(found))
            raise PluginError(f"{kind} {name!r} is claimed by {claimants}: say which, as {forms}")
        raise PluginError(self._unknown(kind, name, among))

    def _unknown(self, kind: str, name: str, among: list[Provided[V]]) -> str:
        qualifier, _, plain = name.rpartition(":")
        suspects = [broken for broken in self.broken if broken.provider.name in (plain, qualifier)]
        suspects = suspects or [broken for broken in self.broken if broken.provider.distribution == qualifier]
        if suspects:
            return f"no {kind} {name!r}, because {suspects[0].provider} is broken: {suspects[0].reason}"
        known = _names(among)
        text = f"no installed plugin has {_a(kind)} {name!r}{suggestion(name, known)}"
        if not known:
            text += f": no plugin with {_a(kind)} is installed"
        if self.broken and nearest(name, known) is None:
            names = listed(broken.provider.name for broken in self.broken)
            text += f" (broken plugins may have had it: {names}; see  nodewright plugins)"
        return text


def qualified_names(found: Sequence[Provided[Any]]) -> list[str]:
    """A form for each that no other of them answers to."""
    plugins = [provided.provider.name for provided in found]
    distributions = [provided.provider.distribution for provided in found]
    forms = []
    for provided in found:
        provider = provided.provider
        if provider.distribution is not None and distributions.count(provider.distribution) == 1:
            forms.append(f"{provider.distribution}:{provided.name}")
        elif plugins.count(provider.name) == 1:
            forms.append(f"{provider.name}:{provided.name}")
    return forms


def _matches(qualifier: str, provider: Provider) -> bool:
    return qualifier in ("", provider.name) or (provider.distribution is not None and qualifier == provider.distribution)


def _names(among: Iterable[Provided[Any]]) -> list[str]:
    """Plain where unique, qualified where not."""
    choices = list(among)
    plain = [provided.name for provided in choices]
    names = {name for name in plain if plain.count(name) == 1}
    for name in set(plain) - names:
        names.update(qualified_names([provided for provided in choices if provided.name == name]))
    return sorted(names)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
