"""The terms of the ``execution`` kit: transactions and blocks as its tests make them, and what an outcome says of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

from attrs import asdict, evolve, frozen

from nodewright.interfaces.common import BlockRef, Bundle, BundleRef
from nodewright.interfaces.execution import ExecutionResult, Incomplete, Invalid, InvalidTransaction, Outcome
from nodewright.testing.power import PowerCut

GENESIS = BlockRef(0, sha256(b"the genesis block of the execution kit").digest())
GENESIS_TIME = 1_700_000_000  # Unix seconds, as context times and admissions have them
LONGEST_CHAIN = 4


@frozen
class Sample:
    """A transaction as the author's generator made it: its id, its canonical bytes, and the shard that orders it."""

    id: bytes
    raw: bytes
    shard: int = 0


@frozen
class Block:
    """``bundles`` of samples in order. ``salt`` tells apart blocks that are otherwise the same."""

    parent: BlockRef
    bundles: tuple[tuple[Sample, ...], ...] = ()
    policy: InvalidTransaction = "discard"
    salt: bytes = b""

    @property
    def ref(self) -> BlockRef:
        made = b"".join(sample.id for bundle in self.bundles for sample in bundle) + bytes(map(len, self.bundles))
        told = self.parent.id + self.policy.encode() + made + self.salt
        return BlockRef(self.parent.height + 1, sha256(told).digest())

    @property
    def samples(self) -> list[Sample]:
        return [sample for bundle in self.bundles for sample in bundle]

    def after(self, *bundles: Sequence[Sample], policy: InvalidTransaction = "discard", salt: bytes = b"") -> Block:
        """A child of this one."""
        return Block(self.ref, tuple(map(tuple, bundles)), policy, salt)


def first(*bundles: Sequence[Sample], policy: InvalidTransaction = "discard", salt: bytes = b"") -> Block:
    """A child of the genesis block."""
    return Block(GENESIS, tuple(map(tuple, bundles)), policy, salt)


def bundle_of(samples: Sequence[Sample], bodies: bool = True, shard: int = 0) -> Bundle:
    ids = b"".join(sample.id for sample in samples)
    ref = BundleRef(sha256(b"bundle" + ids).digest(), len(samples), sum(len(sample.raw) for sample in samples), shard)
    return Bundle(ref, ids, [sample.raw for sample in samples] if bodies else None)


def agreed(outcome: Outcome) -> Outcome:
    """What of it is the same on every node."""
    return evolve(outcome, evicted={}, witness=None)


def difference(one: Outcome, other: Outcome) -> str:
    """The fields in which they differ, but those that are each node's own."""
    left, right = asdict(agreed(one), recurse=False), asdict(agreed(other), recurse=False)
    return "; ".join(f"{name} {shown(left[name])} and {shown(right[name])}" for name in left if left[name] != right[name])


def shown(value: Any) -> str:
    if isinstance(value, bytes):
        return value[:6].hex()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{shown(key)}: {shown(one)}" for key, one in value.items()) + "}"
    return str(value)[:200]


@asynccontextmanager
async def alone() -> AsyncIterator[None]:
    """An error that comes wrapped by the nurseries of what an execution has open is raised as it is."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


async def until_cut(story: Callable[[], Awaitable[None]]) -> bool:
    """Whether the power went before the story was over."""
    try:
        await story()
    except PowerCut:
        return True
    except BaseExceptionGroup as group:
        if group.split(PowerCut)[1] is not None:
            raise
        return True
    return False


def by_id(samples: Iterable[Sample]) -> dict[bytes, Sample]:
    return {sample.id: sample for sample in samples}


def check_accounted(block: Block, outcomes: Sequence[Outcome]) -> list[bytes]:
    """Every transaction of the block is kept, discarded or to be retried, once; nothing else is told of. The kept ones."""
    ids = by_id(block.samples)
    discarded = [id for outcome in outcomes for id in outcome.discarded]
    retry = [id for outcome in outcomes for id in outcome.retry]
    assert len({*discarded, *retry}) == len(discarded) + len(retry), "a transaction is told of twice"
    assert ids.keys() >= {*discarded, *retry}, "the outcome tells of a transaction that the block does not have"
    for outcome in outcomes:
        assert all(code and isinstance(told, str) for code, told in outcome.discarded.values()), "a discard has a code"
    told = {*discarded, *retry}
    kept = [id for id in ids if id not in told]
    for outcome in outcomes:
        assert outcome.evicted.keys().isdisjoint(kept), "a transaction that the block kept is told of as evicted by it"
    return kept


def merged(outcomes: Sequence[Outcome], name: str) -> dict[bytes, Any]:
    """A mapping of the outcome, over all shards."""
    return {id: told for outcome in outcomes for id, told in getattr(outcome, name).items()}


def refusal(result: ExecutionResult) -> Invalid:
    assert isinstance(result, Invalid), f"the block breaks a rule: {result}"
    assert result.code and isinstance(result.message, str)
    return result


def missing_of(result: Any) -> set[bytes]:
    assert isinstance(result, Incomplete), result
    assert result.missing, "an Incomplete names what is missing"
    return set(result.missing)
