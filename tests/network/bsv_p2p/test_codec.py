"""The wire: what is written is read again, what is not the protocol is one error, and nothing is begun unbounded."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright_bitcoin.encoding import sha256d
from nodewright_bitcoin.signing import build_transaction
from nodewright_bsv_p2p import framing, messages
from nodewright_bsv_p2p.framing import EXTENSION_BYTES, HEAD_BYTES, MAGIC, Head, WireError
from nodewright_bsv_p2p.messages import FlatBlock, GetHeaders, Item, ProtoConf, Reject, Version

NETWORK = MAGIC["regtest"]
ids = st.binary(min_size=32, max_size=32)
agents = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=messages.MAX_AGENT_BYTES)
commands = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=12)
uint32 = st.integers(0, 2**32 - 1)


@given(commands.filter(lambda name: name != framing.EXTENDED), st.binary(max_size=300))
def test_a_message_is_read_as_it_was_written(command: str, payload: bytes) -> None:
    raw = framing.encode(NETWORK, command, payload)
    head = framing.decode_head(raw[:HEAD_BYTES], NETWORK)
    assert head == Head(command, len(payload), sha256(sha256(payload).digest()).digest()[:4])
    framing.check(head, raw[HEAD_BYTES:])
    with pytest.raises(WireError, match="another network"):
        framing.decode_head(raw[:HEAD_BYTES], MAGIC["main"])
    if payload:
        with pytest.raises(WireError, match="checksum"):
            framing.check(head, bytes((payload[0] ^ 1,)) + payload[1:])


@given(commands, st.integers(2**32, 2**64 - 1))
def test_an_extended_head_has_room_for_any_length(command: str, length: int) -> None:
    raw = framing.encode_head(NETWORK, Head(command, length, None))
    assert len(raw) == HEAD_BYTES + EXTENSION_BYTES
    assert framing.decode_head(raw[:HEAD_BYTES], NETWORK) is None
    assert framing.decode_extension(raw[HEAD_BYTES:]) == Head(command, length, None)


@pytest.mark.parametrize("change", [lambda raw: raw[:16] + bytes(4) + raw[20:], lambda raw: raw[:20] + b"\1" + raw[21:]])
def test_an_extended_head_says_its_length_once(change: Callable[[bytes], bytes]) -> None:
    raw = change(framing.encode_head(NETWORK, Head("block", 2**33, None)))
    with pytest.raises(WireError, match="extended head"):
        framing.decode_head(raw[:HEAD_BYTES], NETWORK)


VALUES = {
    Version: st.builds(
        Version,
        st.integers(-(2**31), 2**31 - 1),
        st.integers(0, 2**64 - 1),
        st.integers(-(2**63), 2**63 - 1),
        st.integers(0, 2**64 - 1),
        agents,
        st.integers(-(2**31), 2**31 - 1),
        st.booleans(),
    ),
    GetHeaders: st.builds(GetHeaders, st.lists(ids, max_size=messages.MAX_LOCATOR).map(tuple), ids, uint32),
    ProtoConf: st.builds(ProtoConf, st.integers(messages.LEAST_MAX_PAYLOAD, 2**32 - 1), st.sampled_from(["", "Default"])),
    Reject: st.builds(
        Reject, st.sampled_from(["tx", "block"]), st.integers(0, 255), st.just("bad"), st.one_of(st.just(b""), ids)
    ),
}


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_payloads_round_trip(kind: Any) -> None:
    @given(VALUES[kind], st.data())
    @settings(max_examples=60)
    def holds(value: Any, data: st.DataObject) -> None:
        raw = value.encode()
        assert kind.decode(raw) == value
        cut = raw[: data.draw(st.integers(0, len(raw)))]
        try:
            kind.decode(cut)
        except WireError:
            pass

    holds()


@given(st.lists(st.builds(Item, uint32, ids), max_size=50))
def test_inventories_round_trip(items: list[Item]) -> None:
    assert messages.decode_inventory(messages.encode_inventory(items)) == items


@given(st.integers(0, 2**64 - 1))
def test_numbers_round_trip(value: int) -> None:
    assert messages.decode_nonce(messages.encode_nonce(value)) == value


@given(st.lists(st.binary(min_size=48, max_size=48), max_size=20))
def test_headers_must_follow_one_another(parts: list[bytes]) -> None:
    chain: list[bytes] = []
    for part in parts:
        chain.append(part[:4] + (sha256d(chain[-1]) if chain else bytes(32)) + part[4:])
    assert messages.decode_headers(messages.encode_headers(chain)) == chain
    if len(chain) > 2:
        with pytest.raises(WireError, match="follow one another"):
            messages.decode_headers(messages.encode_headers([chain[0], *chain[2:]]))


def test_counts_are_bounded_before_anything_is_read() -> None:
    many = b"\xfe\xff\xff\xff\x7f"
    for decode in (messages.decode_headers, messages.decode_inventory):
        with pytest.raises(WireError, match="limit"):
            decode(many)
    with pytest.raises(WireError, match="limit"):
        GetHeaders.decode(bytes(4) + b"\x66" + bytes(32 * 0x66) + bytes(32))
    with pytest.raises(WireError, match="limit"):
        FlatBlock.decode(bytes(80) + many + bytes(100))
    with pytest.raises(WireError, match="below"):
        ProtoConf.decode(b"\x01" + (1000).to_bytes(4, "little"))


DECODERS: list[Callable[[bytes], Any]] = [
    Version.decode,
    GetHeaders.decode,
    ProtoConf.decode,
    Reject.decode,
    FlatBlock.decode,
    messages.decode_headers,
    messages.decode_inventory,
    messages.decode_nonce,
]


@given(
    st.sampled_from(DECODERS), st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda end: bytes(80) + end))
)
@settings(max_examples=300)
def test_noise_is_one_kind_of_error(decode: Callable[[bytes], Any], raw: bytes) -> None:
    try:
        decode(raw)
    except WireError:
        pass


def test_a_block_is_split_and_put_together() -> None:
    txs = [build_transaction([(sha256d(bytes((n % 256,))), n, 5, b"\x51")], [(1, b"\x51" * n)]) for n in range(300)]
    block = FlatBlock(bytes(range(80)), tuple(tx.raw for tx in txs))
    raw = block.encode()
    assert FlatBlock.decode(raw) == block
    for wrong in (raw[:-1], raw + b"\0", raw[:80]):
        with pytest.raises(WireError):
            FlatBlock.decode(wrong)
    # The extended form has the same id and other bytes: it must not come in by this door.
    with pytest.raises(WireError, match="standard form"):
        FlatBlock.decode(FlatBlock(block.header, (txs[0].raw, txs[1].serialize(extended=True))).encode())
