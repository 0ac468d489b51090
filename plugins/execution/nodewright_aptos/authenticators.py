"""Who signed: account authenticators of all schemes, and what must be checked of their signatures.

Ed25519 (0), MultiEd25519 (1), SingleKey (2), MultiKey (3); keys of SingleKey and MultiKey are Ed25519 or secp256k1 ECDSA
(65 bytes uncompressed, compact signatures with a low S over sha3_256 of the message). NoAccountAuthenticator (4) has no
signature: it is for simulation. Other keys (keyless, passkeys) and account abstraction are not read: ``Malformed``.
"""

from __future__ import annotations

from typing import Final

from attrs import define

from nodewright_aptos import bcs
from nodewright_aptos.addresses import ED25519, MULTI_ED25519, MULTI_KEY, SINGLE_KEY, authentication_key
from nodewright_aptos.bcs import Malformed, Reader

NO_AUTHENTICATOR: Final = 4
CURVE_ED25519: Final = 0
CURVE_SECP256K1: Final = 1
CURVE_NAMES: Final = ("ed25519", "secp256k1_ecdsa")
MAX_KEYS: Final = 32
KEY_BYTES: Final = (32, 65)
_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

Key = tuple[int, bytes]  # curve, key


# Made once per transaction: a frozen class costs three times as much to build. Nobody assigns to one.
@define
class AccountAuthenticator:
    """``material`` is what its authentication key is made of (``addresses.authentication_key``); ``signatures`` are
    (place of the key, 64 bytes), of which at least ``threshold`` must be there, and all must be good."""

    scheme: int
    material: bytes
    keys: tuple[Key, ...]
    signatures: tuple[tuple[int, bytes], ...]
    threshold: int = 1

    @property
    def authentication_key(self) -> bytes:
        return authentication_key(self.material, self.scheme) if self.scheme != NO_AUTHENTICATOR else bytes(32)


def any_public_key(key: Key) -> bytes:
    curve, raw = key
    return bcs.uleb(curve) + bcs.blob(raw)


def single_key_material(key: Key) -> bytes:
    return any_public_key(key)


def multi_key_material(keys: tuple[Key, ...], threshold: int) -> bytes:
    return bcs.vector(map(any_public_key, keys)) + bcs.u8(threshold)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_authenticator(reader: Reader) -> AccountAuthenticator:
    scheme = reader.uleb()
    if scheme == ED25519:
        return read_ed25519(reader)
    if scheme == SINGLE_KEY:
        return _read_single(reader)
    if scheme == MULTI_ED25519:
        return read_multi_ed25519(reader)
    if scheme == MULTI_KEY:
        return _read_multi(reader)
    if scheme == NO_AUTHENTICATOR:
        return AccountAuthenticator(NO_AUTHENTICATOR, b"", (), ())
    raise Malformed(f"account authenticators of kind {scheme} are not known here")


def read_ed25519(reader: Reader) -> AccountAuthenticator:
    key = reader.exactly(32)
    return AccountAuthenticator(ED25519, key, ((CURVE_ED25519, key),), ((0, reader.exactly(64)),))


def read_multi_ed25519(reader: Reader) -> AccountAuthenticator:
    material = reader.blob(32 * MAX_KEYS + 1)
    signed = reader.blob(64 * MAX_KEYS + 4)
    count, rest = divmod(len(material), 32)
    if rest != 1 or not 1 <= material[-1] <= count:
        raise Malformed("a MultiEd25519 key is n keys of 32 bytes and a threshold from 1 to n")
    if len(signed) % 64 != 4:
        raise Malformed("a MultiEd25519 signature is signatures of 64 bytes and a bitmap of 4")
    places = _places(signed[-4:], count)
    if len(places) * 64 + 4 != len(signed):
        raise Malformed("the bitmap of a MultiEd25519 signature says another number of signatures")
    keys = tuple((CURVE_ED25519, material[32 * at : 32 * at + 32]) for at in range(count))
    signatures = tuple((place, signed[64 * at : 64 * at + 64]) for at, place in enumerate(places))
    return AccountAuthenticator(MULTI_ED25519, material, keys, signatures, material[-1])


def _places(bitmap: bytes, count: int) -> list[int]:
    """Positions of the bits that are set, the first bit being the highest of the first byte."""
    places = [8 * at + bit for at, byte in enumerate(bitmap) for bit in range(8) if byte & 0x80 >> bit]
    if places and places[-1] >= count:
        raise Malformed("a bitmap names a key that is not there")
    return places


