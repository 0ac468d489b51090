"""Heights at which a validator has nothing to make."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright_nightshade.duties import idle
from nodewright_nightshade.sampling import Epoch, Validator, assign_chunk_producers


@given(
    stakes=st.lists(st.integers(1, 10**6), min_size=1, max_size=8),
    shards=st.integers(1, 4),
    seed=st.binary(max_size=4),
    start=st.integers(0, 10**6),
    count=st.integers(0, 60),
)
@settings(max_examples=60)
def test_runs_are_the_heights_without_a_block_or_chunk_to_make(
    stakes: list[int], shards: int, seed: bytes, start: int, count: int
) -> None:
    validators = tuple(Validator(f"v{at}", bytes(33), stake) for at, stake in enumerate(stakes))
    members = assign_chunk_producers(validators, shards)
    epoch = Epoch(sha256(seed).digest(), sha256(sha256(seed).digest()).digest(), validators, members)
    for place, one in enumerate(validators):
        runs = idle(epoch, one.account, start, start + count)
        free = {height for first, beyond in runs for height in range(first, beyond)}
        busy = {
            height
            for height in range(start, start + count)
            if epoch.block_producer(height) == place or place in (epoch.chunk_producer(height, at) for at in range(shards))
        }
        assert free == set(range(start, start + count)) - busy
        assert all(first < beyond for first, beyond in runs)
        assert all(before[1] < after[0] for before, after in pairwise(runs))
    assert idle(epoch, "nobody", start, start + count) == ([(start, start + count)] if count else [])
