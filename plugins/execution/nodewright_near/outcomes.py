"""What became of a transaction or receipt, and the Merkle leaves by which a light client can be shown it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

from attrs import define, field, frozen

from nodewright.kernels import sha256_many
from nodewright_near.borsh import U64, U128, Blob, Enum, Vector, decode, encode, struct
from nodewright_near.primitives import AccountId, Hash, hash256
from nodewright_near.rowhashes import sha256_rows

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

    @staticmethod
    def of_partial(id: bytes, gas_burnt: int, tokens_burnt: int, executor_id: str, raw: bytes) -> Outcome:
        """Of who has its ``PartialOutcome`` in Borsh: what else stands there is read when somebody asks for it."""
        outcome: Outcome = _bare(Outcome)
        outcome.id, outcome.gas_burnt, outcome.tokens_burnt, outcome.executor_id = id, gas_burnt, tokens_burnt, executor_id
        outcome.logs, outcome.error, outcome._partial = (), None, raw
        return outcome

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name not in ("receipt_ids", "status"):
                raise AttributeError(name)
            partial = decode(PartialOutcome, self._partial)
            self.receipt_ids, self.status = partial.receipt_ids, partial.status
            return getattr(self, name)

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


def outcome_leaves(outcomes: Sequence[Outcome]) -> bytes:
    """The ``leaf`` of each, one behind the other, hashed together."""
    plain = sha256_many([outcome.partial() for outcome in outcomes])
    if not any([outcome.logs for outcome in outcomes]):
        return sha256_rows(b"".join([_TWO + one.id + digest for one, digest in zip(outcomes, plain, strict=True)]), 68)
    joined = [
        _TWO + outcome.id + digest
        if not outcome.logs
        else b"".join([(2 + len(outcome.logs)).to_bytes(4, "little"), *outcome.hashes()])
        for outcome, digest in zip(outcomes, plain, strict=True)
    ]
    return b"".join(sha256_many(joined))


_bare: Final = object.__new__
_TWO: Final = (2).to_bytes(4, "little")
