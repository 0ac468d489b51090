"""JSON shapes of Bitcoin's RPC and Teranode's asset reads, made from the core's records. No I/O lives here."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from nodewright.interfaces.common import BlockRecord
from nodewright_bitcoin.network import ChainParameters
from nodewright_bitcoin.transaction import Transaction
from nodewright_bsv_api import script_text
from nodewright_bsv_api.errors import display

NULL_ID = bytes(32)
COIN = 100_000_000


@frozen
class HeaderFields:
    version: int
    previous: bytes
    merkle_root: bytes
    time: int
    bits: int
    nonce: int


def header_fields(header: bytes) -> HeaderFields:
    """The six fields of an 80-byte header."""
    version, previous, root, time, bits, nonce = struct.unpack("<i32s32sIII", header)
    return HeaderFields(version, previous, root, time, bits, nonce)


def coins(satoshis: int) -> float:
    """Whole coins as Bitcoin's RPC shows amounts: exact to eight places up to 21 million coins in a double."""
    return satoshis / COIN


def header_document(record: BlockRecord, confirmations: int, next_id: bytes | None) -> dict[str, Any]:
    fields = header_fields(record.header)
    document: dict[str, Any] = {
        "hash": display(record.ref.id),
        "confirmations": confirmations,
        "size": record.size,
        "height": record.ref.height,
        "version": fields.version,
        "versionHex": f"{fields.version & 0xFFFFFFFF:08x}",
        "merkleroot": display(fields.merkle_root),
        "num_tx": record.transactions,
        "time": fields.time,
        "mediantime": record.detail.get("median_time", fields.time),
        "nonce": fields.nonce,
        "bits": f"{fields.bits:08x}",
        "difficulty": record.detail.get("difficulty", 0.0),
        "chainwork": record.detail.get("chain_work", ""),
    }
    if fields.previous != NULL_ID:
        document["previousblockhash"] = display(fields.previous)
    if next_id is not None:
        document["nextblockhash"] = display(next_id)
    return document


def block_summary(record: BlockRecord) -> dict[str, Any]:
    """A block as the asset reads list it."""
    fields = header_fields(record.header)
    return {
        "height": record.ref.height,
        "hash": display(record.ref.id),
        "previousblockhash": display(fields.previous),
        "coinbaseTx": record.prologue.hex(),
        "timestamp": fields.time,
        "transactionCount": record.transactions,
        "size": record.size,
        "subtrees": [display(bundle.id) for bundle in record.bundles],
    }


def transaction_document(tx: Transaction, chain: ChainParameters) -> dict[str, Any]:
    """``getrawtransaction`` with verbose, without what needs to know where it stands."""
    inputs: list[dict[str, Any]] = []
    for item in tx.inputs:
        txid, vout = item.outpoint[:32], int.from_bytes(item.outpoint[32:], "little")
        if txid == NULL_ID and vout == 0xFFFFFFFF:
            inputs.append({"coinbase": item.script.hex(), "sequence": item.sequence})
        else:
            inputs.append(
                {
                    "txid": display(txid),
                    "vout": vout,
                    "scriptSig": script_text.unlocking(item.script),
                    "sequence": item.sequence,
                }
            )
    return {
        "txid": display(tx.txid),
        "hash": display(tx.txid),
        "version": tx.version,
        "size": tx.size,
        "locktime": tx.locktime,
        "vin": inputs,
        "vout": [
            {"value": coins(out.satoshis), "n": index, "scriptPubKey": script_text.locking(out.script, chain)}
            for index, out in enumerate(tx.outputs)
        ],
        "hex": tx.raw.hex(),
    }


def transaction_documents(raws: Sequence[bytes], chain: ChainParameters) -> list[dict[str, Any]]:
    return [transaction_document(Transaction.parse(raw), chain) for raw in raws]


def network_hashes(first: BlockRecord, last: BlockRecord) -> float:
    """Hashes a second that the work between two blocks stands for; 0.0 where no time passed."""
    try:
        work = int(last.detail["chain_work"], 16) - int(first.detail["chain_work"], 16)
    except (KeyError, ValueError):
        return 0.0
    seconds = last.time - first.time
    return work / seconds if seconds > 0 else 0.0


def version_number(text: str) -> int:
    """``1.2.3`` as clients of the family expect a version: 1020300; 0 where it is not numbers."""
    parts = text.split("+")[0].split(".")[:3]
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        return 0
    major, minor, patch = map(int, parts)
    return major * 1_000_000 + minor * 10_000 + patch * 100
