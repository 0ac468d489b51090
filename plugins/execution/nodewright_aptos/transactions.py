"""Transactions: what users sign, what a ledger holds, and their hashes.

``SignedTransaction`` is RawTransaction ‖ authenticator, at most 64 KiB. A ledger's ``Transaction`` has a tag before it: 0
user, 1 genesis, 2 block metadata, 3 state checkpoint. Hash: H_Transaction(tag ‖ body).

Signing messages: H("APTOS::RawTransaction") ‖ raw; with further signers or a fee payer
H("APTOS::RawTransactionWithData") ‖ tag (0 multi-agent, 1 fee payer) ‖ raw ‖ further addresses ‖ fee payer's address.
Signers other than the fee payer may have signed with 0x0 in its place.
"""

from __future__ import annotations

from hashlib import sha3_256
from typing import Final

from attrs import define, field, frozen

from nodewright_aptos import bcs, hashing
from nodewright_aptos.addresses import ZERO, parse_address
from nodewright_aptos.authenticators import (
    AccountAuthenticator,
    encode_authenticator,
    read_authenticator,
    read_ed25519,
    read_multi_ed25519,
)
from nodewright_aptos.bcs import Malformed, Reader
from nodewright_aptos.typetags import MAX_ARGUMENTS, MAX_NAME, TypeTag, encode_type, identifier, read_type

MAX_TRANSACTION_BYTES: Final = 64 * 1024
MAX_SIGNERS: Final = 16
MAX_FUNCTION_ARGUMENTS: Final = 64

# Payloads
SCRIPT: Final = 0
ENTRY_FUNCTION: Final = 2
MULTISIG: Final = 3
# Transaction authenticators
SIGNED_ED25519: Final = 0
SIGNED_MULTI_ED25519: Final = 1
SIGNED_MULTI_AGENT: Final = 2
SIGNED_FEE_PAYER: Final = 3
SIGNED_SINGLE: Final = 4
# Transactions of a ledger
USER: Final = 0
GENESIS: Final = 1
BLOCK_METADATA: Final = 2
STATE_CHECKPOINT: Final = 3


def _hash_prefix(tag: int) -> bytes:
    return hashing.TRANSACTION + bytes([tag])


_USER_PREFIX: Final = _hash_prefix(USER)


# --- payloads --------------------------------------------------------------------------------------------------------


@define
class EntryFunction:
    """``key`` is address ‖ module ‖ name in BCS: what functions are registered under."""

    key: bytes
    type_arguments: tuple[TypeTag, ...]
    arguments: tuple[bytes, ...]

    @staticmethod
    def of(
        address: bytes, module: str, name: str, type_arguments: tuple[TypeTag, ...] = (), arguments: tuple[bytes, ...] = ()
    ) -> EntryFunction:
        return EntryFunction(function_key(address, module, name), type_arguments, arguments)

    @property
    def address(self) -> bytes:
        return self.key[:32]

    @property
    def module(self) -> str:
        return _names(self.key)[0]

    @property
    def name(self) -> str:
        return _names(self.key)[1]

    def encode(self) -> bytes:
        return self.key + bcs.vector(map(encode_type, self.type_arguments)) + bcs.vector(map(bcs.blob, self.arguments))


@frozen
class Script:
    """Bytecode: carried, never run (there is no Move VM). ``body`` is all of the payload after its tag."""

    body: bytes


@frozen
class Multisig:
    """A call for a multisig account to make: carried, never run."""

    address: bytes
    function: EntryFunction | None


Payload = EntryFunction | Script | Multisig


def function_key(address: bytes, module: str, name: str) -> bytes:
    return address + bcs.text(module) + bcs.text(name)


def parse_function_key(text: str) -> bytes:
    """Of ``0x1::module::name``. Raises Malformed."""
    parts = text.split("::")
    if len(parts) != 3 or len(text) > 600:
        raise Malformed(f"a function is named address::module::name, not {text[:80]!r}")
    return function_key(parse_address(parts[0]), parts[1], parts[2])


_KNOWN_NAMES: dict[bytes, tuple[str, str]] = {}
_MAX_KNOWN_NAMES: Final = 4096


