"""Receipts: what one account asks of another, and the data that such a request waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

from attrs import define, field, frozen

from nodewright_near.borsh import U128, Blob, Enum, Option, Reader, Struct, Vector, codec_of, encode, struct, with_codec
from nodewright_near.primitives import NO_HASH, NO_KEY, SYSTEM, AccountId, Hash, PublicKey, hash256
from nodewright_near.transactions import ONE_TRANSFER, Actions, Transfer

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


class _ReceiptForm:
    """The declared form, but for the most frequent receipt, one transfer that waits for nothing: it is read and written by
    hand. What does not fit exactly is left to the codec, errors included."""

    floor = 60

    def write(self, value: Receipt, out: bytearray) -> None:
        if value.raw:
            out += value.raw
            return
        body = value.receipt
        if type(body) is not ActionReceipt or not _is_plain(body) or len(value.receipt_id) != 32:
            _RECEIPT.write(value, out)
            return
        predecessor, receiver, signer = value.predecessor_id.encode(), value.receiver_id.encode(), body.signer_id.encode()
        action = body.actions[0]
        assert isinstance(action, Transfer)
        value.raw = b"%b%b%b%b%b\0%b%b%b%b%b%b%b" % (
            len(predecessor).to_bytes(4, "little"),
            predecessor,
            len(receiver).to_bytes(4, "little"),
            receiver,
            value.receipt_id,
            len(signer).to_bytes(4, "little"),
            signer,
            body.signer_public_key,
            body.gas_price.to_bytes(16, "little"),
            NO_DATA,
            ONE_TRANSFER,
            action.deposit.to_bytes(16, "little"),
        )
        out += value.raw

    def write_all(self, values: Sequence[Receipt], out: bytearray) -> None:
        out += b"".join([value.raw or encode(value) for value in values])

    def read(self, source: Reader) -> Receipt:
        start, data = source.at, source.data
        predecessor, receiver = _ACCOUNT.read(source), _ACCOUNT.read(source)
        identity = source.at
        if data[identity + 32 : identity + 33] == b"\0":
            source.at = identity + 33
            _ACCOUNT.read(source)
            at = source.at
            if data[at : at + 1] == b"\0" and data[at + 49 : at + 62] == _PLAIN and at + 78 <= source.end:
                source.at = at + 78
                price = int.from_bytes(data[at + 33 : at + 49], "little")
                deposit = int.from_bytes(data[at + 62 : at + 78], "little")
                raw = data[start : source.at]
                return transfer_receipt(predecessor, receiver, data[identity : identity + 32], price, deposit, raw)
        source.at = start
        other: Receipt = _RECEIPT.read(source)
        return other


def _is_plain(body: ActionReceipt) -> bool:
    key = body.signer_public_key
    return (
        len(body.actions) == 1
        and type(body.actions[0]) is Transfer
        and not body.input_data_ids
        and not body.output_data_receivers
        and len(key) == 33
        and key[0] == 0
    )


@with_codec(_ReceiptForm())
@define(unsafe_hash=True)
class Receipt:
    """Nobody assigns to its fields; ``raw`` remembers the bytes of a frequent one, which is written several times.

    Of the frequent one, a transfer by an Ed25519 key that waits for nothing and is no refund, ``deposit`` and ``gas_price``
    are known at once, and the body is made when somebody asks for it; of any other ``deposit`` is negative."""

    predecessor_id: AccountId
    receiver_id: AccountId
    receipt_id: Hash
    receipt: Annotated[ReceiptBody, Enum({0: ActionReceipt, 1: DataReceipt}, _LATER)]
    raw: bytes = field(default=b"", init=False, eq=False, repr=False)
    deposit: int = field(default=-1, init=False, eq=False, repr=False)
    gas_price: int = field(default=0, init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        body = self.receipt
        if type(body) is ActionReceipt and _is_plain(body) and self.predecessor_id != SYSTEM:
            action = body.actions[0]
            assert isinstance(action, Transfer)
            self.deposit, self.gas_price = action.deposit, body.gas_price

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What ``transfer_receipt`` leaves for later."""
            if name != "receipt":
                raise AttributeError(name)
            raw = self.raw
            signer = raw[45 + len(self.predecessor_id) + len(self.receiver_id) : -78].decode()
            deposit = Transfer(int.from_bytes(raw[-16:], "little"))
            self.receipt = ActionReceipt(signer, raw[-78:-45], int.from_bytes(raw[-45:-29], "little"), (), (), (deposit,))
            return self.receipt

    @property
    def is_refund(self) -> bool:
        return self.predecessor_id == SYSTEM


_bare: Final = object.__new__


def transfer_receipt(predecessor: str, receiver: str, identity: bytes, gas_price: int, deposit: int, raw: bytes) -> Receipt:
    """The frequent one (of ``system`` too), whose bytes are at hand."""
    receipt: Receipt = _bare(Receipt)
    receipt.predecessor_id, receipt.receiver_id, receipt.receipt_id, receipt.raw = predecessor, receiver, identity, raw
    receipt.deposit, receipt.gas_price = deposit if predecessor != SYSTEM else -1, gas_price
    return receipt


_ACCOUNT: Final = codec_of(AccountId)
NO_DATA: Final = bytes(8)
_PLAIN: Final = NO_DATA + ONE_TRANSFER
_RECEIPT: Final = Struct(Receipt)
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


def receipts_payload(receipts: Sequence[Receipt]) -> bytes:
    """The Borsh form of ``RECEIPTS``. Of frequent ones the bytes are at hand."""
    return len(receipts).to_bytes(4, "little") + b"".join([one.raw or encode(one) for one in receipts])


def outgoing_leaf(shard: int, payload: bytes) -> bytes:
    """What the outgoing root merklizes for each destination: the shard's number and all receipts for it, in Borsh."""
    return hash256(shard.to_bytes(8, "little") + payload)
