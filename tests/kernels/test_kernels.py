"""Every compiled kernel equals its plain reference, on both sides of every length that SHA-256 pads differently."""

import hashlib

import numpy as np
import pytest
from coincurve import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nodewright import kernels
from nodewright.kernels import plain, switch, yardstick
from nodewright.kernels.signatures import NativeVerifier, ecdsa_plain, ed25519_plain, lax_der

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels():
    assert kernels.warm_up() is None
    yield
    kernels.disable()


MESSAGES = st.lists(st.binary(max_size=260), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(MESSAGES)
def test_hashes_of_many_messages(messages):
    assert kernels.sha256_many(messages) == [hashlib.sha256(m).digest() for m in messages]
    assert kernels.sha256d_many(messages) == plain.sha256d_many(messages)
    assert kernels.hash160_many(messages) == [plain.hash160(m) for m in messages]


def test_hashes_at_the_edges_of_padding():
    messages = [
        bytes([n % 251]) * n for n in (0, 1, 54, 55, 56, 57, 63, 64, 65, 118, 119, 120, 127, 128, 129, 1000, 70_000)
    ]
    assert kernels.sha256d_many(messages) == plain.sha256d_many(messages)


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(MESSAGES, st.booleans())
def test_lanes_side_by_side_equal_the_reference(messages, double):
    from nodewright.kernels.compiled import sha256
    from nodewright.kernels.compiled.batches import _column, rows

    out = np.empty((len(messages), 32), np.uint8)
    sha256.compile_lanes()(*_column(messages), double, out)
    assert rows(out) == (plain.sha256d_many if double else plain.sha256_many)(messages)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 255, 257])
def test_merkle_levels(count):
    leaves = b"".join(hashlib.sha256(bytes([n % 256, count % 256])).digest() for n in range(count))
    assert kernels.merkle_levels(leaves) == plain.merkle_levels(leaves)
    assert len(kernels.merkle_levels(leaves)) == kernels.merkle_depth(count) + 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(1, 6), st.integers(1, 32))
def test_lifted_subtree_roots_compose_to_the_flat_root(power, full, last):
    """Subtrees of a power of two with a shorter last one, lifted, give Bitcoin's root over all leaves."""
    size = 1 << power
    last = min(last, size)
    leaves = [hashlib.sha256(bytes([n & 255, n >> 8])).digest() for n in range(full * size + last)]
    parts = [leaves[at : at + size] for at in range(0, len(leaves), size)]
    roots = [kernels.merkle_root(b"".join(part)) for part in parts]
    roots[-1] = kernels.merkle_lift(roots[-1], power - kernels.merkle_depth(len(parts[-1])))
    assert kernels.merkle_root(b"".join(roots)) == kernels.merkle_root(b"".join(leaves))


def test_no_tree_without_leaves():
    for leaves in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match="multiple of 32"):
            kernels.merkle_root(leaves)
    with pytest.raises(ValueError, match="64"):
        kernels.sha256d_pairs(bytes(63))


@pytest.mark.parametrize("length", [0, 1, 55, 56, 63, 64, 65, 119, 200])
def test_ripemd160_without_openssl(length):
    data = bytes(range(length))
    assert plain.ripemd160_reference(data) == plain.ripemd160(data)
    assert plain.ripemd160_reference(b"abc").hex() == "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"


CHECKS = yardstick.make_checks(12)


def mutate(value: bytes, at: int, change: int) -> bytes:
    if not value or change == 0:
        return value
    at %= len(value)
    return value[:at] + bytes([value[at] ^ change]) + value[at + 1 :]


@settings(max_examples=120, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.sampled_from("kdsn"), st.integers(0, 80), st.integers(0, 255), st.integers(-3, 3)),
        min_size=1,
        max_size=12,
    )
)
def test_ecdsa_compiled_equals_plain_on_damaged_checks(choices):
    keys, digests, signatures = [], [], []
    for index, part, at, change, cut in choices:
        key, digest, signature = CHECKS[index]
        key = mutate(key, at, change) if part == "k" else key
        digest = mutate(digest, at, change) if part == "d" else digest
        signature = mutate(signature, at, change) if part == "s" else signature
        if cut < 0:
            signature = signature[:cut]
        keys.append(key + bytes(max(cut, 0)) if part == "k" else key)
        digests.append(digest)
        signatures.append(signature)
    assert NativeVerifier().ecdsa(keys, digests, signatures) == ecdsa_plain(keys, digests, signatures)


