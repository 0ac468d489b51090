"""Taking transactions in: form, signatures in one batch, then each against the head's state less what is reserved.

A transaction of a shard that this node does not keep is checked for form and signature alone, and reserves nothing: those
who keep the shard do that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from attrs import define

from nodewright.interfaces.common import Admission, Admitted, Refused
from nodewright.interfaces.execution import Candidate, Limits, Selection
from nodewright_near.accounts import FULL_ACCESS, NONCES_PER_BLOCK, AccessKey, Account, access_key_key, account_key
from nodewright_near.borsh import Malformed
from nodewright_near.checks import charge, check_form, missing_storage_stake
from nodewright_near.errors import Refusal
from nodewright_near.fees import Cost, CostOverflow, transaction_cost
from nodewright_near.genesis import shard_of
from nodewright_near.parameters import Parameters
from nodewright_near.reservations import Reservations
from nodewright_near.shardstore import View
from nodewright_near.state import decode_access_key
from nodewright_near.transactions import MAX_TRANSACTION_BYTES, SignedTransaction, Transaction

IN_PLACE: Final = 256


def parse(raw: bytes) -> SignedTransaction | Refused:
    if len(raw) > MAX_TRANSACTION_BYTES:
        return Refused(
            "TransactionSizeExceeded",
            f"{len(raw)} bytes are more than {MAX_TRANSACTION_BYTES}",
            "malformed",
            data={"error": {"TransactionSizeExceeded": {"size": len(raw), "limit": MAX_TRANSACTION_BYTES}}},
        )
    try:
        return SignedTransaction.decode(raw)
    except Malformed as error:
        return Refused("ParseError", str(error), "malformed")


def refused(refusal: Refusal, id: bytes) -> Refused:
    """``data["error"]`` is the object that an RPC answers under ``InvalidTxError``."""
    return Refused(refusal.innermost, str(refusal), refusal.kind, id, {"error": refusal.value})


@define
class Signers:
    """Accounts and keys of a batch's signers, as a state has them."""

    accounts: dict[str, Account | None]
    keys: dict[tuple[str, bytes], AccessKey | None]

    @staticmethod
    async def read(view: View, transactions: Sequence[SignedTransaction]) -> Signers:
        signers = Signers({}, {})
        await signers.read_more(view, transactions)
        return signers

    async def read_more(self, view: View, transactions: Sequence[SignedTransaction]) -> None:
        """Of those that are not here yet."""
        slots = {(one.transaction.signer_id, one.transaction.public_key): None for one in transactions}
        wanted_keys = [slot for slot in slots if slot not in self.keys]
        names = list({name: None for name, _ in wanted_keys if name not in self.accounts})
        rows = await view.values([*map(account_key, names), *(access_key_key(name, key) for name, key in wanted_keys)])
        for name, row in zip(names, rows, strict=False):
            self.accounts[name] = None if row is None else Account.decode(row)
        for slot, row in zip(wanted_keys, rows[len(names) :], strict=True):
            self.keys[slot] = None if row is None else decode_access_key(row)


class Admitter:
    def __init__(self, parameters: Parameters, boundaries: tuple[str, ...], reservations: Reservations) -> None:
        self.parameters = parameters
        self.boundaries = boundaries
        self.reservations = reservations

    def form(self, raw: bytes) -> SignedTransaction | Admission:
        """What can be said without the state and without the signature."""
        signed = parse(raw)
        if isinstance(signed, Refused):
            return signed
        held = self.reservations.by_id.get(signed.id)
        if held is not None:
            return Admitted(signed.id, held.signed.raw, known=True, shard=held.shard)
        try:
            check_form(self.parameters, signed)
        except Refusal as refusal:
            return refused(refusal, signed.id)
        return signed

    def shard(self, signed: SignedTransaction) -> int:
        return shard_of(signed.transaction.signer_id, self.boundaries)

    def admit(
        self, signed: SignedTransaction, signers: Signers, gas_price: int, height: int, closed: Mapping[int, float]
    ) -> Admission:
        """Against the state and what is reserved; reserves. ``closed``: shards that are full, and their levels."""
        transaction, reserved = signed.transaction, self.reservations
        account = signers.accounts[transaction.signer_id]
        try:
            cost = transaction_cost(self.parameters, transaction, gas_price)
            key = signers.keys[transaction.signer_id, transaction.public_key]
            owed = reserved.owed.get(transaction.signer_id, 0)
            if not self._can_pay(transaction, account, key, owed, cost, height):
                left = account
                if account is not None:
                    left = Account(max(account.amount - owed, 0), account.locked, account.code_hash, account.storage_usage)
                charge(self.parameters, transaction, left, key, cost, height)
            if closed:
                target = shard_of(transaction.receiver_id, self.boundaries)
                if target in closed:
                    raise Refusal("ShardCongested", shard_id=target, congestion_level=closed[target])
        except Refusal as refusal:
            return refused(refusal, signed.id)
        except CostOverflow:
            return refused(Refusal("CostOverflow"), signed.id)
        holder = reserved.holder(signed)
        if holder is not None:
            clash = Refusal("InvalidNonce", tx_nonce=transaction.nonce, ak_nonce=transaction.nonce)
            return Refused(clash.innermost, str(clash), "conflict", signed.id, {"error": clash.value, "winner": holder})
        shard = self.shard(signed)
        reserved.add(signed, cost.total, shard)
        return Admitted(signed.id, signed.raw, fee=cost.burnt_amount, shard=shard)

    def _can_pay(
        self,
        transaction: Transaction,
        account: Account | None,
        key: AccessKey | None,
        owed: int,
        cost: Cost,
        height: int,
    ) -> bool:
        """What ``charge`` would say of the frequent case, without making what is left. False: ask it."""
        if account is None or key is None or key.permission is not FULL_ACCESS:
            return False
        amount = account.amount - owed - cost.total
        return (
            amount >= 0
            and key.nonce < transaction.nonce < height * NONCES_PER_BLOCK
            and not missing_storage_stake(self.parameters, account, amount)
        )


