"""Values of arguments in JSON: what is written is read again, and what fits no type is refused as such."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewright_aptos import abi
from nodewright_aptos.bcs import Malformed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["0x1", "7", "0xab"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["vec", "inner", "type", "a"]), inner, max_size=2)
    ),
    max_leaves=6,
)
TYPES = st.recursive(
    st.sampled_from(
        ["bool", "u8", "u16", "u32", "u64", "u128", "u256", "address", "0x1::string::String", "0x1::object::Object<T0>"]
    ),
    lambda inner: st.builds("vector<{}>".format, inner) | st.builds("0x1::option::Option<{}>".format, inner),
    max_leaves=3,
)


@st.composite
def values(draw: st.DrawFn, type: str) -> Any:
    """A value of ``type`` as functions get it."""
    if type[0] == "u":
        return draw(st.integers(0, (1 << int(type[1:])) - 1))
    if type == "bool":
        return draw(st.booleans())
    if type == "0x1::string::String":
        return draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=9))
    if type == "address" or type.startswith("0x1::object"):
        return draw(st.binary(min_size=32, max_size=32))
    if type == "vector<u8>":
        return draw(st.binary(max_size=9))
    if type.startswith("vector<"):
        return tuple(draw(st.lists(values(type[7:-1]), max_size=3)))
    inner = type[len("0x1::option::Option<") : -1]
    return draw(st.none() | values(inner)) if not inner.startswith("0x1::option") else None


@given(st.data(), TYPES)
def test_what_is_written_in_json_is_read_again(data: st.DataObject, type: str) -> None:
    value = data.draw(values(type))
    written = abi.codec(type).write(value)
    assert abi.decode_argument(type, written) == value
    assert abi.json_argument(type, abi.codec(type).to_json(value)) == written


@given(TYPES, JSON)
def test_any_json_is_a_value_of_a_type_or_malformed(type: str, document: Any) -> None:
    try:
        written = abi.json_argument(type, document)
    except Malformed:
        return
    assert abi.codec(type).write(abi.decode_argument(type, written)) == written


@pytest.mark.parametrize(
    ("type", "document"),
    [
        ("0x1::option::Option<u8>", {"vec": 5}),
        ("0x1::option::Option<u8>", {"vec": {"a": 1}}),
        ("0x1::option::Option<u8>", {"vec": [1, 2]}),
        ("vector<u8>", [7] * (abi.MAX_ITEMS * 16 + 1)),  # none is left out in silence
        ("vector<u8>", "0x 12"),
        ("u64", "9" * 79),
        ("u64", 2.0),
        ("vector<" * 50 + "u8" + ">" * 50, "0x"),
        ("vector<" * 5000 + "u8" + ">" * 5000, "0x"),
    ],
)
def test_what_fits_no_type_is_malformed(type: str, document: Any) -> None:
    with pytest.raises(Malformed):
        abi.json_argument(type, document)


def test_types_from_outside_are_not_kept_without_end() -> None:
    for at in range(5000):
        abi.codec(f"0x1::object::Object<0x{at:x}::a::b>")
    assert abi.codec.cache_info().currsize <= 4096
