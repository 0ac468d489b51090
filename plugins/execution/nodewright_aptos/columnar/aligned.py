"""Arrays that begin with a cache line. What numpy gets from the system for large ones begins 16 bytes after one: rows of 64
bytes would lie in two lines each, and rows of 256 in five."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

LINE: Final = 64

Array = Any


def _of(raw: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    begin = -raw.ctypes.data % LINE
    return raw[begin : begin + _bytes(shape, dtype)].view(dtype).reshape(shape)


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape) * int(np.dtype(dtype).itemsize)


def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    return _of(np.zeros(_bytes(shape, dtype) + LINE, np.uint8), shape, dtype)


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    return _of(np.empty(_bytes(shape, dtype) + LINE, np.uint8), shape, dtype)
