"""Accounts that a genesis describes instead of naming them: many, each with one full-access key, all with one balance.

The genesis table ``execution`` may have ``generated_accounts``, a list of ``{count, seed, amount, suffix}``. Account
``number`` of such a section is named by two letters that spread the section evenly over the names, its number with leading
zeros, and ``.suffix``; its key is the Ed25519 key of the seed SHA-256("nodewright generated account SEED NUMBER"). Whoever
reads the genesis knows every key: for benchmarks and local networks, never for anything of value.

Invariants: names rise with numbers, so that rows come out sorted and nothing of a section has to be held; the hash of the
document covers names, keys and balances, since they follow from it alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from attrs import field, frozen
from nacl.bindings import crypto_sign_seed_keypair

from nodewright.errors import ConfigurationError
from nodewright_near.accounts import AccessKey, Account, access_key_key, account_key
from nodewright_near.borsh import encode
from nodewright_near.fees import U128_MAX
from nodewright_near.parameters import Parameters
from nodewright_near.primitives import ED25519, is_account

MAX_GENERATED: Final = 100_000_000
MAX_SECTIONS: Final = 16
KEYS: Final = ("count", "seed", "amount", "suffix")
_LETTERS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_SPREAD: Final = len(_LETTERS) ** 2
Row = tuple[bytes, bytes]


@frozen
class Generated:
    """One section. ``amount`` in yoctoNEAR, each account's."""

    count: int
    seed: str
    amount: int
    suffix: str
    _width: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_width", len(str(self.count - 1)))

    def name(self, number: int) -> str:
        first, second = divmod(number * _SPREAD // self.count, len(_LETTERS))
        return f"{_LETTERS[first]}{_LETTERS[second]}{number:0{self._width}}.{self.suffix}"

    def key_seed(self, number: int) -> bytes:
        return sha256(f"nodewright generated account {self.seed} {number}".encode()).digest()

    def public(self, number: int) -> bytes:
        """With its tag, as Borsh has it."""
        public, _ = crypto_sign_seed_keypair(self.key_seed(number))
        return bytes([ED25519]) + public

    def within(self, low: str | None, high: str | None) -> range:
        """The numbers of accounts with low <= name < high (None: no bound)."""
        numbers = range(self.count)
        start = 0 if low is None else bisect_left(numbers, low, key=self.name)
        end = self.count if high is None else bisect_left(numbers, high, key=self.name)
        return range(start, end)

    def rows(self, numbers: range, parameters: Parameters) -> Iterator[Row]:
        """Of the state, sorted by key: all accounts, then all access keys."""
        access = encode(AccessKey(0))
        used = parameters.account_bytes + 33 + len(access) + parameters.record_bytes
        account = Account(self.amount, storage_usage=used).encode()
        for number in numbers:
            yield account_key(self.name(number)), account
        for number in numbers:
            yield access_key_key(self.name(number), self.public(number)), access


def read_generated(table: Mapping[str, Any]) -> tuple[Generated, ...]:
    """The sections of the genesis table ``execution``. Raises ConfigurationError with a sentence."""
    given: Sequence[Any] = table.get("generated_accounts", ())
    if isinstance(given, Mapping) or not isinstance(given, Sequence) or len(given) > MAX_SECTIONS:
        raise ConfigurationError(f"genesis: execution.generated_accounts must be a list of at most {MAX_SECTIONS} tables")
    sections = tuple(map(_section, given))
    if len({one.suffix for one in sections}) < len(sections):
        raise ConfigurationError("genesis: each entry of execution.generated_accounts needs a suffix of its own")
    return sections


def _section(entry: Any) -> Generated:
    where = "genesis: execution.generated_accounts"
    if not isinstance(entry, Mapping) or set(entry) != set(KEYS):
        raise ConfigurationError(f"{where}: an entry has {', '.join(KEYS)} and nothing else: {str(entry)[:120]}")
    try:
        count, amount = int(entry["count"]), int(entry["amount"])
    except (TypeError, ValueError):
        raise ConfigurationError(f"{where}: count and amount must be whole numbers: {str(entry)[:120]}") from None
    if not 1 <= count <= MAX_GENERATED:
        raise ConfigurationError(f"{where}: count must be from 1 to {MAX_GENERATED}, not {count}")
    if not 0 <= amount <= U128_MAX:
        raise ConfigurationError(f"{where}: the amount {amount} is out of range")
    section = Generated(count, str(entry["seed"]), amount, str(entry["suffix"]))
    if len(section.seed) > 64 or not is_account(section.name(count - 1)):
        raise ConfigurationError(f"{where}: seed and suffix make no account names: {str(entry)[:120]}")
    return section
