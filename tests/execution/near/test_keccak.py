"""Keccak by the contract machine: known answers, and the hashlib of SHA-3 over every length around the block's."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("wasmtime")
from nodewright_near.contracts.keccak import Keccak

EMPTY = {
    32: "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470",
    64: "0eab42de4c3ceb9235fc91acffe746b29c29a8c366b7c60e4e67c466f36a4304"
    "c00fa9caf9d87976ba469bcbe06713b435f091ef2769fb160cdab33d3670680e",
}
ABC = {32: "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"}


class Sha3(Keccak):
    """The standard's padding, which ``hashlib`` has too: what differs is one byte."""

    padding = 0x06


def test_known_answers_by_one_instance_again_and_again() -> None:
    keccak = Keccak()
    for _ in range(3):
        for size, answer in EMPTY.items():
            assert keccak.digest(b"", size).hex() == answer
        assert keccak.digest(b"abc", 32).hex() == ABC[32]


@given(data=st.binary(max_size=600), repeated=st.sampled_from([1, 1, 1, 200]), size=st.sampled_from([32, 64]))
@settings(max_examples=200)
def test_with_the_standards_padding_it_is_sha3(data: bytes, repeated: int, size: int) -> None:
    wanted = (hashlib.sha3_256 if size == 32 else hashlib.sha3_512)(data * repeated).digest()
    assert SHA3.digest(data * repeated, size) == wanted


SHA3 = Sha3()
