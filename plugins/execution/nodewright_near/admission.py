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
from nodewright_near.accounts import ACCOUNT, NONCES_PER_BLOCK, V2_SENTINEL, AccessKey, Account
from nodewright_near.borsh import Malformed
from nodewright_near.checks import Stakes, charge, check_form
from nodewright_near.errors import Refusal
from nodewright_near.fees import U128_MAX, Cost, CostOverflow, TransferPrice, transaction_cost
from nodewright_near.genesis import shard_of
from nodewright_near.parameters import Parameters
from nodewright_near.reservations import Reservations, Slot
from nodewright_near.shardstore import View
from nodewright_near.state import decode_access_key, encode_access_key
from nodewright_near.transactions import MAX_TRANSACTION_BYTES, MAX_TRANSFER_BYTES, SignedTransaction

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


class Signers:
    """The rows of a batch's signers, accounts and keys, as a state has them; the caller may change them. ``free``: what an
    account may spend, by its row; ``nonces``: the last one of a key with full access. Who spends and uses them there need
    not write the rows. ``ran``: transactions that this state has paid for and that may be reserved still, since their
    blocks are not committed."""

    def __init__(self, stakes: Stakes, ran: Sequence[Collection[bytes]] = ()) -> None:
        self._ran = ran
        self._paid: dict[str, int] | None = None
        self.free: dict[bytes, int] = {}
        self.nonces: dict[Slot, int] = {}
        self._rows: dict[bytes, bytes | None] = {}
        self._stakes = stakes

    async def read(self, view: View, transactions: Iterable[SignedTransaction]) -> None:
        """Those that are not here yet."""
        here = self._rows
        wanted = list(
            dict.fromkeys([row for one in transactions for row in (one.row, one.slot) if row not in here]),
        )
        for row, raw in zip(wanted, await view.values(wanted), strict=True):
            self._put(row, raw)

    def _put(self, row: bytes, raw: bytes | None) -> None:
        self._rows[row] = raw
        if raw is None:
            return
        if row[0] == ACCOUNT:
            amount = int.from_bytes(raw[:16], "little")
            if len(raw) == 72 and amount != V2_SENTINEL:
                self.free[row] = amount - self._stakes[raw[16:]]
        elif len(raw) == 9 and raw[8] == 1:
            self.nonces[row] = int.from_bytes(raw[:8], "little")

    def account(self, row: bytes) -> Account | None:
        raw = self._rows[row]
        if raw is None:
            return None
        account = Account.decode(raw)
        account.amount = self.free[row] + self._stakes[raw[16:]]
        return account

    def key(self, slot: Slot) -> AccessKey | None:
        raw = self._rows[slot]
        if raw is None:
            return None
        nonce = self.nonces.get(slot)
        return decode_access_key(raw) if nonce is None else AccessKey(nonce)

    def owed(self, signer: str, reserved: Reservations) -> int:
        """What its reservations will cost on top of this state. The first call that finds any looks through what ran."""
        owed = reserved.owed.get(signer, 0)
        if not owed or not self._ran:
            return owed
        if self._paid is None:
            self._paid = {}
            for id in set[bytes]().union(*self._ran):
                held = reserved.by_id.get(id)
                if held is not None:
                    self._paid[held.signed.signer] = self._paid.get(held.signed.signer, 0) + held.cost
        return owed - self._paid.get(signer, 0)

    def charged(self, signed: SignedTransaction, account: Account, key: AccessKey) -> None:
        self._put(signed.row, account.encode())
        self._put(signed.slot, encode_access_key(key))


