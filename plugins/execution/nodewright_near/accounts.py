"""Accounts and access keys, and under which key of the trie each kind of state stands."""

from __future__ import annotations

from typing import Annotated, Final

from attrs import define, frozen

from nodewright_near.borsh import U64, U128, Blob, Enum, Malformed, Option, Reader, Text, Vector, struct, with_codec
from nodewright_near.primitives import NO_HASH

MAX_METHODS: Final = 1024
MAX_METHOD_NAME: Final = 256
NONCES_PER_BLOCK: Final = 1_000_000
V2_SENTINEL: Final = (1 << 128) - 1


class _AccountForm:
    """72 bytes. The later form announces itself by the largest u128 where the balance stands."""

    floor = 72

    def write(self, value: Account, out: bytearray) -> None:
        out += value.encode()

    def read(self, source: Reader) -> Account:
        return Account.decode(source.take(72))


@with_codec(_AccountForm())
@define
class Account:
    """Balances in yoctoNEAR: ``amount`` is free, ``locked`` at stake. ``storage_usage`` in bytes."""

    amount: int
    locked: int = 0
    code_hash: bytes = NO_HASH
    storage_usage: int = 0

    def encode(self) -> bytes:
        return b"%b%b%b%b" % (
            self.amount.to_bytes(16, "little"),
            self.locked.to_bytes(16, "little"),
            self.code_hash,
            self.storage_usage.to_bytes(8, "little"),
        )

    @staticmethod
    def decode(data: bytes) -> Account:
        """Raises Malformed."""
        if len(data) != 72:
            raise Malformed(f"an account has 72 bytes, not {len(data)}")
        amount = int.from_bytes(data[:16], "little")
        if amount == V2_SENTINEL:
            raise Malformed("an account of the second version is not taken by this node")
        return Account(amount, int.from_bytes(data[16:32], "little"), data[32:64], int.from_bytes(data[64:], "little"))

    def copy(self) -> Account:
        return Account(self.amount, self.locked, self.code_hash, self.storage_usage)


@struct
@frozen
class FunctionCallPermission:
    """Calls of ``receiver_id`` alone, of these methods (any where there are none), out of ``allowance`` if it is set."""

    allowance: Annotated[int | None, Option(U128)]
    receiver_id: Annotated[str, Text(4096)]
    method_names: Annotated[tuple[str, ...], Vector(Text(4096), MAX_METHODS)]


@struct
@frozen
class FullAccess:
    pass


FULL_ACCESS: Final = FullAccess()
PERMISSION: Final = Enum({0: FunctionCallPermission, 1: FullAccess}, {2: "a gas key", 3: "a gas key"})
Permission = Annotated[FunctionCallPermission | FullAccess, PERMISSION]


@struct
@define(unsafe_hash=True)
class AccessKey:
    nonce: U64
    permission: Permission = FULL_ACCESS


# --- keys of the trie -------------------------------------------------------------------------------------------------

ACCOUNT: Final = 0
CODE: Final = 1
ACCESS_KEY: Final = 2
RECEIVED_DATA: Final = 3
POSTPONED_RECEIPT_ID: Final = 4
PENDING_DATA_COUNT: Final = 5
POSTPONED_RECEIPT: Final = 6
DELAYED: Final = 7
DATA: Final = 9
BUFFERED_INDICES: Final = 13
BUFFERED: Final = 14
SEPARATOR: Final = b","

DELAYED_INDICES: Final = bytes([DELAYED])
BUFFERED_INDICES_KEY: Final = bytes([BUFFERED_INDICES])


def account_key(account: str) -> bytes:
    return b"\x00" + account.encode()


def code_key(account: str) -> bytes:
    return b"\x01" + account.encode()


def access_key_key(account: str, key: bytes) -> bytes:
    return b"\x02%b\x02%b" % (account.encode(), key)


def access_keys_prefix(account: str) -> bytes:
    return b"\x02%b\x02" % account.encode()


def data_key(account: str, key: bytes) -> bytes:
    return b"\x09%b,%b" % (account.encode(), key)


def received_data_key(account: str, data_id: bytes) -> bytes:
    return b"\x03%b,%b" % (account.encode(), data_id)


def postponed_receipt_id_key(account: str, data_id: bytes) -> bytes:
    return b"\x04%b,%b" % (account.encode(), data_id)


def pending_data_count_key(account: str, receipt_id: bytes) -> bytes:
    return b"\x05%b,%b" % (account.encode(), receipt_id)


def postponed_receipt_key(account: str, receipt_id: bytes) -> bytes:
    return b"\x06%b,%b" % (account.encode(), receipt_id)


def delayed_key(index: int) -> bytes:
    return b"\x07" + index.to_bytes(8, "little")


def buffered_key(shard: int, index: int) -> bytes:
    return b"\x0e" + shard.to_bytes(2, "little") + index.to_bytes(8, "little")


@struct
@frozen
class QueueIndices:
    """A queue in the state: from ``first`` up to ``next``, which is not in it."""

    first: U64 = 0
    next: U64 = 0

    def __len__(self) -> int:
        return self.next - self.first


@struct
@frozen
class ShardQueue:
    shard: U64
    indices: QueueIndices


@struct
@frozen
class BufferedIndices:
    """The queues of receipts held back, by shard they are for."""

    shards: Annotated[tuple[ShardQueue, ...], Vector(ShardQueue, 4096)] = ()


@struct
@frozen
class ReceivedData:
    data: Annotated[bytes | None, Option(Blob())] = None
