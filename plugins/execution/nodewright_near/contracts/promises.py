"""Promises of one call: receipts under way, joined ones, and the data that ties them.

A promise is a number that the contract holds: a receipt it has made, or several joined by ``promise_and``. A receipt that
waits for another gets the data id under which that one's result will come.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

from nodewright_near.contracts.calls import Call
from nodewright_near.contracts.meter import HostFailure, Meter
from nodewright_near.primitives import NO_HASH
from nodewright_near.receipts import ActionReceipt, DataReceiver, Receipt, receipt_id
from nodewright_near.transactions import Action, FunctionCall

_BAD_INDEX: Final = "{} does not correspond to existing promises"


@define
class _Made:
    receiver: str
    inputs: list[bytes] = field(factory=list)
    outputs: list[DataReceiver] = field(factory=list)
    actions: list[Action] = field(factory=list)
    weights: dict[int, int] = field(factory=dict)


@frozen
class _Joined:
    receipts: tuple[int, ...]


class Promises:
    """``made`` receipts in the order in which the contract began them."""

    def __init__(self, call: Call, meter: Meter) -> None:
        self._call = call
        self._meter = meter
        self._data_count = 0
        self._promises: list[int | _Joined] = []
        self.made: list[_Made] = []

    def _add(self, promise: int | _Joined) -> int:
        if len(self._promises) >= self._call.parameters.limits.max_promises:
            limit = self._call.parameters.limits.max_promises
            raise HostFailure(f"The number of promises {len(self._promises) + 1} exceeds the limit {limit}")
        self._promises.append(promise)
        return len(self._promises) - 1

    def _at(self, index: int) -> int | _Joined:
        if index >= len(self._promises):
            raise HostFailure(_BAD_INDEX.format(index))
        return self._promises[index]

    def _behind(self, index: int) -> tuple[int, ...]:
        promise = self._at(index)
        return promise.receipts if isinstance(promise, _Joined) else (promise,)

    def single(self, index: int) -> _Made:
        promise = self._at(index)
        if isinstance(promise, _Joined):
            raise HostFailure("Actions can only be appended to non-joint promise.")
        return self.made[promise]

    def sir(self, receiver: str) -> bool:
        return receiver == self._call.account_id

    def create(self, receiver: str) -> int:
        self._meter.action(self._call.parameters.fees.action_receipt, self.sir(receiver))
        self.made.append(_Made(receiver))
        return self._add(len(self.made) - 1)

    def then(self, index: int, receiver: str) -> int:
        before = self._behind(index)
        fees = self._call.parameters.fees
        self._meter.action(fees.action_receipt, self.sir(receiver))
        for dependency in before:
            self._meter.data(fees.data_receipt_base, self.made[dependency].receiver == receiver)
        made = _Made(receiver)
        for dependency in before:
            data_id = receipt_id(self._call.action_hash, self._call.height, self._data_count)
            self._data_count += 1
            made.inputs.append(data_id)
            self.made[dependency].outputs.append(DataReceiver(data_id, receiver))
        self.made.append(made)
        return self._add(len(self.made) - 1)

    def join(self, indices: list[int]) -> int:
        receipts: list[int] = []
        for index in indices:
            receipts += self._behind(index)
        limit = self._call.parameters.limits.max_input_data
        if len(receipts) > limit:
            raise HostFailure(f"The number of input data dependencies {len(receipts)} exceeds the limit {limit}")
        return self._add(_Joined(tuple(receipts)))

    def returned(self, index: int) -> int:
        """The number of the receipt among those made."""
        promise = self._at(index)
        if isinstance(promise, _Joined):
            raise HostFailure("Returning joint promise is currently prohibited.")
        return promise

    def share_out(self, gas: int) -> int:
        """Give gas that is left to calls with weights, in their proportion, and what a division leaves to the last. How
        much was given."""
        weighted = [
            (made, number, weight) for made in self.made for number, weight in sorted(made.weights.items()) if weight
        ]
        total = sum(weight for _, _, weight in weighted)
        if not total:
            return 0
        given = 0
        for place, (made, number, weight) in enumerate(weighted):
            part = gas * weight // total if place < len(weighted) - 1 else gas - given
            given += part
            call = made.actions[number]
            assert isinstance(call, FunctionCall)
            made.actions[number] = FunctionCall(call.method_name, call.args, call.gas + part, call.deposit)
        return given

    def receipts(self) -> list[Receipt]:
        call = self._call
        return [
            Receipt(
                call.account_id,
                made.receiver,
                NO_HASH,
                ActionReceipt(
                    call.signer_id,
                    call.signer_key,
                    call.gas_price,
                    tuple(made.outputs),
                    tuple(made.inputs),
                    tuple(made.actions),
                ),
            )
            for made in self.made
        ]
