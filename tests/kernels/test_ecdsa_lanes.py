"""ECDSA signatures checked side by side: never a yes where libsecp256k1 says no, and a yes wherever no rare case is met."""

import hashlib
import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from coincurve import PrivateKey, PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright import kernels
from nodewright.kernels.signatures import ECDSA_LANES, NativeVerifier, ecdsa_plain

P = 2**256 - 2**32 - 977
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
HALF = (P + 1) // 4


@pytest.fixture(scope="module", autouse=True)
def lanes():
    assert kernels.warm_up(ECDSA_LANES) is None
    module = kernels.switch.compiled(ECDSA_LANES)
    if not module.WORTH_IT:
        pytest.skip("this processor has no AVX2 with fused multiplication: libsecp256k1 alone checks")
    yield module
    kernels.disable()


def der(r, s):
    parts = []
    for number in (r, s):
        body = number.to_bytes((number.bit_length() // 8) + 1, "big")
        parts.append(b"\x02" + bytes([len(body)]) + body)
    joined = b"".join(parts)
    return b"\x30" + bytes([len(joined)]) + joined


def signer(index):
    return PrivateKey(hashlib.sha256(b"lanes %d" % index).digest())


def signed(index):
    key, digest = signer(index), hashlib.sha256(b"message %d" % index).digest()
    return key.public_key.format(), digest, key.sign(digest, hasher=None)


def forged(u, v, point):
    """(digest, signature) that holds under the key ``point``: R is x of u G + v key, with u and v as one likes."""
    sum_ = PublicKey.combine_keys([PrivateKey(u.to_bytes(32, "big")).public_key, point.multiply(v.to_bytes(32, "big"))])
    r = int.from_bytes(sum_.format()[1:], "big") % ORDER
    s = r * pow(v, -1, ORDER) % ORDER
    return (u * s % ORDER).to_bytes(32, "big"), der(r, s)


def both(lanes, items):
    """What each says, and what the node's verifier does."""
    columns = [list(column) for column in zip(*items, strict=True)]
    expected = ecdsa_plain(*columns)
    assert NativeVerifier().ecdsa(*columns) == expected
    return expected, lanes.verify(*columns)


def test_good_ones_are_accepted_in_any_number(lanes):
    for count in (1, 2, 3, 4, 5, 8, 31):
        expected, answers = both(lanes, [signed(index) for index in range(count)])
        assert answers == expected == bytes([1]) * count


def test_scalars_at_the_edges(lanes):
    """Small, large, and with long runs of zeros or ones: digits of zero, carries through all windows, empty halves."""
    edges = [1, 2, 8, 15, 16, 2047, 2048, 4095, 2**64, 2**128 - 1, 2**128, 2**128 + 1, 2**255, ORDER // 2, ORDER - 1]
    edges += [lanes.LAMBDA, ORDER - lanes.LAMBDA, (2**128) ** 2 % ORDER, int("8" * 64, 16) % ORDER, int("7" * 64, 16)]
    items = []
    for index, u in enumerate(edges):
        for v in edges:
            key = signer(index).public_key
            digest, signature = forged(u, v, key)
            items.append((key.format(), digest, signature))
    expected, answers = both(lanes, items)
    assert expected == bytes([1]) * len(items)
    assert answers == expected


def test_sums_without_a_formula_are_left_to_libsecp256k1(lanes):
    """Keys of small multiples of G: running points meet table entries, or their opposites, and the sum can be no point."""
    items = []
    for factor in (1, 2, 3, 5, 8, 2048, lanes.LAMBDA, 2**128, ORDER - 1, ORDER - 2):
        key = PrivateKey((factor % ORDER).to_bytes(32, "big")).public_key
        for u, v in ((1, 1), (2, 1), (16, 1), (1, 16), (factor, ORDER - 2), (2 * factor % ORDER, 3)):
            if (u + v * factor) % ORDER:
                items.append((key.format(), *forged(u % ORDER or 1, v, key)))
        # u G + v key = 0: no R belongs to it.
        r = 7
        s = pow(11, -1, ORDER)
        u = (ORDER - r * 11 * factor) % ORDER
        items.append((key.format(), (u * s % ORDER).to_bytes(32, "big"), der(r, s)))
    expected, answers = both(lanes, items)
    assert sum(expected) > 40
    assert all(one <= other for one, other in zip(answers, expected, strict=True))


def test_an_r_beyond_the_order_is_left_to_libsecp256k1(lanes):
    """x of the sum between the order and p: R is what is left of it. Such x are rare: the key is made for the sum."""
    x = ORDER + 1
    while True:
        value = (x**3 + 7) % P
        if pow(pow(value, HALF, P), 2, P) == value:
            break
        x += 1
    target = PublicKey(b"\x02" + x.to_bytes(32, "big"))
    r, s, digest = x - ORDER, 12345, hashlib.sha256(b"beyond").digest()
    # key = (s target - z G) / r
    z = int.from_bytes(digest, "big")
    part = PrivateKey((ORDER - z % ORDER).to_bytes(32, "big")).public_key
    key = PublicKey.combine_keys([target.multiply(s.to_bytes(32, "big")), part])
    key = key.multiply(pow(r, -1, ORDER).to_bytes(32, "big"))
    items = [(key.format(), digest, der(r, s)), *[signed(index) for index in range(3)]]
    expected, _ = both(lanes, items)
    assert expected == bytes([1]) * 4


def test_odd_keys_and_numbers_are_judged_as_libsecp256k1_does(lanes):
    key, digest, signature = signed(1)
    r, s = 5, 7
    x = int.from_bytes(key[1:], "big")
    keys = [
        bytes([head]) + number.to_bytes(32, "big")
        for head in (0, 1, 2, 3, 4, 6, 7)
        for number in (0, 1, 2, x, P - 1, P, P + 1, P + 2, 2**256 - 1)
    ]
    keys += [b"", key[:-1], key + b"\0", signer(1).public_key.format(False)]
    uncompressed = signer(1).public_key.format(False)
    keys += [bytes([head]) + uncompressed[1:] for head in (4, 5, 6, 7)]
    items = [(one, digest, signature) for one in keys]
    numbers = (0, 1, 2, r, s, ORDER - 1, ORDER, ORDER + 1, P, 2**256 - 1)
    items += [(key, digest, der(one, two)) for one in numbers for two in numbers]
    items += [(key, number.to_bytes(32, "big"), signature) for number in numbers]
    items += [(key, digest, one) for one in (b"", b"\x30", signature[:-1], signature + b"\0", b"\x30\x00", b"\0" * 70)]
    # High S, which the single check takes as well, and digests beyond the order.
    whole = signer(2)
    low = whole.sign(digest, hasher=None)
    length = low[3]
    first = int.from_bytes(low[4 : 4 + length], "big")
    second = int.from_bytes(low[6 + length :], "big")
    items.append((whole.public_key.format(), digest, der(first, ORDER - second)))
    expected, answers = both(lanes, items)
    assert expected[-1]
    assert all(one <= other for one, other in zip(answers, expected, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 3), st.integers(0, 95), st.integers(0, 7)), min_size=1, max_size=12
    )
)
def test_equal_on_good_and_damaged_ones(lanes, items):
    made = []
    for index, damage, at, bit in items:
        columns = [bytearray(column) for column in signed(index)]
        if damage < 3:
            columns[damage][at % len(columns[damage])] ^= 1 << bit
        made.append(tuple(map(bytes, columns)))
    expected, answers = both(lanes, made)
    assert answers == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-(20 << 42), 20 << 42), min_size=6, max_size=6), st.integers(0, 3))
