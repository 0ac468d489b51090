"""Transactions and their actions, signed as NEAR's SDKs sign them.

A transaction of version 0 has no version byte; its hash is SHA-256 of its bytes, and the signature is over those 32 bytes.
Version 1 (which begins with the byte 1) and actions with tags from 9 up exist and are refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import islice
from struct import Struct
from typing import TYPE_CHECKING, Annotated, Any, Final

from attrs import define, field, frozen

from nodewright_near.accounts import AccessKey, access_key_key, account_key
from nodewright_near.borsh import (
    U64,
    U128,
    Blob,
    Enum,
    Malformed,
    Reader,
    Text,
    Vector,
    codec_of,
    decode,
    encode,
    struct,
    with_codec,
)
from nodewright_near.primitives import (
    KNOWN_ACCOUNTS,
    MAX_ACCOUNT,
    AccountId,
    Hash,
    PublicKey,
    Signature,
    account_of,
    hash256,
)

MAX_ACTIONS: Final = 1024
MAX_TRANSACTION_BYTES: Final = 1_572_864
# More than one transfer by an Ed25519 key has.
MAX_TRANSFER_BYTES: Final = 512
# What distinguishes the bytes that a delegate action is signed over from any other message (NEP-461, NEP-366).
DELEGATE_PREFIX: Final = ((1 << 30) + 366).to_bytes(4, "little")
# The vector of one action that is a transfer, up to its deposit.
ONE_TRANSFER: Final = b"\x01\0\0\0\x03"
LATER_ACTIONS: Final = {
    9: "DeployGlobalContract",
    10: "UseGlobalContract",
    11: "DeterministicStateInit",
    12: "TransferToGasKey",
    13: "WithdrawFromGasKey",
}


@struct
@frozen
class CreateAccount:
    pass


@struct
@frozen
class DeployContract:
    code: Annotated[bytes, Blob()]


@struct
@frozen
class FunctionCall:
    """``gas`` is attached for the call, ``deposit`` in yoctoNEAR goes to the contract."""

    method_name: Annotated[str, Text()]
    args: Annotated[bytes, Blob()]
    gas: U64
    deposit: U128


@struct
@define(unsafe_hash=True)
class Transfer:
    deposit: U128


@struct
@frozen
class Stake:
    stake: U128
    public_key: PublicKey


@struct
@frozen
class AddKey:
    public_key: PublicKey
    access_key: AccessKey


@struct
@frozen
class DeleteKey:
    public_key: PublicKey


@struct
@frozen
class DeleteAccount:
    beneficiary_id: AccountId


PLAIN_ACTIONS: Final = {
    0: CreateAccount,
    1: DeployContract,
    2: FunctionCall,
    3: Transfer,
    4: Stake,
    5: AddKey,
    6: DeleteKey,
    7: DeleteAccount,
}
PlainAction = CreateAccount | DeployContract | FunctionCall | Transfer | Stake | AddKey | DeleteKey | DeleteAccount
_PLAIN: Final = Enum(PLAIN_ACTIONS, {8: "Delegate within Delegate", **LATER_ACTIONS})


@struct
@frozen
class DelegateAction:
    """What ``sender_id`` lets others send in its name (NEP-366), up to and with the height ``max_block_height``."""

    sender_id: AccountId
    receiver_id: AccountId
    actions: Annotated[tuple[PlainAction, ...], Vector(_PLAIN, MAX_ACTIONS)]
    nonce: U64
    max_block_height: U64
    public_key: PublicKey

    def digest(self) -> bytes:
        """What its signature is over."""
        return hash256(DELEGATE_PREFIX + encode(self))


@struct
@frozen
class Delegate:
    delegate_action: DelegateAction
    signature: Signature


Action = PlainAction | Delegate
ACTION: Final = Enum({**PLAIN_ACTIONS, 8: Delegate}, LATER_ACTIONS)
Actions = Annotated[tuple[Action, ...], Vector(ACTION, MAX_ACTIONS)]


@struct
@define(unsafe_hash=True)
class Transaction:
    signer_id: AccountId
    public_key: PublicKey
    nonce: U64
    receiver_id: AccountId
    block_hash: Hash
    actions: Actions

    def hash(self) -> bytes:
        return hash256(encode(self))


class _SignedForm:
    """The bytes as they came are kept: they are what is relayed, hashed and put into chunks."""

    floor = codec_of(Transaction).floor + 65

    def write(self, value: SignedTransaction, out: bytearray) -> None:
        out += value.raw

    def write_all(self, values: Sequence[SignedTransaction], out: bytearray) -> None:
        out += b"".join([value.raw for value in values])

    def read(self, source: Reader) -> SignedTransaction:
        at = source.at
        data = source.data
        if data[at : at + 1] == b"\x01" and data[at + 2 : at + 5] == bytes(3):
            raise Malformed("a transaction of version 1 is not taken by this node")
        transaction = _read_quickly(source) or _TRANSACTION.read(source)
        body = source.at
        signature = _SIGNATURE.read(source)
        return SignedTransaction(transaction, signature, data[at : source.at], hash256(data[at:body]))


@with_codec(_SignedForm())
@define(unsafe_hash=True)
class SignedTransaction:
    """``raw`` is all of it as it came; ``id`` the hash of the transaction without its signature.

    Of the frequent one, which is one transfer by an Ed25519 key, ``deposit`` says how much; of any other it is negative.
    That one is taken, chosen and run by what stands here: its ``transaction`` and ``signature`` are made when somebody
    asks for them. ``row``: of the state that has its signer's account."""

    transaction: Transaction
    signature: bytes
    raw: bytes = field(repr=False)
    id: bytes
    signer: str = field(default="", init=False, eq=False, repr=False)
    receiver: str = field(default="", init=False, eq=False, repr=False)
    nonce: int = field(default=0, init=False, eq=False, repr=False)
    deposit: int = field(default=-1, init=False, eq=False, repr=False)
    block_hash: bytes = field(default=b"", init=False, eq=False, repr=False)
    row: bytes = field(default=b"", init=False, eq=False, repr=False)
    _slot: bytes = field(default=b"", init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        transaction = self.transaction
        self.signer, self.receiver, self.nonce = transaction.signer_id, transaction.receiver_id, transaction.nonce
        self.block_hash, self.row = transaction.block_hash, account_key(transaction.signer_id)
        actions = transaction.actions
        if len(actions) == 1 and type(actions[0]) is Transfer and transaction.public_key[:1] == b"\0" == self.signature[:1]:
            self.deposit = actions[0].deposit

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What ``_whole_transfer`` leaves for later."""
            if name == "transaction":
                public = self._slot[-33:]
                actions = (Transfer(self.deposit),)
                self.transaction = Transaction(self.signer, public, self.nonce, self.receiver, self.block_hash, actions)
                return self.transaction
            if name == "signature":
                self.signature = self.raw[-65:]
                return self.signature
            raise AttributeError(name)

    @property
    def slot(self) -> bytes:
        """The row of the state that has its access key, and the last nonce used with it."""
        if not self._slot:
            self._slot = access_key_key(self.transaction.signer_id, self.transaction.public_key)
        return self._slot

    @staticmethod
    def decode(raw: bytes) -> SignedTransaction:
        """Raises Malformed. The size is the caller's to bound. A small one that was read before is not read again."""
        signed: SignedTransaction | None = _read_before.get(raw)
        if signed is None:
            signed = _whole_transfer(raw) or decode(SignedTransaction, raw)
            if len(raw) <= _REMEMBERED_BYTES:
                if len(_read_before) >= _REMEMBERED:
                    for old in list(islice(_read_before, _REMEMBERED // 2)):
                        _read_before.pop(old, None)
                _read_before[raw] = signed
        return signed

    @staticmethod
    def of(transaction: Transaction, signature: bytes) -> SignedTransaction:
        body = encode(transaction)
        return SignedTransaction(transaction, signature, body + encode(signature, Signature), hash256(body))


def _read_quickly(source: Reader) -> Transaction | None:
    """The most frequent transaction, one transfer by an Ed25519 key, read by hand; None (and nothing read) where it is
    another: the codec reads that, and says what is wrong with it."""
    start, data = source.at, source.data
    signer = _quick_name(source, start)
    if signer is not None:
        at = source.at
        receiver = _quick_name(source, at + 41) if data[at : at + 1] == b"\0" else None
        if receiver is not None:
            end = source.at + 32
            if data[end : end + 5] == ONE_TRANSFER and end + 21 <= source.end:
                source.at = end + 21
                return Transaction(
                    signer,
                    data[at : at + 33],
                    int.from_bytes(data[at + 33 : at + 41], "little"),
                    receiver,
                    data[end - 32 : end],
                    (Transfer(int.from_bytes(data[end + 5 : end + 21], "little")),),
                )
    source.at = start
    return None


def _whole_transfer(raw: bytes) -> SignedTransaction | None:
    """As ``_read_quickly``, where there is nothing else in the bytes."""
    if len(raw) < _SHORTEST or raw[1] or raw[2] or raw[3]:
        return None
    at = 4 + raw[0]
    name = raw[4:at]
    signer = (_known(name) or account_of(name)) if at <= 4 + MAX_ACCOUNT and at + 45 <= len(raw) else None
    if signer is None:
        return None
    public, nonce, size = _SENDER.unpack_from(raw, at)
    end = at + 45 + size
    if size > MAX_ACCOUNT or len(raw) != end + 118:
        return None
    other = raw[at + 45 : end]
    receiver = _known(other) or account_of(other)
    block_hash, kind, low, high, tag = _REST.unpack_from(raw, end)
    if receiver is None or kind != ONE_TRANSFER or public[0] or tag:  # other kinds of key or signature
        return None
    signed: SignedTransaction = _bare(SignedTransaction)
    signed.raw, signed.id = raw, sha256(raw[: end + 53]).digest()
    signed.signer, signed.receiver, signed.nonce, signed.block_hash = signer, receiver, nonce, block_hash
    signed.deposit = low | high << 64 if high else low
    signed.row = b"\0" + name
    signed._slot = b"\x02%b\x02%b" % (name, public)
    return signed


def _quick_name(source: Reader, at: int) -> str | None:
    size = int.from_bytes(source.data[at : at + 4], "little")
    if size > MAX_ACCOUNT or at + 4 + size > source.end:
        return None
    source.at = at
    name: str = _ACCOUNT.read(source)
    return name


# By the bytes as they came: each transaction is read when it is admitted, chosen, and found in a chunk.
_read_before: Final[dict[bytes, SignedTransaction]] = {}
_REMEMBERED: Final = 1 << 15
_REMEMBERED_BYTES: Final = 512
# Of a transfer: key, nonce and length of the receiver's name; then block, the action up to its deposit, and the signature's
# kind.
_SENDER: Final = Struct("<33sQI")
_REST: Final = Struct("<32s5sQQB")
_SHORTEST: Final = 4 + 2 + 45 + 2 + 53 + 65
_bare: Final = object.__new__
_known: Final = KNOWN_ACCOUNTS.get
_ACCOUNT: Final = codec_of(AccountId)
_TRANSACTION: Final = codec_of(Transaction)
_SIGNATURE: Final = codec_of(Signature)
