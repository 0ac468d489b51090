"""Doomslug: when to approve what, and when a block may be made. A pure state machine: times are arguments, in seconds.

A validator approves, for each height that it expects: the tip itself (an *endorsement*, for the height right above it), or
that the heights in between stay empty (a *skip*, for one further up). A block at a height needs approvals of more than
two thirds of the stake for that height (near the end of an epoch, of the next one's as well). Sources: the reference page
of the family; nearcore's documentation of Doomslug.

Invariants:
- heights that are approved only rise: nothing is approved twice, and never a height at or below one approved before, also
  after a restart (``approved`` is written to the safety file before an approval is sent, and given back on a start);
- an endorsement is for the height above the tip, and only ever one tip is endorsed at a height;
- a block whose height is that of its parent + 1 makes its parent doomslug-final; three heights in a row, final.
"""

from __future__ import annotations

from bisect import insort

from attrs import define, field, frozen

from nodewright_nightshade.epochs import Approvers


@frozen
class Delays:
    """Seconds. The timer of a height grows with the distance to what is final."""

    endorsement: float = 0.6
    minimum: float = 1.8
    step: float = 0.18
    maximum: float = 6.0
    chunk_wait: float = 1 / 6  # of the timer, which a proposer waits longer for chunks

    def timer(self, height: int, final_height: int) -> float:
        distance = max(0, height - final_height)
        return min(self.maximum, self.minimum + self.step * max(0, distance - 2))


@frozen
class Tip:
    hash: bytes
    height: int
    final_height: int


@frozen
class Due:
    """An approval to be signed and sent to the producer of ``target``: an endorsement where target = height + 1."""

    parent_hash: bytes
    parent_height: int
    target: int

    @property
    def is_endorsement(self) -> bool:
        return self.target == self.parent_height + 1


@define
class Timer:
    """What this validator approves as time goes by. ``approved`` is the highest target it has ever signed."""

    delays: Delays
    tip: Tip
    started: float
    approved: int = 0
    _target: int = 0
    _endorsed: bool = field(default=False)

    def __attrs_post_init__(self) -> None:
        # What was approved before a start is not gone through again: it goes on from there.
        self._target = max(self.tip.height + 1, self.approved)
        self._endorsed = self.approved > self.tip.height

    def new_tip(self, tip: Tip, now: float) -> None:
        """The head has changed."""
        self.tip = tip
        self.started = now
        self._target = tip.height + 1
        self._endorsed = False

    def next_at(self) -> float:
        """When ``due`` has something more to say."""
        if not self._endorsed:
            return self.started + min(self.delays.endorsement, self.delays.timer(self._target, self.tip.final_height))
        return self.started + self.delays.timer(self._target, self.tip.final_height)

    def due(self, now: float) -> list[Due]:
        """What is to be approved now, lowest target first. The caller makes ``approved`` durable before it sends any."""
        found: list[Due] = []
        while self.next_at() <= now and len(found) < 64:
            if not self._endorsed:
                self._endorsed = True
            else:
                self.started += self.delays.timer(self._target, self.tip.final_height)
                self._target += 1
            if self._target > self.approved:
                self.approved = self._target
                found.append(Due(self.tip.hash, self.tip.height, self._target))
        return found


@frozen
class Vote:
    key: bytes
    signature: bytes
    at: float


@define
class Votes:
    """Approvals for one target height on one parent, by account, in the order in which they came."""

    by_account: dict[str, Vote] = field(factory=dict)

    def add(self, account: str, vote: Vote) -> bool:
        """Whether it is the account's first."""
        return self.by_account.setdefault(account, vote) is vote

    def signature(self, account: str, key: bytes) -> bytes | None:
        vote = self.by_account.get(account)
        return vote.signature if vote is not None and vote.key == key else None

    def since(self, approvers: Approvers) -> float | None:
        """When there were enough; None while there are not."""
        now = then = 0
        for account, vote in self.by_account.items():
            one = approvers.by_account.get(account)
            if one is not None and one.key == vote.key:
                now, then = now + one.now, then + one.then
                if approvers.are_enough(now, then):
                    return vote.at
        return None


MAX_TARGETS = 64


@define
class Approvals:
    """What others have approved: for each target, on each parent (its hash, or its height where the target is not the one
    right above it, as a skip names no hash). Bounded: one vote of a validator for a target and parent counts, those for
    its MAX_TARGETS highest targets are kept (an honest one's targets only rise), and those at or below the head are
    forgotten."""

    _votes: dict[int, dict[bytes | int, Votes]] = field(factory=dict)
    _targets: dict[str, list[int]] = field(factory=dict)

    def add(self, account: str, parent: bytes | int, target: int, vote: Vote, head: int) -> bool:
        """From an account that may be an approver: who calls has checked the signature by its key."""
        if target <= head:
            return False
        mine = self._targets.setdefault(account, [])
        # One validator names one parent for a target; only a liar names another.
        if target in mine or (len(mine) >= MAX_TARGETS and target < mine[0]):
            return False
        if len(mine) >= MAX_TARGETS:
            self._drop(account, mine[0])
        insort(mine, target)
        of_target = self._votes.setdefault(target, {})
        votes = of_target.get(parent)
        if votes is None:
            votes = of_target[parent] = Votes()
        return votes.add(account, vote)

    def _drop(self, account: str, target: int) -> None:
        self._targets[account].remove(target)
        of_target = self._votes.get(target, {})
        for parent, votes in list(of_target.items()):
            votes.by_account.pop(account, None)
            if not votes.by_account:
                del of_target[parent]
        if not of_target:
            self._votes.pop(target, None)

    def votes(self, parent_hash: bytes, parent_height: int, target: int) -> Votes | None:
        parent: bytes | int = parent_hash if target == parent_height + 1 else parent_height
        return self._votes.get(target, {}).get(parent)

    def targets(self) -> list[int]:
        return sorted(self._votes)

    def forget(self, head: int) -> None:
        for target in [one for one in self._votes if one <= head]:
            del self._votes[target]
        left = {account: [target for target in mine if target > head] for account, mine in self._targets.items()}
        self._targets = {account: mine for account, mine in left.items() if mine}


def may_produce(since: float | None, delays: Delays, timer: float, all_chunks: bool, now: float) -> bool:
    """Whether the producer of a height makes its block now: enough approvals (``since`` then), and all chunks there or
    waited for."""
    return since is not None and (all_chunks or now >= since + timer * delays.chunk_wait)


def finality(
    height: int, parent: tuple[int, bytes], grandparent: tuple[int, bytes] | None
) -> tuple[bytes | None, bytes | None]:
    """What a block at ``height`` makes (doomslug-final, final): its parent where the heights follow each other, and the
    parent's parent where three do."""
    if height != parent[0] + 1:
        return None, None
    final = grandparent[1] if grandparent is not None and parent[0] == grandparent[0] + 1 else None
    return parent[1], final
