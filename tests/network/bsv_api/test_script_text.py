"""Scripts in JSON-RPC answers. Expected values are what SV Node answers for the same bytes to ``decoderawtransaction``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewright_bitcoin.network import MAINNET, REGTEST
from nodewright_bsv_api.script_text import assembly, locking, unlocking

KEY = "21" + "02" * 33
LONG_KEY = "4104" + "05" * 64
DER = (
    "3044022020822b81d27baf4d064e1c9f556e9c4959265d8fb9f69c4288c2e10337c9844b"
    "0220682fc56729e88dc4adee2f4fd5cc7bd8923e41d7c5142c6d328f47f60618500f"
)


@pytest.mark.parametrize(
    ("script", "kind", "required", "addresses", "text"),
    [
        (
            "76a914" + "00" * 20 + "88ac",
            "pubkeyhash",
            1,
            ["mfWxJ45yp2SFn7UciZyNpvDKrzbhyfKrY8"],
            f"OP_DUP OP_HASH160 {'00' * 20} OP_EQUALVERIFY OP_CHECKSIG",
        ),
        (
            "a914" + "11" * 20 + "87",
            "scripthash",
            1,
            ["2MtoTvMi65NXBt3sTCXNd1aqKGa7gXsX8CC"],
            f"OP_HASH160 {'11' * 20} OP_EQUAL",
        ),
        (KEY + "ac", "pubkey", 1, ["mnwuw8QDaym3UEPCvNF9gvi86nThyguxCJ"], "02" * 33 + " OP_CHECKSIG"),
        ("4c" + KEY + "ac", "pubkey", 1, ["mnwuw8QDaym3UEPCvNF9gvi86nThyguxCJ"], "02" * 33 + " OP_CHECKSIG"),
        (LONG_KEY + "ac", "pubkey", 1, ["mq5UokAKCLWLjUjw6vvDgVXTHZd2U7kESZ"], LONG_KEY[2:] + " OP_CHECKSIG"),
        (
            "52" + KEY + LONG_KEY + KEY + "53ae",
            "multisig",
            2,
            [
                "mnwuw8QDaym3UEPCvNF9gvi86nThyguxCJ",
                "mq5UokAKCLWLjUjw6vvDgVXTHZd2U7kESZ",
                "mnwuw8QDaym3UEPCvNF9gvi86nThyguxCJ",
            ],
            f"2 {'02' * 33} {LONG_KEY[2:]} {'02' * 33} 3 OP_CHECKMULTISIG",
        ),
        ("53" + KEY + "51ae", "multisig", None, None, f"3 {'02' * 33} 1 OP_CHECKMULTISIG"),
        ("0101" + KEY + "51ae", "nonstandard", None, None, f"1 {'02' * 33} 1 OP_CHECKMULTISIG"),
        ("6a0474657374", "nulldata", None, None, "OP_RETURN 1953719668"),
        ("006a0568656c6c6f", "nulldata", None, None, "0 OP_RETURN 68656c6c6f"),
        ("006a0474657374ff", "nonstandard", None, None, "0 OP_RETURN 1953719668 OP_INVALIDOPCODE"),
        ("006a4d", "nonstandard", None, None, "0 OP_RETURN [error]"),
        ("", "nonstandard", None, None, ""),
        (
            "01ff02ff0004ffffffff0500112233444f51600061fa",
            "nonstandard",
            None,
            None,
            "-127 255 -2147483647 0011223344 -1 1 16 0 OP_NOP OP_UNKNOWN",
        ),
    ],
)
def test_locking_scripts(script: str, kind: str, required: int | None, addresses: list[str] | None, text: str) -> None:
    told = locking(bytes.fromhex(script), REGTEST)
    assert told.pop("asm") == text
    assert told.pop("hex") == script
    assert told.pop("type") == kind
    assert told == ({"reqSigs": required, "addresses": addresses} if required else {})


def test_addresses_are_the_networks_own() -> None:
    assert locking(bytes.fromhex("76a914" + "00" * 20 + "88ac"), MAINNET)["addresses"] == ["1111111111111111111114oLvT2"]


@pytest.mark.parametrize(
    ("last", "name"),
    [
        ("01", "[ALL]"),
        ("41", "[ALL|FORKID]"),
        ("c3", "[SINGLE|FORKID|ANYONECANPAY]"),
        ("82", "[NONE|ANYONECANPAY]"),
        ("40", "40"),
        ("61", "61"),
    ],
)
def test_signatures_end_in_their_hash_type(last: str, name: str) -> None:
    script = bytes.fromhex(f"47{DER}{last}{KEY}")
    assert unlocking(script) == {"asm": f"{DER}{name} {'02' * 33}", "hex": script.hex()}
    assert assembly(script) == f"{DER}{last} {'02' * 33}", "not in a locking script"


@given(st.binary(max_size=200))
def test_any_bytes_have_a_text(script: bytes) -> None:
    told = locking(script, REGTEST)
    assert told["hex"] == unlocking(script)["hex"] == script.hex()
    assert told["type"] in {"pubkey", "pubkeyhash", "scripthash", "multisig", "nulldata", "nonstandard"}
    assert ("addresses" in told) == ("reqSigs" in told)
