"""JSON from outside: bounded before it is parsed, and read by parts that know where they stand.

Size and depth are counted on the bytes, UTF-8 alone is taken, and neither NaN nor half a surrogate pair. A ``Part`` is a
value and its path in the document: what is wrong with it is a 400 that names the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any, Final, NoReturn, TypeVar

from attrs import frozen
from starlette.requests import Request

from nodewright_aptos import abi
from nodewright_aptos.addresses import parse_address
from nodewright_aptos.bcs import Malformed
from nodewright_aptos_api.errors import ApiError, invalid

T = TypeVar("T")
MAX_BYTES: Final = 2 * 1024 * 1024
MAX_DEPTH: Final = 32

# A string that has no end takes all the rest, so that no byte is looked at twice.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in _STEPS)


@frozen
class Part:
    """A value and where it stands, such as ``payload.arguments[1]``; the whole document has the path ""."""

    value: Any
    path: str = ""

    def wrong(self, why: str) -> ApiError:
        """To raise."""
        return invalid(f"{self.path or 'the body'}: {why}")

    def read(self, parse: Callable[[Any], T]) -> T:
        """As ``parse`` reads it; its Malformed becomes a 400."""
        try:
            return parse(self.value)
        except Malformed as error:
            raise self.wrong(str(error)) from None

    def fields(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self.wrong("not an object")
        return self.value

    def has(self, name: str) -> bool:
        """Whether it is an object with this field, and that is not null."""
        return self.fields().get(name) is not None

    def field(self, name: str) -> Part:
        """Raises ApiError where it is not there."""
        path = f"{self.path}.{name}" if self.path else name
        if name not in self.fields():
            raise invalid(f"{path}: it is missing")
        return Part(self.value[name], path)

    def each(self, name: str, most: int) -> list[Part]:
        """The items of a field, none where it is not there."""
        return self.field(name).items(most) if self.has(name) else []

    def items(self, most: int) -> list[Part]:
        if not isinstance(self.value, list) or len(self.value) > most:
            raise self.wrong(f"not a list of at most {most}")
        return [Part(value, f"{self.path}[{at}]") for at, value in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.wrong("not text")
        return self.value

    def parsed(self, parse: Callable[[str], T]) -> T:
        """Text, as ``parse`` reads it."""
        self.text()
        return self.read(parse)

    def number(self, type: str = "u64") -> int:
        """A whole number as text or as a number."""
        found: int = self.read(abi.codec(type).from_json)
        return found

    def address(self) -> bytes:
        return self.parsed(parse_address)

    def hex(self, size: int) -> bytes:
        """In hexadecimal, with or without 0x."""
        found: bytes = self.parsed(abi.codec("vector<u8>").from_json)
        if len(found) != size:
            raise self.wrong(f"{len(found)} bytes, not {size}")
        return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_DECODER: Final = json.JSONDecoder(parse_constant=_constant)


def parse(body: bytes, most: int = MAX_BYTES) -> Part:
    """Raises ApiError: 413 over ``most`` bytes, 400 where it is no JSON or nested more than ``MAX_DEPTH`` deep."""
    if len(body) > most:
        raise ApiError(413, "invalid_input", f"the body has {len(body)} bytes: of JSON at most {most} are read here")
    brackets = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise invalid(f"the body is nested more than {MAX_DEPTH} deep")
    try:
        text = body.decode()
        document = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body is not JSON: {str(error)[:200]}") from None
    return Part(document)


async def json_part(request: Request, most: int = MAX_BYTES) -> Part:
    return parse(await request.body(), most)


async def json_object(request: Request) -> dict[str, Any]:
    return (await json_part(request)).fields()


def content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
