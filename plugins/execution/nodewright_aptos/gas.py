"""What a transaction is charged. This schedule is this project's own: Aptos meters Move bytecode, of which there is none.

gas = INTRINSIC
    + 1 for each started PAYLOAD_BYTES of the signed transaction
    + execution: what the function is registered with, and what it charges while it runs
    + WRITE for each state value written (the sender's account and the payer's coins always are)
    + STORAGE for each state value that was not there before

Where the function aborts, its writes count as not made. Charged is gas × gas price, at most max gas × gas price; a
transaction that comes to more than its max gas has run out of gas: it has no effect and is charged all of it. The
aggregator of the supply is no value written. What is charged is burnt: it leaves the total supply.
"""

from __future__ import annotations

from typing import Final

INTRINSIC: Final = 2
PAYLOAD_BYTES: Final = 256
WRITE: Final = 1
STORAGE: Final = 400

MIN_GAS_PRICE: Final = 100
MAX_GAS_PRICE: Final = 10_000_000_000
MAX_GAS: Final = 2_000_000


def intrinsic(size: int) -> int:
    """Of a signed transaction of ``size`` bytes: the least that its max gas must cover."""
    return INTRINSIC - (-size // PAYLOAD_BYTES)
