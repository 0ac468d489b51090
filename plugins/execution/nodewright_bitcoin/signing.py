"""Making transactions: keys, WIF, addresses and signatures, deterministic throughout (RFC 6979).

For tests, the benchmark, the faucet of a local network. A node itself never signs a spend.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from coincurve import PrivateKey

from nodewright_bitcoin.encoding import hash160
from nodewright_bitcoin.network import (
    ChainParameters,
    address_of_hash,
    address_of_pubkey,
    address_to_script,
    base58check_decode,
    base58check_encode,
    decode_address,
    p2pkh_script_of_hash,
)
from nodewright_bitcoin.script.flags import CHRONICLE, GENESIS
from nodewright_bitcoin.script.flags import SIGHASH_FORKID as FORKID_RULES
from nodewright_bitcoin.script.opcodes import push_data
from nodewright_bitcoin.script.signatures import CURVE_ORDER
from nodewright_bitcoin.sighash import SIGHASH_ALL, SIGHASH_FORKID, signature_hash
from nodewright_bitcoin.transaction import SEQUENCE_FINAL, Transaction, TxInput, TxOutput

__all__ = [
    "SIGHASH_ALL_FORKID",
    "address_of_hash",
    "address_of_pubkey",
    "address_to_script",
    "build_transaction",
    "decode_address",
    "decode_wif",
    "derive_key",
    "encode_wif",
    "p2pkh_script",
    "public_key",
    "sign_digest",
    "sign_p2pkh_input",
    "sign_p2pkh_inputs",
]

SIGHASH_ALL_FORKID: Final = SIGHASH_ALL | SIGHASH_FORKID


def derive_key(seed: bytes, index: int) -> bytes:
    """The 32-byte private key number ``index`` of a seed: for keys that a test or a benchmark can make again. Not a
    wallet standard."""
    digest = hashlib.sha256(seed + index.to_bytes(8, "little")).digest()
    return (int.from_bytes(digest, "big") % (CURVE_ORDER - 1) + 1).to_bytes(32, "big")


@lru_cache(maxsize=65_536)
def public_key(privkey: bytes, compressed: bool = True) -> bytes:
    """33 bytes, or 65."""
    return PrivateKey(privkey).public_key.format(compressed=compressed)


def p2pkh_script(pubkey: bytes) -> bytes:
    return p2pkh_script_of_hash(hash160(pubkey))


def sign_digest(privkey: bytes, digest: bytes) -> bytes:
    """A DER signature with S in the lower half, without hash type."""
    signature: bytes = PrivateKey(privkey).sign(digest, hasher=None)
    return signature


def sign_p2pkh_input(
    tx: Transaction,
    index: int,
    privkey: bytes,
    satoshis: int,
    locking_script: bytes,
    hash_type: int = SIGHASH_ALL_FORKID,
    compressed: bool = True,
) -> bytes:
    """The unlocking script for input ``index``, which spends ``satoshis`` locked by ``locking_script``. ``tx`` is left as
    it is."""
    flags = FORKID_RULES | GENESIS | CHRONICLE
    digest = signature_hash(tx, index, locking_script, satoshis, hash_type, flags)
    signature = sign_digest(privkey, digest) + bytes((hash_type,))
    return push_data(signature) + push_data(public_key(privkey, compressed))


def sign_p2pkh_inputs(tx: Transaction, privkeys: Sequence[bytes], hash_type: int = SIGHASH_ALL_FORKID) -> Transaction:
    """A signed copy. Every input knows the output that it spends; ``privkeys`` in the order of the inputs."""
    signed: list[TxInput] = []
    for index, (spent, privkey) in enumerate(zip(tx.inputs, privkeys, strict=True)):
        if spent.satoshis is None or spent.locking_script is None:
            raise ValueError(f"input {index} does not know the output that it spends")
        script = sign_p2pkh_input(tx, index, privkey, spent.satoshis, spent.locking_script, hash_type)
        signed.append(TxInput(spent.outpoint, script, spent.sequence, spent.satoshis, spent.locking_script))
    return Transaction(tx.version, tuple(signed), tx.outputs, tx.locktime)


def build_transaction(
    inputs: Sequence[tuple[bytes, int, int, bytes]],
    outputs: Sequence[tuple[int, bytes]],
    version: int = 1,
    locktime: int = 0,
    sequence: int = SEQUENCE_FINAL,
) -> Transaction:
    """Unsigned. ``inputs`` are (txid, index, satoshis, locking script) of the outputs spent, ``outputs`` are (satoshis,
    locking script)."""
    made = [
        TxInput(txid + index.to_bytes(4, "little"), b"", sequence, satoshis, script)
        for txid, index, satoshis, script in inputs
    ]
    return Transaction(version, tuple(made), tuple(TxOutput(*output) for output in outputs), locktime)


def encode_wif(privkey: bytes, chain: ChainParameters, compressed: bool = True) -> str:
    """Wallet import format."""
    return base58check_encode(bytes((chain.wif_prefix,)) + privkey + (b"\x01" if compressed else b""))


def decode_wif(text: str, chain: ChainParameters) -> tuple[bytes, bool]:
    """(private key, whether its public key is compressed). ValueError for anything else, or of another chain."""
    payload = base58check_decode(text)
    if len(payload) not in (33, 34) or (len(payload) == 34 and payload[33] != 1):
        raise ValueError("not a private key in wallet import format")
    if payload[0] != chain.wif_prefix:
        raise ValueError(f"not a private key of chain {chain.name!r}")
    privkey = payload[1:33]
    if not 0 < int.from_bytes(privkey, "big") < CURVE_ORDER:
        raise ValueError("not a private key: outside the curve's order")
    return privkey, len(payload) == 34