def test_one_representative_of_any_limbs(lanes, limbs, lane):
    space = np.zeros(6 * lanes.LANES)
    for at, limb in enumerate(limbs):
        space[at * lanes.LANES + lane] = float(limb)
    out = np.zeros(6, np.int64)
    lanes.take_out(space, 0, lane, out)
    assert (
        sum(int(limb) << 43 * at for at, limb in enumerate(out))
        == sum(limb << 43 * at for at, limb in enumerate(limbs)) % P
    )


SCALARS = st.one_of(
    st.integers(1, ORDER - 1),
    st.sampled_from([1, 2, ORDER - 1, ORDER - 2, 2**128, 2**128 - 1, 2**255, (ORDER + 1) // 2, 2**256 - ORDER]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**256 - 1) | SCALARS, SCALARS, SCALARS), min_size=1, max_size=6))
def test_scalars_are_those_of_whole_numbers(lanes, items):
    scalars = importlib.import_module("nodewright.kernels.compiled.scalars256k1")
    digests = b"".join(z.to_bytes(32, "big") for z, _, _ in items)
    numbers = b"".join(r.to_bytes(32, "big") + s.to_bytes(32, "big") for _, r, s in items)
    columns = np.frombuffer(digests, np.uint8), np.frombuffer(bytearray(numbers), np.uint8).reshape(-1, 64)
    found = scalars.split(*columns).tobytes()
    for at, (z, r, s) in enumerate(items):
        own = found[scalars.SCALARS * at :][: scalars.SCALARS]
        inverse = pow(s, -1, ORDER)
        assert int.from_bytes(own[:32], "little") == z * inverse % ORDER
        low, high = (
            int.from_bytes(own[begin : begin + 17], "little") * (-1 if own[sign] else 1)
            for begin, sign in ((32, 66), (49, 67))
        )
        assert (low + high * lanes.LAMBDA - r * inverse) % ORDER == 0
        assert max(abs(low), abs(high)) < 2**129


EXTREMES = st.one_of(st.integers(-(9 << 42), 9 << 42), st.sampled_from([-(9 << 42), 9 << 42, (1 << 43) - 1, -(1 << 42)]))


@settings(max_examples=200, deadline=None)
@given(st.lists(EXTREMES, min_size=6, max_size=6), st.lists(EXTREMES, min_size=6, max_size=6))
def test_products_at_the_bounds(lanes, left, right):
    """Operands of nine units, as large as points get: products are exact, and of one unit."""
    field = importlib.import_module("nodewright.kernels.compiled.lanes256k1")
    room = np.zeros(4 * 6 * lanes.LANES + 8)
    space = room[(-room.ctypes.data % 64) // 8 :][: 4 * 6 * lanes.LANES]
    for place, limbs in enumerate((left, right)):
        for at, limb in enumerate(limbs):
            space[(place * 6 + at) * lanes.LANES : (place * 6 + at + 1) * lanes.LANES] = float(limb)
    base = space.ctypes.data
    field.mul(base + 2 * field.NUMBER, base, base + field.NUMBER)
    field.square(base + 3 * field.NUMBER, base)
    first, second = (sum(limb << 43 * at for at, limb in enumerate(limbs)) for limbs in (left, right))
    out = np.zeros(6, np.int64)
    for place, expected in ((2, first * second), (3, first * first)):
        assert np.abs(space[place * 6 * lanes.LANES :][: 6 * lanes.LANES]).max() <= 1.6 * 2**42
        for lane in range(lanes.LANES):
            lanes.take_out(space, place, lane, out)
            assert sum(int(limb) << 43 * at for at, limb in enumerate(out)) == expected % P


def test_every_one_of_wycheproof(lanes):
    found = sorted(Path(os.environ.get("NODEWRIGHT_VECTORS", "/nowhere")).rglob("ecdsa_secp256k1_sha256_bitcoin_test.json"))
    if not found:
        pytest.skip("set NODEWRIGHT_VECTORS to the folder of vectors (docs/vectors.md)")
    items = []
    for group in json.loads(found[0].read_text())["testGroups"]:
        whole = group.get("publicKey") or group["key"]
        point = bytes.fromhex(whole["uncompressed"])
        key = bytes([2 + (point[64] & 1)]) + point[1:33]
        for case in group["tests"]:
            items.append((key, hashlib.sha256(bytes.fromhex(case["msg"])).digest(), bytes.fromhex(case["sig"])))
    expected, answers = both(lanes, items)
    assert len(items) > 400
    assert all(one <= other for one, other in zip(answers, expected, strict=True))
