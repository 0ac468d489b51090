"""The validator set as execution changes it: one transaction function for who runs the network.

``0x1::validators::update(key: vector<u8>, power: u64)`` of an account with the mint capability (as genesis gives it) puts a
validator's power (0: it leaves) into the table of validators, and emits ``0x1::validators::Update``. A block with such
events reports them as ``ConsensusUpdates`` with the end of the epoch; a consensus without epochs ignores them. Aptos
changes its set by staking, which is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha3_256
from typing import Any, Final

from nodewright_aptos import bcs
from nodewright_aptos.addresses import ONE
from nodewright_aptos.bcs import Reader
from nodewright_aptos.framework import MINT_CAPABILITY
from nodewright_aptos.functions import Call, Functions, TransactionFunction
from nodewright_aptos.ledger import Event, event_type
from nodewright_aptos.resources import framework
from nodewright_aptos.state import Output
from nodewright_aptos.statekeys import resource_key, table_key
from nodewright_aptos.typetags import TypeTag

UPDATE_EVENT: Final = event_type(framework("validators", "Update"))
VALIDATORS_HANDLE: Final = sha3_256(b"0x1::validators").digest()
MAX_KEY_BYTES: Final = 128


def power_key(key: bytes) -> bytes:
    """Where a validator's power is: u64."""
    return table_key(VALIDATORS_HANDLE, key)


def _update(call: Call) -> None:
    key, power = call.arguments
    if call.view.get(resource_key(call.sender, MINT_CAPABILITY)) is None:
        raise call.abort(0x50001, "ENOT_AUTHORIZED", "Account does not run this network")
    if not 0 < len(key) <= MAX_KEY_BYTES:
        raise call.abort(0x10002, "EINVALID_KEY", "A validator's key has 1 to 128 bytes")
    call.view.set(power_key(key), bcs.u64(power) if power else None)
    call.view.emit(Event(UPDATE_EVENT, bcs.blob(key) + bcs.u64(power)))


def _accesses(
    signers: tuple[bytes, ...], types: tuple[TypeTag, ...], arguments: tuple[Any, ...]
) -> tuple[Sequence[bytes], Sequence[bytes]]:
    keys = (power_key(arguments[0]),)
    return (resource_key(signers[0], MINT_CAPABILITY), *keys), keys


def install(functions: Functions) -> None:
    functions.add(
        TransactionFunction(ONE, "validators", "update", ("&signer", "vector<u8>", "u64"), _update, 2, accesses=_accesses)
    )


def updates_of(outputs: Iterable[Output]) -> dict[bytes, int]:
    """Key -> power, the last word of the block on each."""
    updates: dict[bytes, int] = {}
    for output in outputs:
        for event in output.events:
            if event.type == UPDATE_EVENT:
                reader = Reader(event.data)
                key = reader.blob(MAX_KEY_BYTES)
                updates[key] = reader.u64()
    return updates
