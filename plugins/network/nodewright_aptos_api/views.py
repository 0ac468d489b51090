"""Transactions, events, changes and blocks as JSON: 64-bit numbers as text, bytes in hexadecimal, as in Aptos's REST."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nodewright_aptos import abi, bcs, transactions
from nodewright_aptos.addresses import address_text
from nodewright_aptos.bcs import Malformed, Reader
from nodewright_aptos.functions import Functions
from nodewright_aptos.layouts import render
from nodewright_aptos.ledger import Event
from nodewright_aptos.queries import LedgerState
from nodewright_aptos.records import BlockRow, TransactionRow
from nodewright_aptos.resources import authentication_key_of, sequence_number
from nodewright_aptos.statekeys import key_hash, resource_of
from nodewright_aptos.transactions import (
    EntryFunction,
    Multisig,
    Payload,
    UserTransaction,
    decode_block_metadata,
    decode_transaction,
)
from nodewright_aptos.typetags import StructTag, read_type, type_text
from nodewright_aptos_api.forms import HEALTHY, Committed
from nodewright_aptos_api.signatures import signature

Json = dict[str, Any]
OLDEST = "0"  # the ledger is never pruned: transactions and blocks are there from the first on, states for a while


def hexadecimal(data: bytes) -> str:
    return "0x" + data.hex()


class Views:
    """Knows the functions of this node, whose arguments it shows as values."""

    encoded = False

    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    # --- the node, accounts ------------------------------------------------------------------------------------------

    def index(self, state: LedgerState, software: str) -> Json:
        return {
            "chain_id": state.chain_id,
            "epoch": str(state.epoch),
            "ledger_version": str(state.version),
            "oldest_ledger_version": OLDEST,
            "ledger_timestamp": str(state.timestamp),
            "node_role": "full_node",
            "oldest_block_height": OLDEST,
            "block_height": str(state.height),
            "git_hash": software,
        }

    def healthy(self) -> Json:
        return {"message": HEALTHY}

    def gas_price(self, least: int) -> Json:
        return {"deprioritized_gas_estimate": least, "gas_estimate": least, "prioritized_gas_estimate": least}

    def account(self, value: bytes) -> Json:
        return {
            "sequence_number": str(sequence_number(value)),
            "authentication_key": hexadecimal(authentication_key_of(value)),
        }

    def balance(self, octas: int) -> int:
        return octas

    def resource(self, tag: StructTag, value: bytes) -> Json:
        return {"type": str(tag), "data": render(tag, value)}

    def resources(self, rows: Sequence[tuple[StructTag, bytes]]) -> list[Json]:
        return [self.resource(tag, value) for tag, value in rows]

    def module(self, abi: Mapping[str, Any]) -> Json:
        return {"bytecode": "0x", "abi": abi}

    def modules(self, abis: Sequence[Mapping[str, Any]]) -> list[Json]:
        return [self.module(one) for one in abis]

    def item(self, codec: abi.Codec, value: bytes) -> Any:
        return codec.to_json(bcs.whole(value, codec.read))

    def values(self, answers: Sequence[Any]) -> Sequence[Any]:
        return answers

    def events(self, found: Sequence[tuple[int, Event]]) -> list[Json]:
        return [{"version": str(version)} | self.event(event) for version, event in found]

    # --- payloads ----------------------------------------------------------------------------------------------------

    def payload(self, payload: Payload) -> Json:
        if isinstance(payload, EntryFunction):
            return self._call(payload) | {"type": "entry_function_payload"}
        if isinstance(payload, Multisig):
            inner = None
            if payload.function is not None:
                inner = self._call(payload.function) | {"type": "entry_function_payload"}
            return {
                "multisig_address": address_text(payload.address),
                "transaction_payload": inner,
                "type": "multisig_payload",
            }
        reader = Reader(payload.body)
        code = reader.blob(transactions.MAX_TRANSACTION_BYTES)
        types = reader.vector(lambda: type_text(read_type(reader)), 255)
        rest = hexadecimal(payload.body[reader.at :])
        return {
            "code": {"bytecode": hexadecimal(code)},
            "type_arguments": types,
            "arguments": [rest],
            "type": "script_payload",
        }

    def _call(self, call: EntryFunction) -> Json:
        known = self._functions.function(call)
        arguments: list[Any] = [hexadecimal(one) for one in call.arguments]
        if known is not None and len(known.argument_types) == len(arguments):
            try:
                arguments = [
                    abi.codec(type).to_json(abi.decode_argument(type, one))
                    for type, one in zip(known.argument_types, call.arguments, strict=True)
                ]
            except Malformed:
                pass  # shown as bytes: the call failed
        return {
            "function": f"{address_text(call.address)}::{call.module}::{call.name}",
            "type_arguments": [type_text(one) for one in call.type_arguments],
            "arguments": arguments,
        }

    def _user(self, transaction: UserTransaction) -> Json:
        return {
            "hash": hexadecimal(transaction.id),
            "sender": address_text(transaction.sender),
            "sequence_number": str(transaction.sequence_number),
            "max_gas_amount": str(transaction.max_gas),
            "gas_unit_price": str(transaction.gas_price),
            "expiration_timestamp_secs": str(transaction.expires_at),
            "payload": self.payload(transaction.payload),
            "signature": signature(transaction),
            "replay_protection_nonce": None,
        }

    def pending(self, raw: bytes) -> Json:
        return self._user(decode_transaction(raw)) | {"type": "pending_transaction"}

    def submitted(self, raw: bytes) -> Json:
        return self.pending(raw)

    def refused(self, failures: Sequence[tuple[int, Mapping[str, Any]]]) -> Json:
        return {"transaction_failures": [{"error": error, "transaction_index": place} for place, error in failures]}

    # --- the ledger --------------------------------------------------------------------------------------------------

    def transaction(self, row: TransactionRow, accumulator: bytes) -> Json:
        """``accumulator``: the root of the transaction accumulator at its version."""
        info = row.transaction_info()
        shown: Json = {
            "version": str(row.version),
            "hash": hexadecimal(info.transaction_hash),
            "state_change_hash": hexadecimal(info.state_change_hash),
            "event_root_hash": hexadecimal(info.event_root),
            "state_checkpoint_hash": None if info.state_checkpoint is None else hexadecimal(info.state_checkpoint),
            "gas_used": str(info.gas_used),
            "success": info.status.success,
            "vm_status": _status(row),
            "accumulator_root_hash": hexadecimal(accumulator),
            "changes": [self.change(*one) for one in row.change_list()],
        }
        kind, body = row.transaction[0], row.transaction[1:]
        events = [self.event(one) for one in row.event_list()]
        time = {"timestamp": str(row.timestamp)}
        if kind == transactions.USER:
            return shown | self._user(decode_transaction(body)) | {"events": events} | time | {"type": "user_transaction"}
        if kind == transactions.BLOCK_METADATA:
            metadata = decode_block_metadata(row.transaction)
            return (
                shown
                | {
                    "id": hexadecimal(metadata.id),
                    "epoch": str(metadata.epoch),
                    "round": str(metadata.round),
                    "events": events,
                    "previous_block_votes_bitvec": list(metadata.votes),
                    "proposer": address_text(metadata.proposer),
                    "failed_proposer_indices": list(metadata.failed_proposers),
                }
                | time
                | {"type": "block_metadata_transaction"}
            )
        if kind == transactions.STATE_CHECKPOINT:
            return shown | time | {"type": "state_checkpoint_transaction"}
        written = {"changes": shown["changes"], "events": events, "type": "direct_write_set"}
        payload = {"write_set": written, "type": "write_set_payload"}
        return shown | {"payload": payload, "events": events, "type": "genesis_transaction"}

    def event(self, event: Event) -> Json:
        reader = Reader(event.type)
        tag = read_type(reader)
        address, creation = event.address or bytes(32), event.creation_number
        data = render(tag, event.data) if isinstance(tag, StructTag) else {"bytes": hexadecimal(event.data)}
        return {
            "guid": {"creation_number": str(creation), "account_address": address_text(address)},
            "sequence_number": str(event.sequence_number),
            "type": type_text(tag),
            "data": data,
        }

    def change(self, key: bytes, operation: str, value: bytes) -> Json:
        place = {"state_key_hash": hexadecimal(key_hash(key))}
        tag = resource_of(key)
        if tag is None:
            item = place | {"handle": hexadecimal(key[1:33]), "key": hexadecimal(key[33:]), "data": None}
            if operation == "delete":
                return item | {"type": "delete_table_item"}
            return item | {"value": hexadecimal(value), "type": "write_table_item"}
        at = {"address": address_text(key[1:33])} | place
        if operation == "delete":
            return at | {"resource": str(tag), "type": "delete_resource"}
        return at | {"data": self.resource(tag, value), "type": "write_resource"}

    def committed(self, one: Committed) -> Json:
        return self.transaction(*one)

    def transactions(self, rows: Sequence[Committed]) -> list[Json]:
        return [self.transaction(*one) for one in rows]

    def simulated(self, row: TransactionRow) -> list[Json]:
        return [self.transaction(row, bytes(32))]

    def block(self, row: BlockRow, rows: Sequence[Committed] | None) -> Json:
        return {
            "block_height": str(row.height),
            "block_hash": hexadecimal(row.id),
            "block_timestamp": str(row.timestamp),
            "first_version": str(row.first_version),
            "last_version": str(row.version),
            "transactions": None if rows is None else self.transactions(rows),
        }


def _status(row: TransactionRow) -> str:
    status = row.transaction_info().status
    if not status.success and row.reason and not status.reason:
        return f"Execution failed: {row.reason}"
    return status.text()