def _names(key: bytes) -> tuple[str, str]:
    """Module and name of a function's key. Raises Malformed."""
    names = _KNOWN_NAMES.get(key)
    if names is None:
        reader = Reader(key, 32)
        names = identifier(reader.text(MAX_NAME)), identifier(reader.text(MAX_NAME))
        if len(_KNOWN_NAMES) >= _MAX_KNOWN_NAMES:
            _KNOWN_NAMES.clear()
        _KNOWN_NAMES[key] = names
    return names


def read_entry_function(reader: Reader) -> EntryFunction:
    start = reader.at
    reader.take(32)
    reader.take(reader.length(MAX_NAME))
    reader.take(reader.length(MAX_NAME))
    key = reader.data[start : reader.at]
    _names(key)
    count = reader.length(MAX_ARGUMENTS)
    types = tuple([read_type(reader) for _ in range(count)]) if count else ()
    count = reader.length(MAX_FUNCTION_ARGUMENTS)
    return EntryFunction(key, types, tuple([reader.blob(MAX_TRANSACTION_BYTES) for _ in range(count)]))


_SCRIPT_ARGUMENTS: Final = {0: 1, 1: 8, 2: 16, 3: 32, 5: 1, 6: 2, 7: 4, 8: 32}


def _read_script(reader: Reader) -> Script:
    start = reader.at
    reader.blob(MAX_TRANSACTION_BYTES)
    reader.vector(lambda: read_type(reader), MAX_ARGUMENTS)
    for _ in range(reader.length(MAX_FUNCTION_ARGUMENTS)):
        kind = reader.uleb()
        if kind in _SCRIPT_ARGUMENTS:
            reader.take(_SCRIPT_ARGUMENTS[kind])
        elif kind in (4, 9):  # bytes, and a value that is serialised already
            reader.blob(MAX_TRANSACTION_BYTES)
        else:
            raise Malformed(f"a script has no arguments of kind {kind}")
    return Script(reader.data[start : reader.at])


def _read_multisig(reader: Reader) -> Multisig:
    address = reader.take(32)
    if not reader.flag():
        return Multisig(address, None)
    if reader.uleb() != 0:
        raise Malformed("a multisig account calls entry functions only")
    return Multisig(address, read_entry_function(reader))


def read_payload(reader: Reader) -> Payload:
    kind = reader.uleb()
    if kind == ENTRY_FUNCTION:
        return read_entry_function(reader)
    if kind == SCRIPT:
        return _read_script(reader)
    if kind == MULTISIG:
        return _read_multisig(reader)
    raise Malformed(f"transaction payloads of kind {kind} are not known here")


def encode_payload(payload: Payload) -> bytes:
    if isinstance(payload, EntryFunction):
        return bcs.uleb(ENTRY_FUNCTION) + payload.encode()
    if isinstance(payload, Script):
        return bcs.uleb(SCRIPT) + payload.body
    function = None if payload.function is None else bcs.uleb(0) + payload.function.encode()
    return bcs.uleb(MULTISIG) + payload.address + bcs.option(function)


# --- raw transactions ------------------------------------------------------------------------------------------------


@frozen
class RawTransaction:
    """``expires_at`` in whole Unix seconds; ``gas_price`` in octas for a unit."""

    sender: bytes
    sequence_number: int
    payload: Payload
    max_gas: int
    gas_price: int
    expires_at: int
    chain_id: int

    def encode(self) -> bytes:
        return b"".join(
            (
                self.sender,
                bcs.u64(self.sequence_number),
                encode_payload(self.payload),
                bcs.u64(self.max_gas),
                bcs.u64(self.gas_price),
                bcs.u64(self.expires_at),
                bcs.u8(self.chain_id),
            )
        )


def signing_message(raw: bytes, secondary: tuple[bytes, ...] = (), fee_payer: bytes | None = None) -> bytes:
    """What the signers of a raw transaction (in BCS) sign."""
    if fee_payer is not None:
        return b"".join((hashing.RAW_TRANSACTION_WITH_DATA, b"\1", raw, bcs.vector(secondary), fee_payer))
    if secondary:
        return b"".join((hashing.RAW_TRANSACTION_WITH_DATA, b"\0", raw, bcs.vector(secondary)))
    return hashing.RAW_TRANSACTION + raw


