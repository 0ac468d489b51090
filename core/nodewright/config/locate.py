"""Lines of keys in a TOML text. ``tomllib`` checks and parses; this only finds where each key stands.

Works on text that ``tomllib`` has accepted, so it needs no error of its own: it reads keys exactly and skips values.
An element of an array of tables has its index, as a string, in the path.
"""

from __future__ import annotations

import re
import tomllib

from nodewright.config.origin import KeyPath

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}\n#]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_BASIC_LINES = re.compile(r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}', re.DOTALL)
_LITERAL_LINES = re.compile(r"'''(?:[^']|'(?!''))*'{3,5}", re.DOTALL)


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, on which each key and each table was first named."""
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.arrays: dict[KeyPath, int] = {}  # arrays of tables: how many elements so far
        self.counted = 0  # newlines are counted once, up to here
        self.line = 1

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self.skip_space()
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.skip_space()
        return self.lines

    def note(self, path: KeyPath, at: int, over: int = 0) -> None:
        """Record ``path``, and its parents beyond the first ``over`` parts, at text position ``at``."""
        self.line += self.text.count("\n", self.counted, at)
        self.counted = at
        for length in range(over + 1, len(path) + 1):
            self.lines.setdefault(path[:length], self.line)

    def skip_space(self) -> None:
        self.at = self.match(_SPACE)

    def match(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self.text, self.at)
        return found.end() if found else self.at + 1

    def header(self) -> KeyPath:
        start = self.at
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        key = self.key()
        self.at += 2 if array else 1
        path: KeyPath = ()
        for position, part in enumerate(key):
            path = (*path, part)
            last = position == len(key) - 1
            if array and last:
                self.arrays[path] = self.arrays.get(path, 0) + 1
            if path in self.arrays:
                path = (*path, str(self.arrays[path] - 1))
        self.note(path, start)
        return path

    def pair(self, table: KeyPath) -> None:
        start = self.at
        path = table + self.key()
        self.at += 1  # the equals sign
        self.note(path, start, len(table))
        self.skip_space()
        self.value(path)

    def key(self) -> KeyPath:
        """A dotted key; leaves ``at`` on what follows it."""
        parts: list[str] = []
        while True:
            self.skip_space()
            start = self.at
            if self.text[start] == '"':
                self.at = self.match(_BASIC)
                parts.append(_unescape(self.text[start + 1 : self.at - 1]))
            elif self.text[start] == "'":
                self.at = self.match(_LITERAL)
                parts.append(self.text[start + 1 : self.at - 1])
            else:
                self.at = self.match(_BARE)
                parts.append(self.text[start : self.at])
            self.skip_space()
            if self.text[self.at] != ".":
                return tuple(parts)
            self.at += 1

    def value(self, path: KeyPath) -> None:
        text = self.text
        if text.startswith('"""', self.at):
            self.at = self.match(_BASIC_LINES)
        elif text.startswith("'''", self.at):
            self.at = self.match(_LITERAL_LINES)
        elif text[self.at] == '"':
            self.at = self.match(_BASIC)
        elif text[self.at] == "'":
            self.at = self.match(_LITERAL)
        elif text[self.at] == "[":
            self.items(path, "]")
        elif text[self.at] == "{":
            self.items(path, "}")
        else:
            self.at = self.match(_SCALAR)

    def items(self, path: KeyPath, end: str) -> None:
        self.at += 1
        index = 0
        self.skip_space()
        while self.text[self.at] != end:
            if end == "}":
                self.pair(path)
            else:
                element = (*path, str(index))
                self.note(element, self.at, len(path))
                self.value(element)
            index += 1
            self.skip_space()
            if self.text[self.at] == ",":
                self.at += 1
                self.skip_space()
        self.at += 1


def _unescape(body: str) -> str:
    if "\\" not in body:
        return body
    return str(tomllib.loads(f'v = "{body}"')["v"])
