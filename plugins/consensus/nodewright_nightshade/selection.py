"""Who validates two epochs on: what is counted in an epoch, who is kicked out, who gets a seat. Pure.

In an epoch T proposals of stake and missed blocks and chunks are counted (``Tally``, block by block). Its last block names
the epoch T+2 and fixes its validators: those of T+1 and the proposals of T, without those who were kicked out, by falling
stake (of one stake by account), as many as there are seats and as long as a stake is worth ``ratio`` of all.

Invariants:
- the same blocks give the same set on every node: all arithmetic is on whole numbers, nothing depends on an order of calls;
- there are always validators: where nobody is left, those of T+1 stay;
- no more than ``max_kicked_percent`` of an epoch's stake is kicked out for what it missed: those who missed least stay;
- who neither stakes anew, nor unstakes, nor is kicked out, stays as long as its stake is worth a seat;
- what an epoch has an account lock (``stakes``) is given back only when it is in no epoch from the one before on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Final

from attrs import evolve, frozen

from nodewright_near.borsh import U8, U32, U128, Vector, struct
from nodewright_near.chunks import MAX_LOCKS, Locked
from nodewright_near.headers import MAX_SHARDS, MAX_VALIDATORS, Proposals, ValidatorStakeV1
from nodewright_near.primitives import AccountId, Hash
from nodewright_nightshade.sampling import Epoch, Validator, assign_chunk_producers, reassign

# Heights below a block that nobody made and that are counted: after a longer stall it is nobody's fault alone.
MAX_SKIPPED: Final = 1000
# Of an epoch's stake, so much has to vote for a protocol version: more than four fifths.
UPGRADE_SHARE: Final = Fraction(4, 5)

NOT_ENOUGH_BLOCKS, NOT_ENOUGH_CHUNKS, UNSTAKED, NOT_ENOUGH_STAKE, NO_SEAT = range(5)


@frozen
class SeatRules:
    """``kick_out_below``: percent of the blocks and of the chunks that were due; 0: nobody is kicked out for them."""

    seats: int = 100
    ratio: Fraction = Fraction(1, 6250)
    kick_out_below: int = 80
    max_kicked_percent: int = 30


@struct
@frozen
class KickOut:
    """``kind``: one of the constants above; ``had`` and ``needed``: blocks, chunks, or yoctoNEAR."""

    account: AccountId
    kind: U8
    had: U128 = 0
    needed: U128 = 0


@struct
@frozen
class EpochSet:
    """An epoch as it was fixed. ``before``: the id of the epoch before (its own where there is none). ``members``: of each
    shard, places of its chunk producers in ``validators``. ``stakes``: for every account that was or wanted to be a
    validator, what has to stay locked for this epoch. ``seat_price``: the least stake that would have had a seat."""

    id: Hash
    before: Hash
    number: U32
    version: U32
    validators: Proposals
    members: Annotated[tuple[tuple[int, ...], ...], Vector(Vector(U32, MAX_VALIDATORS), MAX_SHARDS)]
    stakes: Annotated[tuple[Locked, ...], Vector(Locked, MAX_LOCKS)]
    kicked: Annotated[tuple[KickOut, ...], Vector(KickOut, MAX_VALIDATORS)] = ()
    seat_price: U128 = 0


Numbers = Annotated[tuple[int, ...], Vector(U32, MAX_VALIDATORS)]


@struct
@frozen
class Tally:
    """What is counted from the first block of an epoch up to one of it: by account the latest proposal, and by place of the
    validators blocks and chunks made and due, and the newest protocol version that its blocks voted for (0: none)."""

    proposals: Proposals
    blocks: Numbers
    blocks_due: Numbers
    chunks: Numbers
    chunks_due: Numbers
    votes: Numbers

    @classmethod
    def of(cls, validators: int) -> Tally:
        zero = (0,) * validators
        return cls((), zero, zero, zero, zero, zero)

    def add(
        self,
        epoch: Epoch,
        parent_height: int,
        height: int,
        mask: Sequence[bool],
        proposals: Sequence[ValidatorStakeV1],
        vote: int,
    ) -> Tally:
        """With a block of the epoch at ``height`` on a parent: who made it, who made no block in between, which of the
        chunks on its parent are in it."""
        blocks, due = list(self.blocks), list(self.blocks_due)
        for skipped in range(max(parent_height + 1, height - MAX_SKIPPED), height):
            due[epoch.block_producer(skipped)] += 1
        maker = epoch.block_producer(height)
        blocks[maker] += 1
        due[maker] += 1
        chunks, chunks_due = list(self.chunks), list(self.chunks_due)
        for shard, new in enumerate(mask):
            author = epoch.chunk_producer(parent_height + 1, shard)
            chunks_due[author] += 1
            chunks[author] += new
        votes = self.votes
        if votes[maker] != vote:
            votes = (*votes[:maker], vote, *votes[maker + 1 :])
        latest = self.proposals
        if proposals:
            by_account = {one.account_id: one for one in (*latest, *proposals)}
            latest = tuple(by_account[account] for account in sorted(by_account))
        return Tally(latest, tuple(blocks), tuple(due), tuple(chunks), tuple(chunks_due), votes)


def kick_outs(stakes: Sequence[int], tally: Tally, rules: SeatRules) -> dict[int, tuple[int, int, int]]:
    """Place → (kind, made, due) of who missed too much. The best of all, until they have more than what may be kicked out
    of the stake leaves, always stay."""
    below = rules.kick_out_below

    def missed(made: int, due: int) -> bool:
        return 100 * made < below * due

    guilty = {}
    for at in range(len(stakes)):
        if missed(tally.blocks[at], tally.blocks_due[at]):
            guilty[at] = (NOT_ENOUGH_BLOCKS, tally.blocks[at], tally.blocks_due[at])
        elif missed(tally.chunks[at], tally.chunks_due[at]):
            guilty[at] = (NOT_ENOUGH_CHUNKS, tally.chunks[at], tally.chunks_due[at])
    if not guilty:
        return guilty

    def quality(at: int) -> tuple[Fraction, int, int]:
        made, due = tally.blocks[at] + tally.chunks[at], tally.blocks_due[at] + tally.chunks_due[at]
        return Fraction(made, due) if due else Fraction(1), stakes[at], -at

    kept, wanted = 0, (100 - rules.max_kicked_percent) * sum(stakes)
    for at in sorted(range(len(stakes)), key=quality, reverse=True):
        if 100 * kept >= wanted:
            break
        kept += stakes[at]
        guilty.pop(at, None)
    return guilty


def seated(candidates: Mapping[str, ValidatorStakeV1], rules: SeatRules) -> tuple[list[ValidatorStakeV1], int]:
    """Who gets a seat, in their order, and the seat price."""
    order = sorted(candidates.values(), key=lambda one: (-one.stake, one.account_id))
    chosen: list[ValidatorStakeV1] = []
    total = 0
    for one in order[: rules.seats]:
        if one.stake < rules.ratio * (total + one.stake):
            break
        chosen.append(one)
        total += one.stake
    if len(chosen) == rules.seats:
        return chosen, chosen[-1].stake + 1
    # With s of all the stake but its own, a stake x is worth its ratio r where x ≥ r·(s + x).
    price = -(-total * rules.ratio.numerator // (rules.ratio.denominator - rules.ratio.numerator))
    return chosen, max(1, price)


def version_after(stakes: Sequence[int], votes: Sequence[int], now: int) -> int:
    """The highest protocol version that validators of more than UPGRADE_SHARE of the stake can run, or the one there is."""
    total = sum(stakes)
    for version in sorted(set(votes), reverse=True):
        behind = sum(stake for stake, vote in zip(stakes, votes, strict=True) if vote >= version)
        if version > now and behind > UPGRADE_SHARE * total:
            return version
    return now


def reason(out: KickOut) -> Any:
    """As NEAR's own API says why somebody is no validator any more."""
    if out.kind == UNSTAKED:
        return "Unstaked"
    if out.kind == NO_SEAT:
        return "DidNotGetASeat"
    if out.kind == NOT_ENOUGH_STAKE:
        return {"NotEnoughStake": {"stake_u128": str(out.had), "threshold_u128": str(out.needed)}}
    name = "NotEnoughBlocks" if out.kind == NOT_ENOUGH_BLOCKS else "NotEnoughChunks"
    return {name: {"produced": out.had, "expected": out.needed}}