# Made once per transaction: a frozen class costs three times as much to build. Nobody assigns to one.
@define
class UserTransaction:
    """A signed transaction that was read. ``raw`` is all of it, of which the first ``body_bytes`` are what was signed;
    ``id`` is its hash. ``fee_payer`` is None where the sender pays."""

    raw: bytes
    id: bytes
    body_bytes: int
    sender: bytes
    sequence_number: int
    payload: Payload
    max_gas: int
    gas_price: int
    expires_at: int
    chain_id: int
    kind: int
    signer: AccountAuthenticator
    secondary: tuple[bytes, ...] = ()
    secondary_signers: tuple[AccountAuthenticator, ...] = ()
    fee_payer: bytes | None = None
    fee_payer_signer: AccountAuthenticator | None = None
    _sender_key: bytes | None = field(default=None, eq=False)

    @property
    def payer(self) -> bytes:
        return self.sender if self.fee_payer is None else self.fee_payer

    @property
    def sender_key(self) -> bytes:
        """The authentication key that the sender's account must have."""
        if self._sender_key is None:
            self._sender_key = self.signer.authentication_key
        return self._sender_key

    @property
    def body(self) -> bytes:
        """The raw transaction in BCS."""
        return self.raw[: self.body_bytes]

    @property
    def max_fee(self) -> int:
        return self.max_gas * self.gas_price


def decode_transaction(raw: bytes) -> UserTransaction:
    """A SignedTransaction, whole. Raises Malformed."""
    if len(raw) > MAX_TRANSACTION_BYTES:
        raise Malformed(f"{len(raw)} bytes are more than {MAX_TRANSACTION_BYTES}")
    reader = Reader(raw)
    transaction = read_signed(reader)
    reader.finish()
    return transaction


def read_signed(reader: Reader) -> UserTransaction:
    """The next SignedTransaction: there is no length before it. Raises Malformed."""
    start = reader.at
    sender = reader.take(32)
    sequence_number = reader.u64()
    payload = read_payload(reader)
    tail = reader.take(25)
    body_bytes = reader.at - start
    kind = reader.uleb()
    secondary: tuple[bytes, ...] = ()
    secondary_signers: tuple[AccountAuthenticator, ...] = ()
    fee_payer: bytes | None = None
    fee_payer_signer: AccountAuthenticator | None = None
    if kind == SIGNED_ED25519:
        signer = read_ed25519(reader)
    elif kind == SIGNED_SINGLE:
        signer = read_authenticator(reader)
    elif kind == SIGNED_MULTI_ED25519:
        signer = read_multi_ed25519(reader)
    elif kind in (SIGNED_MULTI_AGENT, SIGNED_FEE_PAYER):
        signer = read_authenticator(reader)
        secondary = reader.vector(lambda: reader.take(32), MAX_SIGNERS, 32)
        secondary_signers = reader.vector(lambda: read_authenticator(reader), MAX_SIGNERS)
        if kind == SIGNED_FEE_PAYER:
            fee_payer = reader.take(32)
            fee_payer_signer = read_authenticator(reader)
    else:
        raise Malformed(f"transaction authenticators of kind {kind} are not known here")
    raw = reader.data[start : reader.at]
    return UserTransaction(
        raw,
        sha3_256(_USER_PREFIX + raw).digest(),
        body_bytes,
        sender,
        sequence_number,
        payload,
        int.from_bytes(tail[:8], "little"),
        int.from_bytes(tail[8:16], "little"),
        int.from_bytes(tail[16:24], "little"),
        tail[24],
        kind,
        signer,
        secondary,
        secondary_signers,
        fee_payer,
        fee_payer_signer,
    )


def signed_transaction(
    raw: RawTransaction,
    signer: AccountAuthenticator,
    secondary: tuple[bytes, ...] = (),
    secondary_signers: tuple[AccountAuthenticator, ...] = (),
    fee_payer: bytes | None = None,
    fee_payer_signer: AccountAuthenticator | None = None,
) -> bytes:
    """The bytes of a SignedTransaction, its authenticator chosen as the SDKs do."""
    if fee_payer is not None or secondary:
        kind = SIGNED_MULTI_AGENT if fee_payer is None else SIGNED_FEE_PAYER
    else:
        kind = signer.scheme if signer.scheme in (SIGNED_ED25519, SIGNED_MULTI_ED25519) else SIGNED_SINGLE
    return raw.encode() + encode_signatures(kind, signer, secondary, secondary_signers, fee_payer, fee_payer_signer)


