"""Taking transactions in: form, signatures in one batch, then each against the head's state less what is reserved.

A transaction of a shard that this node does not keep is checked for form and signature alone, and reserves nothing: those
who keep the shard do that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from attrs import define

from nodewright.interfaces.common import Admission, Admitted, Refused
from nodewright.interfaces.execution import Candidate, Limits, Selection
from nodewright_near.accounts import FULL_ACCESS, NONCES_PER_BLOCK, AccessKey, Account, account_key
from nodewright_near.borsh import Malformed
from nodewright_near.checks import charge, check_form, missing_storage_stake
from nodewright_near.errors import Refusal
from nodewright_near.fees import U128_MAX, Cost, CostOverflow, TransferPrice, transaction_cost
from nodewright_near.genesis import shard_of
from nodewright_near.parameters import Parameters
from nodewright_near.reservations import Reservations, Slot
from nodewright_near.shardstore import View
from nodewright_near.state import decode_access_key
from nodewright_near.transactions import MAX_TRANSACTION_BYTES, SignedTransaction, Transfer

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
class Setting:
    """What a batch is admitted under. ``height`` of the next block; ``closed``: shards that are full, and their levels."""

    gas_price: int
    price: TransferPrice
    height: int
    closed: Mapping[int, float]


@define
class Signers:
    """Accounts and keys of a batch's signers, as a state has them; the caller may change them."""

    accounts: dict[str, Account | None]
    keys: dict[Slot, AccessKey | None]

    @staticmethod
    async def read(view: View, transactions: Iterable[SignedTransaction]) -> Signers:
        signers = Signers({}, {})
        await signers.read_more(view, transactions)
        return signers

    async def read_more(self, view: View, transactions: Iterable[SignedTransaction]) -> None:
        """Of those that are not here yet."""
        here = self.keys
        wanted_keys = {one.slot: one.transaction.signer_id for one in transactions if one.slot not in here}
        names = [name for name in dict.fromkeys(wanted_keys.values()) if name not in self.accounts]
        rows = await view.values([*map(account_key, names), *wanted_keys])
        for name, row in zip(names, rows, strict=False):
            self.accounts[name] = None if row is None else Account.decode(row)
        for slot, row in zip(wanted_keys, rows[len(names) :], strict=True):
            here[slot] = None if row is None else decode_access_key(row)


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
        self,
        signed: SignedTransaction,
        shard: int,
        signers: Signers,
        setting: Setting,
    ) -> Admission:
        """Against the state and what is reserved; reserves. ``shard``: the signer's."""
        transaction, slot, reserved = signed.transaction, signed.slot, self.reservations
        signer = transaction.signer_id
        account, key = signers.accounts[signer], signers.keys[slot]
        owed = reserved.owed.get(signer, 0)
        actions, nonce = transaction.actions, transaction.nonce
        # What ``charge`` would say of the frequent case, without making what is left.
        if len(actions) == 1 and type(actions[0]) is Transfer and account is not None and key is not None:
            own = transaction.receiver_id == signer
            total = setting.price.paid[own] + actions[0].deposit
            left = account.amount - owed - total
            if (
                left >= 0
                and total <= U128_MAX
                and key.permission is FULL_ACCESS
                and key.nonce < nonce < setting.height * NONCES_PER_BLOCK
                and not missing_storage_stake(self.parameters, account, left)
                and not setting.closed
                and reserved.holder(slot, nonce) is None
            ):
                reserved.add(signed, total, shard)
                return Admitted(signed.id, signed.raw, setting.price.burnt[own], shard=shard)
        try:
            cost = transaction_cost(self.parameters, transaction, setting.gas_price)
            if account is not None and owed:
                account = Account(max(account.amount - owed, 0), account.locked, account.code_hash, account.storage_usage)
            charge(self.parameters, transaction, account, key, cost, setting.height)
            if setting.closed:
                target = shard_of(transaction.receiver_id, self.boundaries)
                if target in setting.closed:
                    raise Refusal("ShardCongested", shard_id=target, congestion_level=setting.closed[target])
        except Refusal as refusal:
            return refused(refusal, signed.id)
        except CostOverflow:
            return refused(Refusal("CostOverflow"), signed.id)
        holder = reserved.holder(slot, nonce)
        if holder is not None:
            clash = Refusal("InvalidNonce", tx_nonce=nonce, ak_nonce=nonce)
            return Refused(clash.innermost, str(clash), "conflict", signed.id, {"error": clash.value, "winner": holder})
        reserved.add(signed, cost.total, shard)
        return Admitted(signed.id, signed.raw, fee=cost.burnt_amount, shard=shard)


