"""What the API answers, apart from the form it is written in: JSON (``views``) or BCS (``encoded``).

Handlers find out what is to be told; a ``Form`` writes it. Which one a client gets is said by its ``Accept``: the first it
prefers of the two, JSON where it names neither. The stream, /health, /metrics and errors are JSON or text always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from nodewright_aptos.abi import Codec
from nodewright_aptos.ledger import Event
from nodewright_aptos.queries import LedgerState
from nodewright_aptos.records import BlockRow, TransactionRow
from nodewright_aptos.typetags import StructTag

JSON: Final = "application/json"
BCS: Final = "application/x-bcs"
HEALTHY: Final = "aptos-node:ok"

Committed = tuple[TransactionRow, bytes]  # and the root of the transaction accumulator that ends with it


class Form(Protocol):
    """BCS answers are bytes, all others what JSON is made of."""

    encoded: bool

    def index(self, state: LedgerState, software: str) -> Any: ...
    def healthy(self) -> Any: ...
    def gas_price(self, least: int) -> Any: ...

    def account(self, value: bytes) -> Any:
        """``value``: its 0x1::account::Account."""

    def balance(self, octas: int) -> Any: ...
    def resource(self, tag: StructTag, value: bytes) -> Any: ...
    def resources(self, rows: Sequence[tuple[StructTag, bytes]]) -> Any: ...

    def module(self, abi: Mapping[str, Any]) -> Any:
        """Raises ApiError in BCS, as ``modules``: it would be the bytecode."""

    def modules(self, abis: Sequence[Mapping[str, Any]]) -> Any: ...
    def item(self, codec: Codec, value: bytes) -> Any: ...

    def values(self, answers: Sequence[Any]) -> Any:
        """Of a view function, as the query ``view`` answers them with ``encoded`` as here."""

    def events(self, found: Sequence[tuple[int, Event]]) -> Any:
        """With the version of each."""

    def pending(self, raw: bytes) -> Any: ...
    def submitted(self, raw: bytes) -> Any: ...

    def refused(self, failures: Sequence[tuple[int, Mapping[str, Any]]]) -> Any:
        """Of a batch: places and errors."""

    def committed(self, one: Committed) -> Any: ...
    def transactions(self, rows: Sequence[Committed]) -> Any: ...
    def simulated(self, row: TransactionRow) -> Any: ...

    def block(self, row: BlockRow, rows: Sequence[Committed] | None) -> Any:
        """``rows`` None: they were not asked for."""


def preferred(accept: str) -> str:
    """The media type to answer in, of an ``Accept`` header."""
    wanted: list[tuple[float, str]] = []
    for one in accept.split(",")[:64]:
        type, *parameters = (part.strip().lower() for part in one.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            wanted.append((float(quality), type))
        except ValueError:
            continue
    wanted.sort(key=lambda one: -one[0])  # the first of equals stays the first
    return next((type for quality, type in wanted if type in (JSON, BCS) and quality > 0), JSON)
