"""The state of one shard while a chunk runs on it. No store, no waiting.

What has not been loaded raises ``Absent``, which says what to load; whoever drives the run loads it and begins the step
again, or loads it at once where ``fetch`` is set. So one set of rules runs over a store, over uncommitted blocks and over a
witness.

Invariants
- Changes of the step under way are in ``_pending``: ``commit`` keeps them, ``rollback`` forgets them, nothing else does.
- ``loaded`` is the state before the chunk, and is never written to by the rules; every key that was read is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from nodewright_near.accounts import FULL_ACCESS, AccessKey, Account, access_key_key, account_key
from nodewright_near.borsh import decode, encode

# Why a row changed: ``BY_CHAIN``, or a transaction or receipt with its id.
Cause = tuple[int, bytes]
BY_CHAIN, BY_TRANSACTION, BY_RECEIPT = range(3)
NO_CAUSE: Final[Cause] = (BY_CHAIN, bytes(32))


class Absent(Exception):
    """Keys, or all keys with a prefix, must be loaded before this step can be done."""

    def __init__(self, keys: Sequence[bytes] = (), prefixes: Sequence[bytes] = ()) -> None:
        super().__init__("something is to be loaded")
        self.keys = tuple(keys)
        self.prefixes = tuple(prefixes)


class State:
    def __init__(self) -> None:
        self.loaded: dict[bytes, bytes | None] = {}
        self.listed: dict[bytes, tuple[bytes, ...]] = {}
        self.changes: dict[bytes, bytes | None] = {}
        self._pending: dict[bytes, bytes | None] = {}
        # Loads keys, and what is under prefixes, before it returns.
        self.causes: dict[bytes, Cause] | None = None  # the last of each key, where somebody wants to know
        self.fetch: Callable[[Sequence[bytes], Sequence[bytes]], None] | None = None

    # --- filled by the driver ---

    def absent(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of the keys that are not loaded yet, each once."""
        return [key for key in dict.fromkeys(keys) if key not in self.loaded]

    # --- used by the rules ---

    def get(self, key: bytes) -> bytes | None:
        pending = self._pending
        if key in pending:
            return pending[key]
        if key in self.changes:
            return self.changes[key]
        try:
            return self.loaded[key]
        except KeyError:
            if self.fetch is None:
                raise Absent([key]) from None
        self.fetch([key], ())
        return self.loaded[key]

    def set(self, key: bytes, value: bytes) -> None:
        self._pending[key] = value

    def remove(self, key: bytes) -> None:
        self._pending[key] = None

    def keys_under(self, prefix: bytes) -> list[bytes]:
        """Every key that starts with ``prefix`` and has a value now, in order."""
        if prefix not in self.listed:
            if self.fetch is None:
                raise Absent(prefixes=[prefix])
            self.fetch((), [prefix])
        before = self.listed[prefix]
        touched = {key for changes in (self.changes, self._pending) for key in changes if key.startswith(prefix)}
        return sorted(key for key in {*before, *touched} if self.get(key) is not None)

    def commit(self, cause: Cause = NO_CAUSE) -> None:
        if self.causes is not None:
            self.causes.update(dict.fromkeys(self._pending, cause))
        self.changes.update(self._pending)
        self._pending = {}

    def rollback(self) -> None:
        self._pending = {}

    def mark(self) -> dict[bytes, bytes | None]:
        """Where to go back to within a step."""
        return dict(self._pending)

    def reset(self, mark: dict[bytes, bytes | None]) -> None:
        self._pending = mark

    # --- what everybody reads ---

    def account(self, name: str) -> Account | None:
        """A copy: put it back with ``set_account``."""
        raw = self.get(account_key(name))
        return None if raw is None else Account.decode(raw)

    def set_account(self, name: str, account: Account) -> None:
        self._pending[account_key(name)] = account.encode()

    def access_key(self, name: str, key: bytes) -> AccessKey | None:
        raw = self.get(access_key_key(name, key))
        return None if raw is None else decode_access_key(raw)

    def set_access_key(self, name: str, key: bytes, access_key: AccessKey) -> None:
        self._pending[access_key_key(name, key)] = encode_access_key(access_key)

    def final_changes(self) -> dict[bytes, bytes | None]:
        """What is different from before the chunk; a key whose value came back is not among them."""
        unknown = object()
        return {key: value for key, value in self.changes.items() if self.loaded.get(key, unknown) != value}


def encode_access_key(access_key: AccessKey) -> bytes:
    if access_key.permission is FULL_ACCESS:
        return access_key.nonce.to_bytes(8, "little") + b"\x01"
    return encode(access_key)


def decode_access_key(raw: bytes) -> AccessKey:
    if len(raw) == 9 and raw[8] == 1:
        return AccessKey(int.from_bytes(raw[:8], "little"))
    found: AccessKey = decode(AccessKey, raw)
    return found
