"""Keccak as Ethereum uses it (the padding from before SHA-3), by the machine that runs contracts: no library that this node
has anyway offers it, and in Python a contract could keep a node busy for minutes with it.

The permutation is WebAssembly made here, one round in a loop over the round constants. Memory of an instance: the state at
0, the constants at ``_CONSTANTS``, input from ``_INPUT`` on.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

import wasmtime
from wasmtime import _ffi as ffi

_CONSTANTS: Final = 256
_INPUT: Final = 1024
_PIECE: Final = 64 * 1024
_LANES: Final = range(25)


def _round_constants() -> list[int]:
    """The bits of a shift register with feedback, at the places 2**j - 1 (FIPS 202, 3.2.5)."""
    constants, register = [], 1
    for _ in range(24):
        constant = 0
        for place in range(7):
            constant |= (register & 1) << (2**place - 1)
            register = (register << 1) ^ (0x171 if register & 0x80 else 0)
        constants.append(constant)
    return constants


def _moves() -> list[tuple[int, int, int]]:
    """(from, to, rotation) of the lanes but the first, in the order in which one chain of moves takes them."""
    moves, x, y = [], 1, 0
    for step in range(24):
        moves.append((x + 5 * y, y + 5 * ((2 * x + 3 * y) % 5), (step + 1) * (step + 2) // 2 % 64))
        x, y = y, (2 * x + 3 * y) % 5
    return moves


def _text() -> str:
    """``absorb``(at, blocks, words): each block of so many words into the state, and the permutation after it."""
    step = []
    for x in range(5):
        column = f"(local.get $a{x})"
        for lane in range(x + 5, 25, 5):
            column = f"(i64.xor {column} (local.get $a{lane}))"
        step.append(f"(local.set $c{x} {column})")
    for lane in _LANES:
        turned = f"(i64.rotl (local.get $c{(lane + 1) % 5}) (i64.const 1))"
        mixed = f"(i64.xor (local.get $c{(lane + 4) % 5}) {turned})"
        step.append(f"(local.set $a{lane} (i64.xor (local.get $a{lane}) {mixed}))")
    step.append("(local.set $b0 (local.get $a0))")
    for source, target, count in _moves():
        step.append(f"(local.set $b{target} (i64.rotl (local.get $a{source}) (i64.const {count})))")
    for lane in _LANES:
        row = lane - lane % 5
        first, second = row + (lane + 1) % 5, row + (lane + 2) % 5
        masked = f"(i64.and (i64.xor (local.get $b{first}) (i64.const -1)) (local.get $b{second}))"
        step.append(f"(local.set $a{lane} (i64.xor (local.get $b{lane}) {masked}))")
    step.append(f"(local.set $a0 (i64.xor (local.get $a0) (i64.load offset={_CONSTANTS} (local.get $round))))")
    names = [f"$a{lane}" for lane in _LANES] + [f"$b{lane}" for lane in _LANES] + [f"$c{x}" for x in range(5)]
    constants = b"".join(one.to_bytes(8, "little") for one in _round_constants())
    return f"""(module
      (memory (export "memory") 2 2)
      (data (i32.const {_CONSTANTS}) "{"".join(f"{chr(92)}{byte:02x}" for byte in constants)}")
      (func (export "absorb") (param $at i32) (param $blocks i32) (param $words i32)
        (local $word i32) (local $round i32) {" ".join(f"(local {name} i64)" for name in names)}
        (block $done (loop $block
          (br_if $done (i32.eqz (local.get $blocks)))
          (local.set $word (i32.const 0))
          (loop $next
            (i64.store (local.get $word) (i64.xor (i64.load (local.get $word)) (i64.load (local.get $at))))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (local.set $word (i32.add (local.get $word) (i32.const 8)))
            (br_if $next (i32.lt_u (local.get $word) (i32.shl (local.get $words) (i32.const 3)))))
          {" ".join(f"(local.set $a{lane} (i64.load (i32.const {8 * lane})))" for lane in _LANES)}
          (local.set $round (i32.const 0))
          (loop $rounds
            {" ".join(step)}
            (local.set $round (i32.add (local.get $round) (i32.const 8)))
            (br_if $rounds (i32.lt_u (local.get $round) (i32.const 192))))
          {" ".join(f"(i64.store (i32.const {8 * lane}) (local.get $a{lane}))" for lane in _LANES)}
          (local.set $blocks (i32.sub (local.get $blocks) (i32.const 1)))
          (br $block)))))"""


@cache
def _module() -> tuple[wasmtime.Engine, wasmtime.Module]:
    engine = wasmtime.Engine()
    return engine, wasmtime.Module(engine, bytes(wasmtime.wat2wasm(_text())))


class Keccak:
    """An instance of the permutation: not for two threads at once."""

    padding = 0x01

    def __init__(self) -> None:
        engine, module = _module()
        self._store = wasmtime.Store(engine)
        exports = wasmtime.Instance(self._store, module, []).exports(self._store)
        self._absorb: Any = exports["absorb"]
        memory: Any = exports["memory"]
        data = ffi.wasmtime_memory_data(self._store._context(), ctypes.byref(memory._memory))
        self._base = ctypes.cast(data, ctypes.c_void_p).value or 0  # it cannot grow, so it stays there

    def digest(self, data: bytes, size: int) -> bytes:
        """``size`` 32 or 64 bytes."""
        rate = 200 - 2 * size
        ctypes.memset(self._base, 0, 200)
        whole, step = len(data) - len(data) % rate, _PIECE - _PIECE % rate
        for at in range(0, whole, step):
            self._take(data[at : min(at + step, whole)], rate)
        last = bytearray(data[whole:] + bytes(rate - (len(data) - whole)))
        last[len(data) - whole] = self.padding
        last[-1] |= 0x80
        self._take(bytes(last), rate)
        return ctypes.string_at(self._base, size)

    def _take(self, blocks: bytes, rate: int) -> None:
        ctypes.memmove(self._base + _INPUT, blocks, len(blocks))
        self._absorb(self._store, _INPUT, len(blocks) // rate, rate // 8)
