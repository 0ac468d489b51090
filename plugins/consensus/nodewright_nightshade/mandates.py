"""Who checks which chunk: stake cut into mandates, dealt over the shards anew at each height. Pure.

A validator holds floor(stake ÷ price) full mandates and one partial of the rest. Those of all are shuffled, seeded by
sha256(epoch seed ‖ height), and dealt round over the shards in a shuffled order, so that each shard is checked by about the
same stake, and nobody knows long before by whom. The generator is ChaCha20 (key: the seed, nonce and counter zero), drawn
from as little-endian words of 32 bits; a number below n is the high half of word × n, words that would favour some are
passed over; a shuffle goes from the last place down.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import TypeVar

import numpy as np
from attrs import frozen

T = TypeVar("T")
MASK = 0xFFFF_FFFF
CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")
QUARTERS = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)


def chacha20_block(key: bytes, counter: int, nonce: bytes) -> tuple[int, ...]:
    """One block of the keystream as 16 words. ``counter`` of 64 bits and ``nonce`` of 8 bytes, as its author has it."""
    low, high = counter & MASK, counter >> 32
    start = (*CONSTANTS, *struct.unpack("<8I", key), low, high, *struct.unpack("<2I", nonce))
    x = list(start)
    for _ in range(10):
        for a, b, c, d in QUARTERS:
            for one, other, turned, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[one] = (x[one] + x[other]) & MASK
                word = x[turned] ^ x[one]
                x[turned] = ((word << bits) | (word >> (32 - bits))) & MASK
    return tuple((now + before) & MASK for now, before in zip(x, start, strict=True))


def _blocks(key: bytes, first: int, count: int) -> list[int]:
    """The words of ``count`` blocks with a zero nonce, as ``chacha20_block`` gives them: four rows of four words, of all
    blocks side by side; a diagonal is a column once the rows have been turned."""
    counters = np.arange(first, first + count, dtype=np.uint64)
    start = np.zeros((4, 4, count), np.uint32)
    start[0], start[1:3] = np.array(CONSTANTS, np.uint32)[:, None], np.frombuffer(key, "<u4").reshape(2, 4, 1)
    start[3, 0], start[3, 1] = counters.astype(np.uint32), (counters >> np.uint64(32)).astype(np.uint32)
    a, b, c, d = (row.copy() for row in start)
    spare = np.empty_like(a)
    for turn in range(20):
        for one, other, turned, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            one += other
            turned ^= one
            np.right_shift(turned, np.uint32(32 - bits), out=spare)
            turned <<= np.uint32(bits)
            turned |= spare
        way = 1 - 2 * (turn % 2)
        b, c, d = b[_TURNS[way]], c[_TURNS[2]], d[_TURNS[-way]]
    found: list[int] = (np.stack((a, b, c, d)) + start).reshape(16, count).T.reshape(-1).tolist()
    return found


_TURNS = {by: np.roll(np.arange(4), -by) for by in (-1, 1, 2)}


def words(seed: bytes) -> Iterator[int]:
    at, count = 0, 4
    while True:
        yield from _blocks(seed, at, count)
        at, count = at + count, min(64, 4 * count)


def below(source: Iterator[int], bound: int) -> int:
    """Evenly from 0 to bound − 1."""
    zone = ((bound << (32 - bound.bit_length())) - 1) & MASK
    while True:
        product = next(source) * bound
        if product & MASK <= zone:
            return product >> 32


def shuffle(items: list[T], source: Iterator[int]) -> None:
    for at in range(len(items) - 1, 0, -1):
        other = below(source, at + 1)
        items[at], items[other] = items[other], items[at]


@frozen
class Mandates:
    """``price`` of a full mandate in yoctoNEAR; ``full`` and ``partial`` name validators by their place in the epoch."""

    price: int
    full: tuple[int, ...]
    partial: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, stakes: Sequence[int], shards: int, per_shard: int = 68) -> Mandates:
        price = _price(stakes, shards * per_shard)
        full = tuple(at for at, stake in enumerate(stakes) for _ in range(stake // price))
        partial = tuple((at, stake % price) for at, stake in enumerate(stakes) if stake % price)
        return cls(price, full, partial)

    @lru_cache(maxsize=256)  # noqa: B019 - a network has one
    def assign(self, epoch_seed: bytes, height: int, shards: int) -> list[dict[int, int]]:
        """For each shard the validators of its chunk at this height, with the stake that each speaks for there.
        Not to be changed by who asks."""
        source = words(sha256(epoch_seed + height.to_bytes(8, "little")).digest())
        order = list(range(shards))
        shuffle(order, source)
        full, partial = list(self.full), list(self.partial)
        if len({*full, *(at for at, _ in partial)}) > 1:  # all of one validator's: their order says nothing
            shuffle(full, source)
            shuffle(partial, source)
        found: list[dict[int, int]] = [{} for _ in range(shards)]
        for place, (at, weight) in enumerate([*((at, self.price) for at in full), *partial]):
            shard = found[order[place % shards]]
            shard[at] = shard.get(at, 0) + weight
        return found


def _price(stakes: Sequence[int], wanted: int) -> int:
    """The highest price at which the stakes make at least as many full mandates as wanted (or the price of one yocto)."""
    low, high = 1, max(1, sum(stakes) // wanted)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(stake // middle for stake in stakes) >= wanted:
            low = middle
        else:
            high = middle - 1
    return low


def endorsed(assignment: Mapping[int, int], signers: Sequence[int]) -> bool:
    """Whether these validators are enough for the chunk: at least floor(2/3 of its assigned stake) + 1."""
    total = sum(assignment.values())
    return sum(assignment.get(at, 0) for at in set(signers)) >= 2 * total // 3 + 1
