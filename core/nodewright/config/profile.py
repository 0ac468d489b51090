"""A profile as it was asked for: its files, what they extend, and ``--set``, merged. Nothing is interpreted here yet.

A reference that ends in ``.toml`` or contains a path separator is a file, relative to the file that names it; any other
is the name of a profile that a plugin registered.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen

from nodewright.config.layer import MAX_TOML_BYTES, Layer, merge, parse_overrides, parse_toml
from nodewright.config.origin import KeyPath, Origin
from nodewright.errors import ConfigurationError

MAX_EXTENDS = 16


@frozen
class ProfileText:
    """A profile's text: ``label`` for messages, ``directory`` for what it names by a relative path."""

    text: str
    label: str
    directory: Path | None


FindProfile = Callable[[str], ProfileText]


@frozen
class Profile:
    """``source`` is the file or profile name it was loaded from."""

    source: str
    layer: Layer

    def value(self, *path: str) -> Any:
        return self.layer.at(path)

    def origin(self, *path: str) -> Origin:
        """Of the value, or of the nearest table around it."""
        for length in range(len(path), 0, -1):
            found = self.layer.origins.get(path[:length])
            if found is not None:
                return found
        return Origin(self.source)

    def directory_of(self, path: KeyPath) -> Path:
        """Against what a relative path at this key is meant: the file that has it, or the working directory."""
        source = self.origin(*path).source
        return Path(source).absolute().parent if source.endswith(".toml") else Path.cwd()


def load_profile(reference: str, find: FindProfile, overrides: tuple[str, ...] = ()) -> Profile:
    """Raises ConfigurationError with every problem that can be seen without knowing the plugins."""
    problems: list[str] = []
    base = over = Layer()
    try:
        base = _load(reference, None, find, (), None)
    except ConfigurationError as error:
        problems += error.problems
    try:
        over = parse_overrides(overrides)
    except ConfigurationError as error:
        problems += error.problems
    if over.at(("extends",)) is not None:
        problems.append("--set extends: a base cannot be set on the command line; write a file that extends it")
    if problems:
        raise ConfigurationError(problems)
    return Profile(reference, merge(base, over))


def profile_from_text(text: str, source: str, find: FindProfile, overrides: tuple[str, ...] = ()) -> Profile:
    """As ``load_profile`` for a text that lies in no file: generated profiles and tests."""
    layer = _extended(ProfileText(text, source, None), find, (source,))
    return Profile(source, merge(layer, parse_overrides(overrides)))


def is_file_reference(reference: str) -> bool:
    return reference.endswith(".toml") or "/" in reference or "\\" in reference


def read_profile_file(path: Path, where: str = "") -> ProfileText:
    """``where`` stands before a message: the place that named the file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOML_BYTES + 1)
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ConfigurationError(f"{where}cannot read the profile {path}: {reason}") from None
    return ProfileText(decode_profile(data, str(path)), str(path), path.parent)


def decode_profile(data: bytes, label: str) -> str:
    if len(data) > MAX_TOML_BYTES:
        raise ConfigurationError(f"{label}: larger than {MAX_TOML_BYTES} bytes, which no profile is")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{label}: not UTF-8 text: byte {error.start} is {data[error.start]:#04x}") from None


def _load(
    reference: str, directory: Path | None, find: FindProfile, seen: tuple[str, ...], named_at: Origin | None
) -> Layer:
    where = f"{named_at}: extends: " if named_at else ""
    if is_file_reference(reference):
        path = (directory or Path()) / reference
        identity = str(path.resolve())
    else:
        path, identity = None, reference
    if identity in seen:
        chain = " -> ".join([*seen[seen.index(identity) :], identity])
        raise ConfigurationError(f"{where}profiles extend each other in a circle: {chain}")
    if len(seen) >= MAX_EXTENDS:
        raise ConfigurationError(f"{where}more than {MAX_EXTENDS} profiles extend one another")
    if path is not None:
        text = read_profile_file(path, where)
    else:
        try:
            text = find(reference)
        except ConfigurationError as error:
            raise ConfigurationError([where + problem for problem in error.problems]) from None
    return _extended(text, find, (*seen, identity))


def _extended(text: ProfileText, find: FindProfile, seen: tuple[str, ...]) -> Layer:
    parsed = parse_toml(text.text, text.label)
    base = parsed.at(("extends",))
    if base is None:
        return parsed
    named_at = parsed.origins[("extends",)]
    layer = Layer(
        {key: value for key, value in parsed.values.items() if key != "extends"},
        {path: origin for path, origin in parsed.origins.items() if path[0] != "extends"},
    )
    if not isinstance(base, str) or not base:
        raise ConfigurationError(f"{named_at}: extends: must be the name of a profile or the path of a .toml file")
    return merge(_load(base, text.directory, find, seen, named_at), layer)
