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

from hashlib import sha256
from typing import Final

from nodewright_near.accounts import NONCES_PER_BLOCK, account_key
from nodewright_near.fees import U128_MAX
from nodewright_near.outcomes import Outcome, SuccessReceiptId, SuccessValue
from nodewright_near.parameters import Parameters
from nodewright_near.primitives import SYSTEM
from nodewright_near.receipts import NO_DATA, ActionReceipt, Receipt
from nodewright_near.state import State
from nodewright_near.transactions import ONE_TRANSFER, SignedTransaction, Transfer

_ACCOUNT_BYTES: Final = 72
_V2_SENTINEL: Final = (1 << 128) - 1
_NO_VALUE: Final = SuccessValue(b"")
_FIRST: Final = bytes(8)


class _Account:
    """As it is now. ``need``: what it may not fall below for the bytes that it uses. ``rest``: its bytes after ``amount``.
    ``text``: its name behind its length, as Borsh has it."""

    __slots__ = ("amount", "changed", "key", "need", "rest", "text")

    def __init__(self, key: bytes, raw: bytes, parameters: Parameters) -> None:
        self.key = key
        self.amount = int.from_bytes(raw[:16], "little")
        self.rest = raw[16:]
        usage = int.from_bytes(raw[64:], "little")
        locked = int.from_bytes(raw[16:32], "little")
        free = usage <= parameters.zero_balance_bytes
        self.need = 0 if free else max(usage * parameters.storage_amount_per_byte - locked, 0)
        self.text = (len(key) - 1).to_bytes(4, "little") + key[1:]
        self.changed = False


class Transfers:
    """Of one chunk. What ``convert`` and ``receive`` have done is in what they answer; what they have not is None."""

    def __init__(self, parameters: Parameters, state: State, height: int, gas_price: int) -> None:
        fees = parameters.fees
        self._parameters = parameters
        self._state = state
        self._accounts: dict[str, _Account] = {}
        self._keys: dict[bytes, int] = {}
        self._nonce_limit = height * NONCES_PER_BLOCK
        self._height = height.to_bytes(8, "little")
        self._price = gas_price
        self._price_bytes = gas_price.to_bytes(16, "little")
        sent = [fees.action_receipt.send(sir) + fees.transfer.send(sir) for sir in (False, True)]
        self.exec_gas = fees.action_receipt.execution + fees.transfer.execution
        self.send_gas = sent
        self._burnt = [gas_price * gas for gas in sent]
        self._paid = [gas_price * (gas + self.exec_gas) for gas in sent]
        self._converted = [self._spent(gas, gas_price * gas) for gas in sent]
        self._executed = self._spent(self.exec_gas, gas_price * self.exec_gas)
        # Where somebody wants to know the cause of each change, the rules write them all down.
        self.possible = state.causes is None

    def _spent(self, gas: int, tokens: int) -> bytes:
        return gas.to_bytes(8, "little") + tokens.to_bytes(16, "little")

    def _account(self, name: str) -> _Account | None:
        key = account_key(name)
        state = self._state
        raw = state.changes[key] if key in state.changes else state.loaded.get(key)
        if raw is None or len(raw) != _ACCOUNT_BYTES:
            return None
        account = _Account(key, raw, self._parameters)
        if account.amount == _V2_SENTINEL:
            return None
        self._accounts[name] = account
        return account

    def convert(self, signed: SignedTransaction) -> tuple[Receipt, Outcome, int] | None:
        """Of a transaction whose signer lives here, that is in time, and whose signature is good: its receipt, its outcome
        and the balance that it burnt."""
        transaction = signed.transaction
        actions, public, signer = transaction.actions, transaction.public_key, transaction.signer_id
        if len(actions) != 1 or type(actions[0]) is not Transfer or len(signed.raw) > 512:
            return None
        account = self._accounts.get(signer) or self._account(signer)
        if account is None or public[0] or self._parameters.limits.max_transaction < 512:
            return None
        keys = self._keys
        slot = signed.slot
        nonce = keys.get(slot)
        if nonce is None:
            state = self._state
            raw = state.changes[slot] if slot in state.changes else state.loaded.get(slot)
            if raw is None or len(raw) != 9 or raw[8] != 1:
                return None
            nonce = int.from_bytes(raw[:8], "little")
        own = transaction.receiver_id == signer
        deposit = actions[0].deposit
        paid = self._paid[own] + deposit
        amount = account.amount - paid
        if not nonce < transaction.nonce < self._nonce_limit or amount < account.need or paid > U128_MAX:
            return None
        keys[slot] = transaction.nonce
        account.amount = amount
        account.changed = True
        id = signed.id
        identity = sha256(b"%b%b%b" % (id, self._height, _FIRST)).digest()
        receiver = transaction.receiver_id.encode()
        text = account.text
        receipt = Receipt(
            signer, transaction.receiver_id, identity, ActionReceipt(signer, public, self._price, (), (), actions)
        )
        receipt.raw = b"%b%b%b%b\0%b%b%b%b%b%b" % (
            text,
            len(receiver).to_bytes(4, "little"),
            receiver,
            identity,
            text,
            public,
            self._price_bytes,
            NO_DATA,
            ONE_TRANSFER,
            deposit.to_bytes(16, "little"),
        )
        outcome = Outcome(id, (identity,), self.send_gas[own], self._burnt[own], signer, SuccessReceiptId(identity))
        outcome.set_partial(b"\x01\0\0\0%b%b%b\x03%b" % (identity, self._converted[own], text, identity))
        return receipt, outcome, self._burnt[own]

    def receive(self, receipt: Receipt) -> Outcome | None:
        """Its outcome: ``exec_gas`` and what was paid for it are burnt, and it sends nothing."""
        body = receipt.receipt
        if type(body) is not ActionReceipt or len(body.actions) != 1 or body.input_data_ids or body.output_data_receivers:
            return None
        action = body.actions[0]
        if type(action) is not Transfer or receipt.predecessor_id == SYSTEM:
            return None
        name = receipt.receiver_id
        account = self._accounts.get(name) or self._account(name)
        if account is None:
            return None
        amount = account.amount + action.deposit
        if amount < account.need or amount >= _V2_SENTINEL:
            return None
        account.amount = amount
        account.changed = True
        price = body.gas_price
        outcome = Outcome(receipt.receipt_id, (), self.exec_gas, price * self.exec_gas, name, _NO_VALUE)
        spent = self._executed if price == self._price else self._spent(self.exec_gas, price * self.exec_gas)
        outcome.set_partial(b"\0\0\0\0%b%b\x02\0\0\0\0" % (spent, account.text))
        return outcome

    def settle(self) -> None:
        changes = self._state.changes
        for account in self._accounts.values():
            if account.changed:
                changes[account.key] = account.amount.to_bytes(16, "little") + account.rest
        for slot, nonce in self._keys.items():
            changes[slot] = nonce.to_bytes(8, "little") + b"\x01"
        self._accounts, self._keys = {}, {}