def by_nonce(candidates: Sequence[Candidate], reservations: Reservations) -> list[Candidate]:
    """The same candidates; those of one key change places so that their nonces rise."""
    last: dict[Slot, int] = {}
    mixed: set[Slot] = set()
    by_id = reservations.by_id
    for candidate in candidates:
        held = by_id.get(candidate.id)
        if held is not None:
            slot, nonce = held.signed.slot, held.signed.transaction.nonce
            if last.get(slot, -1) > nonce:
                mixed.add(slot)
            last[slot] = nonce
    ordered = list(candidates)
    if mixed:
        _reorder(ordered, candidates, mixed, reservations)
    return ordered


def _reorder(
    ordered: list[Candidate],
    candidates: Sequence[Candidate],
    mixed: Collection[Slot],
    reservations: Reservations,
) -> None:
    places: dict[Slot, list[int]] = {}
    nonces: dict[int, int] = {}
    for index, candidate in enumerate(candidates):
        held = reservations.by_id.get(candidate.id)
        if held is not None and held.signed.slot in mixed:
            places.setdefault(held.signed.slot, []).append(index)
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
) -> tuple[Selection, int]:
    """Those that would run one after the other on this state, up to the limits and ``gas`` burnt by sending them; and the
    gas that is left. The candidates of a key come with rising nonces (``by_nonce``). ``signers`` is then as those left
    it."""
    chosen: list[Candidate] = []
    deferred: list[Candidate] = []
    rejected: dict[bytes, str] = {}
    accounts, keys = signers.accounts, signers.keys
    price, by_id = TransferPrice.of(parameters, gas_price), reservations.by_id
    room, count, limit = limits.max_bytes, limits.max_count, height * NONCES_PER_BLOCK
    for candidate in candidates:
        held = by_id.get(candidate.id)
        if held is None:
            rejected[candidate.id] = "its nonce was used by another transaction"
            continue
        transaction, slot = held.signed.transaction, held.signed.slot
        signer = transaction.signer_id
        account, key = accounts[signer], keys[slot]
        actions = transaction.actions
        if len(actions) == 1 and type(actions[0]) is Transfer and account is not None and key is not None:
            # The frequent case, without making what is left: see ``Admitter.admit``.
            own = transaction.receiver_id == signer
            total = price.paid[own] + actions[0].deposit
            left = account.amount - total
            if (
                left >= 0
                and total <= U128_MAX
                and key.permission is FULL_ACCESS
                and key.nonce < transaction.nonce < limit
                and not missing_storage_stake(parameters, account, left)
            ):
                if len(chosen) >= count or candidate.size > room or price.gas[own] > gas:
                    deferred.append(candidate)
                    continue
                account.amount = left
                keys[slot] = AccessKey(transaction.nonce)
                chosen.append(candidate)
                room -= candidate.size
                gas -= price.gas[own]
                continue
        cost: Cost = transaction_cost(parameters, transaction, gas_price)
        if len(chosen) >= count or candidate.size > room or cost.gas_burnt > gas:
            deferred.append(candidate)
            continue
        try:
            account, key = charge(parameters, transaction, account, key, cost, height)
        except Refusal as refusal:
            rejected[candidate.id] = str(refusal)
            continue
        accounts[signer], keys[slot] = account, key
        chosen.append(candidate)
        room -= candidate.size
        gas -= cost.gas_burnt
    return Selection(chosen, rejected, deferred), gas
