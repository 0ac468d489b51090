"""Lines of keys: the locator agrees with tomllib on what the keys are, and knows where each stands."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.config.locate import key_lines

TEXT = '''# a comment with [brackets]
a = 1
"q.x" = """
[no]
k = 1
"""
[stores.utxo] # use = "no"
use = "x"
hosts = [ "a", # ]
  'b', { c = 1, d.e = 2 } ]
[[shard]]
n = {a=1, b = [1,2]}
[[shard]]
n.m = \'\'\'
it's"""\'\'\'
[shard.sub]
q = 1979-05-27 07:32:00 # not a = key
r = -inf
'''


def test_every_form_of_key() -> None:
    lines = {".".join(path): line for path, line in key_lines(TEXT).items()}
    assert lines == {
        "a": 2,
        "q.x": 3,
        "stores": 7,
        "stores.utxo": 7,
        "stores.utxo.use": 8,
        "stores.utxo.hosts": 9,
        "stores.utxo.hosts.0": 9,
        "stores.utxo.hosts.1": 10,
        "stores.utxo.hosts.2": 10,
        "stores.utxo.hosts.2.c": 10,
        "stores.utxo.hosts.2.d": 10,
        "stores.utxo.hosts.2.d.e": 10,
        "shard": 11,
        "shard.0": 11,
        "shard.0.n": 12,
        "shard.0.n.a": 12,
        "shard.0.n.b": 12,
        "shard.0.n.b.0": 12,
        "shard.0.n.b.1": 12,
        "shard.1": 13,
        "shard.1.n": 14,
        "shard.1.n.m": 14,
        "shard.1.sub": 16,
        "shard.1.sub.q": 17,
        "shard.1.sub.r": 18,
    }


def paths(value: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {path} if path else set()
    for key, child in children:
        found |= paths(child, (*path, str(key)))
    return found


strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = st.one_of(st.integers(-(2**63), 2**63 - 1), st.booleans(), strings, st.floats(allow_nan=False))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3), max_leaves=8
)
documents = st.dictionaries(strings, values | st.dictionaries(strings, values, max_size=3), max_size=4)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(written(item) for item in value) + "\n]"
    if isinstance(value, str):
        return quoted(value)
    return repr(value).lower() if isinstance(value, bool) else repr(value)


@given(documents)
@settings(max_examples=100)
def test_every_path_that_tomllib_reads_has_a_line(document: dict[str, Any]) -> None:
    text = ""
    for key, value in document.items():
        if not isinstance(value, dict):
            text += f"{quoted(key)} = {written(value)}\n"
    for key, value in document.items():
        if isinstance(value, dict):
            text += f"\n[{quoted(key)}]\n" + "".join(f"{quoted(k)} = {written(v)}\n" for k, v in value.items())
    parsed = tomllib.loads(text)
    lines = key_lines(text)
    assert set(lines) == paths(parsed)
    assert all(1 <= line <= text.count("\n") for line in lines.values())
