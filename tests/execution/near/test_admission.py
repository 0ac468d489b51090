"""Frequent transactions are admitted and chosen as the rules would: answers, reservations and choice are equal."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.interfaces.common import Admitted
from nodewright.interfaces.execution import Candidate, Limits
from nodewright_near import transactions
from nodewright_near.accounts import FULL_ACCESS, AccessKey, Account, FunctionCallPermission, access_key_key, account_key
from nodewright_near.admission import Admitter, Setting, Signers, by_nonce, select
from nodewright_near.errors import sentence, value_of
from nodewright_near.fees import TransferPrice
from nodewright_near.parameters import Parameters
from nodewright_near.primitives import NO_HASH
from nodewright_near.reservations import Reservations
from nodewright_near.state import decode_access_key, encode_access_key
from nodewright_near.transactions import AddKey, SignedTransaction, Transaction, Transfer

PRICE = 10**8
HEIGHT = 50
TRANSFER = PRICE * 2 * 223_182_562_500
STAKE = 10**19 * 5000  # of 5000 bytes
NAMES = ("alice", "poor", "heavy", "staked")
PARAMETERS = Parameters()


def key_of(name: str, kind: int) -> bytes:
    digest = sha256(name.encode() + bytes([kind])).digest()
    return b"\x01" + digest * 2 if kind == 2 else b"\0" + digest


def rows() -> dict[bytes, bytes]:
    accounts = {
        "alice": Account(10**26, 0, NO_HASH, 182),
        "poor": Account(3 * TRANSFER + 5, 0, NO_HASH, 182),
        "heavy": Account(STAKE + 3 * TRANSFER + 3, 0, NO_HASH, 5000),
        "staked": Account(2 * TRANSFER, STAKE, NO_HASH, 5000),
    }
    found = {account_key(name): account.encode() for name, account in accounts.items()}
    limited = FunctionCallPermission(10**24, "bob", ())
    for name in NAMES:
        for kind, permission in enumerate((FULL_ACCESS, limited, FULL_ACCESS)):
            found[access_key_key(name, key_of(name, kind))] = encode_access_key(AccessKey(10, permission))
    return found


class View:
    async def values(self, keys: list[bytes]) -> list[bytes | None]:
        here = rows()
        return [here.get(key) for key in keys]


class ByTheRules(Signers):
    """Nothing is frequent here: every account and key is read from its row, and written there again."""

    def _put(self, row: bytes, raw: bytes | None) -> None:
        self._rows[row] = raw

    def account(self, row: bytes) -> Account | None:
        raw = self._rows[row]
        return None if raw is None else Account.decode(raw)

    def key(self, slot: bytes) -> AccessKey | None:
        raw = self._rows[slot]
        return None if raw is None else decode_access_key(raw)


AMOUNTS = st.sampled_from((0, 1, 3, 5, 10**25, 99 * 10**24, (1 << 128) - 1))
SENT = st.tuples(
    st.sampled_from((*NAMES, "nobody")),
    st.sampled_from((0, 0, 0, 0, 1, 2, 3)),
    st.sampled_from((10, 11, 12, 13, 14, 15, 50_000_000)),
    st.sampled_from((*NAMES, "bob")),
    st.one_of(
        st.builds(lambda amount: (Transfer(amount),), AMOUNTS),
        st.builds(lambda amount: (Transfer(amount),), AMOUNTS),
        st.sampled_from(((Transfer(1), Transfer(2)), (AddKey(key_of("new", 0), AccessKey(0)),))),
    ),
    st.sampled_from((True,) * 6 + (False,)),
)
ROOM = st.sampled_from(((100, 10**6, 10**18), (3, 10**6, 10**18), (100, 700, 10**18), (100, 10**6, 10**12)))


def came_to(sent: list[Any], closed: dict[int, float], room: tuple[int, int, int], quick: bool) -> Any:
    reservations, kind = Reservations(), Signers if quick else ByTheRules
    admitter = Admitter(PARAMETERS, (), reservations)
    read = []
    for signer, key, nonce, receiver, actions, _ in sent:
        public = key_of(signer, key)
        body = Transaction(signer, public, nonce, receiver, bytes(32), actions)
        whole = SignedTransaction.of(body, public[:1] + bytes(64 if not public[0] else 65))
        read.append(transactions._whole_transfer(whole.raw) or whole if quick else whole)
    here, later = kind(admitter.stakes), kind(admitter.stakes)
    trio.run(here.read, View(), read)
    setting = Setting(PRICE, TransferPrice.of(PARAMETERS, PRICE), HEIGHT, closed)
    answers = admitter.admit_all(read, [(one[-1], 0) for one in sent], {0: here}, setting)
    trio.run(later.read, View(), read)
    taken = [one for one in answers if isinstance(one, Admitted) and not one.known]
    candidates = [Candidate(one.id, len(one.raw), one.fee) for one in taken]
    candidates.insert(len(candidates) // 2, Candidate(bytes(32), 100, 1))
    ordered = by_nonce(candidates, reservations)
    *limits, gas = room
    chosen = select(PARAMETERS, ordered, reservations, later, PRICE, HEIGHT, Limits(*limits), gas)
    held = {id: (one.signed, one.cost, one.shard) for id, one in reservations.by_id.items()}
    return answers, held, reservations.owed, reservations.nonces, reservations.in_order, chosen


@settings(max_examples=80, deadline=None)
@given(st.lists(SENT, max_size=14), st.sampled_from(({}, {}, {}, {0: 0.5})), ROOM)
def test_it_is_what_the_rules_come_to(sent, closed, room):
    quick, plain = came_to(sent, closed, room, True), came_to(sent, closed, room, False)
    for one, other in zip(quick, plain, strict=True):
        assert one == other


def test_much_of_it_is_frequent():
    """Else the test above would say nothing."""
    sent = [("alice", 0, 11 + at, "bob", (Transfer(1),), True) for at in range(5)]
    sent.append(("poor", 0, 11, "poor", (Transfer(1),), True))
    answers, *_, (selection, _) = came_to(sent, {}, (100, 10**6, 10**18), True)
    assert all(isinstance(one, Admitted) for one in answers) and len(selection.chosen) == 6
    assert [one.id for one in selection.chosen] == [one.id for one in answers]


WORD = st.from_regex(r"[A-Z][A-Za-z]{0,12}", fullmatch=True)
VALUES = st.text("abc019.:_-", min_size=1, max_size=20) | st.integers(0, 1 << 64)
FIELDS = st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), VALUES, min_size=1, max_size=4)
METHOD = st.fixed_dictionaries({"method_name": st.text(max_size=12)})
ERRORS = st.recursive(
    WORD | st.dictionaries(WORD, FIELDS | METHOD, min_size=1, max_size=1),
    lambda inner: st.dictionaries(WORD, inner, min_size=1, max_size=1),
    max_leaves=3,
)


@settings(max_examples=150, deadline=None)
@given(ERRORS, st.text(max_size=40))
def test_what_an_error_is_told_as_says_what_it_was(value, text):
    assert value_of(sentence(value)) == value
    found = value_of(text)
    assert found is None or sentence(found) == text or not text.isascii()
