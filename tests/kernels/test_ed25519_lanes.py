"""Signatures checked side by side: the answers of libsodium, one by one, also where only its rules for odd keys decide."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nodewright import kernels
from nodewright.kernels import signatures as verifier
from nodewright.kernels.signatures import LANES, NativeVerifier, ed25519_plain

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)
NEUTRAL = (0, 1)


@pytest.fixture(scope="module", autouse=True)
def lanes():
    assert kernels.warm_up(LANES) is None
    module = kernels.switch.compiled(LANES)
    if not module.WORTH_IT:
        pytest.skip("this processor has no AVX2: libsodium alone checks")
    yield module
    kernels.disable()


# --- the curve, by its definition -------------------------------------------------------------------------------------


def plus(left, right):
    (x, y), (u, v) = left, right
    product = D * x * u * y * v
    return (x * v + y * u) * pow(1 + product, -1, P) % P, (y * v + x * u) * pow(1 - product, -1, P) % P


def times(factor, point):
    total = NEUTRAL
    while factor:
        if factor & 1:
            total = plus(total, point)
        point, factor = plus(point, point), factor >> 1
    return total


def lift(y, sign=0):
    value = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(value, (P + 3) // 8, P)
    if x * x % P != value:
        x = x * ROOT % P
    if x * x % P != value:
        return None
    return (x if x & 1 == sign else -x % P, y)


def encoded(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


BASE = lift(4 * pow(5, -1, P) % P)


def small_points():
    """All eight points whose order divides eight."""
    y = 2
    while True:
        point = lift(y)
        if point is not None:
            point = times(ORDER, point)
            if times(4, point) != NEUTRAL:
                return [times(number, point) for number in range(8)]
        y += 1


SMALL = small_points()


def forged(secret, nonce, message, key_part, nonce_part):
    """A signature that holds but for parts of small order in the key and in R."""
    key = encoded(plus(times(secret, BASE), key_part))
    r = encoded(plus(times(nonce, BASE), nonce_part))
    h = int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % ORDER
    return key, message, r + ((nonce + h * secret) % ORDER).to_bytes(32, "little")


def both(items):
    keys, messages, signatures = (list(column) for column in zip(*items, strict=True))
    return ed25519_plain(keys, messages, signatures), kernels.switch.compiled(LANES).verify(keys, messages, signatures)


# --- equal answers ----------------------------------------------------------------------------------------------------


def test_parts_of_small_order_are_judged_as_libsodium_does():
    """Where the key or R has one, a check with a cofactor, or of a random sum, would say otherwise."""
    items = [
        forged(3 + 2 * number, 1000 + number, b"message %d" % number, key_part, nonce_part)
        for key_part in SMALL
        for nonce_part in SMALL
        for number in range(2)
    ]
    expected, answers = both(items)
    assert answers == expected
    assert 8 <= sum(expected) < len(items)


def test_odd_encodings_are_judged_as_libsodium_does():
    signer = SigningKey(b"\x05" * 32)
    key, signature = bytes(signer.verify_key), signer.sign(b"m").signature
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    ys = [0, 1, 2, 3, P - 1, P, P + 1, P + 2, 2**255 - 1, *(point[1] for point in SMALL)]
    odd = [(y | sign << 255).to_bytes(32, "little") for y in ys for sign in (0, 1)]
    items = [(one, b"m", signature) for one in odd]
    items += [(key, b"m", one + signature[32:]) for one in odd]
    items += [(one, b"m", two + bytes(32)) for one in odd for two in odd]
    items += [
        (key, b"m", r + number.to_bytes(32, "little"))
        for number in (s, s + ORDER, s + 2 * ORDER, ORDER - 1, ORDER, ORDER + 1, 2**252, 2**253, 2**256 - 1, 0, 1)
    ]
    items += [(key, b"m", signature), (key, b"", signature), (key, b"m" * 1000, signer.sign(b"m" * 1000).signature)]
    expected, answers = both(items)
    assert answers == expected
    assert sum(expected) == 3


def test_keys_at_the_edges_of_the_field():
    """y near 0 and near p, where carries run through all limbs; most are no points."""
    items = []
    for y in [*range(2, 40), *range(P - 40, P - 1), *(2**bits - 1 for bits in range(20, 255, 5))]:
        for sign in (0, 1):
            key = (y | sign << 255).to_bytes(32, "little")
            items.append((key, b"x", encoded(times(y % 97 + 1, BASE)) + bytes(32)))
    expected, answers = both(items)
    assert answers == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=80), st.integers(0, 3), st.integers(0, 95), st.integers(0, 7)), min_size=1))
def test_equal_on_good_and_damaged_ones(items):
    columns = []
    for index, (message, damage, at, bit) in enumerate(items):
        signer = SigningKey(hashlib.sha256(b"%d" % index).digest())
        whole = bytearray(bytes(signer.verify_key) + signer.sign(message).signature)
        if damage == 1:
            whole[at] ^= 1 << bit
        columns.append((bytes(whole[:32]), message + b"!" * (damage == 2), bytes(whole[32:])))
    expected, answers = both(columns)
    assert answers == expected
    assert all(answer or damage for answer, (_, damage, _, _) in zip(answers, items, strict=True))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, ORDER - 1), st.integers(1, ORDER - 1)), min_size=1, max_size=5))
def test_equal_for_any_scalars(pairs):
    """S of every size, and so its digits."""
    items = []
    for secret, nonce in pairs:
        items.append(forged(secret, nonce, b"", NEUTRAL, NEUTRAL))
        items.append(forged(secret, nonce % 1000 + 1, b"", NEUTRAL, NEUTRAL))
    expected, answers = both(items)
    assert answers == expected == bytearray([1] * len(items))


@pytest.mark.skipif("NODEWRIGHT_VECTORS" not in os.environ, reason="NODEWRIGHT_VECTORS is not set")
def test_wycheproof():
    file = Path(os.environ["NODEWRIGHT_VECTORS"]) / "wycheproof" / "ed25519_test.json"
    items, results = [], []
    for group in json.loads(file.read_text())["testGroups"]:
        key = bytes.fromhex(group.get("publicKey", group.get("key"))["pk"])
        for test in group["tests"]:
            signature = bytes.fromhex(test["sig"])
            if len(signature) == 64:
                items.append((key, bytes.fromhex(test["msg"]), signature))
                results.append(test["result"] == "valid")
    expected, answers = both(items)
    assert answers == expected
    assert [answer == 1 for answer in answers] == results


# --- the verifier -----------------------------------------------------------------------------------------------------


def many(count):
    signers = [SigningKey(hashlib.sha256(b"%d" % number).digest()) for number in range(count)]
    messages = [b"%d" % number for number in range(count)]
    keys = [bytes(signer.verify_key) for signer in signers]
    return keys, messages, [signer.sign(message).signature for signer, message in zip(signers, messages, strict=True)]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 127, 128, 129, 300])
def test_a_wrong_one_is_found_in_its_place(count):
    keys, messages, signatures = many(count)
    assert NativeVerifier().ed25519(keys, messages, signatures) == bytearray([1] * count)
    messages[count // 2] += b"!"
    expected = bytearray([1] * count)
    expected[count // 2] = 0
    assert NativeVerifier().ed25519(keys, messages, signatures) == expected
    assert NativeVerifier(ed25519_batches=False).ed25519(keys, messages, signatures) == expected


def test_what_is_refused_side_by_side_is_checked_by_itself(monkeypatch, lanes):
    """No signature is refused for a mistake of the fast way."""
    monkeypatch.setattr(lanes, "verify", lambda keys, *_: bytearray(len(keys)))
    keys, messages, signatures = many(8)
    assert NativeVerifier().ed25519(keys, messages, signatures) == bytearray([1] * 8)


def test_the_switch_is_a_switch(monkeypatch, lanes):
    def never(*_):
        raise AssertionError("it was asked for nothing side by side")

    monkeypatch.setattr(lanes, "verify", never)
    assert NativeVerifier(ed25519_batches=False).ed25519(*many(8)) == bytearray([1] * 8)
    assert verifier.BATCH == 128
