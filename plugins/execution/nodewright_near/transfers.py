"""The most frequent transaction and the most frequent receipt, by hand: one transfer by a full Ed25519 key between accounts
that exist. Everything else, and whatever is wrong with one of these, is left to the rules (``runtime``, ``processing``).

Invariants
- What is done here is what the rules would have done, to the byte: a transfer that does not meet every condition is not
  begun, and the rules say what is wrong with it.
- Accounts and keys that were changed here are in ``_accounts`` and ``_keys`` until ``settle`` writes them into the state's
  changes: whoever lets the rules at the state settles first.
- Nothing is loaded here: only what the state holds already is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nodewright_near.accounts import NONCES_PER_BLOCK, V2_SENTINEL, account_key
from nodewright_near.checks import Stakes
from nodewright_near.fees import U128_MAX
from nodewright_near.parameters import Parameters
from nodewright_near.receipts import NO_DATA, Receipt, transfer_receipt
from nodewright_near.rowhashes import sha256_rows
from nodewright_near.state import State
from nodewright_near.transactions import MAX_TRANSFER_BYTES, SignedTransaction

_ACCOUNT_BYTES: Final = 72
_FIRST: Final = bytes(8)


class _Account:
    """As it is now. ``need``: what it may not fall below for the bytes that it uses. ``rest``: its bytes after ``amount``.
    ``received``: what an outcome says of a transfer that it got at this chunk's price, once it got one."""

    __slots__ = ("amount", "changed", "key", "need", "received", "rest")

    def __init__(self, key: bytes, amount: int, rest: bytes, need: int) -> None:
        self.key = key
        self.amount = amount
        self.rest = rest
        self.need = need
        self.received = b""
        self.changed = False


class Transfers:
    """Of one chunk. What ``convert`` and ``receive`` have done is in what they answer; what they have not is None."""

    def __init__(self, parameters: Parameters, state: State, height: int, gas_price: int) -> None:
        fees = parameters.fees
        self._state = state
        self._stakes = Stakes(parameters)
        self._accounts: dict[str, _Account] = {}
        self._keys: dict[bytes, int] = {}
        self._nonce_limit = height * NONCES_PER_BLOCK
        self._height = height.to_bytes(8, "little")
        self._price = gas_price
        self._price_bytes = gas_price.to_bytes(16, "little") + NO_DATA
        sent = [fees.action_receipt.send(sir) + fees.transfer.send(sir) for sir in (False, True)]
        self.exec_gas = fees.action_receipt.execution + fees.transfer.execution
        self.send_gas = sent
        self.burnt = [gas_price * gas for gas in sent]
        self._paid = [gas_price * (gas + self.exec_gas) for gas in sent]
        self._converted = [self._spent(gas, gas_price * gas) for gas in sent]
        self._executed = self._spent(self.exec_gas, gas_price * self.exec_gas)
        # Where somebody wants to know the cause of each change, the rules write them all down.
        self.possible = state.causes is None and parameters.limits.max_transaction >= MAX_TRANSFER_BYTES

    def _spent(self, gas: int, tokens: int) -> bytes:
        return gas.to_bytes(8, "little") + tokens.to_bytes(16, "little")

    def _account(self, name: str, key: bytes) -> _Account | None:
        state = self._state
        raw = state.changes[key] if key in state.changes else state.loaded.get(key)
        if raw is None or len(raw) != _ACCOUNT_BYTES:
            return None
        amount, rest = int.from_bytes(raw[:16], "little"), raw[16:]
        if amount == V2_SENTINEL:
            return None
        account = self._accounts[name] = _Account(key, amount, rest, self._stakes[rest])
        return account

    def identities(self, transactions: Sequence[SignedTransaction]) -> list[bytes]:
        """The ids of the receipts that they become."""
        tail = self._height + _FIRST
        joined = sha256_rows(b"".join([signed.id + tail for signed in transactions]), 48)
        return [joined[at : at + 32] for at in range(0, len(joined), 32)]

    def convert(self, signed: SignedTransaction, identity: bytes) -> tuple[Receipt, bytes] | None:
        """Of a transaction whose signer lives here, that is in time, and whose signature is good: its receipt and its
        ``PartialOutcome`` in Borsh; ``send_gas`` is burnt, and ``burnt`` with it."""
        deposit, signer = signed.deposit, signed.signer
        if deposit < 0:
            return None
        account = self._accounts.get(signer) or self._account(signer, signed.row)
        if account is None:
            return None
        slot, keys, used = signed.slot, self._keys, signed.nonce
        nonce = keys.get(slot)
        if nonce is None:
            state = self._state
            raw = state.changes[slot] if slot in state.changes else state.loaded.get(slot)
            if raw is None or len(raw) != 9 or raw[8] != 1:
                return None
            nonce = int.from_bytes(raw[:8], "little")
        own = signed.receiver == signer
        paid = self._paid[own] + deposit
        amount = account.amount - paid
        if not nonce < used < self._nonce_limit or amount < account.need or paid > U128_MAX:
            return None
        keys[slot] = used
        account.amount = amount
        account.changed = True
        # A receipt is made of pieces of its transaction: both begin with the signer's name behind its length, then comes
        # the key, in the transaction nonce, receiver, block and action up to the signature.
        raw = signed.raw
        at, end = 4 + raw[0], len(raw) - 118
        form = b"".join(
            (raw[:at], raw[at + 41 : end], identity, b"\0", raw[: at + 33], self._price_bytes, raw[end + 32 : end + 53])
        )
        receipt = transfer_receipt(signer, signed.receiver, identity, self._price, deposit, form)
        partial = b"\x01\0\0\0%b%b%b\x03%b" % (identity, self._converted[own], raw[:at], identity)
        return receipt, partial

    def receive(self, receipt: Receipt) -> bytes | None:
        """Its ``PartialOutcome`` in Borsh: ``exec_gas`` is burnt, what was paid for that with it, and it sends nothing."""
        deposit, name = receipt.deposit, receipt.receiver_id
        if deposit < 0:
            return None
        account = self._accounts.get(name) or self._account(name, account_key(name))
        if account is None:
            return None
        amount = account.amount + deposit
        if amount < account.need or amount >= V2_SENTINEL:
            return None
        account.amount = amount
        account.changed = True
        price = receipt.gas_price
        if price != self._price:
            return self._received(account, self._spent(self.exec_gas, price * self.exec_gas))
        partial = account.received
        if not partial:
            partial = account.received = self._received(account, self._executed)
        return partial

    def _received(self, account: _Account, spent: bytes) -> bytes:
        size = (len(account.key) - 1).to_bytes(4, "little")
        return b"\0\0\0\0%b%b%b\x02\0\0\0\0" % (spent, size, account.key[1:])

    def settle(self) -> None:
        changes = self._state.changes
        for account in self._accounts.values():
            if account.changed:
                changes[account.key] = account.amount.to_bytes(16, "little") + account.rest
        for slot, nonce in self._keys.items():
            changes[slot] = nonce.to_bytes(8, "little") + b"\x01"
        self._accounts, self._keys = {}, {}
