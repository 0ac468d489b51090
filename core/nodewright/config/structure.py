"""TOML tables into attrs config classes through cattrs, strictly and with every problem at once.

Strict: a string is not a list, ``true`` is not 1, and a number in quotes is not a number. A mismatch carries the path of
the value below the table that was given, so that the caller can say file and line. Bounds, choices and secrets come
from the metadata that ``nodewright.plugins.specs.setting`` puts on a field.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs

from nodewright.config.names import suggestion
from nodewright.config.origin import KeyPath

T = TypeVar("T")

_SEQUENCES = (list, tuple, set, frozenset, Sequence)


@attrs.frozen
class Mismatch:
    """What is wrong at ``path``. ``secret`` marks a value that may not stand in a profile at all."""

    path: KeyPath
    message: str
    secret: bool = False


class Mismatches(ValueError):
    def __init__(self, found: list[Mismatch]) -> None:
        self.found = found
        super().__init__("; ".join(mismatch.message for mismatch in found))


def structure(config: type[T], table: Mapping[str, Any]) -> T:
    """Raises Mismatches."""
    instance: T = _CONVERTER.structure(table, config)
    return instance


def plain(value: Any) -> Any:
    """A config value as TOML and JSON would write it."""
    if attrs.has(type(value)):
        return {key_of(field): shown(field, getattr(value, field.name)) for field in config_fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def shown(field: attrs.Attribute[Any], value: Any) -> Any:
    """A field's value for display: a secret never is."""
    return "(secret)" if field.metadata.get("secret") and value is not None else plain(value)


def config_fields(config: type[Any]) -> tuple[attrs.Attribute[Any], ...]:
    """The fields a table may set, with their types resolved. Raises NameError, TypeError where a type cannot be."""
    return tuple(field for field in attrs.fields(attrs.resolve_types(config)) if field.init)


def key_of(field: attrs.Attribute[Any]) -> str:
    """The key that sets a field: its name without leading underscores, or its alias."""
    return field.alias or field.name


def describe(kind: Any) -> str:
    """A type as an operator would say it."""
    simple = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
        Path: "a path in quotes",
        bytes: "a string of hexadecimal digits",
        type(None): "nothing",
    }
    if kind in simple:
        return simple[kind]
    origin = get_origin(kind) or kind
    if _is_union(kind):
        return " or ".join(describe(member) for member in get_args(kind) if member is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(kind))
    if isinstance(origin, type) and issubclass(origin, Enum):
        return "one of " + ", ".join(repr(member.value) for member in origin)
    if origin in _SEQUENCES:
        return "a list"
    if _is_mapping(kind) or attrs.has(origin):
        return "a table"
    return str(getattr(kind, "__name__", kind))


