"""The random draw: RFC 9381's own vectors, and that nobody but the key's owner makes one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nodewright_nightshade import vrf

# Appendix B.3, examples 16 and 17: private key, input, proof, output.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "",
        "8657106690b5526245a92b003bb079ccd1a92130477671f6fc01ad16f26f723f26f8a57ccaed74ee1b190bed1f479d97"
        "27d2d0f9b005a6e456a35d4fb0daab1268a1b0db10836d9826a528ca76567805",
        "90cf1df3b703cce59e2a35b925d411164068269d7b2d29f3301c03dd757876ff66b71dda49d2de59d03450451af02679"
        "8e8f81cd2e333de5cdf4f3e140fdd8ae",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "72",
        "f3141cd382dc42909d19ec5110469e4feae18300e94f304590abdced48aed5933bf0864a62558b3ed7f2fea45c92a465"
        "301b3bbf5e3e54ddf2d935be3b67926da3ef39226bbc355bdc9850112c8f4b02",
        "eb4440665d3891d668e7e0fcaf587f1b4bd7fbfe99d0eb2211ccec90496310eb5e33821bc613efb94db5e5b54c70a848"
        "a0bef4553a41befc57663b56373a5031",
    ),
]


@pytest.mark.parametrize(("seed", "alpha", "proof", "output"), VECTORS)
def test_the_vectors_of_the_rfc(seed: str, alpha: str, proof: str, output: str) -> None:
    secret, given_input = bytes.fromhex(seed), bytes.fromhex(alpha)
    made = vrf.prove(secret, given_input)
    assert made.hex() == proof
    assert vrf.output(made).hex() == output
    assert vrf.verified(bytes(SigningKey(secret).verify_key), given_input, made)


@settings(max_examples=25)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=64), st.data())
def test_one_proof_and_no_other(seed: bytes, alpha: bytes, data: st.DataObject) -> None:
    public = bytes(SigningKey(seed).verify_key)
    proof = vrf.prove(seed, alpha)
    assert vrf.prove(seed, alpha) == proof
    assert vrf.verified(public, alpha, proof)
    assert not vrf.verified(public, alpha + b"\0", proof)
    assert not vrf.verified(bytes(SigningKey(bytes(31) + b"\7").verify_key), alpha, proof)
    bit = data.draw(st.integers(0, 8 * len(proof) - 1))
    lie = bytearray(proof)
    lie[bit // 8] ^= 1 << bit % 8
    assert not vrf.verified(public, alpha, bytes(lie))
    assert not vrf.verified(public, alpha, proof[:-1])


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f", b"\xff" * 32])
def test_points_of_small_order_prove_nothing(point: bytes) -> None:
    seed = bytes(range(32))
    public, proof = bytes(SigningKey(seed).verify_key), vrf.prove(seed, b"x")
    assert not vrf.verified(public, b"x", point + proof[32:])
    assert not vrf.verified(point, b"x", proof)
    assert not vrf.verified(point, b"x", point + bytes(48))


def test_a_proof_without_a_point_has_no_output() -> None:
    with pytest.raises(ValueError, match="without a point"):
        for value in range(2, 20):
            vrf.output(value.to_bytes(32, "little") + bytes(48))
