"""Answers in BCS, as Aptos's full nodes write them.

A transaction of the ledger is version u64 ‖ Transaction ‖ TransactionInfo ‖ events ‖ accumulator root ‖ WriteSet, most of
it as it is stored and hashed. Where JSON's answer is one transaction that may be pending, 0 stands before a committed one
and 1 before a SignedTransaction. The index has its 64-bit numbers as text, as Aptos has. Resources are a map, sorted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from nodewright_aptos import bcs, transactions
from nodewright_aptos.abi import Codec
from nodewright_aptos.ledger import Event
from nodewright_aptos.queries import LedgerState
from nodewright_aptos.records import BlockRow, TransactionRow
from nodewright_aptos.typetags import StructTag
from nodewright_aptos_api.errors import ERROR_CODES, ApiError
from nodewright_aptos_api.forms import HEALTHY, Committed

FULL_NODE: Final = 1  # of the roles validator, full node
OLDEST: Final = 0
NO_WRITES: Final = b"\0\0"  # a WriteSet of version 0 that is empty: changes are not kept
NO_GENESIS: Final = bytes([transactions.GENESIS]) + b"\0" + NO_WRITES + b"\0"  # its body is in the genesis file


class Encoded:
    encoded = True

    def index(self, state: LedgerState, software: str) -> bytes:
        first = (state.epoch, state.version, OLDEST, state.timestamp)
        last = (OLDEST, state.height)
        return b"".join((bcs.u8(state.chain_id), *map(_number_text, first), bcs.uleb(FULL_NODE), *map(_number_text, last)))

    def healthy(self) -> bytes:
        return bcs.text(HEALTHY)

    def gas_price(self, least: int) -> bytes:
        return bcs.u64(least)

    def account(self, value: bytes) -> bytes:
        return value

    def balance(self, octas: int) -> bytes:
        return bcs.u64(octas)

    def resource(self, tag: StructTag, value: bytes) -> bytes:
        return value

    def resources(self, rows: Sequence[tuple[StructTag, bytes]]) -> bytes:
        entries = sorted((tag.encode(), bcs.blob(value)) for tag, value in rows)
        return bcs.vector(key + value for key, value in entries)

    def module(self, abi: Mapping[str, Any]) -> bytes:
        raise ApiError(400, "bcs_not_supported", "modules have no bytecode here: ask for application/json")

    def modules(self, abis: Sequence[Mapping[str, Any]]) -> bytes:
        return self.module({})

    def item(self, codec: Codec, value: bytes) -> bytes:
        return value

    def values(self, answers: Sequence[bytes]) -> bytes:
        return bcs.vector(map(bcs.blob, answers))

    def events(self, found: Sequence[tuple[int, Event]]) -> bytes:
        return bcs.vector(bcs.u64(version) + event.encode() for version, event in found)

    def pending(self, raw: bytes) -> bytes:
        return b"\1" + raw

    def submitted(self, raw: bytes) -> bytes:
        return b""  # who writes BCS knows the hash

    def refused(self, failures: Sequence[tuple[int, Mapping[str, Any]]]) -> bytes:
        return bcs.vector(_error(error) + bcs.u64(place) for place, error in failures)

    def committed(self, one: Committed) -> bytes:
        return b"\0" + self.transaction(one)

    def transaction(self, one: Committed) -> bytes:
        row, root = one
        body = NO_GENESIS if row.transaction == NO_GENESIS[:1] else row.transaction
        return b"".join((bcs.u64(row.version), body, row.info, row.events, bcs.blob(root), row.changes or NO_WRITES))

    def transactions(self, rows: Sequence[Committed]) -> bytes:
        return bcs.vector(map(self.transaction, rows))

    def simulated(self, row: TransactionRow) -> bytes:
        return self.transaction((row, bytes(32)))

    def block(self, row: BlockRow, rows: Sequence[Committed] | None) -> bytes:
        return b"".join(
            (
                bcs.u64(row.height),
                bcs.blob(row.id),
                bcs.u64(row.timestamp),
                bcs.u64(row.first_version),
                bcs.u64(row.version),
                bcs.option(None if rows is None else self.transactions(rows)),
            )
        )


def _number_text(value: int) -> bytes:
    return bcs.text(str(value))


def _error(error: Mapping[str, Any]) -> bytes:
    number = error["vm_error_code"]
    code = ERROR_CODES.index(error["error_code"])
    return bcs.text(error["message"]) + bcs.uleb(code) + bcs.option(None if number is None else bcs.u64(number))
