"""One layer of configuration (a file, or all ``--set`` together) and how layers are laid over each other.

A layer is a tree of plain TOML values plus the origin of every key in it. Tables merge key by key; anything else is
replaced. Where a layer names another component for a slot (``use``) than the layers below, their keys of that slot were
meant for the component that was there, and are dropped.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import field, frozen

from nodewright.config.locate import key_lines
from nodewright.config.origin import OVERRIDE, KeyPath, Origin
from nodewright.errors import ConfigurationError

MAX_TOML_BYTES = 1024 * 1024
SINGLE_SLOTS = ("execution", "consensus", "transport", "verifier")
NAMED_SLOTS = ("stores", "services")
# Of these only one can stand: a layer that has one takes the other out of the layers below.
ALTERNATIVES = ((("genesis", "file"), ("genesis", "document")),)


@frozen
class Layer:
    values: Mapping[str, Any] = field(factory=dict)
    origins: Mapping[KeyPath, Origin] = field(factory=dict)

    def at(self, path: KeyPath) -> Any:
        """The value at a path, or None."""
        value: Any = self.values
        for part in path:
            if not isinstance(value, Mapping) or part not in value:
                return None
            value = value[part]
        return value


def parse_toml(text: str, source: str) -> Layer:
    """Raises ConfigurationError with file and line."""
    if len(text) > MAX_TOML_BYTES:
        raise ConfigurationError(f"{source}: larger than {MAX_TOML_BYTES} bytes, which no profile is")
    try:
        values = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise ConfigurationError(f"{source}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"{source}: not a profile: nested too deeply") from None
    origins = {path: Origin(source, line) for path, line in key_lines(text.replace("\r\n", "\n")).items()}
    return Layer(values, origins)


def parse_overrides(assignments: tuple[str, ...]) -> Layer:
    """``a.b=c`` each; the value is read as TOML where it is TOML, else as a string. Raises with every bad one."""
    values: dict[str, Any] = {}
    origins: dict[KeyPath, Origin] = {}
    problems = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        path = _override_path(key)
        if not equals or path is None:
            problems.append(f"--set {assignment}: not of the form  --set table.key=value")
            continue
        table = values
        for part in path[:-1]:
            if not isinstance(table.get(part), dict):
                table[part] = {}
            table = table[part]
        table[path[-1]] = _override_value(text)
        for length in range(1, len(path) + 1):
            origins[path[:length]] = OVERRIDE
    if problems:
        raise ConfigurationError(problems)
    return Layer(values, origins)


def _override_path(key: str) -> KeyPath | None:
    try:
        tree = tomllib.loads(f"{key.strip()} = 0")
    except (ValueError, RecursionError):
        return None
    path: list[str] = []
    value: Any = tree
    while isinstance(value, dict) and len(value) == 1:
        part, value = next(iter(value.items()))
        path.append(part)
    return tuple(path) if value == 0 and path else None


def _override_value(text: str) -> Any:
    if "\n" in text:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def slot_paths(values: Mapping[str, Any]) -> Iterator[KeyPath]:
    """Paths of the slots a tree speaks of, in its order of writing."""
    for name, table in values.items():
        if name in SINGLE_SLOTS:
            yield (name,)
        elif name in NAMED_SLOTS and isinstance(table, Mapping):
            yield from ((name, slot) for slot in table)


def slot_use(path: KeyPath, table: Any) -> Any:
    """The component a slot's table names; a service is by default what its slot is called."""
    default = path[1] if path[0] == "services" else None
    return table.get("use", default) if isinstance(table, Mapping) else default


def merge(base: Layer, over: Layer) -> Layer:
    """``over`` laid over ``base``."""
    base = _without_alternatives(base, over)
    dropped = tuple(path for path in slot_paths(over.values) if _replaces(path, base, over))
    values = _merged(base.values, over.values, (), dropped)
    origins = {path: origin for path, origin in base.origins.items() if not _under(path, dropped)}
    for path, origin in over.origins.items():
        if not (path in origins and isinstance(over.at(path), Mapping)):  # a table keeps where it was first written
            origins[path] = origin
    return Layer(values, {path: origin for path, origin in origins.items() if _present(values, path)})


def _without_alternatives(base: Layer, over: Layer) -> Layer:
    for one, other in (pair for first, second in ALTERNATIVES for pair in ((first, second), (second, first))):
        if over.at(one) is not None and over.at(other) is None and base.at(other) is not None:
            table = {key: value for key, value in base.at(other[:-1]).items() if key != other[-1]}
            kept = {path: origin for path, origin in base.origins.items() if path[: len(other)] != other}
            base = Layer({**base.values, other[0]: table}, kept)
    return base


def _replaces(path: KeyPath, base: Layer, over: Layer) -> bool:
    below, above = base.at(path), over.at(path)
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return False
    return "use" in above and above["use"] != slot_use(path, below)


def _under(path: KeyPath, tops: tuple[KeyPath, ...]) -> bool:
    return any(path[: len(top)] == top for top in tops)


def _merged(
    base: Mapping[str, Any], over: Mapping[str, Any], path: KeyPath, dropped: tuple[KeyPath, ...]
) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        here = (*path, key)
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and here not in dropped:
            merged[key] = _merged(below, value, here, dropped)
        else:
            merged[key] = value
    return merged


def _present(values: Any, path: KeyPath) -> bool:
    for part in path:
        if isinstance(values, Mapping):
            if part not in values:
                return False
            values = values[part]
        elif isinstance(values, list):
            if not part.isdigit() or int(part) >= len(values):
                return False
            values = values[int(part)]
        else:
            return False
    return True
