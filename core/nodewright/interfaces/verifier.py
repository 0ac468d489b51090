"""Contract ``verifier``: batches of signature checks. Synchronous and GIL-releasing: callers offload whole batches.

Never raises on bad input: a malformed key or signature is simply 0 in the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Verifier(Protocol):
    name: str

    def ecdsa(self, keys: Sequence[bytes], digests: Sequence[bytes], signatures: Sequence[bytes]) -> bytearray:
        """secp256k1. Keys compressed, uncompressed or hybrid; 32-byte digests; lax-DER signatures without the hash-type
        byte, S normalised before the check (consensus rules of Bitcoin). One byte per item: 1 valid, 0 not."""

    def ed25519(self, keys: Sequence[bytes], messages: Sequence[bytes], signatures: Sequence[bytes]) -> bytearray:
        """RFC 8032 as libsodium checks it: canonical S, no small-order key."""
