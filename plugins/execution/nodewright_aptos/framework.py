"""The transaction functions of Aptos's framework that users call, over the layout of ``resources``.

``0x1::aptos_account``: create_account, transfer, batch_transfer, transfer_coins, batch_transfer_coins,
fungible_transfer_only. ``0x1::coin::transfer``. ``0x1::primary_fungible_store::transfer``. ``0x1::aptos_coin::mint`` for
those that hold the capability. ``0x1::account::rotate_authentication_key_call``.

What differs from Aptos: there is one fungible asset, AptosCoin's (0xa), and it is the coin itself: a transfer of it moves
coins and creates the recipient's account where there is none. A coin of another type needs its CoinInfo (a third party's
function may publish one); no migration of coins to fungible stores takes place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from nodewright_aptos.addresses import APT_METADATA, ONE, special
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.functions import Call, Functions, TransactionFunction
from nodewright_aptos.resources import (
    SUPPLY_KEY,
    account_key,
    apt_store_key,
    coin_info_key,
    deposit,
    framework,
    frozen_store,
    new_account,
    new_store,
    store_key,
    take_creation_numbers,
    with_authentication_key,
    withdraw,
)
from nodewright_aptos.state import Abort
from nodewright_aptos.statekeys import resource_key
from nodewright_aptos.typetags import APT, StructTag, TypeTag

_ACCOUNT: Final = (ONE, "account")
_APTOS_ACCOUNT: Final = (ONE, "aptos_account")
_COIN: Final = (ONE, "coin")
RESERVED: Final = frozenset({special(0), special(1), special(3)})
TRANSFER_GAS: Final = 3
OBJECT: Final = "0x1::object::Object<T0>"
MINT_CAPABILITY: Final = framework("aptos_coin", "MintCapStore")


# --- accounts --------------------------------------------------------------------------------------------------------


def create(call: Call, address: bytes) -> None:
    """An account with an AptosCoin store. Aborts where there is one, or for a reserved address."""
    if address in RESERVED:
        raise Abort(_ACCOUNT, 0x10005, "ECANNOT_RESERVED_ADDRESS", "Cannot create account because address is reserved")
    key = account_key(address)
    if call.view.get(key) is not None:
        raise Abort(_ACCOUNT, 0x80001, "EACCOUNT_ALREADY_EXISTS", "Account already exists")
    call.view.set(key, new_account(address))
    call.view.set(apt_store_key(address), new_store(address))


def _create_account(call: Call) -> None:
    create(call, call.arguments[0])


def _rotate(call: Call) -> None:
    (fresh,) = call.arguments
    if len(fresh) != 32:
        raise call.abort(0x10004, "EMALFORMED_AUTHENTICATION_KEY", "The provided authentication key has an invalid length")
    key = account_key(call.sender)
    account = call.view.get(key)
    if account is None:
        raise call.abort(0x60002, "EACCOUNT_DOES_NOT_EXIST", "Account does not exist")
    call.view.set(key, with_authentication_key(account, fresh))


# --- coins -----------------------------------------------------------------------------------------------------------


def _insufficient() -> Abort:
    return Abort(_COIN, 0x10006, "EINSUFFICIENT_BALANCE", "Not enough coins to complete transaction")


def _no_store() -> Abort:
    return Abort(_COIN, 0x60005, "ECOIN_STORE_NOT_PUBLISHED", "Account hasn't registered `CoinStore` for `CoinType`")


def _frozen() -> Abort:
    return Abort(_COIN, 0x5000A, "EFROZEN", "CoinStore is frozen. Coins cannot be deposited or withdrawn")


def move(call: Call, source: bytes, target: bytes, amount: int) -> None:
    """Coins from the store at one key to the store at another, with their events; both must be there."""
    view = call.view
    store = view.get(source)
    if store is None:
        raise _no_store()
    if frozen_store(store):
        raise _frozen()
    try:
        store, event = withdraw(store, amount)
    except OverflowError:
        raise _insufficient() from None
    view.set(source, store)
    view.emit(event)
    other = view.get(target)
    if other is None:
        raise _no_store()
    if frozen_store(other):
        raise _frozen()
    try:
        other, event = deposit(other, amount)
    except OverflowError:  # never of AptosCoin: its supply fits
        raise Abort(_COIN, None, "ARITHMETIC_ERROR") from None
    view.set(target, other)
    view.emit(event)


def pay(call: Call, recipient: bytes, amount: int) -> None:
    """AptosCoin from the sender; the recipient's account is created where there is none."""
    target = apt_store_key(recipient)
    if call.view.get(account_key(recipient)) is None:
        create(call, recipient)
    elif call.view.get(target) is None:
        _register(call, recipient, target)
    move(call, apt_store_key(call.sender), target, amount)