def encode_signatures(
    kind: int,
    signer: AccountAuthenticator,
    secondary: tuple[bytes, ...] = (),
    secondary_signers: tuple[AccountAuthenticator, ...] = (),
    fee_payer: bytes | None = None,
    fee_payer_signer: AccountAuthenticator | None = None,
) -> bytes:
    """The transaction authenticator of this kind."""
    inner = encode_authenticator(signer)
    if kind in (SIGNED_ED25519, SIGNED_MULTI_ED25519):
        return inner  # the tags of the two are the same
    if kind in (SIGNED_MULTI_AGENT, SIGNED_FEE_PAYER):
        inner += bcs.vector(secondary) + bcs.vector(map(encode_authenticator, secondary_signers))
    if fee_payer is not None and fee_payer_signer is not None:
        inner += fee_payer + encode_authenticator(fee_payer_signer)
    return bcs.uleb(kind) + inner


# --- what must be true of the signatures -----------------------------------------------------------------------------

Check = tuple[int, bytes, bytes, bytes]  # curve, key, message, signature


def signature_checks(transaction: UserTransaction) -> list[list[list[Check]]] | None:
    """All of these, of each any, of it all checks must be good; None where they cannot be: too few signatures, or other
    signers than addresses."""
    if transaction.kind in (SIGNED_ED25519, SIGNED_MULTI_ED25519, SIGNED_SINGLE):
        message = hashing.RAW_TRANSACTION + transaction.body
        checks = _checks(transaction.signer, message)
        return None if checks is None else [[checks]]
    if len(transaction.secondary) != len(transaction.secondary_signers):
        return None
    signers = [transaction.signer, *transaction.secondary_signers]
    if transaction.kind == SIGNED_MULTI_AGENT:
        # Signed as multi-agent also where there is nobody else.
        data = b"\0" + transaction.body + bcs.vector(transaction.secondary)
        message = hashing.RAW_TRANSACTION_WITH_DATA + data
        single = [_checks(one, message) for one in signers]
        return None if any(one is None for one in single) else [[one] for one in single if one is not None]
    assert transaction.fee_payer is not None and transaction.fee_payer_signer is not None
    named = signing_message(transaction.body, transaction.secondary, transaction.fee_payer)
    unnamed = signing_message(transaction.body, transaction.secondary, ZERO)
    wanted: list[list[list[Check]]] = []
    for one in signers:
        ways = [checks for message in (named, unnamed) if (checks := _checks(one, message)) is not None]
        if not ways:
            return None
        wanted.append(ways)
    payer = _checks(transaction.fee_payer_signer, named)
    return None if payer is None else [*wanted, [payer]]


def _checks(signer: AccountAuthenticator, message: bytes) -> list[Check] | None:
    if len(signer.signatures) < signer.threshold:
        return None
    return [(*signer.keys[place], message, signature) for place, signature in signer.signatures]


# --- transactions that nobody signs ----------------------------------------------------------------------------------


@frozen
class BlockMetadata:
    """The first transaction of every block. ``timestamp`` in microseconds."""

    id: bytes
    epoch: int
    round: int
    proposer: bytes
    votes: bytes
    failed_proposers: tuple[int, ...]
    timestamp: int

    def encode(self) -> bytes:
        """With the tag of a ledger's transactions."""
        return b"".join(
            (
                bcs.uleb(BLOCK_METADATA),
                bcs.blob(self.id),
                bcs.u64(self.epoch),
                bcs.u64(self.round),
                self.proposer,
                bcs.blob(self.votes),
                bcs.vector(map(bcs.u32, self.failed_proposers)),
                bcs.u64(self.timestamp),
            )
        )


def decode_block_metadata(raw: bytes) -> BlockMetadata:
    reader = Reader(raw)
    if reader.uleb() != BLOCK_METADATA:
        raise Malformed("not the metadata of a block")
    metadata = BlockMetadata(
        reader.exactly(32),
        reader.u64(),
        reader.u64(),
        reader.take(32),
        reader.blob(8192),
        reader.vector(reader.u32, 65536, 4),
        reader.u64(),
    )
    reader.finish()
    return metadata


def encode_state_checkpoint(block: bytes) -> bytes:
    """The last transaction of every block, with its tag: it names the block, so that no two are alike."""
    return bcs.uleb(STATE_CHECKPOINT) + bcs.blob(block)


def encode_user(raw: bytes) -> bytes:
    return b"\0" + raw


def transaction_hash(encoded: bytes) -> bytes:
    """Of a ledger's transaction with its tag."""
    return hashing.digest(hashing.TRANSACTION, encoded)
