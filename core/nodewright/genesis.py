"""Genesis documents: what the nodes of one network agree on before the first block.

A document is a TOML or JSON file, a table inside a profile, or the name of a network that comes with the package. It is
normalised to a read-only mapping with the keys

``network``            the network's id, compared in every handshake (1 to 32 of ``a-z0-9-``)
``family``             ``bitcoin``, ``near``, ``aptos`` … : which executions and consensuses understand it
``time``               of the genesis block, Unix seconds
``id_display``         ``plain`` or ``reversed``: how the family writes its 32-byte ids in hex
``consensus``          table for the consensus plugin (validators, difficulty …)
``execution``          table for the execution plugin (accounts, genesis coinbase …)
``protocol_versions``  table of height → version: rules are chosen by height, never by release
``hash``               32 bytes: SHA-256 over the canonical JSON of all the others

Invariants: equal documents have equal hashes whatever the file format, key order or spelling of defaults; only values that
JSON writes one way are let in (text, whole numbers of 64 bits, booleans, lists, tables), so no float and no date.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nodewright.errors import ConfigurationError

MAX_GENESIS_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 16
NETWORK = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")
BUILTIN_PACKAGE = "nodewright_profiles"
KEYS = ("network", "family", "time", "id_display", "consensus", "execution", "protocol_versions")


class Genesis(Mapping[str, Any]):
    """A normalised document. Tables are read-only mappings, lists are tuples, ``self["hash"]`` is 32 bytes."""

    __slots__ = ("_values", "hash")

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.hash = hashlib.sha256(canonical(document)).digest()
        self._values: dict[str, Any] = {key: _frozen(document[key]) for key in KEYS} | {"hash": self.hash}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def network(self) -> str:
        return str(self._values["network"])

    @property
    def family(self) -> str:
        return str(self._values["family"])

    @property
    def time(self) -> int:
        return int(self._values["time"])

    def protocol_version(self, height: int) -> int:
        """The version in force at ``height`` (0 where the document names none)."""
        version = 0
        for start, value in sorted((int(key), int(item)) for key, item in self["protocol_versions"].items()):
            if start > height:
                break
            version = value
        return version

    def display(self, id: bytes) -> str:
        """An id as the family writes it."""
        return (id[::-1] if self._values["id_display"] == "reversed" else id).hex()

    def document(self) -> dict[str, Any]:
        """A plain, JSON-ready copy without the hash: ``build(g.document()) == g``."""
        return {key: _thawed(self._values[key]) for key in KEYS}

    def dump(self) -> str:
        """The JSON file that ``load`` reads back."""
        return json.dumps(self.document(), indent=2) + "\n"

    def __eq__(self, other: object) -> bool:
        return self.hash == other.hash if isinstance(other, Genesis) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"<Genesis {self.network} {self.family} {self.hash.hex()[:16]}>"


def canonical(document: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys, no blanks, ASCII only."""
    return json.dumps({key: _thawed(document[key]) for key in KEYS}, sort_keys=True, separators=(",", ":")).encode()