def _register(call: Call, address: bytes, key: bytes) -> None:
    """A coin store at ``key``, with two creation numbers of its account."""
    own = account_key(address)
    account = call.view.get(own)
    if account is None:
        raise _no_store()
    account, first = take_creation_numbers(account, 2)
    call.view.set(own, account)
    call.view.set(key, new_store(address, first_creation=first))


def _transfer(call: Call) -> None:
    recipient, amount = call.arguments
    pay(call, recipient, amount)


def _pairs(call: Call) -> Sequence[tuple[bytes, int]]:
    recipients, amounts = call.arguments
    if len(recipients) != len(amounts):
        raise Abort(
            _APTOS_ACCOUNT,
            0x10005,
            "EMISMATCHING_RECIPIENTS_AND_AMOUNTS_LENGTH",
            "The lengths of the recipients and amounts lists don't match",
        )
    call.view.charge(TRANSFER_GAS * len(recipients))
    return list(zip(recipients, amounts, strict=True))


def _batch_transfer(call: Call) -> None:
    for recipient, amount in _pairs(call):
        pay(call, recipient, amount)


def _coin(types: tuple[TypeTag, ...]) -> StructTag:
    (coin,) = types
    if not isinstance(coin, StructTag):
        raise Malformed("a coin is a struct")
    return coin


def _known_coin(call: Call) -> StructTag:
    try:
        coin = _coin(call.types)
    except Malformed:
        raise Abort(_COIN, None, "TYPE_MISMATCH") from None
    if coin != APT and call.view.get(coin_info_key(coin)) is None:
        raise Abort(_COIN, 0x60003, "ECOIN_INFO_NOT_PUBLISHED", "`CoinType` hasn't been initialized as a coin")
    return coin


def _pay_coin(call: Call, coin: StructTag, recipient: bytes, amount: int) -> None:
    if coin == APT:
        pay(call, recipient, amount)
        return
    target = store_key(recipient, coin)
    if call.view.get(account_key(recipient)) is None:
        create(call, recipient)
    if call.view.get(target) is None:
        _register(call, recipient, target)
    move(call, store_key(call.sender, coin), target, amount)


def _transfer_coins(call: Call) -> None:
    recipient, amount = call.arguments
    _pay_coin(call, _known_coin(call), recipient, amount)


def _batch_transfer_coins(call: Call) -> None:
    coin = _known_coin(call)
    for recipient, amount in _pairs(call):
        _pay_coin(call, coin, recipient, amount)


def _coin_transfer(call: Call) -> None:
    coin = _known_coin(call)
    recipient, amount = call.arguments
    move(call, store_key(call.sender, coin), store_key(recipient, coin), amount)


def _primary_transfer(call: Call) -> None:
    metadata, recipient, amount = call.arguments
    if metadata != APT_METADATA:
        raise Abort((ONE, "object"), 0x60002, "EOBJECT_DOES_NOT_EXIST", "An object does not exist at this address")
    pay(call, recipient, amount)


def _mint(call: Call) -> None:
    recipient, amount = call.arguments
    if call.view.get(resource_key(call.sender, MINT_CAPABILITY)) is None:
        raise call.abort(0x60001, "ENO_CAPABILITIES", "Account does not have mint capability")
    target = apt_store_key(recipient)
    store = call.view.get(target)
    if store is None:
        raise _no_store()
    if frozen_store(store):
        raise _frozen()
    try:
        store, event = deposit(store, amount)
    except OverflowError:
        raise Abort(_COIN, None, "ARITHMETIC_ERROR") from None
    call.view.set(target, store)
    call.view.emit(event)
    call.view.add(SUPPLY_KEY, amount)


