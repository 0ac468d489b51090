"""What a block's signatures say and by whose keys, for one batch check; and that there are enough of them. Pure."""

from __future__ import annotations

from attrs import define, field

from nodewright_near.headers import approval_message, approval_of, endorsement_message
from nodewright_nightshade.blocks import Block, Info, InvalidBlock, chunk_signing_message
from nodewright_nightshade.epochs import Approvers, Epochs
from nodewright_nightshade.mandates import endorsed


@define
class Statements:
    """Three lists of one length: keys of 32 bytes, messages, signatures of 64 bytes. The first is the block producer's."""

    keys: list[bytes] = field(factory=list)
    messages: list[bytes] = field(factory=list)
    signatures: list[bytes] = field(factory=list)

    def add(self, key: bytes, message: bytes, signature: bytes) -> None:
        """Key and signature in Borsh form; one of another kind than Ed25519 is none."""
        self.keys.append(key[1:])
        self.messages.append(message)
        self.signatures.append(signature[1:] if signature[0] == 0 else bytes(64))


def collect(block: Block, parent: Info, info: Info, epochs: Epochs, approvers: Approvers) -> Statements:
    """The producer's, approvals of more than two thirds, each new chunk's producer and endorsements of two thirds. Raises
    InvalidBlock where there are too few."""
    epoch, told = epochs.of(info.epoch_id), Statements()
    validators = epoch.validators
    told.add(validators[epoch.block_producer(info.height)].key, info.hash, block.header.signature)
    _approvals(block, parent, info, approvers, told)
    made = parent.height + 1
    for shard, header in enumerate(block.body.chunks):
        if not block.is_new(shard):
            continue
        author = validators[epoch.chunk_producer(made, shard)].key
        told.add(author, chunk_signing_message(header.inner), header.signature)
        assignment = epochs.assignment(epoch.id, made, shard)
        members = sorted(assignment)
        given = block.body.endorsements[shard]
        if len(given) != len(members):
            raise InvalidBlock(f"the chunk of shard {shard} has not one place for each of its validators")
        signers = [at for at, signature in zip(members, given, strict=True) if signature is not None]
        if not endorsed(assignment, signers):
            raise InvalidBlock(f"the chunk of shard {shard} is not endorsed by two thirds of its validators' stake")
        said = endorsement_message(header.hash())
        for at, signature in zip(members, given, strict=True):
            if signature is not None:
                told.add(validators[at].key, said, signature)
    return told


def _approvals(block: Block, parent: Info, info: Info, approvers: Approvers, told: Statements) -> None:
    approvals = block.header.inner_rest.approvals
    if len(approvals) > len(approvers.all):
        raise InvalidBlock("it has approvals of more than there are validators")
    message = approval_message(approval_of(parent.hash, parent.height, info.height), info.height)
    signed = [(one, given) for one, given in zip(approvers.all, approvals, strict=False) if given is not None]
    for one, given in signed:
        told.add(one.key, message, given)
    if not approvers.are_enough(sum(one.now for one, _ in signed), sum(one.then for one, _ in signed)):
        raise InvalidBlock("its approvals are not of more than two thirds of the stake")
