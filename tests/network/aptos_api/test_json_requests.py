"""Transactions in JSON: what is shown of one is read as the same bytes, what is wrong is a 400 that names the field; and in
BCS as much is told."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewright_aptos import abi, bcs
from nodewright_aptos.addresses import ED25519, MULTI_ED25519
from nodewright_aptos.authenticators import (
    NO_AUTHENTICATOR,
    AccountAuthenticator,
    ed25519_authenticator,
    multi_key_authenticator,
    single_key_authenticator,
)
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.functions import Functions, TransactionFunction
from nodewright_aptos.installed import installed_functions
from nodewright_aptos.ledger import (
    MISCELLANEOUS,
    MOVE_ABORT,
    OUT_OF_GAS,
    SUCCESS,
    Event,
    ExecutionStatus,
    TransactionInfo,
    encode_write_set,
    read_event,
    read_info,
)
from nodewright_aptos.records import TransactionRow, read_changes
from nodewright_aptos.statekeys import resource_key, table_key
from nodewright_aptos.transactions import (
    SIGNED_ED25519,
    SIGNED_FEE_PAYER,
    SIGNED_MULTI_AGENT,
    SIGNED_MULTI_ED25519,
    SIGNED_SINGLE,
    EntryFunction,
    RawTransaction,
    decode_transaction,
    encode_signatures,
    encode_user,
    read_signed,
    signing_message,
)
from nodewright_aptos.typetags import StructTag, TypeTag, VectorTag, encode_type
from nodewright_aptos_api import document
from nodewright_aptos_api.document import MAX_DEPTH, Part, parse
from nodewright_aptos_api.encoded import Encoded
from nodewright_aptos_api.errors import ApiError
from nodewright_aptos_api.requests import MAX_REQUEST_BYTES, Requests
from nodewright_aptos_api.views import Views

HERE = bytes(31) + b"\x77"
ALL_TYPES = (
    "bool",
    *("u8", "u16", "u32", "u64", "u128", "u256"),
    *("address", "vector<u8>", "vector<u64>", "vector<vector<u8>>", "vector<address>"),
    *("0x1::string::String", "0x1::object::Object<T0>", "0x1::option::Option<u64>"),
)


def functions() -> Functions:
    """Those of the framework, and one of a third party that takes everything."""
    known = installed_functions()
    every = TransactionFunction(HERE, "every", "kind", ("&signer", *ALL_TYPES), lambda call: None, type_parameters=1)
    known.add(every, TransactionFunction(HERE, "every", "nothing", ("&signer",), lambda call: None))
    return known


FUNCTIONS = functions()
VIEWS, REQUESTS = Views(FUNCTIONS), Requests(FUNCTIONS)

U64 = st.integers(0, (1 << 64) - 1)
ADDRESSES = st.binary(min_size=32, max_size=32) | st.integers(0, 15).map(lambda at: at.to_bytes(32, "big"))
KEYS = st.binary(min_size=32, max_size=32)
SIGNATURES = st.binary(min_size=64, max_size=64)
TYPED_KEYS = st.tuples(st.just(0), KEYS) | st.tuples(st.just(1), st.binary(min_size=65, max_size=65))
TAGS: st.SearchStrategy[TypeTag] = st.recursive(
    st.sampled_from(["u8", "u256", "bool", "address"]),
    lambda inner: (
        st.builds(VectorTag, inner)
        | st.builds(
            StructTag, ADDRESSES, st.just("m_1"), st.just("Name"), st.lists(inner, max_size=2).map(lambda some: tuple(some))
        )
    ),
    max_leaves=4,
)


def of_type(type: str) -> st.SearchStrategy[Any]:
    if type[0] == "u":
        return st.integers(0, (1 << int(type[1:])) - 1)
    if type == "vector<u8>":
        return st.binary(max_size=20)
    if type.startswith("vector<"):
        return st.lists(of_type(type[7:-1]), max_size=3)
    if type == "0x1::string::String":
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
    if type.startswith("0x1::option"):
        return st.none() | of_type(type[20:-1])
    return st.booleans() if type == "bool" else ADDRESSES


@st.composite
def calls(draw: st.DrawFn) -> EntryFunction:
    function = draw(st.sampled_from([one.function for one in FUNCTIONS.entries.values()]))
    types = tuple(draw(TAGS) for _ in range(function.type_parameters))
    arguments = tuple(abi.codec(type).write(draw(of_type(type))) for type in function.argument_types)
    return EntryFunction.of(function.address, function.module, function.name, types, arguments)


@st.composite
def multi_ed25519(draw: st.DrawFn) -> AccountAuthenticator:
    keys = draw(st.lists(KEYS, min_size=1, max_size=9))
    signed = tuple(sorted((at, draw(SIGNATURES)) for at in draw(st.sets(st.integers(0, len(keys) - 1)))))
    threshold = draw(st.integers(1, len(keys)))
    return AccountAuthenticator(
        MULTI_ED25519, b"".join(keys) + bytes([threshold]), tuple((0, key) for key in keys), signed, threshold
    )


@st.composite
def multi_key(draw: st.DrawFn) -> AccountAuthenticator:
    keys = tuple(draw(st.lists(TYPED_KEYS, min_size=1, max_size=9)))
    places = sorted(draw(st.sets(st.integers(0, len(keys) - 1))))
    return multi_key_authenticator(keys, draw(st.integers(1, len(keys))), tuple((at, draw(SIGNATURES)) for at in places))


EDWARDS = st.builds(ed25519_authenticator, KEYS, SIGNATURES)
NOBODY = st.just(AccountAuthenticator(NO_AUTHENTICATOR, b"", (), ()))
ACCOUNTS = EDWARDS | multi_ed25519() | st.builds(single_key_authenticator, TYPED_KEYS, SIGNATURES) | multi_key() | NOBODY


@st.composite
def signatures(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(range(5)))
    if kind == SIGNED_ED25519:
        return encode_signatures(kind, draw(EDWARDS))
    if kind == SIGNED_MULTI_ED25519:
        return encode_signatures(kind, draw(multi_ed25519()))
    sender = draw(ACCOUNTS)
    if kind == SIGNED_SINGLE:
        return encode_signatures(kind, sender)
    addresses = tuple(draw(st.lists(ADDRESSES, max_size=2)))
    signers = tuple(draw(st.lists(ACCOUNTS, max_size=2)))
    if kind == SIGNED_MULTI_AGENT:
        return encode_signatures(kind, sender, addresses, signers)
    assert kind == SIGNED_FEE_PAYER
    return encode_signatures(kind, sender, addresses, signers, draw(ADDRESSES), draw(ACCOUNTS))


RAWS = st.builds(RawTransaction, ADDRESSES, U64, calls(), U64, U64, U64, st.integers(0, 255))


def through_json(document: Any) -> Part:
    return parse(json.dumps(document).encode(), MAX_REQUEST_BYTES)


@given(RAWS, signatures())
def test_what_is_shown_of_a_transaction_is_read_as_its_bytes(raw: RawTransaction, signed: bytes) -> None:
    """From the form that a client gets back: an answer can be sent again."""
    whole = raw.encode() + signed
    shown = VIEWS.pending(whole)
    again = REQUESTS.signed(through_json(shown), raw.chain_id)
    assert again == whole
    assert VIEWS.pending(again) == shown
    assert REQUESTS.message(through_json(shown), raw.chain_id) == signing_message(raw.encode())


@given(RAWS, st.lists(ADDRESSES, min_size=1, max_size=3), ADDRESSES)
def test_what_is_to_be_signed_names_the_others(raw: RawTransaction, others: list[bytes], payer: bytes) -> None:
    request = VIEWS.pending(raw.encode() + encode_signatures(SIGNED_ED25519, ed25519_authenticator(bytes(32), bytes(64))))
    request["secondary_signers"] = ["0x" + one.hex() for one in others]
    body, more = raw.encode(), tuple(others)
    assert REQUESTS.message(through_json(request), raw.chain_id) == signing_message(body, more)
    request["fee_payer_address"] = "0x" + payer.hex()
    assert REQUESTS.message(through_json(request), raw.chain_id) == signing_message(body, more, payer)


# --- transactions of the ledger ----------------------------------------------------------------------------------------

STRUCTS = st.builds(StructTag, ADDRESSES, st.just("m"), st.sampled_from(["Event", "Other"]), st.just(()))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
STATUSES = st.builds(ExecutionStatus, st.sampled_from([SUCCESS, OUT_OF_GAS, MISCELLANEOUS])) | st.builds(
    ExecutionStatus, st.just(MOVE_ABORT), st.none() | st.tuples(ADDRESSES, st.just("m")), U64, TEXT, TEXT
)
EVENTS = st.builds(Event, STRUCTS.map(encode_type), st.binary(max_size=9), ADDRESSES, U64, U64) | st.builds(
    Event, STRUCTS.map(encode_type), st.binary(max_size=9)
)
STATE_KEYS = st.builds(resource_key, ADDRESSES, STRUCTS) | st.builds(table_key, ADDRESSES, st.binary(max_size=9))


@st.composite
def rows(draw: st.DrawFn) -> TransactionRow:
    user = draw(RAWS).encode() + draw(signatures())
    checkpoint = draw(st.none() | KEYS)
    info = TransactionInfo(draw(U64), draw(STATUSES), draw(KEYS), draw(KEYS), draw(KEYS), checkpoint)
    writes = draw(st.dictionaries(STATE_KEYS, st.none() | st.binary(max_size=9), max_size=3))
    changes = draw(st.sampled_from([b"", encode_write_set(writes, set(list(writes)[:1]))]))
    events = bcs.vector(one.encode() for one in draw(st.lists(EVENTS, max_size=3)))
    return TransactionRow(draw(U64), 1, draw(U64), encode_user(user), info.encode(), events, changes)


@given(rows(), KEYS)
def test_bcs_tells_of_a_transaction_all_that_json_tells(row: TransactionRow, root: bytes) -> None:
    """But its time, which is its block's."""

    def read(reader: bcs.Reader) -> tuple[TransactionRow, bytes]:
        assert reader.u8() == 0
        version, at = reader.u64(), reader.at
        assert reader.uleb() == 0
        read_signed(reader)
        body, at = reader.data[at : reader.at], reader.at
        read_info(reader)
        info, at = reader.data[at : reader.at], reader.at
        reader.vector(lambda: read_event(reader), 9)
        events, again = reader.data[at : reader.at], reader.exactly(32)
        at = reader.at
        read_changes(reader)
        return TransactionRow(version, 1, row.timestamp, body, info, events, reader.data[at : reader.at]), again

    assert VIEWS.committed(bcs.whole(Encoded().committed((row, root)), read)) == VIEWS.committed((row, root))


