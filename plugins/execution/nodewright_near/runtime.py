"""One chunk on the state of its shard: pure, without store, clock or waiting.

Order: stake given back where an epoch begins; receipts held back earlier, as far as limits allow; transactions; local
receipts (an account's to itself), delayed ones, incoming ones, until the gas of the chunk is spent: the rest is delayed.
A receipt for another account leaves the chunk, also one for an account of this very shard: it comes in with the next chunk.

``run`` is a generator: it yields what it needs to have loaded into ``state`` (``Need``), and steps that may take long, for
whoever drives it to run where that holds nothing up (``Long``); it returns a ``ChunkResult``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from attrs import define, field, frozen

from nodewright.interfaces.verifier import Verifier
from nodewright_near.accounts import account_key, delayed_key
from nodewright_near.checks import charge, check_form
from nodewright_near.congestion import NO_LIMIT, Backlog, ShardCongestion, limits_to, receipt_gas
from nodewright_near.contracts.calls import Machine
from nodewright_near.errors import ErrorValue, Refusal
from nodewright_near.fees import Cost, CostOverflow, transaction_cost
from nodewright_near.genesis import shard_of
from nodewright_near.headers import CongestionInfo, ValidatorStakeV1
from nodewright_near.outcomes import ChunkOutcomes, Outcome, SuccessReceiptId
from nodewright_near.parameters import Parameters
from nodewright_near.processing import Done, Setting, process
from nodewright_near.receipts import ActionReceipt, Receipt, receipt_id
from nodewright_near.state import BY_RECEIPT, BY_TRANSACTION, Absent, State
from nodewright_near.transactions import FunctionCall, SignedTransaction
from nodewright_near.transfers import Transfers

T = TypeVar("T")
PREFETCHED_DELAYED: Final = 256


@frozen
class Need:
    """``keys`` are to be in ``State.loaded`` when the run goes on, and what is under ``prefixes`` in ``State.listed``."""

    keys: Sequence[bytes]
    prefixes: Sequence[bytes] = ()


@frozen
class Long:
    """``step`` calls contracts. The run goes on with what it came to, or with what it lacked."""

    step: Callable[[], Any]


Run = Generator[Need | Long, Any, T]


@frozen
class ChunkInput:
    """``signed``: for each transaction whether its signature is good. ``refused``: numbers of transactions that the chain
    itself refuses. ``timestamp`` in nanoseconds. ``info`` is what the shard's last chunk left behind. ``locks``: what
    accounts have to leave at stake, said when an epoch begins."""

    parameters: Parameters
    shard: int
    boundaries: tuple[str, ...]
    height: int
    timestamp: int
    epoch: int
    gas_price: int
    random_seed: bytes
    transactions: Sequence[SignedTransaction]
    signed: Sequence[bool]
    incoming: Sequence[Receipt]
    info: CongestionInfo
    congestion: Mapping[int, ShardCongestion]
    refused: frozenset[int] = frozenset()
    locks: Mapping[str, int] = field(factory=dict)


@define
class ChunkResult:
    """``outgoing`` by destination, in the order sent. ``refusals`` of transactions that had their place and no effect;
    ``nonces`` the last one used of each key (by its row), and the transaction that used it."""

    outcomes: ChunkOutcomes = field(factory=ChunkOutcomes)
    outgoing: dict[int, list[Receipt]] = field(factory=dict)
    refusals: dict[bytes, ErrorValue] = field(factory=dict)
    proposals: list[ValidatorStakeV1] = field(factory=list)
    nonces: dict[bytes, tuple[int, bytes]] = field(factory=dict)
    gas_used: int = 0
    balance_burnt: int = 0
    info: CongestionInfo = field(factory=CongestionInfo)


def run(given: ChunkInput, state: State, verifier: Verifier, machine: Machine, by_hand: bool = True) -> Run[ChunkResult]:
    """``state`` is empty or holds loaded values only; afterwards its ``changes`` are the chunk's. ``by_hand``: whether
    plain transfers are (``transfers``), which changes nothing but the time it takes."""
    chunk = _Chunk(given, state, verifier, machine)
    chunk.by_hand = by_hand and chunk.transfers.possible
    yield from chunk.need(chunk.first_keys())
    chunk.backlog = Backlog.load(given.parameters, state, given.info)
    yield from chunk.unlock()
    yield from chunk.forward()
    chunk.transactions()
    yield from chunk.take_all(chunk.local)
    yield from chunk.delayed()
    yield from chunk.take_all(given.incoming)
    return chunk.finish()


def may_call(receipt: Receipt) -> bool:
    """Whether a contract may run when it is processed: data may be what a postponed call has waited for."""
    body = receipt.receipt
    return not isinstance(body, ActionReceipt) or any(isinstance(action, FunctionCall) for action in body.actions)


class _Chunk:
    def __init__(self, given: ChunkInput, state: State, verifier: Verifier, machine: Machine) -> None:
        self.given = given
        self.state = state
        self.parameters = given.parameters
        self.setting = Setting(
            given.parameters,
            verifier,
            machine,
            given.height,
            given.timestamp,
            given.epoch,
            given.gas_price,
            given.random_seed,
        )
        self.shards = range(len(given.boundaries) + 1)
        self.limits = limits_to(given.parameters, given.congestion, given.shard, self.shards)
        self.result = ChunkResult()
        self.transfers = Transfers(given.parameters, state, given.height, given.gas_price)
        self.by_hand = self.transfers.possible
        self.work = 0  # of the host for contracts, beside gas
        self.codes: dict[bytes, int] = {}  # that were called, and what of the work is theirs
        self.local: list[Receipt] = []
        self.backlog: Backlog

    # --- loading ---

    def first_keys(self) -> Iterable[bytes]:
        yield from Backlog.keys()
        for signed in self.given.transactions:
            yield signed.row
            yield signed.slot
        for receipt in self.given.incoming:
            yield account_key(receipt.receiver_id)

    def need(self, keys: Iterable[bytes]) -> Run[None]:
        absent = self.state.absent(keys)
        if absent:
            yield Need(absent)

    def attempt(self, step: Callable[[], T], long: bool = False) -> Run[T]:
        """The step, begun again whenever something had to be loaded for it."""
        while True:
            try:
                answer: T | Absent = (yield Long(step)) if long else step()
            except Absent as absent:
                answer = absent
            if not isinstance(answer, Absent):
                return answer
            self.state.rollback()
            yield Need(answer.keys, answer.prefixes)

    # --- an epoch begins ---

    def unlock(self) -> Run[None]:
        """What accounts have at stake beyond what they must is theirs again."""
        state, locks = self.state, self.given.locks
        yield from self.need(map(account_key, locks))
        for name, least in locks.items():
            account = state.account(name)
            if account is not None and account.locked > least:
                account.amount += account.locked - least
                account.locked = least
                state.set_account(name, account)
        state.commit()

    # --- receipts on their way out ---

    def forward(self) -> Run[None]:
        backlog = self.backlog
        for shard in sorted(backlog.buffered):
            while True:
                receipt = yield from self.attempt(lambda shard=shard: backlog.held(shard))  # type: ignore[misc]
                if receipt is None or not self._may_leave(shard, receipt):
                    break
                backlog.let_go(shard, receipt)
                self.state.commit()

    def _may_leave(self, shard: int, receipt: Receipt) -> bool:
        limit, outgoing = self.limits[shard], self.result.outgoing
        if limit == NO_LIMIT:
            if shard in outgoing:
                outgoing[shard].append(receipt)
            else:
                outgoing[shard] = [receipt]
            return True
        gas = receipt_gas(self.parameters, receipt)
        # One larger than what a full shard ever lets in must still get out: it takes all of that limit.
        if limit < min(gas, self.parameters.congestion.allowed_shard_outgoing_gas):
            return False
        self.limits[shard] = max(limit - gas, 0)
        outgoing.setdefault(shard, []).append(receipt)
        return True

    def send(self, receipt: Receipt) -> None:
        shard = shard_of(receipt.receiver_id, self.given.boundaries)
        queue = self.backlog.buffered.get(shard) if self.backlog.buffered else None
        if (queue is not None and len(queue)) or not self._may_leave(shard, receipt):
            self.backlog.hold(shard, receipt)
            self.state.commit()

    # --- transactions ---

    def transactions(self) -> None:
        given, seen, result = self.given, set[bytes](), self.result
        identities = self.transfers.identities(given.transactions) if self.by_hand else ()
        wrong = {index for index, good in enumerate(given.signed) if not good} | given.refused
        convert, send_gas, burnt = self.transfers.convert, self.transfers.send_gas, self.transfers.burnt
        here, boundaries, add, nonces = given.shard, given.boundaries, result.outcomes.add, result.nonces
        for index, signed in enumerate(given.transactions):
            id, signer = signed.id, signed.signer
            if id in seen:
                continue
            seen.add(id)
            if self.by_hand and index not in wrong and (not boundaries or shard_of(signer, boundaries) == here):
                done = convert(signed, identities[index])
                if done is not None:
                    receipt, partial = done
                    own = signed.receiver == signer
                    add(id, partial)
                    nonces[signed.slot] = (signed.nonce, id)
                    result.gas_used += send_gas[own]
                    result.balance_burnt += burnt[own]
                    if own:
                        self.local.append(receipt)
                    else:
                        self.send(receipt)
                    continue
            self.transfers.settle()
            try:
                self._convert(index, signed)
            except Refusal as refusal:
                self.state.rollback()
                self.result.refusals[id] = refusal.value
            except CostOverflow:
                self.result.refusals[id] = "CostOverflow"

    def _convert(self, index: int, signed: SignedTransaction) -> None:
        given, state, transaction = self.given, self.state, signed.transaction
        if shard_of(transaction.signer_id, given.boundaries) != given.shard:
            raise Refusal("InvalidShard", signer_id=transaction.signer_id)
        if index in given.refused:
            raise Refusal("Expired")
        check_form(self.parameters, signed)
        if not given.signed[index]:
            raise Refusal("InvalidSignature")
        cost = transaction_cost(self.parameters, transaction, given.gas_price)
        account, key = charge(
            self.parameters,
            transaction,
            state.account(transaction.signer_id),
            state.access_key(transaction.signer_id, transaction.public_key),
            cost,
            given.height,
        )
        state.set_account(transaction.signer_id, account)
        state.set_access_key(transaction.signer_id, transaction.public_key, key)
        state.commit((BY_TRANSACTION, signed.id))
        self._converted(signed, cost)

    def _converted(self, signed: SignedTransaction, cost: Cost) -> None:
        transaction, result = signed.transaction, self.result
        identity = receipt_id(signed.id, self.given.height, 0)
        body = ActionReceipt(
            transaction.signer_id, transaction.public_key, self.given.gas_price, (), (), transaction.actions
        )
        receipt = Receipt(transaction.signer_id, transaction.receiver_id, identity, body)
        result.outcomes.append(
            Outcome(
                signed.id,
                (identity,),
                cost.gas_burnt,
                cost.burnt_amount,
                transaction.signer_id,
                SuccessReceiptId(identity),
            )
        )
        result.nonces[signed.slot] = (transaction.nonce, signed.id)
        result.gas_used += cost.gas_burnt
        result.balance_burnt += cost.burnt_amount
        if transaction.signer_id == transaction.receiver_id:
            self.local.append(receipt)
        else:
            self.send(receipt)

    # --- receipts that have arrived ---

    def take_all(self, receipts: Iterable[Receipt]) -> Run[None]:
        """In their order; plain transfers without a step of their own. What those changed is settled then."""
        result, receive, limit = self.result, self.transfers.receive, self.parameters.gas_limit
        add, gas = result.outcomes.add, self.transfers.exec_gas
        for receipt in receipts:
            if self.by_hand and result.gas_used + self.work < limit:
                partial = receive(receipt)
                if partial is not None:
                    add(receipt.receipt_id, partial)
                    result.gas_used += gas
                    result.balance_burnt += gas * receipt.gas_price
                    continue
            self.transfers.settle()
            yield from self.take(receipt)
        self.transfers.settle()

    def take(self, receipt: Receipt) -> Run[None]:
        """Run it, or delay it where the chunk's gas is spent."""
        if self.result.gas_used + self.work >= self.parameters.gas_limit:
            self.backlog.delay(receipt)
            self.state.commit()
        else:
            yield from self.process(receipt)

    def process(self, receipt: Receipt) -> Run[None]:
        done: Done = yield from self.attempt(partial(process, self.setting, self.state, receipt), may_call(receipt))
        self.state.commit((BY_RECEIPT, receipt.receipt_id))
        result = self.result
        result.balance_burnt += done.burnt
        self.work += done.work
        for code, work in done.codes.items():
            if work > self.codes.get(code, 0):
                self.work += work - self.codes.get(code, 0)
                self.codes[code] = work
        result.proposals += done.proposals
        if done.outcome is not None:
            result.outcomes.append(done.outcome)
            result.gas_used += done.outcome.gas_burnt
        for child in done.receipts:
            self.send(child)

    def delayed(self) -> Run[None]:
        backlog = self.backlog
        end = backlog.delayed.next
        while backlog.delayed.first < end and self.result.gas_used + self.work < self.parameters.gas_limit:
            first = backlog.delayed.first
            yield from self.need(map(delayed_key, range(first, min(end, first + PREFETCHED_DELAYED))))
            receipt = backlog.peek()
            backlog.pop(receipt)
            self.state.commit()
            yield from self.process(receipt)

    def finish(self) -> ChunkResult:
        info, count = self.backlog.info, len(self.shards)
        # Who may send to a full shard changes with every chunk.
        allowed = (self.given.height + self.given.shard) % count
        self.result.info = CongestionInfo(
            info.delayed_receipts_gas, info.buffered_receipts_gas, info.receipt_bytes, allowed
        )
        return self.result
