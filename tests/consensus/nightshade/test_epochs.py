"""Who validates: seats by stake, kick-outs with a bound, stake given back; and whole networks whose validators change."""

from __future__ import annotations

import itertools
from fractions import Fraction
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.errors import ConfigurationError
from nodewright_near.borsh import decode, encode
from nodewright_near.headers import Endorsement, InnerLite, ValidatorStakeV1, approval_message, bp_hash
from nodewright_near.merkle import combine
from nodewright_near.primitives import base58, hash256, parse_hash, parse_key, unbase58
from nodewright_near_api.lightclient import LightClientMethods
from nodewright_near_api.params import Params
from nodewright_near_api.reads import ChainReads
from nodewright_nightshade import selection
from nodewright_nightshade.keys import verify
from nodewright_nightshade.sampling import Epoch, Validator, assign_chunk_producers, reassign
from nodewright_nightshade.selection import EpochSet, SeatRules, Tally, following, kick_outs, seated, version_after

NAMES = [f"{letter}{number}.near" for letter in "abcdefgh" for number in range(3)]
STAKES = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 10**6), min_size=1, max_size=12)


def named(stakes: dict[str, int]) -> list[Validator]:
    return [Validator(name, b"\0" + sha256(name.encode()).digest(), stake) for name, stake in stakes.items()]


def proposal(name: str, stake: int) -> ValidatorStakeV1:
    return ValidatorStakeV1(name, b"\0" + sha256(name.encode()).digest(), stake)


def begun(stakes: dict[str, int], shards: int = 2) -> tuple[EpochSet, EpochSet]:
    one = selection.first(b"0" * 32, named(stakes), shards, 84)
    return one, evolve(one, id=b"1" * 32, number=1)


@given(STAKES, st.integers(1, 6), st.integers(2, 100))
def test_seats_go_to_the_highest_stakes_that_are_worth_one(stakes: dict[str, int], seats: int, divisor: int) -> None:
    rules = SeatRules(seats, Fraction(1, divisor))
    candidates = {name: proposal(name, stake) for name, stake in stakes.items()}
    chosen, price = seated(candidates, rules)
    assert 1 <= len(chosen) <= seats
    out = [one for one in candidates.values() if one not in chosen]
    assert all(one.stake <= chosen[-1].stake for one in out)
    assert all(one.stake < price for one in out)
    total = sum(one.stake for one in chosen)
    assert all(one.stake * divisor >= sum(other.stake for other in chosen[: at + 1]) for at, one in enumerate(chosen))
    # One more that stakes the price has a seat.
    more, _ = seated({**candidates, "z.near": proposal("z.near", price)}, rules)
    assert "z.near" in {one.account_id for one in more}, (price, total)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12))
def test_kick_outs_are_bounded_and_hit_only_who_missed(those: list[tuple[int, int, int]]) -> None:
    stakes = [stake for stake, _, _ in those]
    zero = (0,) * len(those)
    made = tuple(min(one, due) for _, one, due in those)
    tally = evolve(Tally.of(len(those)), blocks=made, blocks_due=tuple(due for _, _, due in those), chunks=zero)
    rules = SeatRules()
    out = kick_outs(stakes, tally, rules)
    assert 100 * sum(stakes[at] for at in out) <= rules.max_kicked_percent * sum(stakes)
    assert all(100 * made[at] < 80 * those[at][2] for at in out)
    assert not kick_outs(stakes, tally, evolve(rules, kick_out_below=0))
    guilty = {at for at, (_, _, due) in enumerate(those) if 100 * made[at] < 80 * due}
    if 100 * sum(stakes[at] for at in guilty) <= 30 * sum(stakes) - 100 * max(stakes):
        assert set(out) == guilty, "with room to spare nobody who missed stays"