def test_a_genesis_without_its_body_is_an_empty_one_in_bcs() -> None:
    """A large one is kept by its hash, and so are changes that are not saved."""
    info = TransactionInfo(0, ExecutionStatus(), bytes(32), bytes(32), bytes(32)).encode()
    told = Encoded().transaction((TransactionRow(0, 0, 0, b"\1", info, b"\0"), bytes(32)))
    assert told == bytes(8) + b"\1\0\0\0\0" + info + b"\0" + b"\x20" + bytes(32) + b"\0\0"


# --- what is wrong ---------------------------------------------------------------------------------------------------


def example() -> dict[str, Any]:
    """A request in which every kind of field is there."""
    one = ed25519_authenticator(b"\1" * 32, b"\2" * 64)
    koblitz = single_key_authenticator((1, b"\4" * 65), b"\5" * 64)
    many = multi_key_authenticator(((0, b"\6" * 32), (1, b"\7" * 65)), 1, ((1, b"\x08" * 64),))
    edwards = AccountAuthenticator(MULTI_ED25519, b"\x09" * 64 + b"\1", ((0, b"\x09" * 32),) * 2, ((0, b"\x0a" * 64),))
    signed = encode_signatures(SIGNED_FEE_PAYER, one, (HERE,) * 3, (koblitz, many, edwards), HERE, one)
    values = (True, 1, 2, 3, 4, 5, 6, HERE, b"ab", (7,), (b"c",), (HERE,), "text", HERE, 8)
    arguments = tuple(abi.codec(type).write(value) for type, value in zip(ALL_TYPES, values, strict=True))
    call = EntryFunction.of(HERE, "every", "kind", (StructTag(HERE, "m", "N", ("u8",)),), arguments)
    shown = VIEWS.pending(RawTransaction(HERE, 1, call, 2, 3, 4, 4).encode() + signed)
    names = ("sender", "sequence_number", "max_gas_amount", "gas_unit_price", "expiration_timestamp_secs", "payload")
    return {name: shown[name] for name in (*names, "signature")}


