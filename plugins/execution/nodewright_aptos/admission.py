"""Taking transactions in: form, signatures in one batch, then each against the head's state; and what to put into a block.

A sequence number may be up to ``MAX_AHEAD`` above its account's: such a transaction waits for those before it. The first
one seen of a sender and sequence number keeps its place; another one is refused (``conflict``), whatever it pays.
Transactions are ordered as they came, not by their gas price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from nodewright.interfaces.common import Admission, Admitted, Refused
from nodewright.interfaces.execution import Candidate, Limits, Selection
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.functions import Functions
from nodewright_aptos.prologue import STATUS_CODES, TOO_NEW, Problem, check_form, check_prologue
from nodewright_aptos.reservations import Reservations
from nodewright_aptos.resources import account_key, apt_store_key, balance, sequence_number
from nodewright_aptos.state import BlockEnvironment
from nodewright_aptos.transactions import MAX_TRANSACTION_BYTES, UserTransaction, decode_transaction

MAX_AHEAD: Final = 1000
MAX_PER_SENDER: Final = 1000
MAX_BYTES_PER_SENDER: Final = 4 * 1024 * 1024
MAX_WAIT_SECONDS: Final = 600  # in the pool, however late a transaction itself expires
_KINDS: Final = {
    "TRANSACTION_EXPIRED": "expired",
    "EXCEEDED_MAX_TRANSACTION_SIZE": "malformed",
    "SEQUENCE_NUMBER_TOO_NEW": "policy",
    "SENDING_ACCOUNT_DOES_NOT_EXIST": "missing",
}
_TRANSFERS: Final = frozenset(
    {"transfer", "transfer_coins", "batch_transfer", "batch_transfer_coins", "fungible_transfer_only"}
)

State = Mapping[bytes, bytes | None]


def refused(problem: Problem, id: bytes | None) -> Refused:
    """``data`` has ``vm_status`` (its number) and ``prologue`` (1001 to 1009, 0 where it is not of the prologue)."""
    data = {"vm_status": STATUS_CODES.get(problem.status, 0), "prologue": problem.prologue}
    return Refused(problem.status, problem.message, _KINDS.get(problem.status, "invalid"), id, data)


def parse(raw: bytes) -> UserTransaction | Refused:
    if len(raw) > MAX_TRANSACTION_BYTES:
        message = f"{len(raw)} bytes are more than {MAX_TRANSACTION_BYTES}"
        return refused(Problem("EXCEEDED_MAX_TRANSACTION_SIZE", message), None)
    try:
        return decode_transaction(raw)
    except Malformed as error:
        return Refused("MALFORMED_TRANSACTION", str(error), "malformed")


def state_keys(transactions: Sequence[UserTransaction]) -> dict[bytes, None]:
    """What the checks of these look at."""
    keys: dict[bytes, None] = {}
    for transaction in transactions:
        keys[account_key(transaction.sender)] = None
        keys[apt_store_key(transaction.payer)] = None
        keys[apt_store_key(transaction.sender)] = None
        for address in transaction.secondary:
            keys[account_key(address)] = None
        if transaction.fee_payer is not None:
            keys[account_key(transaction.fee_payer)] = None
    return keys


def charges(transaction: UserTransaction) -> dict[bytes, int]:
    """What it may cost whom at most, as far as its arguments say: gas, and what the framework's transfers send."""
    cost = {transaction.payer: transaction.max_fee}
    payload = transaction.payload
    arguments = getattr(payload, "arguments", ())
    if arguments and getattr(payload, "name", "") in _TRANSFERS:
        last = arguments[-1]
        if len(last) == 8:
            sent = int.from_bytes(last, "little")
        else:
            tail = last[len(last) & 7 :]  # a count, and numbers of eight bytes
            sent = sum(int.from_bytes(tail[at : at + 8], "little") for at in range(0, len(tail), 8))
        cost[transaction.sender] = cost.get(transaction.sender, 0) + sent
    return cost


