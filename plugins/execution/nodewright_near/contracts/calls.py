"""A call of a contract as the runtime sees it: what it is given, what came of it, and the contract of a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attrs import define, field, frozen

from nodewright_near.contracts.meter import MAX_HOST_CALLS
from nodewright_near.errors import ErrorValue
from nodewright_near.parameters import Parameters
from nodewright_near.receipts import DataReceiver, Receipt
from nodewright_near.state import State


@frozen
class Call:
    """``balance`` has the deposit in it already. ``promise_results``: None for one that failed. ``action_hash`` is what ids
    of data are made from; ``view`` calls change nothing. ``deadline`` is asked whenever the contract asks something of its
    host, and ends a view by raising. ``host_calls``: how often it may."""

    parameters: Parameters
    account_id: str
    signer_id: str
    signer_key: bytes
    predecessor_id: str
    code: bytes
    code_hash: bytes
    method: str
    args: bytes
    gas: int
    deposit: int
    balance: int
    locked: int
    storage_usage: int
    gas_price: int
    height: int
    timestamp: int
    epoch: int
    random_seed: bytes
    action_hash: bytes
    promise_results: tuple[bytes | None, ...] = ()
    output_receivers: tuple[DataReceiver, ...] = ()
    view: bool = False
    deadline: Callable[[], None] | None = None
    host_calls: int = MAX_HOST_CALLS


@define
class CallOutcome:
    """``value`` as in ``actions.Result``; ``receipts`` have no id yet. On an error nothing but gas and logs counts.
    ``host_calls`` count for how much a chunk runs beside its gas, and nobody pays for them; so does ``code_work``, what it
    takes to make the code ready."""

    gas_burnt: int
    gas_used: int
    balance: int
    storage_usage: int
    value: bytes | int | None = None
    receipts: list[Receipt] = field(factory=list)
    logs: list[str] = field(factory=list)
    error: ErrorValue | None = None
    host_calls: int = 0
    code_work: int = 0


class Machine(Protocol):
    def call(self, call: Call, state: State) -> CallOutcome:
        """Runs the method to its end or to its gas. Raises ``state.Absent`` where state is to be loaded first: the call is
        then made again from its beginning, which comes to the same by determinism. Nothing else is raised."""