def der(r: int, s: int, pad: int = 0, long: bool = False) -> bytes:
    def number(value: int) -> bytes:
        body = bytes(pad) + value.to_bytes(33, "big").lstrip(b"\0")
        return b"\x02" + (b"\x82\x00" if long else b"") + bytes([len(body)]) + body

    body = number(r) + number(s)
    return b"\x30" + bytes([len(body) & 127]) + body


def test_old_nodes_lax_signatures_are_accepted_and_oversized_numbers_are_not():
    key, digest, strict = CHECKS[0]
    compact = lax_der(strict)
    r, s = int.from_bytes(compact[:32], "big"), int.from_bytes(compact[32:], "big")
    rows = [
        (strict, 1),
        (der(r, s), 1),
        (der(r, s, pad=4), 1),
        (der(r, s, long=True), 1),
        (der(r, ORDER - s), 1),  # a high S is normalised before the check
        (strict + b"trailing", 1),
        (der(r, s + ORDER), 0),
        (der(r, 1 << 259), 0),
        (der(0, s), 0),
        (b"\x30\x80", 0),
        (b"\x30\xff" + strict[2:], 0),
        (b"", 0),
    ]
    signatures = [signature for signature, _ in rows]
    expected = bytearray(answer for _, answer in rows)
    many = [key] * len(rows), [digest] * len(rows), signatures
    assert ecdsa_plain(*many) == expected
    assert NativeVerifier().ecdsa(*many) == expected


def test_all_key_forms():
    secret = PrivateKey(b"\x07" * 32)
    digest = hashlib.sha256(b"message").digest()
    whole = secret.public_key.format(compressed=False)
    hybrid = bytes([6 + (whole[-1] & 1)]) + whole[1:]
    wrong_hybrid = bytes([7 - (whole[-1] & 1)]) + whole[1:]
    keys = [secret.public_key.format(), whole, hybrid, wrong_hybrid, whole[:64], b""]
    signatures = [secret.sign(digest, hasher=None)] * len(keys)
    for check in (NativeVerifier().ecdsa, ecdsa_plain):
        assert check(keys, [digest] * len(keys), signatures) == bytearray([1, 1, 1, 0, 0, 0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=80), st.sampled_from("okmsx"), st.integers(0, 70)), min_size=1, max_size=8))
def test_ed25519_compiled_equals_plain(items):
    keys, messages, signatures = [], [], []
    for index, (message, damage, at) in enumerate(items):
        signer = SigningKey(bytes([index + 1]) * 32)
        key, signature = bytes(signer.verify_key), signer.sign(message).signature
        keys.append(mutate(key, at, 1) if damage == "k" else key[:at] if damage == "x" else key)
        messages.append(message + b"!" if damage == "m" else message)
        signatures.append(mutate(signature, at, 4) if damage == "s" else signature)
    answers = NativeVerifier().ed25519(keys, messages, signatures)
    assert answers == ed25519_plain(keys, messages, signatures)
    for (_, damage, _), answer in zip(items, answers, strict=True):
        assert answer == 1 or damage != "o"


def test_a_small_order_key_never_verifies():
    small = bytes([1]) + bytes(31)
    for check in (NativeVerifier().ed25519, ed25519_plain):
        assert check([small], [b"anything"], [small + bytes(32)]) == bytearray(1)


def test_counts_that_differ_are_the_callers_mistake():
    with pytest.raises(ValueError, match="equally many"):
        NativeVerifier().ecdsa([b""], [], [])
    with pytest.raises(ValueError, match="equally many"):
        NativeVerifier().ed25519([b""], [b""], [])
    assert NativeVerifier().ecdsa([], [], []) == bytearray()


def test_plain_until_warm_and_after_disable():
    kernels.disable()
    assert not kernels.ready() and switch.why_not() == "switched off"
    messages = [bytes([n]) for n in range(20)]
    before = kernels.sha256d_many(messages)
    assert "not available" in kernels.warm_up("nodewright.kernels.no_such_module")
    assert not kernels.ready()
    assert kernels.warm_up() is None
    assert kernels.ready() and kernels.sha256d_many(messages) == before


def test_the_yardstick_measures_something():
    assert yardstick.verify_us(cores=2, count=20, rounds=1) > 0