@settings(max_examples=60)
@given(STAKES, st.lists(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 10**6), max_size=5), max_size=6))
def test_epochs_follow_from_what_was_proposed(stakes: dict[str, int], rounds: list[dict[str, int]]) -> None:
    """A model beside it: proposals of T count in T + 2, who is silent stays, the latest word counts; and what is locked."""
    rules = SeatRules(seats=8, ratio=Fraction(1, 10**7))
    past = list(begun(stakes))
    wanted = dict(stakes)
    for number, proposals in enumerate(rounds):
        tally = Tally.of(len(past[-2].validators))
        tally = evolve(tally, proposals=tuple(proposal(name, proposals[name]) for name in sorted(proposals)))
        made = following(past[-2], past[-1], tally, number.to_bytes(32, "big"), rules)
        assert decode(EpochSet, encode(made)) == made
        wanted = {one.account_id: one.stake for one in past[-1].validators} | proposals
        alive = sorted(((stake, name) for name, stake in wanted.items() if stake), key=lambda one: (-one[0], one[1]))[:8]
        if alive:
            assert [(one.stake, one.account_id) for one in made.validators] == alive
        else:
            assert made.validators == past[-1].validators
        assert all(len(set(those)) == len(those) >= min(2, len(made.validators)) for those in made.members)
        assert {at for those in made.members for at in those} == set(range(len(made.validators)))
        assert {one.account_id for one in made.validators} <= {one.account for one in made.stakes}
        past.append(made)
    for before, now, after in zip(past, past[1:], past[2:], strict=False):
        held = selection.locks([before, now, after])
        for epoch in (before, now, after):
            assert all(held[one.account_id] >= one.stake for one in epoch.validators), "a validator's stake is locked"
    gone = {one.account for epoch in past for one in epoch.stakes}
    last = selection.locks(past[-3:])
    for name in gone - {one.account_id for epoch in past[-3:] for one in epoch.validators}:
        assert last.get(name, 0) == 0


@settings(max_examples=60)
@given(STAKES, st.lists(STAKES, max_size=4), st.integers(1, 6))
def test_whoever_has_a_shards_state_keeps_making_its_chunks(
    stakes: dict[str, int], rounds: list[dict[str, int]], shards: int
) -> None:
    validators = named(stakes)
    members = assign_chunk_producers(validators, shards)
    for other in rounds:
        before = [[validators[at].account for at in those] for those in members]
        same = reassign(validators, before)
        assert all(set(now) <= set(those) for now, those in zip(same, members, strict=True)), "nobody syncs for nothing"
        validators = named(other)
        members = reassign(validators, before)
        least = min(2, len(validators))
        assert all(len(set(those)) == len(those) >= least for those in members)
        assert {at for those in members for at in those} == set(range(len(validators)))
        assert members == reassign(validators, before)


def test_a_version_needs_more_than_four_fifths_of_the_stake() -> None:
    assert version_after([50, 30, 20], [85, 85, 84], 84) == 84
    assert version_after([50, 31, 19], [85, 86, 84], 84) == 85
    assert version_after([50, 31, 19], [86, 86, 86], 84) == 86
    assert version_after([50, 50], [0, 84], 84) == 84
    assert version_after([50, 50], [83, 83], 84) == 84


def test_what_is_counted_of_a_block() -> None:
    members = assign_chunk_producers(named({"a0.near": 5, "b0.near": 5, "c0.near": 5}), 2)
    epoch = Epoch.of(b"e" * 32, tuple(proposal(name, 5) for name in ("a0.near", "b0.near", "c0.near")), members)
    tally = Tally.of(3)
    heights = [10, 11, 14, 15, 30]
    for parent, height in itertools.pairwise(heights):
        tally = tally.add(epoch, parent, height, (True, height % 2 == 0), [proposal("z.near", height)], 84)
    assert sum(tally.blocks) == 4
    assert sum(tally.blocks_due) == 20
    assert sum(tally.chunks_due) == 8
    assert sum(tally.chunks) == 4 + 2
    assert tally.proposals == (proposal("z.near", 30),)
    long = Tally.of(3).add(epoch, 10, 10**6, (True, True), (), 84)
    assert sum(long.blocks_due) == selection.MAX_SKIPPED + 1
    assert decode(Tally, encode(tally)) == tally


