"""The genesis state from the table ``execution`` of a genesis document, and the transaction at version 0 that writes it.

Keys of the table: ``chain_id`` (4, a local network's, where none is given); ``accounts``: a list of tables with ``address``
or ``public_key`` (Ed25519, hexadecimal; its address follows from it), ``balance`` in octas (a whole number, or text where
it is above 2^63), and ``mint = true`` for one that may mint and change validators; ``faucet``: the public key of an account
with ``faucet_balance`` octas that may mint, or ``"local"`` for the key that everybody knows (``local_faucet_seed``). The
total supply is the sum of all balances. The framework's own accounts (0x1, 0x3 to 0xa) have no key that could sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha3_256
from typing import Any, Final

from attrs import frozen

from nodewright.errors import ConfigurationError
from nodewright.interfaces.common import BlockRef
from nodewright_aptos import bcs, hashing, jmt
from nodewright_aptos.accumulator import Accumulator
from nodewright_aptos.addresses import CORE_RESOURCES, ED25519, ONE, authentication_key, parse_address, special
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.blocks import Entry, Saved, ledger_rows, tree_changes
from nodewright_aptos.framework import MINT_CAPABILITY
from nodewright_aptos.jmt import Root
from nodewright_aptos.ledger import encode_write_set
from nodewright_aptos.records import BlockRow
from nodewright_aptos.resources import (
    APT_INFO_KEY,
    BLOCK_KEY,
    CHAIN_ID_KEY,
    CONFIGURATION_KEY,
    MAX_U64,
    SUPPLY_KEY,
    TIMESTAMP_KEY,
    CoinInfo,
    account_key,
    apt_store_key,
    block_resource,
    configuration,
    new_account,
    new_store,
)
from nodewright_aptos.state import KEPT, Output
from nodewright_aptos.statekeys import resource_key
from nodewright_aptos.statestore import Version
from nodewright_aptos.transactions import GENESIS, transaction_hash

LOCAL_CHAIN_ID: Final = 4
LOCAL_FAUCET_BALANCE: Final = 10**18
MAX_ACCOUNTS: Final = 1_000_000
MAX_KEPT_BYTES: Final = 1 << 20
_FRAMEWORK_ACCOUNTS: Final = (1, *range(3, 11))
_KEYS: Final = {"address", "public_key", "balance", "mint"}


def local_faucet_seed() -> bytes:
    """The Ed25519 secret that everybody knows: for networks on one's own machine only."""
    return sha3_256(b"nodewright local faucet").digest()


@frozen
class GenesisAccount:
    address: bytes
    authentication_key: bytes
    balance: int
    mint: bool = False


def chain_id_of(table: Mapping[str, Any]) -> int:
    """Raises ConfigurationError."""
    value = table.get("chain_id", LOCAL_CHAIN_ID)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 255:
        raise ConfigurationError(f"genesis: execution.chain_id must be from 1 to 255, not {value!r}")
    return value


def accounts_of(table: Mapping[str, Any]) -> list[GenesisAccount]:
    """Raises ConfigurationError with all problems."""
    problems: list[str] = []
    found: dict[bytes, GenesisAccount] = {}
    listed = table.get("accounts", ())
    if len(listed) > MAX_ACCOUNTS:
        raise ConfigurationError(f"genesis: execution.accounts has more than {MAX_ACCOUNTS} entries")
    entries = [(f"accounts[{at}]", entry) for at, entry in enumerate(listed)]
    faucet = table.get("faucet")
    if faucet is not None:
        balance = table.get("faucet_balance", LOCAL_FAUCET_BALANCE)
        entries.append(("faucet", {"public_key": faucet, "balance": balance, "mint": True}))
    for where, entry in entries:
        try:
            account = _account(entry)
        except (Malformed, ValueError, TypeError) as error:
            problems.append(f"genesis: execution.{where}: {error}")
            continue
        if account.address in found:
            problems.append(f"genesis: execution.{where}: this account is there twice")
        found[account.address] = account
    if sum(account.balance for account in found.values()) > MAX_U64:
        problems.append("genesis: execution.accounts hold more than 2^64 octas together")
    if problems:
        raise ConfigurationError(problems)
    return list(found.values())


