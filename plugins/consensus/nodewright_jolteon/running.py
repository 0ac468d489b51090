"""What running an ordered block depends on and what it comes to. Pure: the same on every node.

``BlockContext.time`` is whole seconds; ``extra`` has what a family's block metadata needs beyond it: round u64 ‖ time in
microseconds u64 ‖ ULEB128 length and bitmap of who voted for the parent ‖ ULEB128 count and u32 places of leaders whose
rounds failed before this one ‖ ULEB128 count of validators. ``proposer`` is the author's account as the genesis names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from nodewright.interfaces.common import BlockContext, Bundle, BundleRef
from nodewright.interfaces.execution import Outcome, Prologue
from nodewright_jolteon.batches import AGAIN, Batch
from nodewright_jolteon.codec import blob, digest, u32, u64, uleb, vector
from nodewright_jolteon.formats import Block, LedgerInfo
from nodewright_jolteon.genesis import MICROSECONDS, Parameters
from nodewright_jolteon.leaders import Record
from nodewright_jolteon.store import Carried, Done, Place
from nodewright_jolteon.validators import MAX_VALIDATORS, Epoch

MAX_CARRIED = 10_000
MAX_CARRIED_BYTES = 2 * 1024 * 1024
PROLOGUE = 0xFFFF_FFFF  # in place of a bundle: the block's first transaction


@frozen
class Ran:
    """``bundles`` as they ran; ``again`` the first of them, where transactions were ordered again."""

    done: Done
    outcome: Outcome
    bundles: tuple[Bundle, ...]
    again: Batch | None


def metadata(block: Block, record: Record, validators: int) -> bytes:
    bits = 0
    for place in record.voters:
        bits |= 1 << place
    voters = blob(bits.to_bytes((validators + 7) // 8, "little"))
    return u64(block.round) + u64(block.time) + voters + vector(record.failed, u32) + uleb(validators)


def context_of(block: Block, record: Record, epoch: Epoch, version: int, before: Done) -> BlockContext:
    return BlockContext(
        block.height,
        block.time // MICROSECONDS,
        epoch.validators.members[block.author].account,
        randomness=digest("randomness", block.id),
        epoch=epoch.number,
        protocol_version=version,
        extra=metadata(block, record, len(epoch.validators)),
        parent_commitment=before.info.commitment or None,
    )


def ordered_again(block: Block, carried: Sequence[Carried]) -> tuple[Batch, Bundle] | None:
    """The transactions of earlier blocks that are to run first in this one."""
    if not carried:
        return None
    batch = Batch.make(AGAIN, block.height, block.epoch, block.time, [item.raw for item in carried])
    reference = BundleRef(batch.info.digest, batch.info.count, batch.info.size)
    return batch, Bundle(reference, b"".join(item.id for item in carried), batch.bodies)


def judged(
    block: Block,
    record: Record,
    epoch: Epoch,
    before: Done,
    bundles: Sequence[Bundle],
    again: Batch | None,
    prologue: Prologue,
    outcome: Outcome,
    parameters: Parameters,
) -> Ran:
    """The block's place in the ledger, and what becomes of each transaction."""
    since = {item.id: item.since for item in before.carried}
    rejected = {id: f"{code}: {message}" for id, (code, message) in outcome.discarded.items()}
    carried: list[Carried] = []
    size = 0
    waiting = dict(outcome.retry)
    latest = block.time - parameters.retry_seconds * MICROSECONDS
    for bundle in bundles if waiting else ():
        for index in range(len(bundle)):
            id = bundle.id_at(index)
            reason = waiting.pop(id, None)
            if reason is None or bundle.bodies is None:
                continue
            raw, first = bundle.bodies[index], since.get(id, block.time)
            if first < latest or len(carried) == MAX_CARRIED or size + len(raw) > MAX_CARRIED_BYTES:
                rejected[id] = f"given up: {reason}"
                continue
            carried.append(Carried(id, first, raw))
            size += len(raw)
    updates: dict[bytes, int] = dict(before.updates)
    following = None
    if outcome.updates is not None:
        updates.update(outcome.updates.validators)
        if outcome.updates.epoch_end:
            following, updates = epoch.validators.changed(updates), {}
    while len(updates) > 4 * MAX_VALIDATORS:
        updates.pop(max(updates))
    commitment = outcome.commitment or b""
    root = digest("root", before.info.root, block.id, commitment, _results(outcome))
    info = LedgerInfo(epoch.number, block.round, block.ref, block.time, root, commitment, following)
    prologue_id = prologue.id if prologue.raw else b""
    done = Done(
        info,
        record,
        tuple(bundle.ref for bundle in bundles),
        prologue.raw,
        prologue_id,
        0,
        rejected,
        tuple(item.id for item in carried),
        tuple(carried),
        updates,
    )
    return Ran(done, outcome, tuple(bundles), again)


def _results(outcome: Outcome) -> bytes:
    """What an outcome says beside its commitment, which not every execution has say it all."""
    updates = b""
    if outcome.updates is not None:
        powers = vector(sorted(outcome.updates.validators.items()), lambda item: blob(item[0]) + u64(item[1]))
        updates = powers + bytes([outcome.updates.epoch_end])
    return digest(
        "results",
        vector(sorted(outcome.discarded), bytes),
        vector(sorted(outcome.retry), bytes),
        str(outcome.gas_used).encode(),
        str(outcome.fees).encode(),
        updates,
    )


def places_of(
    height: int, bundles: Sequence[Bundle], refused: Mapping[bytes, object], prologue_id: bytes
) -> dict[bytes, Place]:
    """Where each transaction that was kept stands; of one that occurs twice, the first place."""
    places: dict[bytes, Place] = {}
    for number, bundle in enumerate(bundles):
        ids = bundle.ids
        for index in range(len(bundle)):
            id = ids[32 * index : 32 * index + 32]
            if id not in refused and id not in places:
                places[id] = Place(height, number, index)
    if prologue_id:
        places[prologue_id] = Place(height, PROLOGUE, 0)
    return places
