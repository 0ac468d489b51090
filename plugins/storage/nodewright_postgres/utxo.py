"""The store's own ``utxo``: the rules of the core's adapter over tables with columns.

A transaction is a row of ``utxo_transaction`` (height, coinbase, spent outpoints, outputs), each spent output one of
``utxo_spend`` with its spender; the primary key of the latter is the outpoint, so that the server itself refuses an
output's second spender. Marks, bundles and what else is small are rows of bytes beside them.

Invariants, beside the adapter's:

- every change is a commit of the store: one transaction of the server, in which the owner's epoch is read under a lock;
- transactions and spenders that a call needs are read in one query, of one instant.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from nodewright.interfaces.environment import Environment
from nodewright.storage.utxo_adapter import COINBASE_MATURITY, DEFAULT_CACHE_BYTES, KeyValueUtxoStore
from nodewright.storage.utxo_records import TX
from nodewright_postgres.layouts import LAYOUTS
from nodewright_postgres.store import KEYS_AT_ONCE, PostgresStore

_BOTH = (
    "SELECT txid, height, flags, spends, outputs FROM {schema}.utxo_transaction "
    "WHERE txid = ANY($1::bytea[]) "
    "UNION ALL SELECT outpoint, NULL, NULL, NULL, spender FROM {schema}.utxo_spend "
    "WHERE outpoint = ANY($2::bytea[])"
)


class PostgresUtxo(KeyValueUtxoStore):
    """Implements ``nodewright.interfaces.UtxoStore``; made by ``open_own_utxo``."""

    def __init__(self, store: PostgresStore, environment: Environment, cache_bytes: int, coinbase_maturity: int) -> None:
        super().__init__(store, environment, cache_bytes, coinbase_maturity)
        self._server = store

    async def _rows(
        self, txids: Sequence[bytes], outpoints: Sequence[bytes]
    ) -> tuple[Sequence[bytes | None], Sequence[bytes | None]]:
        if not txids or not outpoints or max(len(txids), len(outpoints)) > KEYS_AT_ONCE:
            return await super()._rows(txids, outpoints)
        whole = LAYOUTS[TX].join
        rows: dict[bytes, bytes] = {}
        spenders: dict[bytes, bytes] = {}
        for key, height, flags, spends, outputs in await self._server.query(_BOTH, txids, outpoints):
            if len(key) == 32:
                rows[key] = whole(height, flags, spends, outputs)
            else:
                spenders[key] = outputs
        return [*map(rows.get, txids)], [*map(spenders.get, outpoints)]


@asynccontextmanager
async def open_own_utxo(
    store: PostgresStore,
    environment: Environment,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    coinbase_maturity: int = COINBASE_MATURITY,
) -> AsyncIterator[PostgresUtxo]:
    """As ``nodewright.storage.utxo_adapter.open_utxo``, over an opened store of this plugin."""
    utxo = PostgresUtxo(store, environment, cache_bytes, coinbase_maturity)
    await utxo.load()
    yield utxo
