"""Scripts as Bitcoin's JSON-RPC shows them: assembly text, the kind of a locking script, the addresses it pays.

Pushes of up to four bytes are shown as numbers, longer ones as hex; in an unlocking script a signature ends in the name of
its hash type. A script that cannot be read to its end says so in its text, as nodes of the family do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from nodewright_bitcoin.encoding import hash160
from nodewright_bitcoin.network import ChainParameters, address_of_hash, base58check_encode
from nodewright_bitcoin.script.numbers import decode_number
from nodewright_bitcoin.script.opcodes import (
    OP_0,
    OP_1,
    OP_1NEGATE,
    OP_16,
    OP_CHECKMULTISIG,
    OP_CHECKSIG,
    OP_DUP,
    OP_EQUALVERIFY,
    OP_HASH160,
    OP_PUSHDATA4,
    OP_RETURN,
    OPCODE_NAMES,
    is_p2sh,
    read_instruction,
)
from nodewright_bitcoin.script.signatures import is_pubkey_shape, is_strict_der

HASH_TYPES: Final = {1: "ALL", 2: "NONE", 3: "SINGLE"}
MAX_NUMBER_BYTES: Final = 4


def instructions(script: bytes) -> Iterator[tuple[int, bytes] | None]:
    """(opcode, pushed bytes) each; None last where the script is cut short."""
    offset = 0
    while offset < len(script):
        opcode, data, offset, complete = read_instruction(script, offset)
        if not complete:
            yield None
            return
        yield opcode, data


def _name(opcode: int) -> str:
    if opcode == OP_1NEGATE:
        return "-1"
    if OP_1 <= opcode <= OP_16:
        return str(opcode - OP_1 + 1)
    name = OPCODE_NAMES.get(opcode)
    return f"OP_{name}" if name else "OP_INVALIDOPCODE" if opcode == 0xFF else "OP_UNKNOWN"


def _signature(data: bytes) -> str | None:
    """Hex without the hash type byte, and its name; None for what is no signature."""
    if not is_strict_der(data):
        return None
    base = HASH_TYPES.get(data[-1] & 0x1F)
    if base is None or data[-1] & 0x20:
        return None
    flags = ("|FORKID" if data[-1] & 0x40 else "") + ("|ANYONECANPAY" if data[-1] & 0x80 else "")
    return f"{data[:-1].hex()}[{base}{flags}]"


def assembly(script: bytes, signatures: bool = False) -> str:
    """``signatures``: name their hash types, as is done for unlocking scripts."""
    words: list[str] = []
    for item in instructions(script):
        if item is None:
            words.append("[error]")
        elif item[0] > OP_PUSHDATA4:
            words.append(_name(item[0]))
        elif len(item[1]) <= MAX_NUMBER_BYTES:
            words.append(str(decode_number(item[1])))
        else:
            words.append((_signature(item[1]) if signatures else None) or item[1].hex())
    return " ".join(words)


def _data_carrier(script: bytes) -> bool:
    """OP_RETURN, or OP_FALSE OP_RETURN, and nothing but whole pushes after it."""
    at = 0 if script[:1] == bytes((OP_RETURN,)) else 1 if script[:2] == bytes((OP_0, OP_RETURN)) else -1
    return at >= 0 and all(item is not None and item[0] <= OP_16 for item in instructions(script[at + 1 :]))


def _small(item: tuple[int, bytes]) -> int:
    return 0 if item[0] == OP_0 else item[0] - OP_1 + 1 if OP_1 <= item[0] <= OP_16 else -1


def _multisig(script: bytes) -> tuple[int, list[bytes]] | None:
    """(required, keys) of ``m key … n OP_CHECKMULTISIG``; (0, keys) where the numbers make it unspendable."""
    if script[-1:] != bytes((OP_CHECKMULTISIG,)):
        return None
    items = list(instructions(script))
    parts = [item for item in items if item is not None]
    if len(parts) < 3 or len(parts) != len(items):
        return None
    required, keys, total = _small(parts[0]), [data for _, data in parts[1:-2]], _small(parts[-2])
    if required < 0 or total < 0 or not all(map(is_pubkey_shape, keys)):
        return None
    return (required if total == len(keys) >= required else 0), keys


def _kind(script: bytes, chain: ChainParameters) -> tuple[str, int, list[str]]:
    """(type, signatures required, addresses)."""
    if (
        len(script) == 25
        and script[:3] == bytes((OP_DUP, OP_HASH160, 20))
        and script[23:] == bytes((OP_EQUALVERIFY, OP_CHECKSIG))
    ):
        return "pubkeyhash", 1, [address_of_hash(script[3:23], chain)]
    if is_p2sh(script):
        return "scripthash", 1, [base58check_encode(bytes((chain.p2sh_prefix,)) + script[2:22])]
    if _data_carrier(script):
        return "nulldata", 0, []
    if script[-1:] == bytes((OP_CHECKSIG,)) and len(script) < 100:
        items = list(instructions(script))
        if len(items) == 2 and items[0] is not None and is_pubkey_shape(items[0][1]):
            return "pubkey", 1, [address_of_hash(hash160(items[0][1]), chain)]
    found = _multisig(script)
    if found is None:
        return "nonstandard", 0, []
    required, keys = found
    return "multisig", required, [] if not required else [address_of_hash(hash160(key), chain) for key in keys]


def locking(script: bytes, chain: ChainParameters) -> dict[str, Any]:
    """``scriptPubKey``: asm, hex, type; with reqSigs and addresses where it pays to keys."""
    kind, required, addresses = _kind(script, chain)
    document: dict[str, Any] = {"asm": assembly(script), "hex": script.hex()}
    if addresses:
        document["reqSigs"] = required
    document["type"] = kind
    if addresses:
        document["addresses"] = addresses
    return document


def unlocking(script: bytes) -> dict[str, Any]:
    """``scriptSig``."""
    return {"asm": assembly(script, signatures=True), "hex": script.hex()}
