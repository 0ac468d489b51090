"""Who produces what: producers drawn by stake from seeds that everybody knows. Pure.

Alias sampling (Vose): a draw costs one look-up, whatever the number of validators. Of a 32-byte seed the first eight bytes
(little-endian) choose a column and the sixteen after them a weight within it. The same stakes give the same table on every
machine: all arithmetic is on whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from attrs import field, frozen

from nodewright_near.headers import ValidatorStakeV1


@frozen
class WeightedIndex:
    """Draws indices with probability weight ÷ sum. At least one weight is positive."""

    total: int
    aliases: tuple[int, ...]
    odds: tuple[int, ...]

    @classmethod
    def of(cls, weights: Sequence[int]) -> WeightedIndex:
        count, total = len(weights), sum(weights)
        if total <= 0 or min(weights) < 0:
            raise ValueError("weights must not be negative, and not all zero")
        # Scaled so that the mean is exactly ``total``: a column below it is filled up by one above it.
        odds = [weight * count for weight in weights]
        aliases = list(range(count))
        small = [at for at, value in enumerate(odds) if value < total]
        large = [at for at, value in enumerate(odds) if value >= total]
        while small and large:
            low, high = small.pop(), large[-1]
            aliases[low] = high
            odds[high] -= total - odds[low]
            if odds[high] < total:
                small.append(large.pop())
        for at in (*small, *large):
            odds[at] = total
        return cls(total, tuple(aliases), tuple(odds))

    def draw(self, seed: bytes) -> int:
        column = int.from_bytes(seed[:8], "little") % len(self.aliases)
        weight = int.from_bytes(seed[8:24], "little") % self.total
        return column if weight < self.odds[column] else self.aliases[column]


@frozen
class Validator:
    """``stake`` in yoctoNEAR; ``key`` is a public key in Borsh form (tag ‖ key)."""

    account: str
    key: bytes
    stake: int


@frozen
class Epoch:
    """One epoch's producers. ``block_producers`` in the order of their seats; ``chunk_producers`` for each shard, indices
    into ``block_producers``; every shard has at least two that hold its state where there are two validators at all."""

    id: bytes
    seed: bytes
    validators: tuple[Validator, ...]
    chunk_producers: tuple[tuple[int, ...], ...]
    _blocks: WeightedIndex = field(init=False, eq=False, repr=False)
    _chunks: tuple[WeightedIndex, ...] = field(init=False, eq=False, repr=False)

    places: dict[str, int] = field(init=False, eq=False, repr=False)

    @classmethod
    def of(cls, id: bytes, validators: Sequence[ValidatorStakeV1], members: Sequence[Sequence[int]]) -> Epoch:
        """The seed is the hash of the id."""
        named = tuple(Validator(one.account_id, one.public_key, one.stake) for one in validators)
        return cls(id, sha256(id).digest(), named, tuple(tuple(those) for those in members))

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "places", {one.account: at for at, one in enumerate(self.validators)})
        stakes = [one.stake for one in self.validators]
        object.__setattr__(self, "_blocks", WeightedIndex.of(stakes))
        chunks = tuple(WeightedIndex.of([stakes[at] for at in members]) for members in self.chunk_producers)
        object.__setattr__(self, "_chunks", chunks)

    @property
    def shards(self) -> int:
        return len(self.chunk_producers)

    @property
    def total_stake(self) -> int:
        return self._blocks.total

    def place(self, account: str, key: bytes | None = None) -> int | None:
        """None for who is no validator of this epoch, or is one with another key."""
        at = self.places.get(account)
        return None if at is None or (key is not None and self.validators[at].key != key) else at

    def block_producer(self, height: int) -> int:
        return self._blocks.draw(sha256(self.seed + height.to_bytes(8, "little")).digest())

    def chunk_producer(self, height: int, shard: int) -> int:
        seed = sha256(self.seed + height.to_bytes(8, "little") + shard.to_bytes(8, "little")).digest()
        return self.chunk_producers[shard][self._chunks[shard].draw(seed)]


def assign_chunk_producers(validators: Sequence[Validator], shards: int, least: int = 2) -> tuple[tuple[int, ...], ...]:
    """Producers for each shard: validators by falling stake, each to the shard with the fewest and then the least stake so
    far; with fewer than ``shards`` × ``least`` of them they are dealt again, so that a shard that loses one has another."""
    order = sorted(range(len(validators)), key=lambda at: (-validators[at].stake, validators[at].account))
    members: list[list[int]] = [[] for _ in range(shards)]
    stakes = [0] * shards

    def emptiest(without: int) -> int | None:
        free = [shard for shard in range(shards) if without not in members[shard]]
        return min(free, key=lambda shard: (len(members[shard]), stakes[shard], shard)) if free else None

    wanted = min(least, len(order))
    dealt = 0
    while dealt < len(order) or min(map(len, members)) < wanted:
        at = order[dealt % len(order)]
        dealt += 1
        shard = emptiest(at)
        if shard is not None:
            members[shard].append(at)
            stakes[shard] += validators[at].stake
    return tuple(tuple(one) for one in members)


def reassign(
    validators: Sequence[Validator], before: Sequence[Sequence[str]], least: int = 2
) -> tuple[tuple[int, ...], ...]:
    """Producers for each shard as ``assign_chunk_producers`` wants them, from those (by account) of the epoch before: who
    has the state of a shard keeps making its chunks as far as that goes."""
    places = {one.account: at for at, one in enumerate(validators)}
    order = sorted(range(len(validators)), key=lambda at: (-validators[at].stake, validators[at].account))
    rank = {at: number for number, at in enumerate(order)}
    members = [[places[account] for account in accounts if account in places] for accounts in before]
    load = [sum(at in those for those in members) for at in range(len(validators))]
    wanted = min(least, len(validators))

    def stake(shard: int) -> int:
        return sum(validators[at].stake for at in members[shard])

    def move(at: int, out: int | None, into: int | None) -> None:
        if out is not None:
            members[out].remove(at)
            load[at] -= 1
        if into is not None:
            members[into].append(at)
            load[at] += 1

    def emptiest(without: int) -> int:
        free = [shard for shard, those in enumerate(members) if without not in those]
        return min(free, key=lambda shard: (len(members[shard]), stake(shard), shard))

    for at in order:  # everybody makes chunks of a shard
        if not load[at]:
            move(at, None, emptiest(at))
    while (short := min(range(len(members)), key=lambda shard: (len(members[shard]), shard))) is not None:
        if len(members[short]) >= wanted:
            break
        # From a shard that can spare one that makes chunks of it alone; or else somebody makes those of one shard more.
        spare = [
            (len(those), -rank[at], shard, at)
            for shard, those in enumerate(members)
            for at in those
            if len(those) > wanted and at not in members[short]
        ]
        if spare:
            _, _, shard, at = max(spare)
            move(at, shard, short)
        else:
            at = min((one for one in order if one not in members[short]), key=lambda one: (load[one], rank[one]))
            move(at, None, short)
    for shard, those in enumerate(members):  # nobody makes more than is needed
        for at in sorted(those, key=lambda one: (-load[one], -rank[one])):
            if load[at] > 1 and len(those) > wanted:
                move(at, shard, None)
    while True:
        full = max(range(len(members)), key=lambda shard: (len(members[shard]), -shard))
        bare = min(range(len(members)), key=lambda shard: (len(members[shard]), shard))
        movable = [at for at in members[full] if at not in members[bare]]
        if len(members[full]) - len(members[bare]) < 2 or not movable:
            break
        move(max(movable, key=rank.__getitem__), full, bare)
    return tuple(tuple(sorted(those, key=rank.__getitem__)) for those in members)
