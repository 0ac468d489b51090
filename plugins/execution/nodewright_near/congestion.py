"""How full a shard is, what it lets in, and the queues in the state that hold receipts back.

Levels are fractions of 1, computed in whole numbers. A shard's info stands in its chunk header; everybody computes the
same limits from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Final

from attrs import define, field, frozen

from nodewright_near.accounts import (
    BUFFERED_INDICES_KEY,
    DELAYED_INDICES,
    BufferedIndices,
    QueueIndices,
    ShardQueue,
    buffered_key,
    delayed_key,
)
from nodewright_near.borsh import decode, encode
from nodewright_near.fees import attached_gas, exec_fees, inner_send_fees
from nodewright_near.headers import CongestionInfo
from nodewright_near.parameters import Congestion, Parameters
from nodewright_near.receipts import ActionReceipt, Receipt
from nodewright_near.state import State

NO_LIMIT: Final = (1 << 64) - 1
_FULL: Final = Fraction(1)


@frozen
class ShardCongestion:
    """Of a shard as the parent block shows it; ``missed_chunks`` in a row."""

    info: CongestionInfo = field(factory=CongestionInfo)
    missed_chunks: int = 0

    def level(self, limits: Congestion) -> Fraction:
        missed = self.missed_chunks if self.missed_chunks > 1 else 0
        return min(
            _FULL,
            max(
                Fraction(self.info.delayed_receipts_gas, limits.max_incoming_gas),
                Fraction(self.info.buffered_receipts_gas, limits.max_outgoing_buffer_gas),
                Fraction(self.info.receipt_bytes, limits.max_memory),
                Fraction(missed, limits.max_missed_chunks),
            ),
        )

    def outgoing_gas_limit(self, limits: Congestion, sender: int) -> int:
        """How much gas another shard may send here in the next chunk."""
        level = self.level(limits)
        if level == _FULL:
            return limits.allowed_shard_outgoing_gas if sender == self.info.allowed_shard else 0
        return _mix(limits.max_outgoing_gas, limits.min_outgoing_gas, level)

    def process_tx_limit(self, limits: Congestion) -> int:
        """How much gas of new transactions this shard's own chunk may convert: less the more is delayed."""
        delayed = min(_FULL, Fraction(self.info.delayed_receipts_gas, limits.max_incoming_gas))
        return _mix(limits.max_tx_gas, limits.min_tx_gas, delayed)

    def accepts_transactions(self, limits: Congestion) -> bool:
        """Whether transactions whose receiver lives here are taken at all."""
        return self.level(limits) < limits.reject_at


def _mix(most: int, least: int, level: Fraction) -> int:
    return int(most + (least - most) * level)


def receipt_gas(parameters: Parameters, receipt: Receipt) -> int:
    """Gas that a receipt may come to, of those that count as work; data is free."""
    fees = parameters.fees
    if receipt.deposit >= 0:
        return fees.transfer.execution + fees.action_receipt.execution
    body = receipt.receipt
    if not isinstance(body, ActionReceipt):
        return 0
    gas = attached_gas(body.actions) + exec_fees(fees, body.actions) + fees.action_receipt.execution
    return gas + inner_send_fees(fees, body.actions)


@define
class Backlog:
    """The delayed receipts of a shard, and those held back for other shards. Every change goes through here, so that the
    info that the next chunk publishes is what the queues in the state hold."""

    parameters: Parameters
    state: State
    info: CongestionInfo
    delayed: QueueIndices
    buffered: dict[int, QueueIndices]

    @staticmethod
    def keys() -> list[bytes]:
        return [DELAYED_INDICES, BUFFERED_INDICES_KEY]

    @staticmethod
    def load(parameters: Parameters, state: State, info: CongestionInfo) -> Backlog:
        delayed, buffered = state.get(DELAYED_INDICES), state.get(BUFFERED_INDICES_KEY)
        queues: BufferedIndices = BufferedIndices() if buffered is None else decode(BufferedIndices, buffered)
        return Backlog(
            parameters,
            state,
            info,
            QueueIndices() if delayed is None else decode(QueueIndices, delayed),
            {queue.shard: queue.indices for queue in queues.shards},
        )

    def _count(self, receipt: Receipt, size: int, delayed: int, buffered: int) -> None:
        gas = receipt_gas(self.parameters, receipt)
        self.info = CongestionInfo(
            max(self.info.delayed_receipts_gas + delayed * gas, 0),
            max(self.info.buffered_receipts_gas + buffered * gas, 0),
            max(self.info.receipt_bytes + (delayed + buffered) * size, 0),
            self.info.allowed_shard,
        )

    def delay(self, receipt: Receipt) -> None:
        raw = encode(receipt)
        self.state.set(delayed_key(self.delayed.next), raw)
        self.delayed = QueueIndices(self.delayed.first, self.delayed.next + 1)
        self.state.set(DELAYED_INDICES, encode(self.delayed))
        self._count(receipt, len(raw), 1, 0)

    def peek(self) -> Receipt:
        """The oldest delayed receipt. Raises Absent."""
        raw = self.state.get(delayed_key(self.delayed.first))
        assert raw is not None  # indices and receipts change together
        receipt: Receipt = decode(Receipt, raw)
        return receipt

    def pop(self, receipt: Receipt) -> None:
        self.state.remove(delayed_key(self.delayed.first))
        self.delayed = QueueIndices(self.delayed.first + 1, self.delayed.next)
        self.state.set(DELAYED_INDICES, encode(self.delayed))
        self._count(receipt, len(encode(receipt)), -1, 0)

    def hold(self, shard: int, receipt: Receipt) -> None:
        raw = encode(receipt)
        queue = self.buffered.get(shard, QueueIndices())
        self.state.set(buffered_key(shard, queue.next), raw)
        self._set_queue(shard, QueueIndices(queue.first, queue.next + 1))
        self._count(receipt, len(raw), 0, 1)

    def held(self, shard: int) -> Receipt | None:
        """The oldest receipt held back for ``shard``. Raises Absent."""
        queue = self.buffered.get(shard)
        if queue is None or not len(queue):
            return None
        raw = self.state.get(buffered_key(shard, queue.first))
        assert raw is not None
        receipt: Receipt = decode(Receipt, raw)
        return receipt

    def let_go(self, shard: int, receipt: Receipt) -> None:
        queue = self.buffered[shard]
        self.state.remove(buffered_key(shard, queue.first))
        self._set_queue(shard, QueueIndices(queue.first + 1, queue.next))
        self._count(receipt, len(encode(receipt)), 0, -1)

    def _set_queue(self, shard: int, indices: QueueIndices) -> None:
        self.buffered[shard] = indices
        rows = tuple(ShardQueue(number, self.buffered[number]) for number in sorted(self.buffered))
        self.state.set(BUFFERED_INDICES_KEY, encode(BufferedIndices(rows)))


def limits_to(
    parameters: Parameters, congestion: Mapping[int, ShardCongestion], shard: int, shards: Sequence[int]
) -> dict[int, int]:
    """Gas that ``shard`` may send to each shard in this chunk. To itself without limit."""
    return {
        other: NO_LIMIT
        if other == shard
        else congestion.get(other, ShardCongestion()).outgoing_gas_limit(parameters.congestion, shard)
        for other in shards
    }