# --- networks ---------------------------------------------------------------------------------------------------------


async def stake(world: Any, node: Any, account: str, amount: int) -> None:
    """Sign for it as its owner, post it at the node."""
    signed = world.staking(account, amount, node.consensus.final().id)
    await node.pool.submit([signed.raw])
    await world.all_committed(node, [signed])


def validators_of(node: Any) -> set[str]:
    chain = node.consensus.chain
    return {one.account for one in chain.epochs.of(chain.chunk_epoch(chain.head.info)).validators}


def test_one_stakes_and_produces_another_leaves_and_nothing_stops(tell: Any, near: Any) -> None:
    async def story(world: Any) -> None:
        nodes = await world.found(5, 2, consensus={"epoch_length": 10}, staked=4)
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        fifth, leaver = nodes[4], nodes[1]
        assert fifth.name not in validators_of(fifth)
        began = fifth.consensus.chain.head.info.epoch
        await stake(world, nodes[0], fifth.name, 90 * near.NEAR)
        sent = await world.trade(nodes, 3, 0.3)
        await near.until(lambda: fifth.name in validators_of(fifth))
        joined = fifth.consensus.chain.head.info.epoch
        assert began + 1 <= joined <= began + 3, "two epochs after the one in which the proposal was published"
        await near.until(lambda: fifth.consensus.producer.produced.get("blocks", 0) > 0)
        await stake(world, fifth, leaver.name, 0)
        account = await nodes[0].account(leaver.name)
        assert account.locked == 100 * near.NEAR, "it stays locked while it validates"
        before = account.amount
        sent += await world.trade(nodes, 3, 0.3)
        await near.until(lambda: leaver.name not in validators_of(leaver))
        left = leaver.consensus.chain.head.info.epoch
        assert (await nodes[0].account(leaver.name)).locked == 100 * near.NEAR
        await leaver.kill()
        await near.until(lambda: nodes[0].consensus.chain.final.info.epoch > left + 1)
        account = await nodes[0].account(leaver.name)
        assert (account.locked, account.amount) == (0, before + 100 * near.NEAR), "all of it is its own again"
        # Every block that became final did so in time: no stretch of skipped heights at any change of validators.
        chain = nodes[0].consensus.chain
        heights = [height for height in range(1, chain.final.info.height) if await chain.at(height) is not None]
        assert len(heights) > 0.9 * heights[-1]
        await leaver.start()
        await near.at_rest(world, sent)
        # A restart in the middle of an epoch counts on from what was counted.
        await nodes[0].kill()
        await nodes[0].start()
        epoch = nodes[0].consensus.chain.head.info.epoch
        await near.until(lambda: all(node.consensus.chain.final.info.epoch > epoch + 1 for node in nodes))
        await world.same()
        seen = await light_client(nodes[1])
        assert any(fifth.name in those for those in seen)
        assert leaver.name in seen[0]
        assert leaver.name not in seen[-1]

    tell(story)


