"""What makes a plugin unfit, said in a sentence that tells its author the fix. Looks, and changes nothing.

Two stages: a loaded module before its hooks are called (``module_problems``), and what its hooks returned
(``result_problems``).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from nodewright.config.names import nearest
from nodewright.config.structure import config_fields, key_of
from nodewright.plugins import hooks
from nodewright.plugins.specs import (
    API_VERSION,
    ComponentSpec,
    ConsensusSpec,
    ExecutionSpec,
    ServiceSpec,
    StorageSpec,
    TransportSpec,
    VerifierSpec,
)

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}\Z")
RESERVED_KEYS = ("use", "enabled")

REGISTERS: dict[str, type[ComponentSpec]] = {
    "register_storage": StorageSpec,
    "register_execution": ExecutionSpec,
    "register_consensus": ConsensusSpec,
    "register_transport": TransportSpec,
    "register_services": ServiceSpec,
    "register_verifiers": VerifierSpec,
}


def hook_names() -> frozenset[str]:
    return frozenset(name for name, value in vars(hooks).items() if hasattr(value, f"{hooks.PROJECT}_spec"))


def module_problems(plugin: Any) -> list[str]:
    """``plugin`` is the module or object that the entry point or file gave."""
    known = hook_names()
    problems = []
    implementations = 0
    for name in dir(plugin):
        member = getattr(plugin, name, None)
        if not callable(member):
            continue
        marker = getattr(member, f"{hooks.PROJECT}_impl", None)
        if not isinstance(marker, dict):
            if name in known:
                problems.append(f"the function {name} is named like a hook but has no marker: put @hookimpl above it")
            continue
        implementations += 1
        target = marker.get("specname") or name
        function = inspect.unwrap(member)
        if target not in known:
            near = nearest(target, known)
            hint = f"; did you mean {near!r}?" if near else f"; the hooks are {', '.join(sorted(known))}"
            problems.append(f"{target} is marked @hookimpl but there is no such hook{hint}")
        elif inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            problems.append(
                f"the hook {target} is an async def: hooks are plain functions, only what a spec opens is async"
            )
        elif inspect.isgeneratorfunction(function) or marker.get("wrapper") or marker.get("hookwrapper"):
            problems.append(f"the hook {target} yields: hooks return a value, and wrap no other plugin's")
        else:
            problems += _argument_problems(target, function)
    if not implementations and not problems:
        problems.append("it has no hook: mark at least one function with @hookimpl from nodewright.plugins.hooks")
    return problems


def _argument_problems(name: str, function: Any) -> list[str]:
    allowed = list(inspect.signature(getattr(hooks, name)).parameters)
    for argument in inspect.signature(function).parameters.values():
        required = argument.default is argument.empty and argument.kind is not argument.VAR_KEYWORD
        if required and argument.name not in allowed:
            takes = f"takes ({', '.join(allowed)})" if allowed else "takes no argument"
            return [f"the hook {name} has an argument {argument.name!r}: it {takes}"]
    return []


def spec_problems(hook: str, result: Any) -> list[str]:
    """Of what a ``register_*`` hook of components returned."""
    expected = REGISTERS[hook]
    if not isinstance(result, list | tuple):
        return [f"{hook} returned {_a(result)}, not a list of {expected.__name__}"]
    problems = []
    names = set()
    for item in result:
        if not isinstance(item, expected):
            problems.append(f"{hook} returned a list with {_a(item)} in it: it takes {expected.__name__} only")
            continue
        if item.name in names:
            problems.append(f"{hook} returned two specs named {item.name!r}")
        names.add(item.name)
        problems += [f"{item.kind} {item.name!r}: {problem}" for problem in _one_spec(item)]
    return problems


def _one_spec(spec: ComponentSpec) -> list[str]:
    if spec.api_version != API_VERSION:
        fix = "upgrade nodewright" if spec.api_version > API_VERSION else "upgrade the plugin"
        return [f"made for plugin API version {spec.api_version}, and this nodewright has version {API_VERSION}: {fix}"]
    problems = []
    if not isinstance(spec.name, str) or not NAME.match(spec.name):
        problems.append("its name must be 1 to 64 of  a-z 0-9 _ . -  and start with a letter or digit")
    if not callable(spec.open):
        problems.append("its open is not callable")
    if isinstance(spec, StorageSpec) and not spec.provides:
        problems.append("provides no contract: name key-value, utxo or blob in provides")
    if not attrs.has(spec.config):
        return [*problems, f"its config {spec.config!r} is not an attrs class"]
    try:
        fields = config_fields(spec.config)
    except (NameError, TypeError, AttributeError) as error:
        return [*problems, f"the types of its config {spec.config.__name__} cannot be resolved: {error}"]
    for field in fields:
        key = key_of(field)
        if key in RESERVED_KEYS:
            problems.append(f"its config has a field {key!r}, which every slot already has: rename it")
        if field.metadata.get("secret") and field.default is attrs.NOTHING:
            problems.append(f"its secret setting {key!r} needs a default, since a profile cannot set it")
    return problems


def profile_problems(result: Any) -> list[str]:
    if not isinstance(result, Mapping):
        return [f"register_profiles returned {_a(result)}, not a mapping of name to TOML text or file"]
    problems = []
    for name, source in result.items():
        if not isinstance(name, str) or not NAME.match(name) or name.endswith(".toml"):
            problems.append(f"register_profiles: {name!r} is no profile name")
        if not isinstance(source, str | Path) and not hasattr(source, "read_bytes"):
            problems.append(f"register_profiles: profile {name!r} is {_a(source)}, not TOML text or a file")
    return problems


def _a(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