def build(document: Mapping[str, Any], where: str = "the genesis document") -> Genesis:
    """Check and normalise a document. ``extends`` names a built-in network whose keys it overrides, tables merged.

    Raises ConfigurationError with all problems."""
    if "extends" in document:
        base = document["extends"]
        if not isinstance(base, str):
            raise ConfigurationError(f"{where}: extends must be the name of a network")
        own = {key: value for key, value in document.items() if key != "extends"}
        document = _merged(builtin(base).document(), own)
    problems: list[str] = []
    for key in document:
        if key not in KEYS and key != "hash":
            problems.append(f"{where}: unknown key {key!r}; the keys are {', '.join(KEYS)}")
    network = document.get("network")
    if not isinstance(network, str) or not NETWORK.match(network):
        problems.append(f"{where}: network must be 1 to 32 characters of a-z, 0-9 and '-', not {network!r}")
    family = document.get("family")
    if not isinstance(family, str) or not NETWORK.match(family):
        problems.append(f"{where}: family must be a name such as 'bitcoin', not {family!r}")
    time = document.get("time")
    if not isinstance(time, int) or isinstance(time, bool) or not 0 <= time < 1 << 63:
        problems.append(f"{where}: time must be whole Unix seconds, not {time!r}")
    display = document.get("id_display", "plain")
    if display not in ("plain", "reversed"):
        problems.append(f"{where}: id_display must be 'plain' or 'reversed', not {display!r}")
    for table in ("consensus", "execution"):
        value = document.get(table, {})
        if not isinstance(value, Mapping):
            problems.append(f"{where}: {table} must be a table, not {value!r}")
        else:
            _check(value, f"{where}: {table}", problems)
    versions = document.get("protocol_versions", {})
    if not isinstance(versions, Mapping):
        problems.append(f"{where}: protocol_versions must be a table of height = version")
        versions = {}
    for height, version in versions.items():
        if not re.fullmatch(r"0|[1-9][0-9]{0,17}", str(height)) or not _is_count(version):
            problems.append(f"{where}: protocol_versions: {height!r} = {version!r} is not a height and a version")
    if problems:
        raise ConfigurationError(problems)
    return Genesis(
        {
            "network": network,
            "family": family,
            "time": time,
            "id_display": display,
            "consensus": document.get("consensus", {}),
            "execution": document.get("execution", {}),
            "protocol_versions": {str(height): version for height, version in versions.items()},
        }
    )


def load(path: Path) -> Genesis:
    """Read a ``.toml`` or ``.json`` file. Raises ConfigurationError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_GENESIS_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"the genesis file {path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_GENESIS_BYTES:
        raise ConfigurationError(f"the genesis file {path} is larger than {MAX_GENESIS_BYTES} bytes")
    return build(_parsed(data, path.suffix, str(path)), str(path))


def builtin(name: str, package: str = BUILTIN_PACKAGE) -> Genesis:
    """A network that comes with the package. Raises ConfigurationError naming those there are."""
    folder = _folder(package)
    if name in names(package) and folder is not None:
        file = folder / f"{name}.json"
        return build(_parsed(file.read_bytes(), ".json", name), f"the network {name}")
    known = ", ".join(names(package)) or "none"
    raise ConfigurationError(f"there is no built-in network {name!r}; those that come with the package: {known}")


def names(package: str = BUILTIN_PACKAGE) -> list[str]:
    """Built-in networks, sorted."""
    folder = _folder(package)
    if folder is None:
        return []
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".json"))


def resolve(source: str | Path | Mapping[str, Any], base: Path | None = None) -> Genesis:
    """What a profile or ``--genesis`` may say: a table, a built-in network's name, or a file (relative to ``base``)."""
    if isinstance(source, Genesis):
        return source
    if isinstance(source, Mapping):
        return build(source)
    if isinstance(source, str) and not source.endswith((".json", ".toml")) and "/" not in source:
        return builtin(source)
    path = Path(source)
    return load(path if path.is_absolute() or base is None else base / path)


def _folder(package: str) -> Any:
    try:
        folder = resources.files(package) / "genesis"
    except ModuleNotFoundError:
        return None
    return folder if folder.is_dir() else None


def _parsed(data: bytes, suffix: str, where: str) -> Mapping[str, Any]:
    try:
        text = data.decode()
        document = json.loads(text) if suffix == ".json" else tomllib.loads(text)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where} is not {'JSON' if suffix == '.json' else 'TOML'}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{where} must hold a table of {', '.join(KEYS)}")
    return document


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _check(value: object, where: str, problems: list[str], depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        problems.append(f"{where}: nested deeper than {MAX_DEPTH}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                problems.append(f"{where}: the key {key!r} is not text")
            else:
                _check(item, f"{where}.{key}", problems, depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{where}[{index}]", problems, depth + 1)
    elif isinstance(value, bool | str):
        return
    elif isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 64:
            problems.append(f"{where}: {value} does not fit 64 bits; write it as text")
    else:
        problems.append(f"{where}: {value!r} is a {type(value).__name__}; write it as text or a whole number")


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return value


def _thawed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thawed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_thawed(item) for item in value]
    return value
