"""Signatures of whole batches through the ``Verifier``."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha3_256

from nodewright.interfaces.verifier import Verifier
from nodewright_aptos import hashing
from nodewright_aptos.authenticators import CURVE_ED25519, der_signature
from nodewright_aptos.transactions import SIGNED_ED25519, Check, UserTransaction, signature_checks


def check_signatures(verifier: Verifier, transactions: Sequence[UserTransaction]) -> list[bool]:
    """One answer for each, in order: whether everybody signed who had to. In any thread."""
    keys: list[bytes] = []
    messages: list[bytes] = []
    signatures: list[bytes] = []
    others: list[int] = []
    places: list[int] = []
    for index, transaction in enumerate(transactions):
        if transaction.kind == SIGNED_ED25519:  # nearly all
            signer = transaction.signer
            places.append(index)
            keys.append(signer.material)
            messages.append(hashing.RAW_TRANSACTION + transaction.body)
            signatures.append(signer.signatures[0][1])
        else:
            others.append(index)
    good = [False] * len(transactions)
    for index, answer in zip(places, verifier.ed25519(keys, messages, signatures), strict=True):
        good[index] = bool(answer)
    if others:
        for index, told in zip(others, _check_others(verifier, [transactions[at] for at in others]), strict=True):
            good[index] = told
    return good


def _check_others(verifier: Verifier, transactions: Sequence[UserTransaction]) -> list[bool]:
    wanted = [signature_checks(transaction) for transaction in transactions]
    checks: dict[Check, bool] = {}
    for one in wanted:
        for ways in one or ():
            for way in ways:
                checks.update(dict.fromkeys(way, False))
    edwards = [check for check in checks if check[0] == CURVE_ED25519]
    answers = verifier.ed25519(
        [check[1] for check in edwards], [check[2] for check in edwards], [check[3] for check in edwards]
    )
    checks.update({check: bool(answer) for check, answer in zip(edwards, answers, strict=True)})
    koblitz = [
        (check, der)
        for check in checks
        if check[0] != CURVE_ED25519 and check[1][0] == 4 and (der := der_signature(check[3])) is not None
    ]
    answers = verifier.ecdsa(
        [check[1] for check, _ in koblitz],
        [sha3_256(check[2]).digest() for check, _ in koblitz],
        [der for _, der in koblitz],
    )
    checks.update({check: bool(answer) for (check, _), answer in zip(koblitz, answers, strict=True)})
    return [
        one is not None and all(any(all(checks[check] for check in way) for way in ways) for ways in one) for one in wanted
    ]