EXAMPLE = example()
Path = tuple[str | int, ...]


def paths(document: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    inner = enumerate(document) if isinstance(document, list) else document.items() if isinstance(document, dict) else ()
    for name, value in inner:
        yield from paths(value, (*path, name))


PATHS = list(paths(EXAMPLE))
LEFT_OUT = object()


def changed(path: Path, value: Any) -> Any:
    document = copy.deepcopy(EXAMPLE)
    if not path:
        return value
    place = document
    for name in path[:-1]:
        place = place[name]
    if value is LEFT_OUT:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


def named(path: Path) -> str:
    text = ""
    for name in path:
        text += f"[{name}]" if isinstance(name, int) else f".{name}" if text else name
    return text


def refused(document: Any) -> str:
    with pytest.raises(ApiError) as error:
        REQUESTS.signed(through_json(document), 4)
    assert (error.value.status, error.value.document["error_code"]) == (400, "invalid_input")
    return str(error.value)


TEXTS = [("payload", "arguments", ALL_TYPES.index(type)) for type in ("vector<u8>", "0x1::string::String")]
LISTS = ("payload", "arguments", ALL_TYPES.index("vector<vector<u8>>"))


@pytest.mark.parametrize("path", PATHS, ids=named)
def test_what_has_no_type_that_fits_is_refused_by_its_name(path: Path) -> None:
    # Of an argument that is a list or an option the whole argument is named.
    field = path[:3] if path[:2] == ("payload", "arguments") else path
    for value in (1.5, {"not": "this"}, [[]], -1, 1 << 300, "\x00", "0x" + "ab" * 100):
        text, lists = path[:3] in TEXTS or (path[:3] == LISTS and len(path) > 3), path == LISTS
        if (isinstance(value, str) and text) or (value == [[]] and lists) or (isinstance(value, dict) and not path):
            continue  # bytes and text of any length; a list of empty ones; a document in which all is missing
        told = refused(changed(path, value))
        assert told.startswith(named(field) or "the body"), (value, told)
    if path and isinstance(path[-1], str) and path[:2] != ("payload", "arguments"):
        assert refused(changed(path, LEFT_OUT)) == f"{named(path)}: it is missing"


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 300), 1 << 300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["0x1", "0x" + "00" * 32, "0x" + "00" * 64, "0x" + "00" * 65, "ed25519", "single_sender", "256", "u8"]),
    st.sampled_from(["no_account_signature", "multi_key_signature", "0x1::aptos_account::transfer"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "value", "vec", "inner", "public_key", "public_keys", "index"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.sampled_from(PATHS[1:]), VALUES | st.just(LEFT_OUT)), min_size=1, max_size=3), VALUES)
