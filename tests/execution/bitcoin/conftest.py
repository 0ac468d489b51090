"""Rows of the public test data, and script text as that data writes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodewright_bitcoin.script.numbers import encode_number
from nodewright_bitcoin.script.opcodes import OPCODE_NAMES, push_data

_OPCODES = {name: code for code, name in OPCODE_NAMES.items() if not name.isdigit()}
_OPCODES |= {"NOP2": 0xB1, "NOP3": 0xB2, "NOP4": 0xB3, "NOP5": 0xB4, "NOP6": 0xB5, "NOP7": 0xB6, "NOP8": 0xB7}


@pytest.fixture(scope="session")
def rows(vectors: Path) -> Callable[[str], list[list[Any]]]:
    """The rows of one Bitcoin data file without its comments, which are the rows of a single string."""

    def load(name: str) -> list[list[Any]]:
        document = json.loads((vectors / "bitcoin" / name).read_text())
        return [row for row in document if not (len(row) == 1 and isinstance(row[0], str))]

    return load


@pytest.fixture(scope="session")
def assemble() -> Callable[[str], bytes]:
    """Words to script: decimal numbers and quoted text are pushed, ``0x…`` is put in as it is, names are opcodes."""

    def word(text: str) -> bytes:
        if text.lstrip("-").isdigit():
            return push_data(encode_number(int(text)))
        if text.startswith("0x"):
            return bytes.fromhex(text[2:])
        if text.startswith("'"):
            data = text[1:-1].encode()
            return bytes((len(data),)) + data if len(data) < 76 else push_data(data)
        return bytes((_OPCODES[text.removeprefix("OP_")],))

    return lambda text: b"".join(map(word, text.split()))
