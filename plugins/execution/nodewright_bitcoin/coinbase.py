"""The block's first transaction: what this node's blocks pay, and what any block's may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodewright.errors import ConfigurationError
from nodewright.interfaces.common import BlockContext
from nodewright.interfaces.storage import UtxoTransaction
from nodewright_bitcoin.encoding import INT32, INT64, UINT32, ParseError, sha256d, write_compact_size
from nodewright_bitcoin.network import ChainParameters, address_to_script
from nodewright_bitcoin.rules import MAX_COINBASE_SCRIPT_BYTES, MAX_MONEY, RuleError, check_coinbase, era_at, subsidy
from nodewright_bitcoin.script.numbers import encode_number
from nodewright_bitcoin.script.opcodes import push_data
from nodewright_bitcoin.transaction import NULL_OUTPOINT, Transaction

MAX_ALLOCATIONS = 1_000_000
_FINAL = b"\xff" * 4


def height_push(height: int) -> bytes:
    """BIP34: the height as a script pushes it."""
    if height == 0:
        return b"\x00"
    if height <= 16:
        return bytes((0x50 + height,))
    return push_data(encode_number(height))


def build(script: bytes, outputs: list[tuple[int, bytes]]) -> bytes:
    """A coinbase with this unlocking script and these (satoshis, locking script)."""
    vector = [write_compact_size(len(outputs))]
    for satoshis, locking in outputs:
        vector += (INT64.pack(satoshis), write_compact_size(len(locking)), locking)
    head = (INT32.pack(2), b"\x01", NULL_OUTPOINT, write_compact_size(len(script)), script, _FINAL)
    return b"".join((*head, *vector, UINT32.pack(0)))


def make(context: BlockContext, payout: bytes, parameters: ChainParameters) -> bytes:
    """Subsidy and fees to ``payout``. The script has the height, then as much of ``context.extra`` as fits the limit."""
    script = height_push(context.height)
    if context.extra:
        script += push_data(context.extra[: MAX_COINBASE_SCRIPT_BYTES - len(script) - 2])
    elif len(script) < 2:
        script += b"\x00"
    return build(script, [(subsidy(context.height, parameters) + context.fees, payout)])


def read(raw: bytes, height: int, fees: int, parameters: ChainParameters) -> UtxoTransaction | RuleError:
    """Judge the coinbase of a block at ``height`` whose other transactions pay ``fees``."""
    try:
        tx = Transaction.parse(raw)
    except ParseError as error:
        return RuleError("bad-cb-missing", f"the coinbase cannot be read: {error}")
    wrong = check_coinbase(tx, era_at(height, parameters))
    if wrong is not None:
        return wrong
    if height >= parameters.bip34_height and not tx.inputs[0].script.startswith(height_push(height)):
        return RuleError("bad-cb-height", f"the coinbase does not begin with its height, {height}")
    if tx.locktime and any(i.sequence != 0xFFFFFFFF for i in tx.inputs) and tx.locktime >= height:
        return RuleError("bad-txns-nonfinal", "the coinbase's lock time has not passed")
    paid = sum(output.satoshis for output in tx.outputs)
    most = subsidy(height, parameters) + fees
    if paid > most:
        return RuleError("bad-cb-amount", f"the coinbase pays {paid} satoshis, {most} are due")
    return UtxoTransaction(tx.txid, (), tx.outputs_vector, coinbase=True)


def allocation(document: Mapping[str, Any], parameters: ChainParameters) -> UtxoTransaction | None:
    """The outputs that a genesis document gives away, as one transaction that no block holds; None where it gives none.

    ``allocations`` is a list of ``{"satoshis": n, "address": text}`` or ``{"satoshis": n, "script": hex}``. The
    transaction's own script commits to the network's name, so two networks never share an outpoint. Spendable from
    block 1. Raises ConfigurationError."""
    rows = document.get("allocations", ())
    if not isinstance(rows, list | tuple) or len(rows) > MAX_ALLOCATIONS:
        raise ConfigurationError(f"genesis: allocations must be a list of at most {MAX_ALLOCATIONS} entries")
    outputs = []
    for index, row in enumerate(rows):
        try:
            satoshis = row["satoshis"]
            script = bytes.fromhex(row["script"]) if "script" in row else address_to_script(row["address"], parameters)
            if type(satoshis) is not int or not 0 <= satoshis <= MAX_MONEY:
                raise ValueError("satoshis must be a whole number up to all money")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"genesis: allocation {index}: {error}") from error
        outputs.append((satoshis, script))
    if not outputs:
        return None
    raw = build(push_data(b"genesis:" + parameters.name.encode()), outputs)
    vector = Transaction.parse(raw).outputs_vector
    return UtxoTransaction(sha256d(raw), (), vector)
