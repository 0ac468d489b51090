"""What the log says of the chain's progress: a line for an accepted block, or one a second for many.

Told from the chain events, so that every family's node, whether it makes blocks or follows, shows that it moves.
"""

from __future__ import annotations

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import ChainEvent, EventLog

QUIET_SECONDS = 1.0


async def tell_progress(events: EventLog, environment: Environment) -> None:
    """Runs for the node's life. A node that catches up accepts hundreds a second: those are one line together."""
    waiting: list[ChainEvent] = []
    async for event in events.subscribe():
        if isinstance(event, ChainEvent) and event.kind == "block_accepted":
            waiting.append(event)
        if waiting and event.sequence >= events.last_sequence:
            _tell(waiting, environment)
            waiting = []
            await environment.sleep(QUIET_SECONDS)


def _tell(accepted: list[ChainEvent], environment: Environment) -> None:
    last = accepted[-1].data
    said = {name: last[name] for name in ("height", "hash") if name in last}
    if "transactions" in last:
        said["transactions"] = sum(int(event.data.get("transactions", 0)) for event in accepted)
    if len(accepted) == 1:
        environment.logger.info("block accepted", **said)
    else:
        environment.logger.info("blocks accepted", blocks=len(accepted), **said)
