"""What a script can ask of the transaction that spends it: signatures, lock times, its version."""

from __future__ import annotations

from typing import Final, Protocol

from attrs import define, field

from nodewright_bitcoin.script.flags import SIGHASH_FORKID
from nodewright_bitcoin.script.signatures import is_pubkey_shape, verify_ecdsa
from nodewright_bitcoin.sighash import signature_hash
from nodewright_bitcoin.transaction import SEQUENCE_FINAL, Transaction

LOCKTIME_THRESHOLD: Final = 500_000_000
"""Lock times below are block heights, from here on seconds since 1970."""

_LARGE_SCRIPT_CODE = 10_000

SEQUENCE_DISABLE_FLAG: Final = 1 << 31
SEQUENCE_TYPE_FLAG: Final = 1 << 22
SEQUENCE_MASK: Final = 0x0000FFFF


class SignatureChecker(Protocol):
    """``version`` and ``transaction_bytes`` of the spending transaction (the second is what an original digest costs)."""

    @property
    def version(self) -> int: ...

    @property
    def transaction_bytes(self) -> int: ...

    def check_signature(self, signature: bytes, pubkey: bytes, script_code: bytes, flags: int) -> bool:
        """``signature`` with its hash type byte; False also for what cannot be read."""

    def check_locktime(self, locktime: int) -> bool: ...

    def check_sequence(self, sequence: int) -> bool: ...


@define
class TransactionSignatureChecker:
    """Checks for input ``index`` of ``tx``, spending an output of ``satoshis``.

    Digests are kept for the life of the checker, so a multisig of n keys hashes the transaction once per signature and
    not once per pair."""

    tx: Transaction
    index: int
    satoshis: int
    _digests: dict[tuple[int, bool, bytes], bytes] = field(factory=dict, init=False, repr=False, eq=False)

    @property
    def version(self) -> int:
        return self.tx.version

    @property
    def transaction_bytes(self) -> int:
        return self.tx.size

    def check_signature(self, signature: bytes, pubkey: bytes, script_code: bytes, flags: int) -> bool:
        if not signature or not is_pubkey_shape(pubkey):
            return False
        hash_type = signature[-1]
        key = (hash_type, bool(flags & SIGHASH_FORKID), script_code)
        digest = self._digests.get(key)
        if digest is None:
            digest = signature_hash(self.tx, self.index, script_code, self.satoshis, hash_type, flags)
            # A script with a separator before each check would otherwise keep a copy of itself for every one.
            if len(self._digests) >= 16 or len(script_code) > _LARGE_SCRIPT_CODE:
                self._digests.clear()
            self._digests[key] = digest
        return verify_ecdsa(pubkey, digest, signature[:-1])

    def check_locktime(self, locktime: int) -> bool:
        """BIP65: same kind as the transaction's, not later, and this input not final."""
        own = self.tx.locktime
        if (own < LOCKTIME_THRESHOLD) != (locktime < LOCKTIME_THRESHOLD) or locktime > own:
            return False
        return self.tx.inputs[self.index].sequence != SEQUENCE_FINAL

    def check_sequence(self, sequence: int) -> bool:
        """BIP112: version 2 or later (read as unsigned), relative lock enabled, same kind, not later."""
        own = self.tx.inputs[self.index].sequence
        if self.tx.version & 0xFFFFFFFF < 2 or own & SEQUENCE_DISABLE_FLAG:
            return False
        mask = SEQUENCE_TYPE_FLAG | SEQUENCE_MASK
        own &= mask
        wanted = sequence & mask
        return (own < SEQUENCE_TYPE_FLAG) == (wanted < SEQUENCE_TYPE_FLAG) and wanted <= own