def found(value: Any) -> str:
    """A value from TOML, named by its type and, where short, shown."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, list):
        return "a list"
    return "a table" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _wrong(kind: Any, value: Any) -> Mismatches:
    return Mismatches([Mismatch((), f"must be {describe(kind)}, not {found(value)}")])


def _below(part: str, error: BaseException, kind: Any, value: Any) -> list[Mismatch]:
    """The problems of one element, seen from its container."""
    if isinstance(error, Mismatches):
        return [attrs.evolve(mismatch, path=(part, *mismatch.path)) for mismatch in error.found]
    return [Mismatch((part,), f"must be {describe(kind)}, not {found(value)}")]


def _primitive(kind: type[Any], accepts: Callable[[Any], bool]) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if not accepts(value):
            raise _wrong(kind, value)
        return kind(value)

    return hook


def _hexadecimal(value: Any, _: Any) -> bytes:
    try:
        return bytes.fromhex(value)
    except (ValueError, TypeError):
        raise _wrong(bytes, value) from None


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_sequence(kind: Any) -> bool:
    return (get_origin(kind) or kind) in _SEQUENCES


def _union(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    members = get_args(kind)

    def hook(value: Any, _: Any) -> Any:
        if value is None and type(None) in members:
            return None
        errors: list[Mismatches] = []
        for member in members:
            if member is type(None):
                continue
            try:
                return converter.structure(value, member)
            except Mismatches as error:
                errors.append(error)
            except Exception:  # any other refusal says no more than the sentence below
                continue
        deeper = [error for error in errors if any(mismatch.path for mismatch in error.found)]
        raise deeper[0] if len(deeper) == 1 else _wrong(kind, value)

    return hook


def _sequence(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    arguments = get_args(kind)
    container: Any = get_origin(kind) or kind
    build = list if container is Sequence else container
    fixed = container is tuple and arguments and arguments[-1] is not Ellipsis

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise _wrong(kind, value)
        if fixed and len(value) != len(arguments):
            raise Mismatches([Mismatch((), f"must be a list of {len(arguments)} values, not of {len(value)}")])
        items, problems = [], []
        for index, item in enumerate(value):
            expected = arguments[index] if fixed else arguments[0] if arguments else Any
            try:
                items.append(converter.structure(item, expected))
            except Exception as error:  # cattrs and converters of plugins raise what they like
                problems += _below(str(index), error, expected, item)
        if problems:
            raise Mismatches(problems)
        return build(items)

    return hook


def _mapping(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    arguments = get_args(kind)
    expected = arguments[1] if len(arguments) == 2 else Any

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(kind, value)
        items, problems = {}, []
        for key, item in value.items():
            try:
                items[key] = converter.structure(item, expected)
            except Exception as error:  # cattrs and converters of plugins raise what they like
                problems += _below(key, error, expected, item)
        if problems:
            raise Mismatches(problems)
        return items

    return hook


def _table(config: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    fields = config_fields(config)

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(config, value)
        names = [key_of(field) for field in fields]
        problems = [
            Mismatch((key,), f"unknown key{suggestion(key, names)}" if names else "unknown key; there is nothing to set")
            for key in value
            if key not in names
        ]
        arguments = {}
        for field in fields:
            name = key_of(field)
            if name not in value:
                if field.default is attrs.NOTHING:
                    problems.append(Mismatch((name,), "missing, and has no default" + _help(field)))
                continue
            given = value[name]
            if field.metadata.get("secret"):
                problems.append(Mismatch((name,), "a secret, which never stands in a profile", secret=True))
                continue
            try:
                arguments[name] = converter.structure(given, Any if field.type is None else field.type)
            except Exception as error:  # cattrs and converters of plugins raise what they like
                problems += _below(name, error, field.type, given)
                continue
            problems += [Mismatch((name,), message) for message in _bounds(field, arguments[name])]
        if problems:
            raise Mismatches(problems)
        try:
            return config(**arguments)
        except (ValueError, TypeError) as error:  # a validator or converter of the class itself
            raise Mismatches([Mismatch((), str(error))]) from None

    return hook


def _help(field: attrs.Attribute[Any]) -> str:
    text = str(field.metadata.get("help") or "").rstrip(".")
    return f": {text}" if text else f": {describe(field.type)}"


def _bounds(field: attrs.Attribute[Any], value: Any) -> list[str]:
    values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    minimum, maximum = field.metadata.get("minimum"), field.metadata.get("maximum")
    choices = field.metadata.get("choices")
    problems = []
    for item in values:
        number = isinstance(item, int | float) and not isinstance(item, bool)
        if number and minimum is not None and item < minimum:
            problems.append(f"must be at least {minimum}, not {item}")
        if number and maximum is not None and item > maximum:
            problems.append(f"must be at most {maximum}, not {item}")
        if choices is not None and item is not None and item not in choices:
            listing = ", ".join(repr(choice) for choice in choices)
            problems.append(f"must be one of {listing}, not {found(item)}")
    return problems


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**64
    return isinstance(value, float) and math.isfinite(value)


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=False)
    converter.register_structure_hook_factory(_is_union, _union)
    converter.register_structure_hook_factory(_is_sequence, _sequence)
    converter.register_structure_hook_factory(_is_mapping, _mapping)
    converter.register_structure_hook_factory(attrs.has, _table)
    converter.register_structure_hook(bool, _primitive(bool, lambda value: isinstance(value, bool)))
    converter.register_structure_hook(
        int, _primitive(int, lambda value: isinstance(value, int) and not isinstance(value, bool))
    )
    converter.register_structure_hook(float, _primitive(float, _is_number))
    converter.register_structure_hook(str, _primitive(str, lambda value: isinstance(value, str)))
    converter.register_structure_hook(Path, _primitive(Path, lambda value: isinstance(value, str)))
    converter.register_structure_hook(bytes, _hexadecimal)
    return converter


_CONVERTER = _converter()
