"""SHA3-256 over many messages: the kernel, with every number of lanes, gives what hashlib gives."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.kernels import sha3, switch

# NIST's examples of FIPS 202.
KNOWN = {
    b"": "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a",
    b"\xa3" * 200: "79f38adec5c20307a98ef76e8324afbfd46cfd81b22e3973c65fa1bd9de31787",
}


@pytest.fixture(scope="module")
def kernels() -> Iterator[Any]:
    pytest.importorskip("numba")
    reason = switch.warm_up(sha3.KERNELS)
    assert reason is None, reason
    yield switch.compiled(sha3.KERNELS)
    switch.disable()


def test_known_digests_on_both_paths(kernels: Any) -> None:
    messages = list(KNOWN) * 8
    expected = [bytes.fromhex(KNOWN[message]) for message in messages]
    assert sha3.sha3_256_many(messages) == expected
    assert sha3.plain_many(messages) == expected


def test_every_length_around_a_block_s_end_and_with_a_prefix(kernels: Any) -> None:
    rng = random.Random(1)
    messages = [rng.randbytes(length) for length in range(420)]
    rng.shuffle(messages)
    for prefix in (b"", b"p" * 32, b"q" * 135):
        assert kernels.sha3_list(messages, prefix) == [hashlib.sha3_256(prefix + message).digest() for message in messages]


@given(st.lists(st.binary(max_size=600), max_size=40), st.binary(max_size=135))
@settings(max_examples=100, deadline=None)
def test_many_equal_hashlib(kernels: Any, messages: list[bytes], prefix: bytes) -> None:
    assert sha3.sha3_256_many(messages, prefix) == [hashlib.sha3_256(prefix + message).digest() for message in messages]


@given(st.integers(0, 40), st.integers(0, 2**32), st.sampled_from([0, 32, 40]))
@settings(max_examples=50, deadline=None)
def test_pairs_equal_hashlib(kernels: Any, count: int, seed: int, width: int) -> None:
    rng = random.Random(seed)
    data, prefix = rng.randbytes(64 * count), rng.randbytes(width)
    expected = b"".join(hashlib.sha3_256(prefix + data[at : at + 64]).digest() for at in range(0, len(data), 64))
    assert sha3.sha3_256_pairs(data, prefix) == expected
    assert sha3.plain_pairs(data, prefix) == expected


# (bytes of the head, of the rest): words that straddle, or do not; the padding in any byte; one block, two and three.
SPLICED = [(33, 16), (1, 270), (32, 104)]
MORE = [(35, 147), (34, 105), (32, 64), (0, 8), (7, 129), (8, 127), (3, 300), (40, 96)]  # each is compiled for long


@pytest.mark.parametrize("head,size", [*SPLICED, *[pytest.param(*one, marks=pytest.mark.long) for one in MORE]])
def test_a_head_and_a_piece_joined_on_the_way(kernels: Any, head: int, size: int) -> None:
    import numpy as np
    from numba import njit

    hash_spliced = kernels.spliced(kernels.LANES, head, size)

    @njit
    def run(head: Any, sources: Any, targets: Any) -> None:
        hash_spliced(np.uintp(head.ctypes.data), np.uintp(sources.ctypes.data), np.uintp(targets.ctypes.data))

    rng = random.Random(size)
    begin = rng.randbytes(head)
    messages = [rng.randbytes(size) for _ in range(kernels.LANES)]
    data = [np.frombuffer(message, np.uint8) for message in messages]
    out = np.zeros((kernels.LANES, 32), np.uint8)
    sources = np.array([one.ctypes.data for one in data], np.uint64)
    targets = np.array([out.ctypes.data + 32 * lane for lane in range(kernels.LANES)], np.uint64)
    run(np.frombuffer(bytearray(begin.ljust(-(-head // 8) * 8, b"\0")), np.uint8), sources, targets)
    assert [one.tobytes() for one in out] == [hashlib.sha3_256(begin + message).digest() for message in messages]


@pytest.mark.long
def test_what_another_processor_would_run(kernels: Any) -> None:
    """Four lanes where there are eight, and the other way round."""
    import numpy as np

    other = 4 if kernels.LANES == 8 else 8
    ranges, pairs = kernels.compile_for(other)
    rng = random.Random(2)
    data = np.frombuffer(rng.randbytes(64 * 21), np.uint8)
    prefix = rng.randbytes(32)
    out = np.empty((21, 32), np.uint8)
    pairs(np.frombuffer(prefix, np.uint8), data, out)
    assert out.tobytes() == sha3.plain_pairs(data.tobytes(), prefix)
    starts = np.array([rng.randrange(0, 500) for _ in range(30)])
    ends = np.array([rng.randrange(start, 21 * 64) for start in starts])
    out = np.empty((30, 32), np.uint8)
    ranges(data, starts, ends, np.frombuffer(prefix, np.uint8), out)
    whole = data.tobytes()
    assert [row.tobytes() for row in out] == sha3.plain_many(
        [whole[start:end] for start, end in zip(starts, ends, strict=True)], prefix
    )


def test_wrong_sizes_are_refused(kernels: Any) -> None:
    with pytest.raises(ValueError, match="multiples of 64"):
        sha3.sha3_256_pairs(b"x" * 65)
    with pytest.raises(ValueError, match="at most 135"):
        sha3.sha3_256_many([b""] * 8, b"x" * 136)


def test_the_plain_path_where_kernels_are_off() -> None:
    switch.disable()
    assert sha3.sha3_256_many([b"abc"] * 20) == [hashlib.sha3_256(b"abc").digest()] * 20
    assert sha3.sha3_256_pairs(bytes(640), b"p") == hashlib.sha3_256(b"p" + bytes(64)).digest() * 10