def test_any_json_is_a_transaction_or_a_400(changes: list[tuple[Path, Any]], other: Any) -> None:
    document: Any = copy.deepcopy(EXAMPLE)
    for path, value in changes:
        place = document
        try:
            for name in path[:-1]:
                place = place[name]
            if value is LEFT_OUT:
                del place[path[-1]]
            else:
                place[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # what was changed before it has no such place
    for one in (document, other):
        for read in (REQUESTS.signed, REQUESTS.message):
            try:
                made = read(through_json(one), 4)
            except ApiError as error:
                assert error.status == 400 and error.document["error_code"] == "invalid_input"
                continue
            if read == REQUESTS.signed:
                assert decode_transaction(made).raw == made


def test_a_signature_that_is_none_is_refused_by_its_name() -> None:
    def told(change: Any) -> str:
        document = copy.deepcopy(EXAMPLE)
        change(document["signature"])
        return refused(document)

    koblitz, many, edwards = (f"signature.secondary_signers[{at}]" for at in range(3))

    def signers(at: int, **fields: Any) -> Any:
        return lambda signature: signature["secondary_signers"][at].update(fields)

    other = {"type": "ed25519", "value": "0x" + "00" * 64}
    assert told(signers(0, signature=other)).startswith(f"{koblitz}.signature.type")
    assert told(signers(0, public_key={"type": "keyless", "value": "0x"})).startswith(f"{koblitz}.public_key.type")
    assert told(signers(1, signatures_required=3)).startswith(many)
    assert told(signers(1, signatures=[{"index": 2, "signature": other}])).startswith(f"{many}.signatures[0].index")
    twice = [{"index": 0, "signature": other}] * 2
    assert told(signers(1, signatures=twice)).startswith(f"{many}.signatures[1].index")
    for wrong in ({"threshold": 0}, {"threshold": 3}, {"bitmap": "0x20000000"}, {"bitmap": "0xc0000000"}):
        assert told(signers(2, **wrong)).startswith(edwards)
    assert told(lambda signature: signature.update(type="nothing")).startswith("signature.type")
    payload = {"type": "script_payload", "code": {"bytecode": "0x"}, "type_arguments": [], "arguments": []}
    assert refused(EXAMPLE | {"payload": payload}).startswith("payload.type: 'script_payload' is not run here")
    nonce = refused(EXAMPLE | {"replay_protection_nonce": "5"})
    assert nonce.startswith("replay_protection_nonce") and "sequence number" in nonce


def test_what_no_transaction_can_be_is_bounded_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def status(body: bytes, most: int = document.MAX_BYTES) -> int:
        with pytest.raises(ApiError) as error:
            parse(body, most)
        assert error.value.document["error_code"] == "invalid_input"
        return error.value.status

    assert status(b" " * 101, 100) == 413
    deep, quoted = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, json.dumps("[{" * 100 + '"\\' * 100)
    assert parse(deep).path == "" and parse(quoted.encode()).value == json.loads(quoted)
    with monkeypatch.context() as patch:
        patch.setattr(document, "_DECODER", None)  # it is not parsed
        assert status(b"[" + deep + b"]") == 400
        assert status(b'{"a":' * 100_000) == 400
        assert status(b'["\\"",' * 100) == 400
    for body in (
        *(b"", b"{", b'{"a": NaN}', b"[Infinity]", b"\xff", b'"\\ud800"', b'{"\\udfff": 1}', b"1" * 5000, b"[1,]"),
        "[1]".encode("utf-16"),
        b'"\\"\\"' * 100_000,  # strings without an end are looked at once
        b"[" * 20 + b"}" * 40,
    ):
        assert status(body) == 400, body[:20]


@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_a_400(body: bytes) -> None:
    try:
        parse(body)
    except ApiError as error:
        assert error.status == 400


def test_arguments_that_do_not_fit_are_shown_as_bytes() -> None:
    """The one thing that is shown and cannot be sent again: a call that failed for it."""
    call = EntryFunction.of(HERE, "every", "nothing", (), (bcs.u64(1),))
    raw = RawTransaction(HERE, 1, call, 2, 3, 4, 4)
    signed = encode_signatures(ED25519, ed25519_authenticator(bytes(32), bytes(64)))
    shown = VIEWS.pending(raw.encode() + signed)
    assert shown["payload"]["arguments"] == ["0x0100000000000000"]
    assert refused(shown).startswith(f"payload.arguments: 0x{HERE.hex()}::every::nothing takes 0")
    with pytest.raises(Malformed):
        abi.json_argument("u64", shown["payload"]["arguments"][0])
