"""Receipts: what one account asks of another, and the data that such a request waits for."""

from __future__ import annotations

from typing import Annotated, Final

from attrs import define, frozen

from nodewright_near.borsh import U128, Blob, Enum, Option, Vector, codec_of, struct
from nodewright_near.primitives import NO_HASH, NO_KEY, SYSTEM, AccountId, Hash, PublicKey, hash256
from nodewright_near.transactions import Actions, Transfer

MAX_DATA: Final = 1024
MAX_RECEIPTS: Final = 1 << 20


@struct
@frozen
class DataReceiver:
    data_id: Hash
    receiver_id: AccountId


@struct
@define(unsafe_hash=True)
class ActionReceipt:
    """``gas_price`` is what the signer paid for each unit of gas that these actions may use."""

    signer_id: AccountId
    signer_public_key: PublicKey
    gas_price: U128
    output_data_receivers: Annotated[tuple[DataReceiver, ...], Vector(DataReceiver, MAX_DATA)]
    input_data_ids: Annotated[tuple[bytes, ...], Vector(Hash, MAX_DATA)]
    actions: Actions


@struct
@frozen
class DataReceipt:
    """``data`` is None where what should have made it failed."""

    data_id: Hash
    data: Annotated[bytes | None, Option(Blob())]


ReceiptBody = ActionReceipt | DataReceipt
_LATER: Final = {2: "PromiseYield", 3: "PromiseResume", 4: "GlobalContractDistribution", 5: "ActionV2"}


@struct
@define(unsafe_hash=True)
class Receipt:
    predecessor_id: AccountId
    receiver_id: AccountId
    receipt_id: Hash
    receipt: Annotated[ReceiptBody, Enum({0: ActionReceipt, 1: DataReceipt}, _LATER)]

    @property
    def is_refund(self) -> bool:
        return self.predecessor_id == SYSTEM


RECEIPTS: Final = Vector(Receipt, MAX_RECEIPTS)
RECEIPT: Final = codec_of(Receipt)


def receipt_id(parent: bytes, height: int, index: int) -> bytes:
    """Of the receipt number ``index`` that ``parent`` (a transaction or receipt) made in the block at ``height``."""
    return hash256(b"%b%b%b" % (parent, height.to_bytes(8, "little"), index.to_bytes(8, "little")))


def balance_refund(receiver: str, amount: int) -> Receipt:
    """A deposit comes back. Its id is given when it is sent."""
    action = ActionReceipt(SYSTEM, NO_KEY, 0, (), (), (Transfer(amount),))
    return Receipt(SYSTEM, receiver, NO_HASH, action)


def gas_refund(receiver: str, amount: int, key: bytes) -> Receipt:
    """Unused gas comes back, and to the allowance of the key that paid for it."""
    action = ActionReceipt(receiver, key, 0, (), (), (Transfer(amount),))
    return Receipt(SYSTEM, receiver, NO_HASH, action)


def with_id(receipt: Receipt, identity: bytes) -> Receipt:
    return Receipt(receipt.predecessor_id, receipt.receiver_id, identity, receipt.receipt)


def outgoing_leaf(shard: int, payload: bytes) -> bytes:
    """What the outgoing root merklizes for each destination: the shard's number and all receipts for it, in Borsh."""
    return hash256(shard.to_bytes(8, "little") + payload)
