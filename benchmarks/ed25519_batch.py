"""What an exact batch of Ed25519 checks would cost with libsodium's own functions, beside one check after the other.

A batch replaces the checks S B = R + h A by one equation over their sum with random factors. It refuses all that single
checks refuse only if no R (and no A) has a part of small order: such a part is lost with the share of factors that are
multiples of its order (up to one half). ``crypto_core_ed25519_is_valid_point`` tests exactly that, and a decoded point in
the prime-order group is what a batch needs of every R. Its time is therefore a lower bound for an exact batch made of these
functions; keys could be remembered, so that only R is counted.

    python benchmarks/ed25519_batch.py [--count 2000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

from nacl._sodium import ffi, lib

from nodewright.kernels.yardstick import make_ed25519_checks


def microseconds(count: int, run: object) -> float:
    began = time.thread_time()
    run()  # type: ignore[operator]
    return (time.thread_time() - began) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    checks = make_ed25519_checks(given.count)
    points = [signed[:32] for _, _, signed in checks]

    def single() -> None:
        for key, _, signed in checks:
            assert lib.crypto_sign_open(ffi.NULL, ffi.NULL, signed, len(signed), key) == 0

    def without_small_order() -> None:
        for point in points:
            assert lib.crypto_core_ed25519_is_valid_point(point) == 1

    times = [
        (microseconds(given.count, single), microseconds(given.count, without_small_order)) for _ in range(given.rounds)
    ]
    check, test = (median(column) for column in zip(*times, strict=True))
    print(f"one check:                                     {check:6.1f} us")
    print(f"that one R has no part of small order:         {test:6.1f} us   ({test / check:.2f} of the check)")


if __name__ == "__main__":
    main()