class Admitter:
    def __init__(self, functions: Functions, reservations: Reservations) -> None:
        self.functions = functions
        self.reservations = reservations

    def form(self, raw: bytes) -> UserTransaction | Admission:
        """What can be said without the state and without the signatures."""
        transaction = parse(raw)
        if isinstance(transaction, Refused):
            return transaction
        held = self.reservations.by_id.get(transaction.id)
        if held is not None:
            return self._admitted(held.transaction, None, known=True)
        problem = check_form(transaction, self.functions)
        return transaction if problem is None else refused(problem, transaction.id)

    @staticmethod
    def _admitted(transaction: UserTransaction, time: int | None, known: bool = False) -> Admitted:
        """``time``: the ledger's, in whole seconds; None where the pool has it already."""
        expires = transaction.expires_at if time is None else min(transaction.expires_at, time + MAX_WAIT_SECONDS)
        return Admitted(transaction.id, transaction.raw, transaction.max_fee, b"", expires, known)

    def admit(self, transaction: UserTransaction, state: State, block: BlockEnvironment) -> Admission:
        """Against the state and what is reserved; reserves."""
        held = self.reservations
        if transaction.id in held.by_id:  # twice in one call
            return self._admitted(transaction, None, known=True)
        problem = check_prologue(state.__getitem__, transaction, block)
        if problem is not None:
            account = state[account_key(transaction.sender)]
            ahead = 0 if account is None else transaction.sequence_number - sequence_number(account)
            if problem.prologue != TOO_NEW or ahead > MAX_AHEAD:
                return refused(problem, transaction.id)
            problem = self._check_later(transaction, state)
            if problem is not None:
                return refused(problem, transaction.id)
        holder = held.holder(transaction)
        if holder is not None:
            message = "another transaction of this sender and sequence number was accepted before"
            data = {"winner": holder, "vm_status": 0, "prologue": 0}
            return Refused("SEQUENCE_NUMBER_TAKEN", message, "conflict", transaction.id, data)
        full = held.count(transaction.sender) >= MAX_PER_SENDER
        if full or held.bytes_of(transaction.sender) + len(transaction.raw) > MAX_BYTES_PER_SENDER:
            message = (
                f"{MAX_PER_SENDER} transactions, or {MAX_BYTES_PER_SENDER} bytes, of one sender may wait: send this one "
                "again later"
            )
            return Refused("TOO_MANY_TRANSACTIONS", message, "busy", transaction.id, {"retry_after_seconds": 1})
        held.add(transaction, charges(transaction))
        return self._admitted(transaction, block.seconds)

    def _check_later(self, transaction: UserTransaction, state: State) -> Problem | None:
        """What the prologue had not come to when it found the sequence number too new."""
        coins = state[apt_store_key(transaction.payer)]
        if coins is None or balance(coins) < transaction.max_fee:
            return Problem("INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE", "its payer cannot pay for its gas", 1005)
        return None


def select(
    candidates: Sequence[Candidate], reservations: Reservations, state: State, limits: Limits, time: int
) -> Selection:
    """Those that run one after the other on this state, in order: of each sender by sequence number, none of which is
    missing, and none that its payer might be unable to pay for once all that is reserved before it has run. Others wait,
    until they expire: ``time`` is the ledger's, in whole Unix seconds."""
    chosen: list[Candidate] = []
    deferred: list[Candidate] = []
    rejected: dict[bytes, str] = {}
    room, gas = limits.max_bytes, limits.max_gas
    for candidate in by_sequence(candidates, reservations):
        held = reservations.by_id.get(candidate.id)
        if held is None:
            rejected[candidate.id] = "its sequence number was used by another transaction"
            continue
        transaction = held.transaction
        if transaction.expires_at <= time:
            rejected[candidate.id] = f"TRANSACTION_EXPIRED: it expired at {transaction.expires_at}"
            continue
        fits = (
            len(chosen) < limits.max_count and candidate.size <= room and (not limits.max_gas or transaction.max_gas <= gas)
        )
        if not fits or not _runs(transaction, reservations, state):
            deferred.append(candidate)
            continue
        chosen.append(candidate)
        room -= candidate.size
        gas -= transaction.max_gas
    return _without_gaps(chosen, deferred, rejected, reservations)


def _runs(transaction: UserTransaction, reservations: Reservations, state: State) -> bool:
    account, coins = state.get(account_key(transaction.sender)), state.get(apt_store_key(transaction.payer))
    if account is None or coins is None:
        return False
    first = sequence_number(account)
    if transaction.sequence_number < first:
        return False
    earlier = reservations.earlier(transaction, first)
    if earlier is None:
        return False
    payer = transaction.payer
    if payer == transaction.sender:
        owed = sum(one.charges.get(payer, 0) for one in earlier)
    else:
        owed = reservations.owed.get(payer, 0) - transaction.max_fee
    return balance(coins) - owed >= transaction.max_fee


def _without_gaps(
    chosen: list[Candidate], deferred: list[Candidate], rejected: dict[bytes, str], reservations: Reservations
) -> Selection:
    """A sender's later transactions wait where an earlier one of these candidates does."""
    waits: dict[bytes, int] = {}
    for candidate in deferred:
        transaction = reservations.by_id[candidate.id].transaction
        lowest = waits.get(transaction.sender, transaction.sequence_number)
        waits[transaction.sender] = min(lowest, transaction.sequence_number)
    if not waits:
        return Selection(chosen, rejected, deferred)
    kept = []
    for candidate in chosen:
        transaction = reservations.by_id[candidate.id].transaction
        if transaction.sequence_number > waits.get(transaction.sender, transaction.sequence_number):
            deferred.append(candidate)
        else:
            kept.append(candidate)
    return Selection(kept, rejected, deferred)


def by_sequence(candidates: Sequence[Candidate], reservations: Reservations) -> list[Candidate]:
    """The same candidates; those of one sender change places so that their sequence numbers rise."""
    places: dict[bytes, list[tuple[int, int]]] = {}
    for index, candidate in enumerate(candidates):
        held = reservations.by_id.get(candidate.id)
        if held is not None:
            places.setdefault(held.transaction.sender, []).append((held.transaction.sequence_number, index))
    ordered = list(candidates)
    for listed in places.values():
        if len(listed) > 1:
            wanted = sorted(listed)
            if wanted != listed:
                for (_, place), (_, source) in zip(listed, wanted, strict=True):
                    ordered[place] = candidates[source]
    return ordered
