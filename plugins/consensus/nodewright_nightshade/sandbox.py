"""What only a lone sandbox can do: put records into the state, and jump ahead.

Both are refused unless the network is local (``local.is_local``) and this node alone has more than two thirds of the stake.
A jump breaks no rule: its one validator approves skipping the heights in between, as if it had waited for them; times do
not jump with it. A patch is no part of a block: it is applied with the next chunk of its shard, and kept beside that until
it is final. The call is answered when the block of that chunk stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import trio

from nodewright.errors import ConfigurationError, ControlRefused
from nodewright_nightshade import local
from nodewright_nightshade.chain import Chain
from nodewright_nightshade.producer import Producer

PATCH_SECONDS = 30.0
JUMP_SECONDS = 30.0
MAX_JUMP = 1_000_000


class Patches(Protocol):
    """``pending`` wait for a run of their shard; ``bound`` are blocks with a patch that are run and not committed."""

    pending: dict[int, dict[bytes, bytes]]
    bound: set[bytes]


@runtime_checkable
class Patched(Protocol):
    """An execution whose state can be written over."""

    patches: Patches

    async def patch(self, records: Sequence[Mapping[str, Any]]) -> None: ...


def _alone(chain: Chain, producer: Producer | None) -> Producer:
    """Raises ControlRefused."""
    if producer is None or not local.is_local(chain.genesis.document):
        raise ControlRefused("sandbox calls are for local networks: this genesis is not local")
    if producer.signer is None or not chain.approvers(chain.head.info).enough([producer.signer.account]):
        raise ControlRefused("sandbox calls need a network whose only validator is this node")
    return producer


async def patch_state(chain: Chain, producer: Producer | None, records: Sequence[Mapping[str, Any]]) -> None:
    """Returns once the records are in the state of the head. Raises ControlRefused."""
    producer = _alone(chain, producer)
    execution = chain.execution
    if not isinstance(execution, Patched):
        raise ControlRefused("this execution's state cannot be patched")
    try:
        await execution.patch(records)
    except ConfigurationError as error:
        raise ControlRefused(str(error).removeprefix("genesis: ")) from error
    with trio.move_on_after(PATCH_SECONDS) as waited:
        patches = execution.patches
        while patches.pending or not all(block in chain.held for block in patches.bound):
            await chain.moved()
    if waited.cancelled_caught:
        raise ControlRefused(f"no chunk was made within {PATCH_SECONDS:g} s: the records wait for the next one")


async def fast_forward(chain: Chain, producer: Producer | None, delta_height: int) -> None:
    """A block stands so many heights above the head when this returns. Raises ControlRefused."""
    if not 1 <= delta_height <= MAX_JUMP:
        raise ControlRefused(f"delta_height must be from 1 to {MAX_JUMP}, not {delta_height}")
    target = chain.head.info.height + delta_height
    _alone(chain, producer).jump(delta_height)
    with trio.move_on_after(JUMP_SECONDS) as waited:
        while chain.head.info.height < target:
            await chain.moved()
    if waited.cancelled_caught:
        raise ControlRefused(f"no block was made within {JUMP_SECONDS:g} s: the node goes on trying")
