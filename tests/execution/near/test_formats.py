"""Every structure survives its bytes, nothing else passes for it; what the SDKs of NEAR write is read as they mean it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nodewright_near import accounts, borsh, chunks, headers, merkle, outcomes, primitives, receipts, transactions
from nodewright_near.accounts import AccessKey, Account, FunctionCallPermission
from nodewright_near.borsh import Malformed, codec_of, decode, encode
from nodewright_near.primitives import base58, is_account, key_text, parse_key, unbase58
from nodewright_near.transactions import Delegate, DelegateAction, SignedTransaction, Transaction

NAME = st.from_regex(r"[a-z0-9]{2,8}(\.[a-z]{1,8})?", fullmatch=True)


def _struct_kinds() -> list[type[Any]]:
    kinds = []
    for module in (accounts, chunks, headers, merkle, outcomes, receipts, transactions):
        for kind in vars(module).values():
            if isinstance(kind, type) and kind.__module__ == module.__name__ and kind in borsh._STRUCTS:
                kinds.append(kind)
    return kinds


def values(codec: Any) -> st.SearchStrategy[Any]:
    """Any value that the codec can write."""
    match codec:
        case borsh.UInt():
            return st.integers(0, 256**codec.size - 1)
        case borsh.Bool():
            return st.booleans()
        case borsh.Fixed():
            return st.binary(min_size=codec.size, max_size=codec.size)
        case borsh.Blob():
            return st.binary(max_size=min(codec.limit, 40))
        case borsh.Text():
            return st.text(max_size=12)
        case borsh.Option():
            return st.none() | values(codec.item)
        case borsh.Vector():
            return st.lists(values(codec.item), max_size=3).map(tuple)
        case borsh.Enum():
            return st.one_of([values(codec_of(kind)) for kind in codec.tags])
        case borsh.Struct():
            return st.tuples(*[values(inner) for _, inner in codec._fields]).map(lambda given: codec._kind(*given))
        case primitives._Account():
            return NAME
        case primitives._Tagged():
            sizes = codec._sizes
            return st.one_of([st.binary(min_size=n, max_size=n).map(bytes([t]).__add__) for t, n in sizes.items()])
        case accounts._AccountForm():
            return st.builds(Account, st.integers(0, 10**33), st.integers(0, 10**33), st.binary(min_size=32, max_size=32))
        case receipts._ReceiptForm():
            plain = st.builds(
                receipts.ActionReceipt,
                NAME,
                values(codec_of(primitives.PublicKey)),
                st.integers(0, 2**128 - 1),
                st.just(()),
                st.just(()),
                st.builds(transactions.Transfer, st.integers(0, 2**128 - 1)).map(lambda one: (one,)),
            )
            inner = st.binary(min_size=32, max_size=32)
            return values(receipts._RECEIPT) | st.builds(receipts.Receipt, NAME, NAME, inner, plain)
        case transactions._SignedForm():
            signature, key = values(codec_of(primitives.Signature)), values(codec_of(primitives.PublicKey))
            plain_actions = st.builds(transactions.Transfer, st.integers(0, 2**128 - 1)).map(lambda one: (one,))
            plain_tx = st.builds(
                Transaction, NAME, key, st.integers(0, 2**64 - 1), NAME, st.binary(min_size=32, max_size=32), plain_actions
            )
            return st.builds(SignedTransaction.of, values(codec_of(Transaction)) | plain_tx, signature)
    raise AssertionError(codec)


@pytest.mark.parametrize("kind", _struct_kinds(), ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=20)
def test_a_structure_is_what_its_bytes_say_and_no_byte_more_or_less(kind: type[Any], data: st.DataObject) -> None:
    value = data.draw(values(codec_of(kind)))
    raw = encode(value)
    assert decode(kind, raw) == value
    with pytest.raises(Malformed):
        decode(kind, raw + b"\0")
    if raw:
        with pytest.raises(Malformed):
            decode(kind, raw[:-1])


@given(st.sampled_from(_struct_kinds()), st.binary(max_size=120))
@settings(max_examples=200)
def test_garbage_is_malformed_or_exactly_what_was_read(kind: type[Any], raw: bytes) -> None:
    try:
        value = decode(kind, raw)
    except Malformed:
        return
    assert encode(value) == raw


@given(st.data())
def test_what_is_read_and_written_by_hand_is_what_the_codecs_say(data: st.DataObject) -> None:
    receipt = data.draw(values(codec_of(receipts.Receipt)))
    out = bytearray()
    receipts._RECEIPT.write(receipt, out)
    assert (
        encode(receipt) == out and decode(receipts.Receipt, bytes(out)) == decode(receipts._RECEIPT, bytes(out)) == receipt
    )
    signed = data.draw(values(codec_of(SignedTransaction)))
    assert decode(SignedTransaction, signed.raw).transaction == signed.transaction
    for raw, kind, codec in ((bytes(out), receipts.Receipt, receipts._RECEIPT),):
        at = data.draw(st.integers(0, len(raw) - 1))
        bent = raw[:at] + bytes([raw[at] ^ (1 << data.draw(st.integers(0, 7)))]) + raw[at + 1 :]
        answers = []
        for one in (kind, codec):
            try:
                answers.append(decode(one, bent))
            except Malformed:
                answers.append(None)
        assert answers[0] == answers[1]


def test_a_count_is_bounded_by_the_bytes_that_are_there() -> None:
    body = encode(Transaction("alice", bytes(33), 1, "bob", bytes(32), ()))
    with pytest.raises(Malformed, match="fewer"):
        decode(Transaction, body[:-4] + b"\xff\xff\xff\x00")


def test_what_is_not_built_is_refused_by_name() -> None:
    body = encode(Transaction("alice", bytes(33), 1, "bob", bytes(32), ()))[:-4]
    for tag, name in transactions.LATER_ACTIONS.items():
        with pytest.raises(Malformed, match=name):
            decode(Transaction, body + b"\x01\0\0\0" + bytes([tag]) + bytes(80))
    with pytest.raises(Malformed, match="version 1"):
        SignedTransaction.decode(b"\x01" + body + bytes(4) + bytes(65))


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("near", True),
        ("a", False),
        ("aa", True),
        ("a.near", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("A.near", False),
        ("a..b", False),
        ("a--b", False),
        ("-a", False),
        ("a-", False),
        ("a_b-c.d1", True),
        (".aa", False),
        ("aa\n", False),
        ("0x" + "0f" * 20, True),
    ],
)
def test_account_names(name: str, good: bool) -> None:
    assert is_account(name) is good
    body = encode(Transaction("alice", bytes(33), 1, name, bytes(32), ()))
    if good:
        assert decode(Transaction, body).receiver_id == name
    else:
        with pytest.raises(Malformed):
            decode(Transaction, body)


@given(st.binary(max_size=64))
def test_base58(data: bytes) -> None:
    assert unbase58(base58(data)) == data


# --- what SDKs write --------------------------------------------------------------------------------------------------


def _py_near_actions() -> list[Any]:
    sdk = pytest.importorskip("py_near_primitives")
    key = bytes(range(32))
    plain = [
        sdk.CreateAccountAction(),
        sdk.DeployContractAction(b"\0asm"),
        sdk.FunctionCallAction("add", b'{"a": 1}', 30 * 10**12, 5),
        sdk.TransferAction(10**24),
        sdk.StakeAction(10**27, key),
        sdk.AddKeyAction(key, sdk.AccessKey(0, sdk.AccessKeyPermissionFieldless.FullAccess)),
        sdk.AddKeyAction(key, sdk.AccessKey(7, sdk.FunctionCallPermission("bob.near", ["a", "b"], 10**24))),
        sdk.AddKeyAction(key, sdk.AccessKey(0, sdk.FunctionCallPermission("bob.near", [], None))),
        sdk.DeleteKeyAction(key),
        sdk.DeleteAccountAction("bob.near"),
    ]
    delegated = sdk.DelegateAction("alice.near", "bob.near", plain, 9, 10**6, key)
    return [*plain, sdk.SignedDelegateAction(delegated, bytes(range(64)))]


@pytest.mark.parametrize("index", range(11))
def test_py_near_writes_what_is_read(index: int) -> None:
    sdk = pytest.importorskip("py_near_primitives")
    secret = SigningKey(bytes([7]) * 32)
    action = _py_near_actions()[index]
    key = secret.verify_key.encode()
    theirs = sdk.Transaction("alice.near", key, 5 + index, "bob.near", bytes(range(32)), [action])
    raw = bytes(bytearray(theirs.to_vec(secret.encode() + key)))
    ours = SignedTransaction.decode(raw)
    assert ours.transaction.signer_id == "alice.near" and ours.transaction.nonce == 5 + index
    assert encode(ours) == raw
    again = SignedTransaction.of(ours.transaction, ours.signature)
    assert again == ours and again.raw == raw
    assert ours.id == bytes(bytearray(theirs.get_hash()))
    secret.verify_key.verify(ours.id, ours.signature[1:])
    (read,) = ours.transaction.actions
    if isinstance(read, Delegate):
        digest = _py_near_actions()[index].delegate_action.get_nep461_hash()
        assert read.delegate_action.digest() == bytes(bytearray(digest))
        assert len(read.delegate_action.actions) == 10


def test_near_kit_writes_what_is_read() -> None:
    wire = pytest.importorskip("near.wire")
    key = wire.PublicKeyWire.Ed25519(data=bytes(range(32)))
    permission = wire.AccessKeyPermission.FunctionCall(allowance=5, receiver_id="bob.near", method_names=["x"])
    theirs = wire.AccessKey(nonce=3, permission=permission)
    ours = AccessKey(3, FunctionCallPermission(5, "bob.near", ("x",)))
    assert encode(ours) == bytes(theirs.to_borsh())
    assert key_text(b"\0" + key.data) == "ed25519:" + base58(key.data)
    assert parse_key(base58(key.data)) == b"\0" + key.data


def test_delegate_prefix_is_that_of_the_standard() -> None:
    wire = pytest.importorskip("near.wire")
    assert int.from_bytes(transactions.DELEGATE_PREFIX, "little") == wire.NEP366_DELEGATE_PREFIX


# --- Merkle trees -----------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=20))
def test_merkle_paths_lead_to_the_root_and_a_changed_leaf_does_not(leaves: list[bytes]) -> None:
    root, paths = merkle.merklize(leaves)
    assert root == merkle.merkle_root(leaves)
    frontier: tuple[bytes, ...] = ()
    for count, leaf in enumerate(leaves):
        frontier = merkle.extend_frontier(frontier, count, leaf)
    assert merkle.frontier_root(frontier) == root
    for leaf, path in zip(leaves, paths, strict=True):
        assert merkle.climb(leaf, path) == root
        assert merkle.climb(bytes([leaf[0] ^ 1]) + leaf[1:], path) != root
        assert decode(merkle.MERKLE_PATH, encode(path, merkle.MERKLE_PATH)) == path


def test_every_structure_is_an_attrs_class_with_bounds() -> None:
    assert len(_struct_kinds()) > 40
    assert all(attrs.has(kind) for kind in _struct_kinds())
    assert DelegateAction in _struct_kinds()
