"""Resources of the framework: their layout in BCS, byte for byte, and where they stand.

``Account`` and ``CoinStore`` are read and changed in place, at fixed offsets: they are the state of nearly every
transaction. Layouts (little-endian):

- ``0x1::account::Account``, 147 bytes where no capability is offered: 0x20 ‖ authentication key 32 ‖ sequence number u64 ‖
  next creation number u64 ‖ two event handles of 48 ‖ option ‖ option. (An offered capability makes it longer.)
- ``0x1::coin::CoinStore<T>``, 105 bytes: value u64 ‖ frozen u8 ‖ deposit events 48 ‖ withdraw events 48.
- event handle, 48 bytes: counter u64 ‖ creation number u64 ‖ address 32.
- ``0x1::coin::CoinInfo<T>``: name ‖ symbol ‖ decimals u8 ‖ supply (option of an OptionalAggregator that is an aggregator:
  handle 32 ‖ key 32 ‖ limit u128). The supply itself is a table item: a u128 (``supply_key``).

An account's handles have creation numbers 0 (coin registration) and 1 (key rotation), its AptosCoin store 2 (deposits) and
3 (withdrawals).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha3_256
from typing import Final

from attrs import frozen

from nodewright_aptos import bcs
from nodewright_aptos.addresses import ONE
from nodewright_aptos.bcs import Reader
from nodewright_aptos.ledger import Event, event_type
from nodewright_aptos.statekeys import resource_key, resource_suffix, table_key
from nodewright_aptos.typetags import APT, StructTag


def framework(module: str, name: str, *arguments: StructTag) -> StructTag:
    return StructTag(ONE, module, name, arguments)


ACCOUNT: Final = framework("account", "Account")
BLOCK: Final = framework("block", "BlockResource")
CHAIN_ID: Final = framework("chain_id", "ChainId")
CONFIGURATION: Final = framework("reconfiguration", "Configuration")
TIMESTAMP: Final = framework("timestamp", "CurrentTimeMicroseconds")

_ACCOUNT_SUFFIX: Final = resource_suffix(ACCOUNT)
APT_STORE_SUFFIX: Final = resource_suffix(framework("coin", "CoinStore", APT))

BLOCK_KEY: Final = resource_key(ONE, BLOCK)
CHAIN_ID_KEY: Final = resource_key(ONE, CHAIN_ID)
CONFIGURATION_KEY: Final = resource_key(ONE, CONFIGURATION)
TIMESTAMP_KEY: Final = resource_key(ONE, TIMESTAMP)

# Where the supply of AptosCoin is kept: a table of its own.
SUPPLY_HANDLE: Final = sha3_256(b"0x1::coin::CoinInfo<0x1::aptos_coin::AptosCoin>::supply").digest()
SUPPLY_ITEM: Final = sha3_256(b"supply").digest()

HANDLE_BYTES: Final = 48
STORE_BYTES: Final = 105
ACCOUNT_BYTES: Final = 147
_SEQUENCE: Final = 33
_CREATION: Final = 41
_DEPOSITS: Final = 9
_WITHDRAWALS: Final = 57
MAX_U64: Final = (1 << 64) - 1


def account_key(address: bytes) -> bytes:
    return b"\0" + address + _ACCOUNT_SUFFIX


def apt_store_key(address: bytes) -> bytes:
    return b"\0" + address + APT_STORE_SUFFIX


@lru_cache(maxsize=1024)
def _store_suffix(coin: StructTag) -> bytes:
    return resource_suffix(framework("coin", "CoinStore", coin))


def store_key(address: bytes, coin: StructTag) -> bytes:
    return b"\0" + address + _store_suffix(coin)


def coin_info_key(coin: StructTag) -> bytes:
    return resource_key(coin.address, framework("coin", "CoinInfo", coin))


SUPPLY_KEY: Final = table_key(SUPPLY_HANDLE, SUPPLY_ITEM)
APT_INFO_KEY: Final = coin_info_key(APT)


# --- event handles ---------------------------------------------------------------------------------------------------


def event_handle(address: bytes, creation_number: int, counter: int = 0) -> bytes:
    return counter.to_bytes(8, "little") + creation_number.to_bytes(8, "little") + address


def handle_event(value: bytes, at: int, type: bytes, data: bytes) -> tuple[bytes, Event]:
    """Emit through the handle at offset ``at`` of a resource: the resource with the counter raised, and the event."""
    counter = int.from_bytes(value[at : at + 8], "little")
    creation = int.from_bytes(value[at + 8 : at + 16], "little")
    event = Event(type, data, value[at + 16 : at + 48], creation, counter)
    return value[:at] + (counter + 1).to_bytes(8, "little") + value[at + 8 :], event


# --- 0x1::account::Account -------------------------------------------------------------------------------------------


def new_account(address: bytes, authentication_key: bytes | None = None, next_creation: int = 4) -> bytes:
    """With its AptosCoin store's two handles counted, as every account that is created here has one."""
    return b"".join(
        (
            b"\x20",
            address if authentication_key is None else authentication_key,
            bytes(8),
            next_creation.to_bytes(8, "little"),
            event_handle(address, 0),
            event_handle(address, 1),
            b"\0\0",
        )
    )


