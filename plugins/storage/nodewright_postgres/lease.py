"""The exclusive lease of a schema: a session's advisory lock, and an epoch that every commit reads under a row lock.

Invariants:

- whoever commits holds the advisory lock of the schema in the session that commits, or has lost that session;
- the epoch in ``_owner`` grows by one with every owner, durably, before its first commit; a commit shares a lock on that
  row, so that a new owner's epoch waits for it or refuses it: no commit of a stale owner comes after;
- a session that was lost is gone from the server before its owner commits again: its lock has to be free first.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from nodewright.errors import LeaseLost, StoreCorrupt, StoreLocked
from nodewright.storage.lease import Owner
from nodewright_postgres.migrations import quoted
from nodewright_postgres.problems import Place


def lock_number(schema: str) -> int:
    """The advisory lock's number, 64 bits signed; PostgreSQL keeps those of each database apart."""
    return int.from_bytes(hashlib.sha256(b"nodewright " + schema.encode()).digest()[:8], "big", signed=True)


async def try_lock(connection: Any, schema: str) -> bool:
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock_number(schema)))


async def unlock(connection: Any, schema: str) -> None:
    await connection.execute("SELECT pg_advisory_unlock($1)", lock_number(schema))


async def end_session(connection: Any, schema: str, backend: int) -> None:
    """Have the server end a session of ours that the network has lost, where it still holds the schema's lock."""
    number = lock_number(schema) & 0xFFFFFFFFFFFFFFFF
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid = $1 AND granted "
        "AND classid::bigint = $2 AND objid::bigint = $3 AND objsubid = 1 "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        backend,
        number >> 32,
        number & 0xFFFFFFFF,
    )


async def read_owner(connection: Any, schema: str) -> Owner | None:
    """Who held the schema last; None where nobody did."""
    table = f"{quoted(schema)}._owner"
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        return None
    row = await connection.fetchrow(f"SELECT node, pid, host, since, epoch FROM {table}")
    return None if row is None or not row["epoch"] else Owner(*row)


async def next_epoch(connection: Any, schema: str, owner: Owner) -> int:
    """Become the owner; waits for a commit of the one before that is just being made. Raises StoreCorrupt."""
    epoch = await connection.fetchval(
        f"UPDATE {quoted(schema)}._owner SET epoch = epoch + 1, node = $1, pid = $2, host = $3, since = $4 RETURNING epoch",
        owner.node,
        owner.pid,
        owner.host,
        owner.since,
    )
    if epoch is None:
        raise StoreCorrupt(
            f"{quoted(schema)}._owner, which says whose commits count, is empty: somebody has deleted its row. Restore the "
            "schema from a snapshot"
        )
    return int(epoch)


def locked(place: Place, owner: Owner | None) -> StoreLocked:
    return StoreLocked(
        f"{place} is in use by {_named(owner) if owner else 'another node that is just opening it'}: stop that node first, "
        f"or give this one its own schema with --set {place.slot}.schema=NAME"
    )


def lost(place: Place, owner: Owner | None) -> LeaseLost:
    return LeaseLost(
        f"{place}: {_named(owner) if owner else 'another owner'} took this store over"
        f"{f' at epoch {owner.epoch}' if owner else ''}; stop this node, its commits are refused"
    )


def _named(owner: Owner) -> str:
    since = datetime.fromtimestamp(owner.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{owner}, since {since}"
