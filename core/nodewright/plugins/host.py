"""The plugin host: finds plugins, loads them one by one, and asks each for what it registers. One host a node or command.

Invariants
- Nothing here is global: two hosts share no registration. (Python's own module cache is shared, as for any import.)
- A plugin counts whole or not at all: one with any problem gives no spec, no profile, no command, and is in
  ``registry.broken`` with the reason. No plugin's failure touches another.
- Loading order is by distribution and entry-point name, then file name: never that of the file system.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
from attrs import define, field

from nodewright.config.profile import FindProfile, ProfileText, decode_profile, read_profile_file
from nodewright.errors import ConfigurationError, PluginError
from nodewright.plugins import hooks
from nodewright.plugins.checks import REGISTERS, module_problems, profile_problems, spec_problems
from nodewright.plugins.registry import Broken, PlanCheck, Provided, Provider, Registry
from nodewright.plugins.specs import ComponentSpec

GROUP = "nodewright"
DIRECTORIES_VARIABLE = "NODEWRIGHT_PLUGINS_DIR"
MAX_PLUGIN_FILES = 1000


@define
class _Candidate:
    """A plugin that was found: ``load`` imports it."""

    provider: Provider
    load: Callable[[], Any]


@define
class _Collected:
    components: list[Provided[ComponentSpec]] = field(factory=list)
    profiles: list[Provided[Any]] = field(factory=list)
    plugins: list[Provider] = field(factory=list)
    broken: list[Broken] = field(factory=list)
    plan_checks: list[PlanCheck] = field(factory=list)


class PluginHost:
    """``registry`` is complete once constructed. Raises ConfigurationError for a plugins directory that is none.

    ``entry_points`` replaces what is installed: for tests."""

    def __init__(
        self,
        directories: Iterable[Path] = (),
        entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
    ) -> None:
        self._manager = pluggy.PluginManager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)
        self._loaded: list[tuple[Any, Provider]] = []
        collected = _Collected()
        points = importlib.metadata.entry_points(group=GROUP) if entry_points is None else entry_points
        for candidate in [*_installed(points), *_files(directories)]:
            self._add(candidate, collected)
        self.registry = Registry(
            components=tuple(collected.components),
            profiles=tuple(collected.profiles),
            plugins=tuple(collected.plugins),
            broken=tuple(collected.broken),
            plan_checks=tuple(collected.plan_checks),
        )

    def _add(self, candidate: _Candidate, collected: _Collected) -> None:
        provider = candidate.provider
        try:
            plugin = candidate.load()
        except (Exception, SystemExit) as error:
            collected.broken.append(Broken(provider, f"cannot be imported: {_said(error)}"))
            return
        problems = module_problems(plugin)
        if problems:
            collected.broken.append(Broken(provider, "; ".join(problems)))
            return
        try:
            self._manager.register(plugin, name=f"{provider.distribution or 'file'}:{provider.name}:{provider.location}")
        except ValueError as error:  # pluggy's own refusal; the same object twice
            collected.broken.append(Broken(provider, f"cannot be registered: {_said(error)}"))
            return
        components: list[Provided[ComponentSpec]] = []
        profiles: list[Provided[Any]] = []
        for hook in (*REGISTERS, "register_profiles"):
            caller = self._caller(plugin, hook)
            if caller is None:
                continue
            try:
                result = caller()[0]
            except (Exception, SystemExit) as error:
                problems.append(f"{hook} failed: {_said(error)}")
                continue
            if hook == "register_profiles":
                problems += profile_problems(result)
                profiles = [] if problems else [Provided(name, source, provider) for name, source in result.items()]
            else:
                wrong = spec_problems(hook, result)
                problems += wrong
                components += [] if wrong else [Provided(spec.name, spec, provider) for spec in result]
        if problems:
            self._manager.unregister(plugin)
            collected.broken.append(Broken(provider, "; ".join(problems)))
            return
        self._loaded.append((plugin, provider))
        collected.plugins.append(provider)
        collected.components += components
        collected.profiles += profiles
        check = self._caller(plugin, "check_plan")
        if check is not None:
            collected.plan_checks.append(PlanCheck(_first(check), provider))

    def _caller(self, plugin: Any, hook: str) -> Callable[..., list[Any]] | None:
        """A call of one hook of one plugin, answering a list of one; None where the plugin has not that hook."""
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        caller = self._manager.subset_hook_caller(hook, others)
        if not caller.get_hookimpls():
            return None

        def call(**arguments: Any) -> list[Any]:
            # pluggy leaves out a result of None, which for a register hook is a mistake to be told.
            return list(caller(**arguments)) or [None]

        return call

    def notify(self, hook: str, **arguments: Any) -> list[Broken]:
        """Call an observing hook (``node_ready``, ``node_stopping``, ``register_commands``) of every plugin. Returns
        the plugins whose hook failed: the others were called all the same."""
        failed = []
        for plugin, provider in self._loaded:
            caller = self._caller(plugin, hook)
            if caller is None:
                continue
            try:
                caller(**arguments)
            except (Exception, SystemExit) as error:
                failed.append(Broken(provider, f"{hook} failed: {_said(error)}"))
        return failed

    @property
    def find_profile(self) -> FindProfile:
        """For ``load_profile``: a registered profile's text by name."""

        def find(name: str) -> ProfileText:
            try:
                found = self.registry.profile(name)
            except PluginError as error:
                raise ConfigurationError(f"{error}; the path of a profile file ends in .toml") from None
            return _profile_text(found)

        return find


