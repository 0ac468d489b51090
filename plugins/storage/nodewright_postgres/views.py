"""What an operator reads in SQL of the rows that the core's adapters keep: views and functions with columns.

Rows are described in ``nodewright.storage.utxo_records`` and ``nodewright.storage.blob_adapter``. Nothing of the node reads
these. Statements of a migration that was released never change: a new one replaces them. ``{schema}`` is the quoted schema.
"""

from __future__ import annotations


def number(value: str, at: int | str, size: int) -> str:
    """Little-endian, of ``size`` bytes from 0-based ``at``. Shifts stand in brackets: SQL gives | and << one precedence."""
    bytes_ = (f"(get_byte({value}, {at} + {n})::bigint << {8 * n})" for n in range(size))
    return f"({' | '.join(bytes_)})"


def u16(value: str, at: int | str) -> str:
    return number(value, at, 2)


def u32(value: str, at: int | str) -> str:
    return number(value, at, 4)


def u64_big(value: str) -> str:
    return f"('x' || encode({value}, 'hex'))::bit(64)::bigint"


_DISPLAY = """
CREATE FUNCTION {schema}.display(id bytea) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT string_agg(lpad(to_hex(get_byte(id, n)), 2, '0'), '' ORDER BY n DESC)
    FROM generate_series(0, length(id) - 1) AS n
$$
"""

_TRANSACTIONS = f"""
CREATE VIEW {{schema}}.utxo_transactions AS
SELECT key AS txid, {u32("head", 1)} AS height, get_byte(head, 0) & 1 = 1 AS coinbase,
    CASE WHEN get_byte(head, 0) & 2 = 2 THEN {u32("head", 5)} ELSE {u16("head", 5)} END AS inputs,
    get_byte(head, 0) & 2 = 2 AS in_pages
FROM (SELECT key, substr(value, 1, 9) AS head FROM {{schema}}.kv_utxo_tx) AS rows
"""

_SPENT = f"""
CREATE VIEW {{schema}}.utxo_spent_outputs AS
SELECT substr(key, 1, 32) AS txid, {u32("key", 32)} AS vout, substr(value, 1, 32) AS spender, {u32("value", 32)} AS input
FROM {{schema}}.kv_utxo_spent
"""

_COMPACT = f"""
CREATE FUNCTION {{schema}}.compact_size(data bytea, at bigint, OUT number bigint, OUT behind bigint)
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE first integer := get_byte(data, at::integer);
BEGIN
    IF first < 253 THEN number := first; behind := at + 1;
    ELSIF first = 253 THEN number := {u16("data", "at::integer + 1")}; behind := at + 3;
    ELSE number := {u32("data", "at::integer + 1")}; behind := at + CASE first WHEN 254 THEN 5 ELSE 9 END;
    END IF;
END $$
"""

# An output vector has at most 1 MiB here: a number of eight bytes has its upper four zero.
_ZERO = "'\\x00000000'::bytea"
LITTLE = f"set_byte(set_byte(set_byte(set_byte({_ZERO}, 0, n & 255), 1, n >> 8 & 255), 2, n >> 16 & 255), 3, n >> 24)"

_OUTPUTS = f"""
CREATE FUNCTION {{schema}}.utxo_outputs(of_txid bytea)
RETURNS TABLE (txid bytea, vout integer, satoshis bigint, script bytea, spender bytea)
LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    body bytea; number bigint; at bigint; size bigint;
BEGIN
    SELECT value INTO body FROM {{schema}}.kv_utxo_tx WHERE key = of_txid;
    IF body IS NULL THEN RETURN; END IF;
    IF get_byte(body, 0) & 2 = 2 THEN
        RAISE EXCEPTION 'transaction % is kept in pages: ask the node', {{schema}}.display(of_txid);
    END IF;
    SELECT c.number, c.behind INTO number, at FROM {{schema}}.compact_size(body, 7 + 36 * {u16("body", 5)}) AS c;
    txid := of_txid;
    FOR n IN 0 .. number - 1 LOOP
        vout := n;
        satoshis := {number("body", "at::integer", 8)};
        SELECT c.number, c.behind INTO size, at FROM {{schema}}.compact_size(body, at + 8) AS c;
        script := substr(body, at::integer + 1, size::integer);
        at := at + size;
        SELECT s.value INTO spender FROM {{schema}}.kv_utxo_spent AS s WHERE s.key = of_txid || {LITTLE};
        RETURN NEXT;
    END LOOP;
END $$
"""

_BLOBS = f"""
CREATE VIEW {{schema}}.blobs AS
SELECT convert_from(substr(key, 1, position('\\x00'::bytea IN key) - 1), 'UTF8') AS kind,
    substr(key, position('\\x00'::bytea IN key) + 1) AS id, {u64_big("substr(value, 1, 8)")} AS size
FROM {{schema}}.kv_blob_index
"""

VIEWS = tuple(text.strip() for text in (_DISPLAY, _TRANSACTIONS, _SPENT, _COMPACT, _OUTPUTS, _BLOBS))
