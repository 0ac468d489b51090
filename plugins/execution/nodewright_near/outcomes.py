"""What became of a transaction or receipt, and the Merkle leaves by which a light client can be shown it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, overload

from attrs import define, field, frozen

from nodewright.kernels import sha256_many
from nodewright_near.borsh import U64, U128, Blob, Enum, Vector, decode, encode, struct
from nodewright_near.primitives import AccountId, Hash, hash256
from nodewright_near.rowhashes import joined_digests, sha256_rows

MAX_CHILDREN: Final = 1 << 16


@struct
@frozen
class Unknown:
    pass


@struct
@frozen
class Failure:
    pass


@struct
@frozen
class SuccessValue:
    value: Annotated[bytes, Blob()]


@struct
@define(unsafe_hash=True)
class SuccessReceiptId:
    receipt_id: Hash


Status = Unknown | Failure | SuccessValue | SuccessReceiptId
STATUS: Final = Enum({0: Unknown, 1: Failure, 2: SuccessValue, 3: SuccessReceiptId})


@struct
@frozen
class PartialOutcome:
    """What of an outcome is hashed: not why it failed, not its logs (they are leaves of their own)."""

    receipt_ids: Annotated[tuple[bytes, ...], Vector(Hash, MAX_CHILDREN)]
    gas_burnt: U64
    tokens_burnt: U128
    executor_id: AccountId
    status: Annotated[Status, STATUS]


@define
class Outcome:
    """``error`` is the family's error object in its JSON form, where the status is ``Failure``."""

    id: bytes
    receipt_ids: tuple[bytes, ...]
    gas_burnt: int
    tokens_burnt: int
    executor_id: str
    status: Status
    logs: tuple[str, ...] = ()
    error: Mapping[str, Any] | str | None = None
    _partial: bytes = field(default=b"", init=False, eq=False, repr=False)

    def partial(self) -> bytes:
        """The Borsh form of its ``PartialOutcome``, put together by hand, once: this is made for every receipt."""
        if self._partial:
            return self._partial
        executor = self.executor_id.encode()
        self._partial = b"%b%b%b%b%b%b%b" % (
            len(self.receipt_ids).to_bytes(4, "little"),
            b"".join(self.receipt_ids),
            self.gas_burnt.to_bytes(8, "little"),
            self.tokens_burnt.to_bytes(16, "little"),
            len(executor).to_bytes(4, "little"),
            executor,
            b"\x03" + self.status.receipt_id if type(self.status) is SuccessReceiptId else encode(self.status, STATUS),
        )
        return self._partial

    def hashes(self) -> list[bytes]:
        return [self.id, hash256(self.partial()), *(hash256(log.encode()) for log in self.logs)]

    def leaf(self) -> bytes:
        hashes = self.hashes()
        return hash256(len(hashes).to_bytes(4, "little") + b"".join(hashes))


class ChunkOutcomes(Sequence[Outcome]):
    """Of one chunk, in order: columns of their ids and of their ``PartialOutcome`` in Borsh. The outcome of a frequent
    transfer, which has neither logs nor an error, is made of these when somebody asks for it; others are ``whole``."""

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self.partials: list[bytes] = []
        self.whole: dict[int, Outcome] = {}

    def append(self, outcome: Outcome) -> None:
        self.whole[len(self.ids)] = outcome
        self.add(outcome.id, outcome.partial())

    def add(self, id: bytes, partial: bytes) -> None:
        """One without logs and error, by its ``PartialOutcome`` in Borsh."""
        self.ids.append(id)
        self.partials.append(partial)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...

    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self.ids)))]
        at = range(len(self.ids))[index]
        known = self.whole.get(at)
        if known is not None:
            return known
        part: PartialOutcome = decode(PartialOutcome, self.partials[at])
        return Outcome(self.ids[at], part.receipt_ids, part.gas_burnt, part.tokens_burnt, part.executor_id, part.status)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChunkOutcomes) and list(self) == list(other)


def outcome_leaves(outcomes: ChunkOutcomes) -> bytes:
    """The ``leaf`` of each, one behind the other, hashed together."""
    told = {at: one for at, one in outcomes.whole.items() if one.logs}
    if not told:
        return sha256_rows(joined_digests(_TWO, outcomes.ids, outcomes.partials), 68)
    joined = [_TWO + id + digest for id, digest in zip(outcomes.ids, sha256_many(outcomes.partials), strict=True)]
    for at, one in told.items():
        joined[at] = b"".join([(2 + len(one.logs)).to_bytes(4, "little"), *one.hashes()])
    return b"".join(sha256_many(joined))


_TWO: Final = (2).to_bytes(4, "little")
