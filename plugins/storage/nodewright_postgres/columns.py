"""What makes the tables with columns (``layouts``) of the rows of bytes that older schemas have, and views over them.

Statements of a migration that was released never change: a new one replaces them. ``{schema}`` is the quoted schema. Each
runs in the transaction of its migration, so that an older table goes only together with what came out of it.
"""

from __future__ import annotations

from nodewright_postgres.views import LITTLE, number, u16, u32, u64_big

_SIGNED = "get_byte({}, {}) < 128"

BLOBS = (
    "CREATE TABLE {schema}.blob (key bytea PRIMARY KEY, size bigint, generation bigint, other bytea)",
    f"""
INSERT INTO {{schema}}.blob
SELECT key, CASE WHEN shaped THEN {u64_big("substr(value, 1, 8)")} END,
    CASE WHEN shaped THEN {u64_big("substr(value, 9, 8)")} END, CASE WHEN NOT shaped THEN value END
FROM (
    SELECT key, value, CASE WHEN octet_length(value) = 16 THEN {_SIGNED.format("value", 0)} AND {_SIGNED.format("value", 8)}
        ELSE false END AS shaped
    FROM {{schema}}.kv_blob_index
) AS rows
""".strip(),
    "DROP VIEW {schema}.blobs",
    "DROP TABLE {schema}.kv_blob_index",
    "ALTER TABLE {schema}.kv_blob_data RENAME TO blob_page",
    "ALTER TABLE {schema}.blob_page RENAME COLUMN value TO data",
    """
CREATE VIEW {schema}.blobs AS
SELECT convert_from(substr(key, 1, position('\\x00'::bytea IN key) - 1), 'UTF8') AS kind,
    substr(key, position('\\x00'::bytea IN key) + 1) AS id, size
FROM {schema}.blob WHERE size IS NOT NULL
""".strip(),
)

# 1: a transaction, 2: one in pages, 0: neither. Read in this order, so that nothing is looked for behind the end.
_SHAPE = f"""
CASE WHEN octet_length(value) < 7 THEN 0
    WHEN get_byte(value, 0) IN (2, 3) THEN 2
    WHEN get_byte(value, 0) > 1 THEN 0
    WHEN octet_length(value) >= 7 + 36 * {u16("value", 5)} THEN 1
    ELSE 0 END
""".strip()

OUTPUTS = (
    "CREATE TABLE {schema}.utxo_transaction (txid bytea PRIMARY KEY, height bigint, flags smallint, "
    "spends bytea, outputs bytea)",
    "ALTER TABLE {schema}.utxo_transaction ALTER COLUMN spends SET STORAGE EXTERNAL, "
    "ALTER COLUMN outputs SET STORAGE EXTERNAL",
    f"""
INSERT INTO {{schema}}.utxo_transaction
SELECT key, CASE WHEN shape > 0 THEN {u32("value", 1)} END, CASE WHEN shape > 0 THEN get_byte(value, 0) END,
    CASE shape WHEN 1 THEN substr(value, 8, (36 * {u16("value", 5)})::integer) WHEN 2 THEN ''::bytea END,
    CASE shape WHEN 1 THEN substr(value, (8 + 36 * {u16("value", 5)})::integer) WHEN 2 THEN substr(value, 6) ELSE value END
FROM (SELECT key, value, {_SHAPE} AS shape FROM {{schema}}.kv_utxo_tx) AS rows
""".strip(),
    "DROP VIEW {schema}.utxo_transactions, {schema}.utxo_spent_outputs",
    "DROP FUNCTION {schema}.utxo_outputs",
    "DROP TABLE {schema}.kv_utxo_tx",
    "ALTER TABLE {schema}.kv_utxo_spent RENAME TO utxo_spend",
    "ALTER TABLE {schema}.utxo_spend RENAME COLUMN key TO outpoint",
    "ALTER TABLE {schema}.utxo_spend RENAME COLUMN value TO spender",
    f"""
CREATE VIEW {{schema}}.utxo_transactions AS
SELECT txid, height, flags & 1 = 1 AS coinbase,
    CASE WHEN flags & 2 = 2 THEN {u32("outputs", 0)} ELSE length(spends) / 36 END AS inputs,
    flags & 2 = 2 AS in_pages
FROM {{schema}}.utxo_transaction WHERE height IS NOT NULL
""".strip(),
    f"""
CREATE VIEW {{schema}}.utxo_spent_outputs AS
SELECT substr(outpoint, 1, 32) AS txid, {u32("outpoint", 32)} AS vout, substr(spender, 1, 32) AS spender,
    {u32("spender", 32)} AS input
FROM {{schema}}.utxo_spend WHERE length(outpoint) = 36 AND length(spender) = 36
""".strip(),
    f"""
CREATE FUNCTION {{schema}}.utxo_outputs(of_txid bytea)
RETURNS TABLE (txid bytea, vout integer, satoshis bigint, script bytea, spender bytea)
LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    body bytea; number bigint; at bigint; size bigint; in_pages boolean;
BEGIN
    SELECT t.outputs, t.flags & 2 = 2 INTO body, in_pages FROM {{schema}}.utxo_transaction AS t
        WHERE t.txid = of_txid AND t.height IS NOT NULL;
    IF body IS NULL THEN RETURN; END IF;
    IF in_pages THEN
        RAISE EXCEPTION 'transaction % is kept in pages: ask the node', {{schema}}.display(of_txid);
    END IF;
    SELECT c.number, c.behind INTO number, at FROM {{schema}}.compact_size(body, 0) AS c;
    txid := of_txid;
    FOR n IN 0 .. number - 1 LOOP
        vout := n;
        satoshis := {number("body", "at::integer", 8)};
        SELECT c.number, c.behind INTO size, at FROM {{schema}}.compact_size(body, at + 8) AS c;
        script := substr(body, at::integer + 1, size::integer);
        at := at + size;
        SELECT s.spender INTO spender FROM {{schema}}.utxo_spend AS s WHERE s.outpoint = of_txid || {LITTLE};
        RETURN NEXT;
    END LOOP;
END $$
""".strip(),
)
