"""The plain majority of a batch: judged in one loop, reserved in one step.

A transaction is plain where nothing needs a second look: the kernel read it and found no fault, no lock binds it, it claims
nothing, its fee is enough, and each output it spends is in the store, unspent, unmarked and from no coinbase.

Invariants
- This is a shortcut to yes: what it takes, ``Admitter._judge_one`` and ``Admitter._stage`` take with the same terms and
  leave the same reservations (a property test holds the two together). All else is left to them.
- ``judge`` holds for the outputs that it looked at: an offer whose outputs are read again is plain no longer.
- ``stage`` reserves plain ones before all others, so only where no two transactions of the batch, plain or not, spend the
  same output or are the same one: then their order decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, cast

from nodewright.interfaces.common import Admitted
from nodewright.interfaces.storage import UtxoTransaction
from nodewright_bitcoin.checks import Terms
from nodewright_bitcoin.policy import Policy
from nodewright_bitcoin.rules import MAX_MONEY, Era
from nodewright_bitcoin.state import Reservation, Reservations

if TYPE_CHECKING:
    from nodewright_bitcoin.admission import Offer


def judge(offers: Sequence[Offer], era: Era, policy: Policy, state: Reservations) -> Sequence[Offer]:
    """The plain ones get their terms and are marked; the others are returned, in order."""
    if era < Era.GENESIS:
        return offers
    unmined, most_bytes, rate = state.unmined, policy.max_transaction_bytes, policy.fee_per_kilobyte
    any_script = era >= Era.CHRONICLE
    others: list[Offer] = []
    for offer in offers:
        tx = offer.tx
        size = len(tx.raw)
        if (
            tx.checked
            and not tx.lock
            and tx.claims is None
            and (any_script or tx.pushes or not policy.standard_scripts)
            and size <= most_bytes
            and not offer.needs
            and tx.txid not in unmined
        ):
            total = 0
            for output in offer.spent:
                if (
                    output is None
                    or output.spender is not None
                    or output.coinbase
                    or output.frozen
                    or output.locked
                    or output.conflicting
                    or output.spendable_from
                ):
                    break
                total += output.satoshis
            else:
                fee = total - tx.value_out
                # As ``policy.minimum_fee`` has it.
                if fee >= 0 and total <= MAX_MONEY and (rate <= 0 or fee >= (size * rate // 1000 or 1)):
                    offer.terms = Terms(fee, 0, 0)
                    offer.plain = True
                    continue
        others.append(offer)
    return others


def stage(offers: Sequence[Offer], state: Reservations, height: int, rules: int) -> None:
    """Reserve the plain ones and answer them; or none, where one may stand in another's way. No await in here."""
    live = [offer for offer in offers if offer.terms is not None and offer.answer is None]
    txids = [offer.tx.txid for offer in live]
    spends = list(chain.from_iterable([offer.tx.spends for offer in live]))
    points, ids = set(spends), set(txids)
    if len(points) != len(spends) or len(ids) != len(txids):
        return
    if not points.isdisjoint(state.spenders) or not ids.isdisjoint(state.unmined):
        return
    reserved: list[Reservation] = []
    for offer in live:
        if not offer.plain:
            continue
        tx = offer.tx
        txid, raw, fee = tx.txid, tx.raw, cast("Terms", offer.terms).fee
        effect = UtxoTransaction(txid, tx.spends, tx.outputs)
        reserved.append(Reservation(effect, fee, len(raw), height, 0, 0, False, rules))
        offer.answer = Admitted(txid, raw, fee)
    state.add_fresh(reserved)
