"""Which inner loops are used: the compiled ones once they are there, until then the plain ones, with the same result."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from nodewright.kernels.switch import compiled
from nodewright_aptos.partition import loops

KERNELS: Final = "nodewright_aptos.partition.kernels"


def inner() -> ModuleType:
    """``loops``, or the same compiled."""
    return compiled(KERNELS) or loops
