"""Formats: against the unmodified SDK, known vectors, and themselves (round trips, nothing but what is written is read)."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nodewright.kernels.signatures import NativeVerifier
from nodewright_aptos import bcs, hashing
from nodewright_aptos.addresses import (
    ED25519,
    MULTI_ED25519,
    MULTI_KEY,
    SINGLE_KEY,
    address_text,
    authentication_key,
    parse_address,
)
from nodewright_aptos.authenticators import (
    CURVE_ED25519,
    CURVE_SECP256K1,
    AccountAuthenticator,
    der_signature,
    ed25519_authenticator,
    encode_authenticator,
    multi_key_authenticator,
    multi_key_material,
    read_authenticator,
    single_key_authenticator,
    single_key_material,
)
from nodewright_aptos.bcs import Malformed, Reader
from nodewright_aptos.ledger import (
    MISCELLANEOUS,
    MOVE_ABORT,
    OUT_OF_GAS,
    BlockInfo,
    Event,
    ExecutionStatus,
    LedgerInfo,
    TransactionInfo,
    encode_write_set,
    read_event,
    read_info,
)
from nodewright_aptos.records import read_changes
from nodewright_aptos.signatures import check_signatures
from nodewright_aptos.statekeys import resource_key, serialised, table_key
from nodewright_aptos.transactions import (
    BlockMetadata,
    EntryFunction,
    Multisig,
    RawTransaction,
    Script,
    decode_block_metadata,
    decode_transaction,
    signed_transaction,
    signing_message,
    transaction_hash,
)
from nodewright_aptos.typetags import (
    PRIMITIVES,
    StructTag,
    VectorTag,
    encode_type,
    parse_type,
    read_type,
    type_text,
)

# A transfer of coins signed by a known key, as the SDKs' own corpus has it.
SENDER_KEY = bytes.fromhex("9bf49a6a0755f953811fce125f2683d50429c3bb49e074147e0089a52eae155f")
RECEIVER_KEY = bytes.fromhex("0564f879d27ae3c02ce82834acfa8c793a629f2ca0de6919610be82f411326be")
CORPUS = bytes.fromhex(
    "7deeccb1080854f499ec8b4c1b213b82c5e34b925cf6875fec02d4b77adbd2d60b0000000000000002000000000000000000000000000000"
    "000000000000000000000000000000000104636f696e087472616e7366657201070000000000000000000000000000000000000000000000"
    "0000000000000000010a6170746f735f636f696e094170746f73436f696e0002202d133ddd281bb6205558357cc6ac75661817e9aaeac3af"
    "ebc32842759cbf7fa9088813000000000000d0070000000000000100000000000000d202964900000000040020b9c6ee1630ef3e711144a6"
    "48db06bbb2284f7274cfbee53ffcee503cc1a4920040f25b74ec60a38a1ed780fd2bef6ddb6eb4356e3ab39276c9176cdf0fcae2ab37d79b"
    "626abb43d926e91595b66503a4a3c90acbae36a28d405e308f3537af720b"
)
VERIFIER = NativeVerifier()


def key_of(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(name.encode()).digest())


# --- known vectors ----------------------------------------------------------------------------------------------------


def test_the_seeds_and_placeholders_are_those_of_the_reference() -> None:
    assert hashing.RAW_TRANSACTION.hex() == "b5e97db07fa0bd0e5598aa3643a9bc6f6693bddc1a9fec9e674a461eaa00b193"
    assert hashing.RAW_TRANSACTION_WITH_DATA.hex() == "5efa3c4f02f83a0f4b2d69fc95c607cc02825cc4e7be536ef0992df050d9e67c"
    assert hashing.EMPTY_TREE == b"SPARSE_MERKLE_PLACEHOLDER_HASH\0\0"
    assert hashing.EMPTY_ACCUMULATOR == b"ACCUMULATOR_PLACEHOLDER_HASH\0\0\0\0"


def test_the_corpus_transaction() -> None:
    sender, receiver = SigningKey(SENDER_KEY), SigningKey(RECEIVER_KEY)
    public = bytes(sender.verify_key)
    payload = EntryFunction.of(
        parse_address("0x1"),
        "coin",
        "transfer",
        (StructTag(parse_address("0x1"), "aptos_coin", "AptosCoin"),),
        (authentication_key(bytes(receiver.verify_key), ED25519), bcs.u64(5000)),
    )
    raw = RawTransaction(authentication_key(public, ED25519), 11, payload, 2000, 1, 1234567890, 4)
    signature = sender.sign(signing_message(raw.encode())).signature
    assert signed_transaction(raw, ed25519_authenticator(public, signature)) == CORPUS
    read = decode_transaction(CORPUS)
    assert read.sender == read.sender_key and read.body == raw.encode() and read.payload == payload
    assert read.id == hashlib.sha3_256(hashlib.sha3_256(b"APTOS::Transaction").digest() + b"\0" + CORPUS).digest()
    assert check_signatures(VERIFIER, [read]) == [True]


def test_known_addresses() -> None:
    keys = [
        bytes(SigningKey(bytes.fromhex(secret)).verify_key)
        for secret in (
            "4e5e3be60f4bbd5e98d086d932f3ce779ff4b58da99bf9e5241ae1212a29e5fe",
            "1e70e49b78f976644e2c51754a2f049d3ff041869c669523ba95b172c7329901",
        )
    ]
    assert (
        authentication_key(b"".join(keys) + b"\1", MULTI_ED25519).hex()
        == "835bb8c5ee481062946b18bbb3b42a40b998d6bf5316ca63834c959dc739acf0"
    )
    for number in range(16):
        assert address_text(parse_address(f"{number:x}")) == f"0x{number:x}"
    assert address_text(parse_address("0x10")) == "0x" + "10".rjust(64, "0")
    for bad in ("", "0x", "0x" + "1" * 65, "0xg", "-1", "0x1 ", "0b1_1"):
        with pytest.raises(Malformed):
            parse_address(bad)


# --- the unmodified SDK -------------------------------------------------------------------------------------------------


def sdk_bytes(value: Any) -> bytes:
    serializer = pytest.importorskip("aptos_sdk.bcs").Serializer()
    value.serialize(serializer)
    out: bytes = serializer.output()
    return out


def sdk_raw(account: Any, sequence_number: int = 3) -> Any:
    sdk = pytest.importorskip("aptos_sdk.transactions")
    serializer = pytest.importorskip("aptos_sdk.bcs").Serializer
    payload = sdk.EntryFunction.natural(
        "0x1::aptos_account",
        "transfer",
        [],
        [sdk.TransactionArgument(account.address(), serializer.struct), sdk.TransactionArgument(5, serializer.u64)],
    )
    return sdk.RawTransaction(account.address(), sequence_number, sdk.TransactionPayload(payload), 9000, 100, 99999999, 4)


@pytest.mark.parametrize("kind", ["generate", "generate_secp256k1_ecdsa"])
def test_what_the_sdk_signs_is_read_and_good(kind: str) -> None:
    sdk = pytest.importorskip("aptos_sdk.transactions")
    accounts = pytest.importorskip("aptos_sdk.account").Account
    account = getattr(accounts, kind)()
    raw = sdk_raw(account)
    signed = sdk.SignedTransaction(raw, account.sign_transaction(raw))
    read = decode_transaction(sdk_bytes(signed))
    assert read.sender == account.address().address == read.sender_key
    assert read.body == sdk_bytes(raw) and signing_message(read.body) == raw.keyed()
    assert check_signatures(VERIFIER, [read]) == [True]
    flipped = bytearray(read.raw)
    flipped[40] ^= 1
    try:
        assert check_signatures(VERIFIER, [decode_transaction(bytes(flipped))]) == [False]
    except Malformed:
        pass


@pytest.mark.parametrize("with_payer", [False, True])
def test_further_signers_and_a_fee_payer_as_the_sdk_has_them(with_payer: bool) -> None:
    sdk = pytest.importorskip("aptos_sdk.transactions")
    kinds = pytest.importorskip("aptos_sdk.authenticator")
    accounts = pytest.importorskip("aptos_sdk.account").Account
    sender, second, payer = accounts.generate(), accounts.generate_secp256k1_ecdsa(), accounts.generate()
    inner = sdk_raw(sender)
    if with_payer:
        raw = sdk.FeePayerRawTransaction(inner, [second.address()], payer.address())
    else:
        raw = sdk.MultiAgentRawTransaction(inner, [second.address()])
    first, others = sender.sign_transaction(raw), [(second.address(), second.sign_transaction(raw))]
    if with_payer:
        authenticator = kinds.FeePayerAuthenticator(first, others, (payer.address(), payer.sign_transaction(raw)))
    else:
        authenticator = kinds.MultiAgentAuthenticator(first, others)
    signed = sdk.SignedTransaction(inner, kinds.Authenticator(authenticator))
    read = decode_transaction(sdk_bytes(signed))
    payer_address = payer.address().address if with_payer else None
    assert read.secondary == (second.address().address,) and read.fee_payer == payer_address
    assert signing_message(read.body, read.secondary, read.fee_payer) == raw.keyed()
    assert check_signatures(VERIFIER, [read]) == [True]
    read.secondary = (sender.address().address,)
    assert check_signatures(VERIFIER, [read]) == [False], "the addresses are signed"


def test_a_sender_may_sign_without_knowing_its_fee_payer() -> None:
    sender, payer = key_of("sender"), key_of("payer")
    public, paying = bytes(sender.verify_key), bytes(payer.verify_key)
    payload = EntryFunction.of(parse_address("1"), "a", "b")
    address = authentication_key(paying, ED25519)
    raw = RawTransaction(authentication_key(public, ED25519), 0, payload, 10, 100, 5, 4)
    blank = ed25519_authenticator(public, sender.sign(signing_message(raw.encode(), (), bytes(32))).signature)
    paid = ed25519_authenticator(paying, payer.sign(signing_message(raw.encode(), (), address)).signature)
    unpaid = ed25519_authenticator(paying, payer.sign(signing_message(raw.encode(), (), bytes(32))).signature)
    good, bad = (
        decode_transaction(signed_transaction(raw, blank, fee_payer=address, fee_payer_signer=one))
        for one in (paid, unpaid)
    )
    assert check_signatures(VERIFIER, [good, bad]) == [True, False]


def test_a_multi_key_authenticator_as_the_sdk_writes_it() -> None:
    raw = bytes.fromhex(
        "0303002020fdbac9b10b7587bba7b5bc163bce69e796d71e4ed44c10fcb4488689f7a1440141049b8327d929a0e45285c04d19c9fffbee065c26"
        "6b701972922d807228120e43f34ad68ac77f6ec0205fe39f7c5b6055dad973a03464a3a743302de0feaf6ec6d90141049b8327d929a0e45285c0"
        "4d19c9fffbee065c266b701972922d807228120e43f34ad68ac77f6ec0205fe39f7c5b6055dad973a03464a3a743302de0feaf6ec6d902020040"
        "a9839b56be99b48c285ec252cf9bf779e42d3b62eb8664c31b18c1fdb29b574b1bfde0b89aedddb9fb8304ca5913c9feefea75d332d8f72ac3ab"
        "4598a884ea0801402bd50683abe6332a496121f8ec7db7be351f49b0087fa0dfb258c469822bd52e59fc9344944a1f338b0f0a61c7173453e0cd"
        "09cf961e45cb9396808fa67eeef301c0"
    )
    read = bcs.whole(raw, read_authenticator)
    assert (read.scheme, read.threshold, [place for place, _ in read.signatures]) == (MULTI_KEY, 2, [0, 1])
    assert encode_authenticator(read) == raw


def test_all_kinds_of_signers_and_too_few_of_them() -> None:
    from coincurve import PrivateKey

    payload = EntryFunction.of(parse_address("1"), "a", "b")
    edwards = [key_of(f"key {at}") for at in range(3)]
    koblitz = PrivateKey(hashlib.sha256(b"koblitz").digest())
    keys = (
        *((CURVE_ED25519, bytes(key.verify_key)) for key in edwards),
        (CURVE_SECP256K1, koblitz.public_key.format(compressed=False)),
    )

    def compact(message: bytes) -> bytes:
        return koblitz.sign_recoverable(hashlib.sha3_256(message).digest(), hasher=None)[:64]

    def transaction(material: bytes, scheme: int, make: Any) -> bool:
        raw = RawTransaction(authentication_key(material, scheme), 0, payload, 10, 100, 5, 4)
        message = signing_message(raw.encode())
        read = decode_transaction(signed_transaction(raw, make(message)))
        assert read.sender_key == read.sender
        return check_signatures(VERIFIER, [read])[0]

    single = single_key_material(keys[3])
    assert transaction(single, SINGLE_KEY, lambda message: single_key_authenticator(keys[3], compact(message)))
    assert not transaction(single, SINGLE_KEY, lambda message: single_key_authenticator(keys[3], compact(message + b"!")))
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

    def high(message: bytes) -> AccountAuthenticator:
        good = compact(message)
        return single_key_authenticator(keys[3], good[:32] + (order - int.from_bytes(good[32:], "big")).to_bytes(32, "big"))

    assert not transaction(single, SINGLE_KEY, high), "a high S"
    assert der_signature(bytes(64)) is None

    material = multi_key_material(keys, 2)
    for places, wanted in (((0, 3), True), ((0, 1, 2, 3), True), ((3,), False), ((), False)):

        def several(message: bytes, places: tuple[int, ...] = places) -> AccountAuthenticator:
            signed = {at: key.sign(message).signature for at, key in enumerate(edwards)} | {3: compact(message)}
            return multi_key_authenticator(keys, 2, tuple((at, signed[at]) for at in places))

        assert transaction(material, MULTI_KEY, several) is wanted, places
    old = b"".join(bytes(key.verify_key) for key in edwards) + b"\2"
    for places, wanted in (((0, 2), True), ((1,), False)):

        def older(message: bytes, places: tuple[int, ...] = places) -> AccountAuthenticator:
            signed = tuple((at, edwards[at].sign(message).signature) for at in places)
            return AccountAuthenticator(MULTI_ED25519, old, keys[:3], signed, 2)

        assert transaction(old, MULTI_ED25519, older) is wanted, places


# --- round trips --------------------------------------------------------------------------------------------------------

addresses = st.binary(min_size=32, max_size=32)
names = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,10}", fullmatch=True)
types = st.recursive(
    st.sampled_from(sorted(PRIMITIVES)),
    lambda inner: (
        inner.map(VectorTag) | st.builds(StructTag, addresses, names, names, st.lists(inner, max_size=2).map(tuple))
    ),
    max_leaves=4,
)
u64s = st.integers(0, (1 << 64) - 1)
functions = st.builds(
    EntryFunction.of,
    addresses,
    names,
    names,
    st.lists(types, max_size=2).map(tuple),
    st.lists(st.binary(max_size=40), max_size=3).map(tuple),
)
payloads = (
    functions
    | st.builds(Multisig, addresses, functions | st.none())
    | st.binary(max_size=20).map(lambda code: Script(bcs.blob(code) + b"\0\0"))
)
raws = st.builds(RawTransaction, addresses, u64s, payloads, u64s, u64s, u64s, st.integers(0, 255))
fixed = st.binary(min_size=64, max_size=64)
signers = st.builds(ed25519_authenticator, addresses, fixed) | st.builds(
    single_key_authenticator, addresses.map(lambda key: (CURVE_ED25519, key)), fixed
)


@given(raw=raws, signer=signers, others=st.lists(st.tuples(addresses, signers), max_size=2), payer=st.none() | addresses)
@settings(max_examples=60)
def test_a_transaction_is_read_as_it_was_written(
    raw: RawTransaction, signer: Any, others: list[tuple[bytes, Any]], payer: bytes | None
) -> None:
    data = signed_transaction(
        raw, signer, tuple(a for a, _ in others), tuple(s for _, s in others), payer, None if payer is None else signer
    )
    read = decode_transaction(data)
    assert (read.sender, read.sequence_number, read.payload) == (raw.sender, raw.sequence_number, raw.payload)
    assert (read.max_gas, read.gas_price, read.expires_at) == (raw.max_gas, raw.gas_price, raw.expires_at)
    assert read.body == raw.encode() and read.signer == signer and read.fee_payer == payer
    assert read.secondary == tuple(a for a, _ in others)
    for bad in (data + b"\0", data[:-1], b""):
        with pytest.raises(Malformed):
            decode_transaction(bad)


@given(data=st.data())
@settings(max_examples=60)
def test_no_bytes_are_read_in_two_ways(data: st.DataObject) -> None:
    """A changed transaction is refused, or written again as it was read."""
    raw = bytearray(CORPUS)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode_transaction(bytes(raw))
    except Malformed:
        return
    again = RawTransaction(
        read.sender, read.sequence_number, read.payload, read.max_gas, read.gas_price, read.expires_at, read.chain_id
    )
    assert read.kind in (0, 1, 4) and signed_transaction(again, read.signer) == bytes(raw)


@given(st.binary(max_size=300))
@settings(max_examples=60)
def test_garbage_is_malformed_and_nothing_else(data: bytes) -> None:
    for read in (decode_transaction, decode_block_metadata):
        with pytest.raises(Malformed):
            read(data)


@given(type=types)
@settings(max_examples=60)
def test_types_in_bytes_and_in_text(type: Any) -> None:
    assert bcs.whole(encode_type(type), read_type) == type
    assert parse_type(type_text(type)) == type


def test_types_are_bounded() -> None:
    for bad in (
        "",
        "0x1::a",
        "vector<>",
        "u64>",
        "0x1::a::b<u8",
        "0x1::a::b<u8,>",
        "vector<" * 9 + "u8" + ">" * 9,
        "x" * 5000,
    ):
        with pytest.raises(Malformed):
            parse_type(bad)
    for data in (
        b"\6" * 10 + b"\1",
        b"\x0b",
        bytes([7]) + bytes(32) + b"\1a\1b\x21" + b"\1" * 33,
        b"\x07" + bytes(32) + b"\0\0\0",
    ):
        with pytest.raises(Malformed):
            bcs.whole(data, read_type)


@given(value=st.integers(0, (1 << 32) - 1))
def test_uleb_has_one_form(value: int) -> None:
    written = bcs.uleb(value)
    assert bcs.whole(written, Reader.uleb) == value
    for bad in (written[:-1] + bytes([written[-1] | 0x80]) + b"\0", b"\xff\xff\xff\xff\x10", b"\x80" * 5):
        with pytest.raises(Malformed):
            bcs.whole(bad, Reader.uleb)


def test_counts_are_held_against_what_is_there() -> None:
    with pytest.raises(Malformed):
        Reader(bcs.uleb(1 << 30)).blob()
    with pytest.raises(Malformed):
        Reader(bcs.uleb(1000) + bytes(100)).vector(lambda: 0, 1 << 20, 8)


# --- ledger -------------------------------------------------------------------------------------------------------------

hashes = st.binary(min_size=32, max_size=32)
statuses = (
    st.sampled_from([ExecutionStatus(), ExecutionStatus(OUT_OF_GAS), ExecutionStatus(MISCELLANEOUS)])
    | st.builds(ExecutionStatus, st.just(MOVE_ABORT), st.tuples(addresses, names), u64s)
    | st.builds(ExecutionStatus, st.just(MOVE_ABORT), st.tuples(addresses, names), u64s, names, names)
)


@given(info=st.builds(TransactionInfo, u64s, statuses, hashes, hashes, hashes, st.none() | hashes))
@settings(max_examples=40)
def test_infos(info: TransactionInfo) -> None:
    assert bcs.whole(info.encode(), read_info) == info
    assert info.hash() == hashlib.sha3_256(hashing.seed("TransactionInfo") + info.encode()).digest()


@given(type=types, data=st.binary(max_size=50), handle=st.none() | st.tuples(addresses, u64s, u64s))
@settings(max_examples=40)
def test_events(type: Any, data: bytes, handle: tuple[bytes, int, int] | None) -> None:
    event = Event(encode_type(type), data, *(handle or ()))
    assert bcs.whole(event.encode(), read_event) == event


@given(
    writes=st.dictionaries(
        st.builds(resource_key, addresses, st.builds(StructTag, addresses, names, names))
        | st.builds(table_key, addresses, st.binary(max_size=40)),
        st.none() | st.binary(max_size=40),
        max_size=5,
    )
)
@settings(max_examples=40)
def test_write_sets_are_sorted_and_read_back(writes: dict[bytes, bytes | None]) -> None:
    created = frozenset(list(writes)[::2])
    read = bcs.whole(encode_write_set(writes, created), read_changes)
    assert [key for key, _, _ in read] == sorted(writes, key=serialised)
    for key, kind, value in read:
        wanted = "delete" if writes[key] is None else "create" if key in created else "modify"
        assert (kind, value) == (wanted, writes[key] or b"")


def test_hashes_stand_with_their_length_and_addresses_without() -> None:
    metadata = BlockMetadata(b"h" * 32, 1, 2, b"p" * 32, b"\xf0", (3,), 4)
    raw = metadata.encode()
    assert raw == b"\2\x20" + b"h" * 32 + bcs.u64(1) + bcs.u64(2) + b"p" * 32 + b"\1\xf0\1" + bcs.u32(3) + bcs.u64(4)
    assert decode_block_metadata(raw) == metadata
    assert transaction_hash(raw) == hashlib.sha3_256(hashing.seed("Transaction") + raw).digest()
    info = LedgerInfo(BlockInfo(1, 2, b"b" * 32, b"e" * 32, 5, 6))
    told = bcs.u64(1) + bcs.u64(2) + b"\x20" + b"b" * 32 + b"\x20" + b"e" * 32 + bcs.u64(5) + bcs.u64(6) + b"\0"
    assert info.encode() == told + b"\x20" + bytes(32)
