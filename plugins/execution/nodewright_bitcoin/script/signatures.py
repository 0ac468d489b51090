"""ECDSA over secp256k1 as Bitcoin's consensus takes it: encodings, and the check by libsecp256k1.

Before 2015 nodes took whatever OpenSSL parsed. ``parse_lax_der`` accepts what it did: sloppy lengths, padding, negative
and over-long integers, trailing bytes. It is written from the encoding's rules (ITU-T X.690) and that behaviour, as
recorded in BIP66. Since then ``is_strict_der`` (BIP66) comes first where a flag asks for it.

libsecp256k1 takes only S in the lower half; consensus takes both, so S is normalised before the check.
"""

from __future__ import annotations

from typing import Any, Final

from coincurve._libsecp256k1 import ffi, lib

CURVE_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
HALF_ORDER: Final = CURVE_ORDER // 2

_SEQUENCE: Final = 0x30
_INTEGER: Final = 0x02

# Verification and parsing need no precomputed state of their own: the library's static context serves all threads.
_CONTEXT: Any = lib.secp256k1_context_static


def is_strict_der(signature: bytes) -> bool:
    """BIP66: ``30 len 02 len R 02 len S type``, R and S positive and without padding. The hash type byte is included."""
    size = len(signature)
    if not 9 <= size <= 73 or signature[0] != _SEQUENCE or signature[1] != size - 3:
        return False
    r_length = signature[3]
    if 5 + r_length >= size:
        return False
    s_length = signature[5 + r_length]
    if r_length + s_length + 7 != size:
        return False
    return _is_strict_integer(signature, 2, r_length) and _is_strict_integer(signature, 4 + r_length, s_length)


def _is_strict_integer(signature: bytes, at: int, length: int) -> bool:
    if signature[at] != _INTEGER or length == 0 or signature[at + 2] & 0x80:
        return False
    return not (length > 1 and signature[at + 2] == 0 and not signature[at + 3] & 0x80)


def parse_lax_der(der: bytes) -> tuple[int, int] | None:
    """``(r, s)`` of a DER signature without its hash type byte, or None where not even OpenSSL could read it. Values too
    large for the curve come out as ``(0, 0)``, which no check accepts."""
    size = len(der)
    if size < 2 or der[0] != _SEQUENCE:
        return None
    at = 1
    length_byte = der[at]
    at += 1
    if length_byte & 0x80:  # the long form's bytes are skipped unread: OpenSSL does not hold them against the content
        at += length_byte & 0x7F
        if at > size:
            return None
    r = _lax_integer(der, at)
    if r is None:
        return None
    s = _lax_integer(der, r[1])
    if s is None:
        return None
    if r[0] >= CURVE_ORDER or s[0] >= CURVE_ORDER:
        return 0, 0
    return r[0], s[0]


def _lax_integer(der: bytes, at: int) -> tuple[int, int] | None:
    """The integer at ``at``, read as unsigned, and the offset after it."""
    size = len(der)
    if at + 2 > size or der[at] != _INTEGER:
        return None
    length = der[at + 1]
    at += 2
    if length & 0x80:
        count = length & 0x7F
        if count > size - at:
            return None
        length_bytes = der[at : at + count].lstrip(b"\0")
        at += count
        if len(length_bytes) >= 8:
            return None
        length = int.from_bytes(length_bytes, "big")
    if length > size - at:
        return None
    digits = der[at : at + length].lstrip(b"\0")
    # More than 32 digits overflow whatever they are: no need to make a number of a megabyte.
    return (CURVE_ORDER if len(digits) > 32 else int.from_bytes(digits, "big")), at + length


def compact_signature(der: bytes) -> bytes | None:
    """Lax DER to 64 bytes R ‖ S with S in the lower half: what batch verifiers take. None where it cannot be read."""
    parsed = parse_lax_der(der)
    if parsed is None:
        return None
    r, s = parsed
    if s > HALF_ORDER:
        s = CURVE_ORDER - s
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def is_low_s(der: bytes) -> bool:
    """S in the lower half (BIP62 rule 5). False where the signature cannot be read."""
    parsed = parse_lax_der(der)
    return parsed is not None and parsed[1] <= HALF_ORDER


def is_pubkey_shape(pubkey: bytes) -> bool:
    """Of the length its first byte promises: 33 for 02 and 03, 65 for 04 and the hybrids 06 and 07."""
    if not pubkey:
        return False
    return len(pubkey) == (33 if pubkey[0] in (2, 3) else 65 if pubkey[0] in (4, 6, 7) else -1)


def is_strict_pubkey(pubkey: bytes) -> bool:
    """Compressed or uncompressed, not hybrid."""
    return is_pubkey_shape(pubkey) and pubkey[0] <= 4


def is_compressed_pubkey(pubkey: bytes) -> bool:
    return len(pubkey) == 33 and pubkey[0] in (2, 3)


def verify_ecdsa(pubkey: bytes, digest: bytes, der: bytes) -> bool:
    """``der`` without its hash type byte. False for anything that cannot be read: never raises on bad input."""
    compact = compact_signature(der)
    if compact is None or not is_pubkey_shape(pubkey) or len(digest) != 32:
        return False
    key = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_ec_pubkey_parse(_CONTEXT, key, pubkey, len(pubkey)):
        return False
    signature = ffi.new("secp256k1_ecdsa_signature *")
    if not lib.secp256k1_ecdsa_signature_parse_compact(_CONTEXT, signature, compact):
        return False
    return bool(lib.secp256k1_ecdsa_verify(_CONTEXT, signature, digest, key))