def authentication_key_of(account: bytes) -> bytes:
    return account[1:33]


def sequence_number(account: bytes) -> int:
    return int.from_bytes(account[_SEQUENCE:_CREATION], "little")


def with_sequence_number(account: bytes, number: int) -> bytes:
    return account[:_SEQUENCE] + number.to_bytes(8, "little") + account[_CREATION:]


def with_authentication_key(account: bytes, key: bytes) -> bytes:
    return b"\x20" + key + account[_SEQUENCE:]


def take_creation_numbers(account: bytes, count: int) -> tuple[bytes, int]:
    """The account with ``count`` numbers taken, and the first of them."""
    first = int.from_bytes(account[_CREATION : _CREATION + 8], "little")
    return account[:_CREATION] + (first + count).to_bytes(8, "little") + account[_CREATION + 8 :], first


# --- 0x1::coin::CoinStore --------------------------------------------------------------------------------------------

DEPOSIT_EVENT: Final = event_type(framework("coin", "DepositEvent"))
WITHDRAW_EVENT: Final = event_type(framework("coin", "WithdrawEvent"))
FEE_STATEMENT: Final = event_type(framework("transaction_fee", "FeeStatement"))


def new_store(address: bytes, value: int = 0, first_creation: int = 2) -> bytes:
    return b"".join(
        (
            value.to_bytes(8, "little"),
            b"\0",
            event_handle(address, first_creation),
            event_handle(address, first_creation + 1),
        )
    )


def balance(store: bytes) -> int:
    return int.from_bytes(store[:8], "little")


def frozen_store(store: bytes) -> bool:
    return store[8] == 1


def with_balance(store: bytes, value: int) -> bytes:
    return value.to_bytes(8, "little") + store[8:]


def deposit(store: bytes, amount: int) -> tuple[bytes, Event]:
    """The store with ``amount`` more and its DepositEvent. Raises OverflowError over u64."""
    value = (int.from_bytes(store[:8], "little") + amount).to_bytes(8, "little")
    changed, event = handle_event(store, _DEPOSITS, DEPOSIT_EVENT, amount.to_bytes(8, "little"))
    return value + changed[8:], event


def withdraw(store: bytes, amount: int) -> tuple[bytes, Event]:
    """The store with ``amount`` less and its WithdrawEvent. Raises OverflowError where it holds less."""
    value = (int.from_bytes(store[:8], "little") - amount).to_bytes(8, "little")
    changed, event = handle_event(store, _WITHDRAWALS, WITHDRAW_EVENT, amount.to_bytes(8, "little"))
    return value + changed[8:], event


def fee_statement(total: int, execution: int, io: int, storage_fee: int, refund: int = 0) -> Event:
    """A module event: gas units in all, of execution and of input and output; octas for storage and given back."""
    data = b"".join([number.to_bytes(8, "little") for number in (total, execution, io, storage_fee, refund)])
    return Event(FEE_STATEMENT, data)


# --- 0x1::coin::CoinInfo, the supply ---------------------------------------------------------------------------------


@frozen
class CoinInfo:
    name: str
    symbol: str
    decimals: int
    supply: bytes | None  # the state key of its aggregator

    def encode(self) -> bytes:
        told = bcs.text(self.name) + bcs.text(self.symbol) + bcs.u8(self.decimals)
        if self.supply is None:
            return told + b"\0"
        aggregator = self.supply[1:65] + bcs.u128((1 << 128) - 1)
        return told + b"\1" + b"\1" + aggregator + b"\0"


def read_coin_info(value: bytes) -> CoinInfo:
    reader = Reader(value)
    name, symbol, decimals = reader.text(), reader.text(), reader.u8()
    supply = None
    if reader.flag():
        if reader.flag():
            supply = table_key(reader.take(32), reader.take(32))
            reader.u128()
        reader.flag()
    return CoinInfo(name, symbol, decimals, supply)


# --- blocks and epochs -----------------------------------------------------------------------------------------------

NEW_BLOCK_EVENT: Final = event_type(framework("block", "NewBlockEvent"))
NEW_EPOCH_EVENT: Final = event_type(framework("reconfiguration", "NewEpochEvent"))
EPOCH_INTERVAL: Final = 7_200_000_000  # microseconds
_BLOCK_EVENTS: Final = 16


def block_resource(height: int = 0, epoch_interval: int = EPOCH_INTERVAL) -> bytes:
    """height u64 ‖ epoch interval u64 ‖ new block events ‖ update of the epoch interval events."""
    return bcs.u64(height) + bcs.u64(epoch_interval) + event_handle(ONE, 3) + event_handle(ONE, 4)


def next_block(value: bytes, height: int, data: bytes) -> tuple[bytes, Event]:
    """``BlockResource`` at ``height``, and its NewBlockEvent."""
    return handle_event(bcs.u64(height) + value[8:], _BLOCK_EVENTS, NEW_BLOCK_EVENT, data)


def configuration(epoch: int, reconfigured_at: int = 0) -> bytes:
    """epoch u64 ‖ time of the last reconfiguration u64 (microseconds) ‖ new epoch events."""
    return bcs.u64(epoch) + bcs.u64(reconfigured_at) + event_handle(ONE, 2)