# --- declared accesses -----------------------------------------------------------------------------------------------

Keys = Sequence[bytes]
Types = tuple[TypeTag, ...]
Signers = tuple[bytes, ...]


def _of_creation(signers: Signers, types: Types, arguments: tuple[Any, ...]) -> tuple[Keys, Keys]:
    keys = (account_key(arguments[0]), apt_store_key(arguments[0]))
    return keys, keys


def _of_payment(signers: Signers, types: Types, arguments: tuple[Any, ...]) -> tuple[Keys, Keys]:
    recipient = arguments[-2]
    keys = (apt_store_key(signers[0]), account_key(recipient), apt_store_key(recipient))
    return keys, keys


def _of_batch(signers: Signers, types: Types, arguments: tuple[Any, ...]) -> tuple[Keys, Keys]:
    keys = [apt_store_key(signers[0])]
    for recipient in arguments[0]:
        keys += (account_key(recipient), apt_store_key(recipient))
    return keys, keys


def _of_coins(signers: Signers, types: Types, arguments: tuple[Any, ...]) -> tuple[Keys, Keys]:
    coin = _coin(types)
    recipients = arguments[0] if isinstance(arguments[0], tuple) else (arguments[0],)
    keys = [store_key(signers[0], coin)]
    for recipient in recipients:
        keys += (account_key(recipient), apt_store_key(recipient), store_key(recipient, coin))
    return (keys if coin == APT else [coin_info_key(coin), *keys]), keys


def _of_rotation(signers: Signers, types: Types, arguments: tuple[Any, ...]) -> tuple[Keys, Keys]:
    keys = (account_key(signers[0]),)
    return keys, keys


def _of_mint(signers: Signers, types: Types, arguments: tuple[Any, ...]) -> tuple[Keys, Keys]:
    keys = (apt_store_key(arguments[0]),)
    return (resource_key(signers[0], MINT_CAPABILITY), *keys), keys


def _function(
    module: str,
    name: str,
    parameters: tuple[str, ...],
    run: Callable[[Call], None],
    accesses: Callable[[Signers, Types, tuple[Any, ...]], tuple[Keys, Keys]],
    types: int = 0,
    gas: int = TRANSFER_GAS,
) -> TransactionFunction:
    return TransactionFunction(ONE, module, name, ("&signer", *parameters), run, gas, types, accesses)


_ONE_PAYMENT: Final = ("address", "u64")
_MANY_PAYMENTS: Final = ("vector<address>", "vector<u64>")


def install(functions: Functions) -> None:
    """Everything of this module, and the supply as the aggregator of every fee."""
    functions.aggregators = (SUPPLY_KEY,)
    account = "aptos_account"
    functions.add(
        # The one function without a signer.
        TransactionFunction(ONE, account, "create_account", ("address",), _create_account, TRANSFER_GAS, 0, _of_creation),
        _function(account, "transfer", _ONE_PAYMENT, _transfer, _of_payment),
        _function(account, "batch_transfer", _MANY_PAYMENTS, _batch_transfer, _of_batch, gas=0),
        _function(account, "transfer_coins", _ONE_PAYMENT, _transfer_coins, _of_coins, 1),
        _function(account, "batch_transfer_coins", _MANY_PAYMENTS, _batch_transfer_coins, _of_coins, 1, 0),
        _function(account, "fungible_transfer_only", _ONE_PAYMENT, _transfer, _of_payment),
        _function("coin", "transfer", _ONE_PAYMENT, _coin_transfer, _of_coins, 1),
        _function("primary_fungible_store", "transfer", (OBJECT, *_ONE_PAYMENT), _primary_transfer, _of_payment, 1),
        _function("aptos_coin", "mint", _ONE_PAYMENT, _mint, _of_mint),
        _function("account", "rotate_authentication_key_call", ("vector<u8>",), _rotate, _of_rotation, gas=1),
    )
