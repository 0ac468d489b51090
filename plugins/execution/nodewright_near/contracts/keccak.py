"""Keccak as Ethereum uses it (the padding from before SHA-3). Plain: a contract calls it a few times."""

from __future__ import annotations

from typing import Final

_MASK: Final = (1 << 64) - 1
_ROUNDS: Final = (
    0x0000000000000001, 0x0000000000008082, 0x800000000000808A, 0x8000000080008000, 0x000000000000808B,
    0x0000000080000001, 0x8000000080008081, 0x8000000000008009, 0x000000000000008A, 0x0000000000000088,
    0x0000000080008009, 0x000000008000000A, 0x000000008000808B, 0x800000000000008B, 0x8000000000008089,
    0x8000000000008003, 0x8000000000008002, 0x8000000000000080, 0x000000000000800A, 0x800000008000000A,
    0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008,
)  # fmt: skip


def _offsets() -> tuple[tuple[int, int, int], ...]:
    """(from, to, rotation) of the steps that move lanes, in the order in which one chain of moves takes them."""
    moves = []
    x, y = 1, 0
    for step in range(24):
        moves.append((x + 5 * y, y + 5 * ((2 * x + 3 * y) % 5), (step + 1) * (step + 2) // 2 % 64))
        x, y = y, (2 * x + 3 * y) % 5
    return tuple(moves)


_MOVES: Final = _offsets()


def _turn(lane: int, count: int) -> int:
    return ((lane << count) | (lane >> (64 - count))) & _MASK


def _permute(lanes: list[int]) -> list[int]:
    for constant in _ROUNDS:
        columns = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
        mixed = [columns[(x + 4) % 5] ^ _turn(columns[(x + 1) % 5], 1) for x in range(5)]
        lanes = [lane ^ mixed[index % 5] for index, lane in enumerate(lanes)]
        moved = list(lanes)
        for source, target, count in _MOVES:
            moved[target] = _turn(lanes[source], count)
        lanes = [
            moved[at] ^ (~moved[at - at % 5 + (at + 1) % 5] & _MASK & moved[at - at % 5 + (at + 2) % 5]) for at in range(25)
        ]
        lanes[0] ^= constant
    return lanes


def _keccak(data: bytes, size: int) -> bytes:
    rate = 200 - 2 * size
    padded = bytearray(data)
    padded += b"\x01" + bytes(rate - 1 - len(data) % rate)
    padded[-1] |= 0x80
    lanes = [0] * 25
    for block in range(0, len(padded), rate):
        for index in range(rate // 8):
            at = block + 8 * index
            lanes[index] ^= int.from_bytes(padded[at : at + 8], "little")
        lanes = _permute(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[: size // 8])


def keccak256(data: bytes) -> bytes:
    return _keccak(data, 32)


def keccak512(data: bytes) -> bytes:
    return _keccak(data, 64)