def first(id: bytes, validators: Sequence[Validator], shards: int, version: int) -> EpochSet:
    """Of the genesis: for the first two epochs."""
    members = assign_chunk_producers(validators, shards)
    stakes = tuple(Locked(one.account, one.stake) for one in sorted(validators, key=lambda one: one.account))
    named = tuple(ValidatorStakeV1(one.account, one.key, one.stake) for one in validators)
    return EpochSet(id, id, 0, version, named, members, stakes)


def following(ending: EpochSet, coming: EpochSet, tally: Tally, id: bytes, rules: SeatRules) -> EpochSet:
    """The epoch after ``coming``, named by the last block of ``ending``, whose blocks ``tally`` counted."""
    stakes = [one.stake for one in ending.validators]
    guilty = {
        ending.validators[at].account_id: KickOut(ending.validators[at].account_id, *why)
        for at, why in kick_outs(stakes, tally, rules).items()
    }
    candidates = {one.account_id: one for one in coming.validators}
    kicked = {account: why for account, why in guilty.items() if account in candidates}
    candidates.update({one.account_id: one for one in tally.proposals})
    for account, one in list(candidates.items()):
        if account in guilty:
            del candidates[account]
        elif not one.stake:
            del candidates[account]
            kicked[account] = KickOut(account, UNSTAKED)
    chosen, price = seated(candidates, rules)
    version = version_after(stakes, tally.votes, coming.version)
    accounts = sorted({one.account_id for one in (*coming.validators, *tally.proposals)})
    if not chosen:
        return evolve(coming, id=id, before=coming.id, number=coming.number + 1, version=version, kicked=())
    seats = {one.account_id: one.stake for one in chosen}
    for account, one in candidates.items():
        if account not in seats:
            full = len(chosen) == rules.seats
            kicked[account] = KickOut(account, NO_SEAT if full else NOT_ENOUGH_STAKE, one.stake, price)
    validators = [Validator(one.account_id, one.public_key, one.stake) for one in chosen]
    before = [[coming.validators[at].account_id for at in members] for members in coming.members]
    return EpochSet(
        id,
        coming.id,
        coming.number + 1,
        version,
        tuple(chosen),
        reassign(validators, before),
        tuple(Locked(account, seats.get(account, 0)) for account in accounts),
        tuple(kicked[account] for account in sorted(kicked)),
        price,
    )


def locks(epochs: Sequence[EpochSet]) -> dict[str, int]:
    """What each account has to leave locked because of these epochs (the one that begins, the one before, the next): the
    most that any of them asks for. Of others nothing is said."""
    found: dict[str, int] = {}
    for epoch in epochs:
        for one in epoch.stakes:
            found[one.account] = max(found.get(one.account, 0), one.stake)
    return found
