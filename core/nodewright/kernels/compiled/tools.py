"""numba's and llvmlite's names without their types: their annotations cover too little of what is used here to help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numba.core.cgutils
import numba.core.config
import numba.core.types
import numba.extending

njit: Callable[..., Callable[[Callable[..., Any]], Any]] = numba.njit
types: Any = numba.core.types
cgutils: Any = numba.core.cgutils
config: Any = numba.core.config
intrinsic: Callable[[Callable[..., Any]], Any] = numba.extending.intrinsic