def by_nonce(candidates: Sequence[Candidate], reservations: Reservations) -> list[Candidate]:
    """The same candidates; those of one key change places so that their nonces rise."""
    last: dict[tuple[str, bytes], int] = {}
    mixed: set[tuple[str, bytes]] = set()
    by_id = reservations.by_id
    for candidate in candidates:
        held = by_id.get(candidate.id)
        if held is not None:
            transaction = held.signed.transaction
            slot = (transaction.signer_id, transaction.public_key)
            if last.get(slot, -1) > transaction.nonce:
                mixed.add(slot)
            last[slot] = transaction.nonce
    ordered = list(candidates)
    if mixed:
        _reorder(ordered, candidates, mixed, reservations)
    return ordered


def _reorder(
    ordered: list[Candidate],
    candidates: Sequence[Candidate],
    mixed: Collection[tuple[str, bytes]],
    reservations: Reservations,
) -> None:
    places: dict[tuple[str, bytes], list[int]] = {}
    nonces: dict[int, int] = {}
    for index, candidate in enumerate(candidates):
        held = reservations.by_id.get(candidate.id)
        if held is not None and held.slot in mixed:
            places.setdefault(held.slot, []).append(index)
            nonces[index] = held.signed.transaction.nonce
    for slots in places.values():
        for place, index in zip(slots, sorted(slots, key=nonces.__getitem__), strict=True):
            ordered[place] = candidates[index]


def first_of(parameters: Parameters, limits: Limits, gas: int) -> int:
    """How many candidates are looked at together: as many transfers as have room in one chunk, and ``IN_PLACE`` more that
    stand in for those that turn out to be refused."""
    fees = parameters.fees
    one = fees.action_receipt.send_not_sir + fees.transfer.send_not_sir
    return max(min(limits.max_count, gas // max(one, 1)) + IN_PLACE, 1)


def select(
    parameters: Parameters,
    candidates: Sequence[Candidate],
    reservations: Reservations,
    signers: Signers,
    gas_price: int,
    height: int,
    limits: Limits,
    gas: int,
) -> Selection:
    """Those that would run one after the other on this state, up to the limits and ``gas`` burnt by sending them. The
    candidates of a key come with rising nonces (``by_nonce``). ``signers`` is then as those left it."""
    chosen: list[Candidate] = []
    deferred: list[Candidate] = []
    rejected: dict[bytes, str] = {}
    accounts, keys = signers.accounts, signers.keys
    room = limits.max_bytes
    for candidate in candidates:
        held = reservations.by_id.get(candidate.id)
        if held is None:
            rejected[candidate.id] = "its nonce was used by another transaction"
            continue
        transaction = held.signed.transaction
        cost: Cost = transaction_cost(parameters, transaction, gas_price)
        if len(chosen) >= limits.max_count or candidate.size > room or cost.gas_burnt > gas:
            deferred.append(candidate)
            continue
        try:
            account, key = charge(
                parameters,
                transaction,
                accounts[transaction.signer_id],
                keys[transaction.signer_id, transaction.public_key],
                cost,
                height,
            )
        except Refusal as refusal:
            rejected[candidate.id] = str(refusal)
            continue
        accounts[transaction.signer_id] = account
        keys[transaction.signer_id, transaction.public_key] = key
        chosen.append(candidate)
        room -= candidate.size
        gas -= cost.gas_burnt
    return Selection(chosen, rejected, deferred)
