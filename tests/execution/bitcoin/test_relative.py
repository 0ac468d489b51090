"""Relative lock times: which a transaction has, and from which block on they are met.

Invariants:
- a lock of n blocks on an output of height h is met in blocks from h + n on, in none before;
- a lock of n times 512 seconds is met in the first block whose parent's median time past is so much after that of the
  parent of the block that made the output, and in all later ones;
- an output that no block up to the parent made meets none;
- only bits 31, 22 and 0 to 15 of a sequence count, and only in transactions of version 2 and later, read without a sign.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewright.interfaces.common import BlockRef
from nodewright_bitcoin.network import CHAINS, LOCAL, MAINNET
from nodewright_bitcoin.relative import RelativeLock, asked_of_blocks, relative_locks, unmet
from nodewright_bitcoin.rules import era_flags
from nodewright_bitcoin.signing import build_transaction
from nodewright_bitcoin.transaction import Transaction

OUTPOINT = bytes(32) + b"\1\0\0\0"
DISABLED = 1 << 31
BY_TIME = 1 << 22


def spending(*sequences: int, version: int = 2) -> Transaction:
    tx = build_transaction([(bytes(32), 1 + at, 1000, b"\x51") for at in range(len(sequences))], [(900, b"\x51")])
    raw = bytearray(tx.raw)
    raw[:4] = (version & 0xFFFFFFFF).to_bytes(4, "little")
    for at, sequence in enumerate(sequences):
        end = 5 + 41 * (at + 1)
        raw[end - 4 : end] = sequence.to_bytes(4, "little")
    return Transaction.parse(bytes(raw))


class Times:
    """Median times past by height."""

    def __init__(self, times: list[int]) -> None:
        self.times = times

    def median_time_past(self, block: BlockRef, height: int) -> int:
        assert 0 <= height <= block.height
        return self.times[height]


@pytest.mark.parametrize(
    ("sequence", "version", "expected"),
    [
        (10, 2, (10, 0)),
        (10, 1, None),
        (10, 0, None),
        (10, -1, (10, 0)),  # 0xffffffff
        (10, -(1 << 31), (10, 0)),
        (0, 2, None),
        (BY_TIME, 2, None),
        (1 | BY_TIME, 2, (0, 512)),
        (0xFFFF | BY_TIME, 2, (0, 65535 * 512)),
        (0xFFFF, 3, (65535, 0)),
        (DISABLED | 10, 2, None),
        (DISABLED | BY_TIME | 10, 2, None),
        (0xFFFFFFFF, 2, None),
        (0xFFFFFFFE, 2, None),
        (0x7FFFFFFF, 2, (0, 65535 * 512)),
        (0x7FBF0000 | 3, 2, (3, 0)),  # the other bits mean nothing
        (0x7FBF0000, 2, None),
        (1 << 16, 2, None),
    ],
)
def test_what_a_sequence_says(sequence: int, version: int, expected: tuple[int, int] | None) -> None:
    wanted = (RelativeLock(OUTPOINT, *expected),) if expected else ()
    assert relative_locks(spending(sequence, version=version)) == wanted


def test_each_input_has_its_own() -> None:
    blocks, seconds = relative_locks(spending(0xFFFFFFFF, 7, DISABLED, 2 | BY_TIME))
    assert (blocks.outpoint[32], blocks.blocks, seconds.outpoint[32], seconds.seconds) == (2, 7, 4, 1024)
    made_at = {blocks.outpoint: 3, seconds.outpoint: 1}
    times = Times([0, 0, 0, 512, 1023, 1023, 1024, 1024, 1024, 1024])
    first = [unmet((blocks, seconds), made_at, BlockRef(parent, b""), times) for parent in range(3, 10)]
    assert first == [blocks] * 6 + [None]
    assert [unmet((seconds,), made_at, BlockRef(parent, b""), times) for parent in range(3, 7)] == [*[seconds] * 3, None]
    assert unmet((blocks, seconds), {blocks.outpoint: 3}, BlockRef(9, b""), times) == seconds
    assert unmet((seconds,), made_at, BlockRef(9, b""), None) == seconds
    assert unmet((blocks,), made_at, BlockRef(9, b""), None) is None


def test_an_output_of_the_first_block_counts_from_its_own_time() -> None:
    (lock,) = relative_locks(spending(1 | BY_TIME))
    for made in (0, 1):
        assert unmet((lock,), {OUTPOINT: made}, BlockRef(2, b""), Times([100, 612, 611])) is lock
        assert unmet((lock,), {OUTPOINT: made}, BlockRef(2, b""), Times([100, 611, 612])) is None


@given(
    st.integers(1, 0xFFFF),
    st.booleans(),
    st.integers(0, 40),
    st.integers(0, 40),
    st.lists(st.integers(0, 2000), min_size=41, max_size=41),
)
def test_as_the_definition_has_it(distance: int, by_time: bool, made: int, parent: int, steps: list[int]) -> None:
    """BIP68 in its own words, over chains whose median time never goes back."""
    times = [sum(steps[: at + 1]) for at in range(41)]
    distance = distance % (40 if not by_time else 60) or 1
    (lock,) = relative_locks(spending(distance | (BY_TIME if by_time else 0)))
    found = unmet((lock,), {OUTPOINT: made}, BlockRef(parent, b""), Times(times))
    if made > parent:
        assert found is lock
    elif by_time:
        # The last time at which it is invalid is one less than the sum; the block's is its parent's median time past.
        assert (found is None) == (times[max(made - 1, 0)] + 512 * distance - 1 < times[parent])
    else:
        assert (found is None) == (made + distance - 1 < parent + 1)


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_asked_from_the_opcode_to_genesis(name: str) -> None:
    chain = CHAINS[name]
    heights = [
        chain.csv_height - 1,
        chain.csv_height,
        chain.genesis_height - 1,
        chain.genesis_height,
        chain.genesis_height + 1,
    ]
    for height in heights:
        asked = asked_of_blocks(int(era_flags(max(height, 0), chain)))
        assert asked == (chain.csv_height <= max(height, 0) < chain.genesis_height)
    assert not asked_of_blocks(int(era_flags(MAINNET.chronicle_height, MAINNET)))
    assert not asked_of_blocks(int(era_flags(0, LOCAL)))