class Admitter:
    def __init__(self, parameters: Parameters, boundaries: tuple[str, ...], reservations: Reservations) -> None:
        self.parameters = parameters
        self.boundaries = boundaries
        self.reservations = reservations
        self.stakes = Stakes(parameters)

    def read(self, txs: Iterable[bytes]) -> list[SignedTransaction | Admission]:
        """What can be said of each without the state and without the signature; where nothing is, the transaction."""
        found: list[SignedTransaction | Admission] = []
        by_id, plain = self.reservations.by_id, self.parameters.limits.max_transaction >= MAX_TRANSFER_BYTES
        for raw in txs:
            signed = parse(raw)
            if type(signed) is not SignedTransaction:
                found.append(signed)
                continue
            held = by_id.get(signed.id)
            if held is not None:
                found.append(Admitted(signed.id, held.signed.raw, known=True, shard=held.shard))
                continue
            if signed.deposit < 0 or not plain:
                try:
                    check_form(self.parameters, signed)
                except Refusal as refusal:
                    found.append(refused(refusal, signed.id))
                    continue
            found.append(signed)
        return found

    def shard(self, signed: SignedTransaction) -> int:
        return shard_of(signed.signer, self.boundaries)

    def admit_all(
        self,
        read: Iterable[SignedTransaction | Admission],
        signed: Iterable[tuple[bool, int]],
        signers: Mapping[int, Signers],
        setting: Setting,
    ) -> list[Admission]:
        """What ``read`` left open is answered. ``signed``: of each of those whether its signature is good, and its signer's
        shard. ``signers``: by shard, of those kept here."""
        answers: list[Admission] = []
        places, reserved, price, closed = iter(signed), self.reservations, setting.price, setting.closed
        by_id, owed, limit = reserved.by_id, reserved.owed, setting.height * NONCES_PER_BLOCK
        by_slot, none, add = reserved.nonces, dict[int, bytes](), reserved.add
        for one in read:
            if type(one) is not SignedTransaction:
                answers.append(one)  # type: ignore[arg-type]
                continue
            good, shard = next(places)
            here = signers.get(shard)
            if not good:
                answers.append(refused(Refusal("InvalidSignature"), one.id))
            elif here is None:
                answers.append(Admitted(one.id, one.raw, shard=shard))
            elif one.id in by_id:  # twice in one call
                answers.append(Admitted(one.id, one.raw, known=True, shard=shard))
            else:
                # What ``charge`` would say of the frequent case, without making what is left.
                free, last = here.free.get(one.row), here.nonces.get(one.slot)
                if one.deposit >= 0 and free is not None and last is not None and not closed:
                    own, nonce = one.receiver == one.signer, one.nonce
                    total = price.paid[own] + one.deposit
                    if (
                        total <= free - owed.get(one.signer, 0)
                        and total <= U128_MAX
                        and last < nonce < limit
                        and nonce not in by_slot.get(one.slot, none)
                    ):
                        add(one, total, shard)
                        answers.append(Admitted(one.id, one.raw, price.burnt[own], shard=shard))
                        continue
                answers.append(self.admit(one, shard, here, setting))
        return answers

    def admit(
        self,
        signed: SignedTransaction,
        shard: int,
        signers: Signers,
        setting: Setting,
    ) -> Admission:
        """Against the state and what is reserved; reserves. ``shard``: the signer's."""
        transaction, reserved = signed.transaction, self.reservations
        account, key = signers.account(signed.row), signers.key(signed.slot)
        owed = signers.owed(signed.signer, reserved)
        try:
            cost = transaction_cost(self.parameters, transaction, setting.gas_price)
            if account is not None and owed:
                account.amount = max(account.amount - owed, 0)
            charge(self.parameters, transaction, account, key, cost, setting.height)
            if setting.closed:
                target = shard_of(transaction.receiver_id, self.boundaries)
                if target in setting.closed:
                    raise Refusal("ShardCongested", shard_id=target, congestion_level=setting.closed[target])
        except Refusal as refusal:
            return refused(refusal, signed.id)
        except CostOverflow:
            return refused(Refusal("CostOverflow"), signed.id)
        holder = reserved.holder(signed.slot, signed.nonce)
        if holder is not None:
            clash = Refusal("InvalidNonce", tx_nonce=signed.nonce, ak_nonce=signed.nonce)
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
            slot, nonce = held.signed.slot, held.signed.nonce
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
            nonces[index] = held.signed.nonce
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
    free, nonces = signers.free, signers.nonces
    price, by_id = TransferPrice.of(parameters, gas_price), reservations.by_id
    room, count, limit = limits.max_bytes, limits.max_count, height * NONCES_PER_BLOCK
    for candidate in candidates:
        held = by_id.get(candidate.id)
        if held is None:
            rejected[candidate.id] = "its nonce was used by another transaction"
            continue
        signed = held.signed
        row, slot, deposit = signed.row, signed.slot, signed.deposit
        left, last = free.get(row), nonces.get(slot)
        if deposit >= 0 and left is not None and last is not None:
            # The frequent case, without making what is left: see ``Admitter.admit_all``.
            own = signed.receiver == signed.signer
            total = price.paid[own] + deposit
            if total <= left and total <= U128_MAX and last < signed.nonce < limit:
                burnt = price.gas[own]
                if len(chosen) >= count or candidate.size > room or burnt > gas:
                    deferred.append(candidate)
                    continue
                free[row] = left - total
                nonces[slot] = signed.nonce
                chosen.append(candidate)
                room -= candidate.size
                gas -= burnt
                continue
        cost: Cost = transaction_cost(parameters, signed.transaction, gas_price)
        if len(chosen) >= count or candidate.size > room or cost.gas_burnt > gas:
            deferred.append(candidate)
            continue
        try:
            account, key = charge(parameters, signed.transaction, signers.account(row), signers.key(slot), cost, height)
        except Refusal as refusal:
            rejected[candidate.id] = str(refusal)
            continue
        signers.charged(signed, account, key)
        chosen.append(candidate)
        room -= candidate.size
        gas -= cost.gas_burnt
    return Selection(chosen, rejected, deferred), gas