def directories_from_environment() -> tuple[Path, ...]:
    """``NODEWRIGHT_PLUGINS_DIR``: directories separated as in ``PATH``."""
    value = os.environ.get(DIRECTORIES_VARIABLE, "")
    return tuple(Path(part) for part in value.split(os.pathsep) if part)


def _installed(points: Iterable[importlib.metadata.EntryPoint]) -> list[_Candidate]:
    found: dict[tuple[str, str, str], _Candidate] = {}
    for point in points:
        distribution = point.dist.name if point.dist is not None else None
        version = point.dist.version if point.dist is not None else None
        provider = Provider(point.name, distribution, version, point.value)
        # A path that is on sys.path twice shows the same distribution twice.
        found.setdefault((distribution or "", point.name, point.value), _Candidate(provider, point.load))
    return [found[key] for key in sorted(found)]


def _files(directories: Iterable[Path]) -> list[_Candidate]:
    found: list[_Candidate] = []
    seen = set()
    for directory in directories:
        if not directory.is_dir():
            raise ConfigurationError(f"the plugins directory {directory} is not a directory")
        paths = sorted(path for path in directory.glob("*.py") if not path.name.startswith("_"))
        if len(paths) > MAX_PLUGIN_FILES:
            raise ConfigurationError(f"the plugins directory {directory} has more than {MAX_PLUGIN_FILES} Python files")
        for path in paths:
            absolute = path.resolve()
            if absolute not in seen:
                seen.add(absolute)
                found.append(_Candidate(Provider(path.stem, None, None, str(path)), _file_loader(absolute)))
    return found


def _file_loader(path: Path) -> Callable[[], ModuleType]:
    # Registered in sys.modules, because attrs resolves the types of a config class through its module.
    name = f"nodewright_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"

    def load() -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python module")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    return load


def _first(caller: Callable[..., list[Any]]) -> Callable[[Any], Sequence[str]]:
    def check(plan: Any) -> Sequence[str]:
        problems = caller(plan=plan)[0]
        return problems if problems is not None else ()

    return check


def _profile_text(found: Provided[Any]) -> ProfileText:
    source = found.value
    if isinstance(source, str):
        return ProfileText(source, f"profile {found.name}", None)
    if isinstance(source, Path):
        return read_profile_file(source)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read the profile {found.name!r} of {found.provider}: {error}") from None
    return ProfileText(decode_profile(data, f"profile {found.name}"), f"profile {found.name}", None)


def _said(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
