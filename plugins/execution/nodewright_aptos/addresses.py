"""Account addresses and authentication keys.

An address is 32 bytes. In text the special ones (0x0 to 0xf) are short and all others have 64 digits (AIP-40); reading is
lenient: 1 to 64 digits, with or without ``0x``. An account's first authentication key is its address:
sha3_256(public key ‖ scheme).
"""

from __future__ import annotations

from hashlib import sha3_256
from typing import Final

from nodewright_aptos.bcs import Malformed

ADDRESS_BYTES: Final = 32
ED25519: Final = 0
MULTI_ED25519: Final = 1
SINGLE_KEY: Final = 2
MULTI_KEY: Final = 3


def special(number: int) -> bytes:
    """0x0 to 0xf and other short ones, as 32 bytes."""
    return number.to_bytes(ADDRESS_BYTES, "big")


ZERO: Final = special(0)
ONE: Final = special(1)
APT_METADATA: Final = special(0xA)  # the fungible asset paired with AptosCoin
CORE_RESOURCES: Final = special(0xA550C18)


def parse_address(value: str) -> bytes:
    """Raises Malformed."""
    digits = value[2:] if value[:2] in ("0x", "0X") else value
    if not 1 <= len(digits) <= 64:
        raise Malformed("an address has 1 to 64 hexadecimal digits")
    if not all(digit in "0123456789abcdefABCDEF" for digit in digits):
        raise Malformed("an address is written in hexadecimal")
    return bytes.fromhex(digits.rjust(64, "0"))


def address_text(address: bytes) -> str:
    """As the REST API writes it: special addresses short, others with all 64 digits."""
    if address[:31] == bytes(31) and address[31] < 16:
        return f"0x{address[31]:x}"
    return "0x" + address.hex()


def short_text(address: bytes) -> str:
    """Without leading zeros, as in the names of modules and types."""
    return f"0x{int.from_bytes(address, 'big'):x}"


def authentication_key(public_key: bytes, scheme: int) -> bytes:
    """``public_key`` as its scheme writes it: Ed25519 the 32 bytes; MultiEd25519 keys ‖ threshold; SingleKey and MultiKey
    the BCS of AnyPublicKey or of the MultiKey."""
    return sha3_256(public_key + bytes([scheme])).digest()
