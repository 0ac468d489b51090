"""Borsh: a declarative codec, bounded and byte-exact. No format of NEAR lives here.

A structure is an attrs class decorated with ``struct``; each annotation is ``Annotated[type, codec]`` (the aliases ``U8``
to ``U128``, ``Flag`` are such) or another structure. An enum is an ``Enum`` codec over structures by tag.

Invariants: ``decode`` accepts exactly what ``encode`` writes: no trailing byte, no second form of a value (flags and
options are 0 or 1, text is valid UTF-8). A count is compared with its bound and with the bytes that are left before
anything is allocated for it. Everything else raises ``Malformed``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol, TypeVar, get_args, get_origin, get_type_hints

import attrs

from nodewright.codec import Malformed as Malformed
from nodewright.codec import Reader as BoundedReader

T = TypeVar("T")
MAX_BYTES = 32 * 1024 * 1024


class Reader(BoundedReader):
    __slots__ = ()

    def uint(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")


class Codec(Protocol):
    """``floor`` is the least number of bytes that a value takes."""

    floor: int

    def write(self, value: Any, out: bytearray) -> None: ...

    def read(self, source: Reader) -> Any: ...


class UInt:
    """An unsigned integer of ``size`` bytes, little-endian."""

    def __init__(self, size: int) -> None:
        self.size = self.floor = size

    def write(self, value: int, out: bytearray) -> None:
        out += value.to_bytes(self.size, "little")

    def read(self, source: Reader) -> int:
        return int.from_bytes(source.take(self.size), "little")


class Bool:
    floor = 1

    def write(self, value: bool, out: bytearray) -> None:
        out.append(1 if value else 0)

    def read(self, source: Reader) -> bool:
        return source.flag()


class Fixed:
    """Exactly ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self.size = self.floor = size

    def write(self, value: bytes, out: bytearray) -> None:
        if len(value) != self.size:
            raise Malformed(f"{self.size} bytes wanted, not {len(value)}")
        out += value

    def read(self, source: Reader) -> bytes:
        return source.take(self.size)


class Blob:
    """A u32 length and that many bytes, at most ``limit``."""

    floor = 4

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self.limit = limit

    def write(self, value: bytes, out: bytearray) -> None:
        if len(value) > self.limit:
            raise Malformed(f"{len(value)} bytes where {self.limit} are allowed")
        out += len(value).to_bytes(4, "little")
        out += value

    def read(self, source: Reader) -> bytes:
        size = source.uint(4)
        if size > self.limit:
            raise Malformed(f"{size} bytes where {self.limit} are allowed")
        return source.take(size)


class Text:
    """UTF-8 text behind its length in bytes."""

    floor = 4

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self._blob = Blob(limit)

    def write(self, value: str, out: bytearray) -> None:
        self._blob.write(value.encode(), out)

    def read(self, source: Reader) -> str:
        try:
            return self._blob.read(source).decode()
        except UnicodeDecodeError as error:
            raise Malformed("text is not UTF-8") from error


class Option:
    """None or a value."""

    floor = 1

    def __init__(self, item: Any) -> None:
        self.item = codec_of(item)

    def write(self, value: Any, out: bytearray) -> None:
        if value is None:
            out.append(0)
        else:
            out.append(1)
            self.item.write(value, out)

    def read(self, source: Reader) -> Any:
        tag = source.u8()
        if tag > 1:
            raise Malformed(f"an option is 0 or 1, not {tag}")
        return self.item.read(source) if tag else None


class Vector:
    """A u32 count and that many values, at most ``limit``; a tuple in Python. An item's codec may have ``write_all``, which
    writes one after the other as ``write`` does."""

    floor = 4

    def __init__(self, item: Any, limit: int) -> None:
        self.item = codec_of(item)
        self.limit = limit

    def write(self, value: Sequence[Any], out: bytearray) -> None:
        if len(value) > self.limit:
            raise Malformed(f"{len(value)} items where {self.limit} are allowed")
        out += len(value).to_bytes(4, "little")
        write_all = getattr(self.item, "write_all", None)
        if write_all is not None:
            write_all(value, out)
            return
        write = self.item.write
        for item in value:
            write(item, out)

    def read(self, source: Reader) -> tuple[Any, ...]:
        count = source.uint(4)
        if count > self.limit or count * self.item.floor > source.end - source.at:
            raise Malformed(f"{count} items where {self.limit} and the bytes left allow fewer")
        read = self.item.read
        return tuple([read(source) for _ in range(count)])