def _account(entry: Mapping[str, Any]) -> GenesisAccount:
    unknown = set(entry) - _KEYS
    if unknown:
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))}; there are {', '.join(sorted(_KEYS))}")
    balance = int(entry.get("balance", 0))
    if not 0 <= balance <= MAX_U64:
        raise ValueError(f"a balance is from 0 to 2^64 - 1, not {balance}")
    key = None
    if "public_key" in entry:
        key = authentication_key(_public_key(str(entry["public_key"])), ED25519)
    elif "address" not in entry:
        raise ValueError("it has neither address nor public_key")
    address = parse_address(str(entry["address"])) if "address" in entry else (key or b"")
    return GenesisAccount(address, key or address, balance, bool(entry.get("mint", False)))


def _public_key(text: str) -> bytes:
    if text == "local":
        from nacl.bindings import crypto_sign_seed_keypair

        return bytes(crypto_sign_seed_keypair(local_faucet_seed())[0])
    key = bytes.fromhex(text[2:] if text.startswith("0x") else text)
    if len(key) != 32:
        raise ValueError("a public key has 32 bytes")
    return key


def state_of(accounts: list[GenesisAccount], chain_id: int, timestamp: int) -> dict[bytes, bytes]:
    """``timestamp`` in microseconds."""
    state: dict[bytes, bytes] = {}
    for number in _FRAMEWORK_ACCOUNTS:
        address = special(number)
        # 0x1 has the handles of its own resources before any that is created later.
        state[account_key(address)] = new_account(address, next_creation=5 if address == ONE else 4)
    if all(account.address != CORE_RESOURCES for account in accounts):
        accounts = [*accounts, GenesisAccount(CORE_RESOURCES, CORE_RESOURCES, 0, True)]
    for account in accounts:
        state[account_key(account.address)] = new_account(account.address, account.authentication_key)
        state[apt_store_key(account.address)] = new_store(account.address, account.balance)
        if account.mint:
            state[resource_key(account.address, MINT_CAPABILITY)] = b"\0"
    state[APT_INFO_KEY] = CoinInfo("Aptos Coin", "APT", 8, SUPPLY_KEY).encode()
    state[SUPPLY_KEY] = bcs.u128(sum(account.balance for account in accounts))
    state[CHAIN_ID_KEY] = bcs.u8(chain_id)
    state[TIMESTAMP_KEY] = bcs.u64(timestamp)
    state[BLOCK_KEY] = block_resource()
    state[CONFIGURATION_KEY] = configuration(0)
    return state


def genesis_version(document: Mapping[str, Any], block: BlockRef, saved: Saved) -> Version:
    """Block 0 with the one transaction at version 0. One over ``MAX_KEPT_BYTES`` is kept as its tag and its hash alone.
    Raises ConfigurationError."""
    table = document.get("execution", {})
    timestamp = int(document.get("time", 0)) * 1_000_000
    state: dict[bytes, bytes | None] = {**state_of(accounts_of(table), chain_id_of(table), timestamp)}
    written = encode_write_set(state, frozenset(state))
    transaction = bcs.uleb(GENESIS) + b"\0" + written + b"\0"
    id = transaction_hash(transaction)
    if len(transaction) > MAX_KEPT_BYTES:  # its hash and its effect stand; the body is in the genesis file
        transaction, saved = bcs.uleb(GENESIS), Saved(False, saved.accounts, saved.events)
    tree = jmt.apply_changes({}, Root(), tree_changes(state), 0)
    entry = Entry(transaction, id, Output(KEPT, created=tuple(state)), state)
    rows, infos = ledger_rows([entry], 0, block.height, timestamp, tree.root.hash, saved)
    accumulator, _ = Accumulator().append(hashing.digests(hashing.TRANSACTION_INFO, infos))
    row = BlockRow(block.height, block.id, b"", 0, 0, bytes(32), timestamp, 0, 0, tree.root, accumulator)
    return Version(row, None, state, tree.nodes, rows=rows)