async def light_client(node: Any) -> list[set[str]]:
    """Follow the chain from its genesis as a light client does, by what the API of a node says, from epoch to epoch."""
    chain = node.consensus.chain
    handle: Any = SimpleNamespace(consensus=node.consensus, genesis=chain.genesis.document)
    nothing: Any = None
    client = LightClientMethods(ChainReads(handle, nothing), nothing)
    known, last = chain.root.info.hash, chain.root.info
    validators = {base58(bytes(32)): genesis_stakes(chain), base58(last.hash): genesis_stakes(chain)}
    seen: list[set[str]] = []
    while True:
        told = await client.next_block(Params([base58(known)]))
        if not told:
            return seen
        lite = told["inner_lite"]
        hashes = [parse_hash(lite[name]) for name in ("epoch_id", "next_epoch_id", "prev_state_root", "outcome_root")]
        roots = [parse_hash(lite[name]) for name in ("next_bp_hash", "block_merkle_root")]
        inner = InnerLite(lite["height"], *hashes, lite["timestamp"], *roots)
        rest, before = parse_hash(told["inner_rest_hash"]), parse_hash(told["prev_block_hash"])
        id = combine(combine(hash256(encode(inner)), rest), before)
        after = combine(parse_hash(told["next_block_inner_hash"]), id)
        message = approval_message(Endorsement(after), lite["height"] + 2)
        those = validators[lite["epoch_id"]]
        signed = 0
        for one, text in zip(those, told["approvals_after_next"], strict=False):
            if text is not None:
                assert verify(one.public_key, message, parse_signature(text))
                signed += one.stake
        assert 3 * signed > 2 * sum(one.stake for one in those)
        coming = tuple(
            ValidatorStakeV1(one["account_id"], parse_key(one["public_key"]), int(one["stake"])) for one in told["next_bps"]
        )
        assert bp_hash(coming) == inner.next_bp_hash
        validators[lite["next_epoch_id"]] = coming
        seen.append({one.account_id for one in coming})
        known = id


def genesis_stakes(chain: Any) -> tuple[ValidatorStakeV1, ...]:
    return tuple(ValidatorStakeV1(one.account, one.key, one.stake) for one in chain.genesis.validators)


def parse_signature(text: str) -> bytes:
    return b"\0" + unbase58(text.removeprefix("ed25519:"))


def test_who_makes_nothing_is_kicked_out_and_the_others_go_on(tell: Any, near: Any) -> None:
    async def story(world: Any) -> None:
        nodes = await world.found(4, 1, consensus={"epoch_length": 10, "kick_out_below": 80, "max_kicked_percent": 30})
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        lost = nodes[3]
        await lost.kill()
        await near.until(lambda: lost.name not in validators_of(nodes[0]))
        chain = nodes[0].consensus.chain
        made = [one for one in chain.epochs.sets.values() if one.kicked]
        assert made
        assert {one.account for epoch in made for one in epoch.kicked} == {lost.name}
        start = nodes[0].height
        await trio.sleep(30)
        assert nodes[0].height - start > 15, "nobody waits for who is gone"
        await lost.start()
        await near.until(lambda: lost.final >= nodes[0].final - 2)
        await stake(world, nodes[0], lost.name, 100 * near.NEAR)
        await near.until(lambda: lost.name in validators_of(lost))
        await near.until(lambda: lost.consensus.producer.produced.get("blocks", 0) > 0)
        await world.same()

    tell(story)


def test_a_protocol_is_voted_in_and_a_node_without_it_says_so(
    tell: Any, near: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nodewright_near import parameters
    from nodewright_nightshade import chainepochs as chains
    from nodewright_nightshade import genesis

    async def story(world: Any) -> None:
        for module in (parameters, genesis, chains):
            monkeypatch.setattr(module, "VERSIONS", frozenset({84, 85}))
        nodes = await world.found(4, 1, consensus={"epoch_length": 10}, document={"protocol_versions": {"0": 84, "8": 85}})
        chain = nodes[0].consensus.chain

        def version() -> int:
            return chain.epochs.sets[chain.chunk_epoch(chain.head.info)].version

        await near.until(lambda: nodes[0].height >= 8)
        assert version() == 84
        await near.until(lambda: version() == 85)
        assert chain.head.info.epoch >= 2
        await near.until(lambda: nodes[0].final > nodes[0].consensus.chain.head.info.epoch_start)
        monkeypatch.setattr(chains, "VERSIONS", frozenset({84}))
        with pytest.raises(ConfigurationError, match="upgrade nodewright"):
            chain.check_version(await chain.epoch_set(chain.chunk_epoch(chain.head.info)))
        monkeypatch.setattr(chains, "VERSIONS", frozenset({84, 85}))
        await world.same()

    tell(story)