class Enum:
    """One of several structures behind a u8 tag. ``refused`` names tags that exist and are not taken here."""

    floor = 1

    def __init__(self, kinds: Mapping[int, type[Any]], refused: Mapping[int, str] | None = None) -> None:
        self._codecs = {tag: codec_of(kind) for tag, kind in kinds.items()}
        self.tags = {kind: tag for tag, kind in kinds.items()}
        self._refused = refused or {}

    def write(self, value: Any, out: bytearray) -> None:
        try:
            tag = self.tags[type(value)]
        except KeyError:
            raise Malformed(f"{type(value).__name__} has no place here") from None
        out.append(tag)
        self._codecs[tag].write(value, out)

    def read(self, source: Reader) -> Any:
        tag = source.u8()
        codec = self._codecs.get(tag)
        if codec is None:
            name = self._refused.get(tag)
            raise Malformed(f"{name} (tag {tag}) is not taken by this node" if name else f"there is no variant {tag}")
        return codec.read(source)


class Struct:
    """The fields of an attrs class, in their order."""

    def __init__(self, kind: type[Any]) -> None:
        hints = get_type_hints(kind, include_extras=True)
        fields = [item for item in attrs.fields(kind) if item.init]
        self._kind = kind
        self._fields = tuple((item.name, codec_of(hints[item.name])) for item in fields)
        self._reads = tuple(codec.read for _, codec in self._fields)
        self._writes = tuple((name, codec.write) for name, codec in self._fields)
        self.floor = sum(codec.floor for _, codec in self._fields)

    def write(self, value: Any, out: bytearray) -> None:
        for name, write in self._writes:
            write(getattr(value, name), out)

    def read(self, source: Reader) -> Any:
        return self._kind(*[read(source) for read in self._reads])


_STRUCTS: dict[type[Any], Codec] = {}


def struct(kind: type[T]) -> type[T]:
    """Class decorator: the attrs class has a Borsh form, its fields in order."""
    _STRUCTS[kind] = Struct(kind)
    return kind


def with_codec(codec: Codec) -> Callable[[type[T]], type[T]]:
    """Class decorator: the class has a Borsh form of its own making."""

    def register(kind: type[T]) -> type[T]:
        _STRUCTS[kind] = codec
        return kind

    return register


def codec_of(item: Any) -> Codec:
    """The codec itself, of an ``Annotated`` type, or of a structure. TypeError where there is none."""
    if isinstance(item, type):
        found = _STRUCTS.get(item)
        if found is not None:
            return found
    elif get_origin(item) is Annotated:
        for extra in get_args(item)[1:]:
            if hasattr(extra, "write") and hasattr(extra, "read"):
                codec: Codec = extra
                return codec
    elif hasattr(item, "write") and hasattr(item, "read"):
        own: Codec = item
        return own
    raise TypeError(f"{item!r} has no Borsh form")


def encode(value: Any, codec: Any = None) -> bytes:
    """The bytes of a structure, or of any value under ``codec``. Raises Malformed for what breaks a bound."""
    out = bytearray()
    codec_of(type(value) if codec is None else codec).write(value, out)
    return bytes(out)


def decode(codec: Any, data: bytes) -> Any:
    """The value that all of ``data`` is. Raises Malformed."""
    source = Reader(data)
    value = codec_of(codec).read(source)
    source.finish()
    return value


U8 = Annotated[int, UInt(1)]
U16 = Annotated[int, UInt(2)]
U32 = Annotated[int, UInt(4)]
U64 = Annotated[int, UInt(8)]
U128 = Annotated[int, UInt(16)]
Flag = Annotated[bool, Bool()]
Bytes = Annotated[bytes, Blob()]
String = Annotated[str, Text()]
