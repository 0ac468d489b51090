"""Chains by name: where their eras begin, their address versions; and Base58Check addresses.

Heights and prefixes are those of the public networks. ``local`` is this project's own: regtest's prefixes with every era
active from the first block, for local networks that should not mine ten thousand blocks before Genesis.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from nodewright_bitcoin.encoding import hash160, sha256d
from nodewright_bitcoin.script.opcodes import OP_CHECKSIG, OP_DUP, OP_EQUALVERIFY, OP_HASH160

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = {character: value for value, character in enumerate(_ALPHABET)}
_MAX_BASE58_CHARACTERS = 128


@frozen
class ChainParameters:
    """Each ``*_height`` is the height of the first block under the rule, except ``p2sh_height``, ``uahf_height`` and
    ``daa_height``, which name the last block before it (as the network has always written them)."""

    name: str
    p2pkh_prefix: int
    p2sh_prefix: int
    wif_prefix: int
    p2sh_height: int
    bip34_height: int
    bip65_height: int
    bip66_height: int
    csv_height: int
    uahf_height: int
    daa_height: int
    genesis_height: int
    chronicle_height: int
    subsidy_halving_interval: int
    pow_limit_bits: int
    coinbase_maturity: int = 100


MAINNET: Final = ChainParameters(
    name="main",
    p2pkh_prefix=0,
    p2sh_prefix=5,
    wif_prefix=128,
    p2sh_height=173_805,
    bip34_height=227_931,
    bip65_height=388_381,
    bip66_height=363_725,
    csv_height=419_328,
    uahf_height=478_558,
    daa_height=504_031,
    genesis_height=620_538,
    chronicle_height=943_816,
    subsidy_halving_interval=210_000,
    pow_limit_bits=0x1D00FFFF,
)
TESTNET: Final = ChainParameters(
    name="test",
    p2pkh_prefix=111,
    p2sh_prefix=196,
    wif_prefix=239,
    p2sh_height=519,
    bip34_height=21_111,
    bip65_height=581_885,
    bip66_height=330_776,
    csv_height=770_112,
    uahf_height=1_155_875,
    daa_height=1_188_697,
    genesis_height=1_344_302,
    chronicle_height=1_713_168,
    subsidy_halving_interval=210_000,
    pow_limit_bits=0x1D00FFFF,
)
REGTEST: Final = ChainParameters(
    name="regtest",
    p2pkh_prefix=111,
    p2sh_prefix=196,
    wif_prefix=239,
    p2sh_height=1,
    bip34_height=100_000_000,
    bip65_height=1_351,
    bip66_height=1_251,
    csv_height=576,
    uahf_height=0,
    daa_height=0,
    genesis_height=10_000,
    chronicle_height=15_000,
    subsidy_halving_interval=150,
    pow_limit_bits=0x207FFFFF,
)
LOCAL: Final = ChainParameters(
    name="local",
    p2pkh_prefix=111,
    p2sh_prefix=196,
    wif_prefix=239,
    p2sh_height=0,
    bip34_height=1,
    bip65_height=0,
    bip66_height=0,
    csv_height=0,
    uahf_height=0,
    daa_height=0,
    genesis_height=0,
    chronicle_height=0,
    subsidy_halving_interval=210_000,
    pow_limit_bits=0x207FFFFF,
)
CHAINS: Final = {chain.name: chain for chain in (MAINNET, TESTNET, REGTEST, LOCAL)}


def base58check_encode(payload: bytes) -> str:
    """With four bytes of double SHA-256 behind the payload."""
    data = payload + sha256d(payload)[:4]
    value = int.from_bytes(data, "big")
    digits = ""
    while value:
        value, digit = divmod(value, 58)
        digits = _ALPHABET[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


def base58check_decode(text: str) -> bytes:
    """The payload. ValueError says what is wrong: too long, not Base58, or a checksum that does not match."""
    if len(text) > _MAX_BASE58_CHARACTERS:
        raise ValueError("too long for Base58Check")
    value = 0
    for character in text:
        digit = _DIGITS.get(character)
        if digit is None:
            raise ValueError(f"{character!r} is not a Base58 character")
        value = value * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    data = bytes(zeros) + value.to_bytes((value.bit_length() + 7) // 8, "big")
    if len(data) < 5 or sha256d(data[:-4])[:4] != data[-4:]:
        raise ValueError("the checksum does not match: a character was mistyped")
    return data[:-4]


def p2pkh_script_of_hash(pubkey_hash: bytes) -> bytes:
    """25 bytes: pay to the key whose HASH160 this is."""
    if len(pubkey_hash) != 20:
        raise ValueError("a public key hash has 20 bytes")
    return bytes((OP_DUP, OP_HASH160, 20)) + pubkey_hash + bytes((OP_EQUALVERIFY, OP_CHECKSIG))


def address_of_hash(pubkey_hash: bytes, chain: ChainParameters) -> str:
    return base58check_encode(bytes((chain.p2pkh_prefix,)) + pubkey_hash)


def address_of_pubkey(pubkey: bytes, chain: ChainParameters) -> str:
    """Pay-to-public-key-hash."""
    return address_of_hash(hash160(pubkey), chain)


def decode_address(address: str, chain: ChainParameters) -> bytes:
    """The public key hash. ValueError where it is not a pay-to-public-key-hash address of this chain."""
    payload = base58check_decode(address)
    if len(payload) != 21:
        raise ValueError("not an address: the length is wrong")
    if payload[0] == chain.p2sh_prefix:
        raise ValueError("script-hash addresses cannot be paid since Genesis")
    if payload[0] != chain.p2pkh_prefix:
        raise ValueError(f"not an address of chain {chain.name!r}")
    return payload[1:]


def address_to_script(address: str, chain: ChainParameters) -> bytes:
    """The locking script that pays it."""
    return p2pkh_script_of_hash(decode_address(address, chain))
