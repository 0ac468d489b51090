"""Who votes, with how much power, in which epoch.

Up to (total − 1) / 3 of the power may lie. A quorum is more than two thirds of it: two quorums share an honest validator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import field, frozen

from nodewright.interfaces.common import BlockRef
from nodewright_jolteon.codec import Malformed, Reader, blob, digest, ref, u64, vector

MAX_VALIDATORS = 256
MAX_ACCOUNT_BYTES = 256
MAX_POWER = 1 << 60


@frozen
class Validator:
    """``key``: Ed25519, 32 bytes. ``account``: what the execution sees as proposer (``BlockContext.proposer``)."""

    key: bytes
    power: int
    account: bytes

    def encode(self) -> bytes:
        return self.key + u64(self.power) + blob(self.account)

    @classmethod
    def decode(cls, data: Reader) -> Validator:
        return cls(data.hash(), data.u64(), data.blob(MAX_ACCOUNT_BYTES))


@frozen
class ValidatorSet:
    """In their fixed order, which is that of their keys except in a genesis; each key once."""

    members: tuple[Validator, ...]
    total_power: int = field(init=False)
    _places: Mapping[bytes, int] = field(init=False, repr=False, eq=False)

    @total_power.default
    def _total(self) -> int:
        return sum(member.power for member in self.members)

    @_places.default
    def _placed(self) -> Mapping[bytes, int]:
        return {member.key: place for place, member in enumerate(self.members)}

    def __len__(self) -> int:
        return len(self.members)

    @property
    def quorum_power(self) -> int:
        return self.total_power * 2 // 3 + 1

    @property
    def honest_power(self) -> int:
        """Whoever has so much cannot be liars alone: f + 1 where a quorum is 2f + 1."""
        return self.total_power - self.quorum_power + 1

    def place(self, key: bytes) -> int | None:
        return self._places.get(key)

    def key(self, place: int) -> bytes:
        return self.members[place].key

    def power_of(self, places: Iterable[int]) -> int:
        """Of different places that exist."""
        return sum(self.members[place].power for place in places)

    def encode(self) -> bytes:
        return vector(self.members, Validator.encode)

    @classmethod
    def decode(cls, data: Reader) -> ValidatorSet:
        """Raises Malformed for a set that could not be one."""
        found = cls(data.vector(lambda: Validator.decode(data), MAX_VALIDATORS))
        if not found.members or len(found._places) < len(found) or any(not 0 < m.power <= MAX_POWER for m in found.members):
            raise Malformed("these are no validators")
        return found

    def changed(self, powers: Mapping[bytes, int]) -> ValidatorSet:
        """With these powers instead, 0 for those that leave. What would leave nobody, or too many, changes nothing."""
        members = {member.key: member for member in self.members}
        for key, power in powers.items():
            old = members.pop(key, None)
            if 0 < power <= MAX_POWER and len(key) == 32:
                members[key] = Validator(key, power, old.account if old is not None else key)
        if not 0 < len(members) <= MAX_VALIDATORS:
            return self
        return ValidatorSet(tuple(members[key] for key in sorted(members)))


@frozen
class Epoch:
    """A stretch of the chain with one set of validators. ``start`` is the block that ended the epoch before (genesis for
    the first): rounds begin at 1 on top of it."""

    number: int
    start: BlockRef
    validators: ValidatorSet

    def encode(self) -> bytes:
        return u64(self.number) + ref(self.start) + self.validators.encode()

    @classmethod
    def decode(cls, raw: bytes) -> Epoch:
        data = Reader(raw)
        found = cls(data.u64(), data.ref(), ValidatorSet.decode(data))
        data.finish()
        return found

    @property
    def id(self) -> bytes:
        return digest("epoch", self.encode())