def _read_key(reader: Reader) -> Key:
    curve = reader.uleb()
    if curve > CURVE_SECP256K1:
        raise Malformed(f"public keys of kind {curve} are not known here")
    return curve, reader.exactly(KEY_BYTES[curve])


def _read_signature(reader: Reader, curve: int) -> bytes:
    if reader.uleb() != curve:
        raise Malformed("a signature is of another kind than its key")
    return reader.exactly(64)


def _read_single(reader: Reader) -> AccountAuthenticator:
    start = reader.at
    key = _read_key(reader)
    material = reader.data[start : reader.at]
    return AccountAuthenticator(SINGLE_KEY, material, (key,), ((0, _read_signature(reader, key[0])),))


def _read_multi(reader: Reader) -> AccountAuthenticator:
    start = reader.at
    keys = reader.vector(lambda: _read_key(reader), MAX_KEYS, 34)
    threshold = reader.u8()
    material = reader.data[start : reader.at]
    if not 1 <= threshold <= len(keys):
        raise Malformed("the threshold of a MultiKey is from 1 to the number of its keys")
    read: list[Key] = []
    for _ in range(reader.length(MAX_KEYS, 66)):
        curve = reader.uleb()
        if curve > CURVE_SECP256K1:
            raise Malformed(f"signatures of kind {curve} are not known here")
        read.append((curve, reader.exactly(64)))
    places = _places(reader.blob(4), len(keys))
    if len(places) != len(read):
        raise Malformed("the bitmap of a MultiKey signature says another number of signatures")
    signatures = []
    for place, (curve, signature) in zip(places, read, strict=True):
        if keys[place][0] != curve:
            raise Malformed("a signature is of another kind than its key")
        signatures.append((place, signature))
    return AccountAuthenticator(MULTI_KEY, material, keys, tuple(signatures), threshold)


# --- writing ---------------------------------------------------------------------------------------------------------


def encode_authenticator(one: AccountAuthenticator) -> bytes:
    """With its tag."""
    tag = bcs.uleb(one.scheme)
    if one.scheme == NO_AUTHENTICATOR:
        return tag
    signed = [signature for _, signature in one.signatures]
    if one.scheme == ED25519:
        return tag + bcs.blob(one.material) + bcs.blob(signed[0])
    if one.scheme == SINGLE_KEY:
        return tag + one.material + bcs.uleb(one.keys[0][0]) + bcs.blob(signed[0])
    bitmap = bytearray(4)
    for place, _ in one.signatures:
        bitmap[place >> 3] |= 0x80 >> (place & 7)
    if one.scheme == MULTI_ED25519:
        return tag + bcs.blob(one.material) + bcs.blob(b"".join(signed) + bytes(bitmap))
    with_curves = (bcs.uleb(one.keys[place][0]) + bcs.blob(signature) for place, signature in one.signatures)
    width = -(-len(one.keys) // 8)
    return tag + one.material + bcs.vector(with_curves) + bcs.blob(bytes(bitmap[:width]))


def ed25519_authenticator(key: bytes, signature: bytes) -> AccountAuthenticator:
    return AccountAuthenticator(ED25519, key, ((CURVE_ED25519, key),), ((0, signature),))


def single_key_authenticator(key: Key, signature: bytes) -> AccountAuthenticator:
    return AccountAuthenticator(SINGLE_KEY, single_key_material(key), (key,), ((0, signature),))


def multi_key_authenticator(
    keys: tuple[Key, ...], threshold: int, signatures: tuple[tuple[int, bytes], ...]
) -> AccountAuthenticator:
    return AccountAuthenticator(MULTI_KEY, multi_key_material(keys, threshold), keys, signatures, threshold)


# --- checking --------------------------------------------------------------------------------------------------------


def der_signature(compact: bytes) -> bytes | None:
    """R ‖ S as DER; None where S is not low (or a number is zero), which Aptos refuses."""
    r, s = compact[:32], compact[32:]
    if not 0 < int.from_bytes(s, "big") <= _ORDER // 2 or not any(r):
        return None
    numbers = b""
    for part in (r, s):
        digits = part.lstrip(b"\0")
        digits = b"\0" + digits if digits[0] & 0x80 else digits
        numbers += bytes([2, len(digits)]) + digits
    return bytes([0x30, len(numbers)]) + numbers
