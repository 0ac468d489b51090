"""Deterministic keys and signed transactions: the same seed gives the same bytes on every machine and database.

Key i is SHA-256 of the seed and i; every signature has a nonce by RFC 6979. Key 0 is paid by the miner, keys from 1 on
fund one transaction each, so that each of the measured transactions is signed by a key of its own.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence

from attrs import frozen
from coincurve import PrivateKey

from nodewright_bitcoin.signing import p2pkh_script

SIGHASH_ALL_FORKID = 0x41
FEE_PER_BYTE = 0.5
VERSION = b"\x01\x00\x00\x00"
LOCKTIME = b"\x00\x00\x00\x00"
FINAL = b"\xff\xff\xff\xff"
NO_SEQUENCES = hashlib.sha256(hashlib.sha256(FINAL).digest()).digest()


def sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def compact_size(value: int) -> bytes:
    if value < 0xFD:
        return bytes([value])
    if value <= 0xFFFF:
        return b"\xfd" + struct.pack("<H", value)
    return b"\xfe" + struct.pack("<I", value)


class Key:
    """A secp256k1 key with its compressed public key and P2PKH script."""

    __slots__ = ("private", "public", "script")

    def __init__(self, seed: int, index: int) -> None:
        secret = hashlib.sha256(b"nodewright bench %d %d" % (seed, index)).digest()
        self.private = PrivateKey(secret)
        self.public = self.private.public_key.format()
        self.script = p2pkh_script(self.public)


@frozen
class Coin:
    """An output that ``key`` can spend."""

    outpoint: bytes
    satoshis: int
    key: Key


def spend(coin: Coin, outputs: Sequence[tuple[int, bytes]]) -> bytes:
    """A standard-form transaction with one P2PKH input, signed over all of it (BIP143 form with the fork id)."""
    vector = b"".join(struct.pack("<q", satoshis) + compact_size(len(script)) + script for satoshis, script in outputs)
    preimage = b"".join(
        (
            VERSION,
            sha256d(coin.outpoint),
            NO_SEQUENCES,
            coin.outpoint,
            compact_size(len(coin.key.script)),
            coin.key.script,
            struct.pack("<q", coin.satoshis),
            FINAL,
            sha256d(vector),
            LOCKTIME,
            struct.pack("<I", SIGHASH_ALL_FORKID),
        )
    )
    signature = coin.key.private.sign(sha256d(preimage), hasher=None) + bytes([SIGHASH_ALL_FORKID])
    unlocking = bytes([len(signature)]) + signature + bytes([len(coin.key.public)]) + coin.key.public
    return b"".join(
        (
            VERSION,
            b"\x01",
            coin.outpoint,
            compact_size(len(unlocking)),
            unlocking,
            FINAL,
            compact_size(len(outputs)),
            vector,
            LOCKTIME,
        )
    )


def fan_out(coin: Coin, keys: Sequence[Key], satoshis: int) -> tuple[bytes, list[Coin]]:
    """Pay ``satoshis`` to each key and the rest, less the fee, back to the coin's own key (last output)."""
    size = 160 + 34 * (len(keys) + 1) + 10
    change = coin.satoshis - satoshis * len(keys) - int(size * FEE_PER_BYTE) - 1
    if change < 0:
        raise ValueError(f"{coin.satoshis} satoshis do not pay {len(keys)} outputs of {satoshis}")
    raw = spend(coin, [*((satoshis, key.script) for key in keys), (change, coin.key.script)])
    txid = sha256d(raw)
    paid = [(satoshis, key) for key in keys] + [(change, coin.key)]
    coins = [Coin(txid + struct.pack("<I", index), value, key) for index, (value, key) in enumerate(paid)]
    return raw, coins


def payments(coins: Sequence[Coin], seed: int) -> Iterator[bytes]:
    """One measured transaction per coin: one input, two outputs (a third to a derived payee, the rest but the fee to a
    derived change script), so that sizes and amounts are like a wallet's."""
    for index, coin in enumerate(coins):
        payee = hashlib.sha256(b"nodewright payee %d %d" % (seed, index)).digest()
        fee = 120
        first = (coin.satoshis - fee) // 3
        outputs = [
            (first, b"\x76\xa9\x14" + payee[:20] + b"\x88\xac"),
            (coin.satoshis - fee - first, b"\x76\xa9\x14" + payee[12:] + b"\x88\xac"),
        ]
        yield spend(coin, outputs)
