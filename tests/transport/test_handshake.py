"""The handshake as pure functions: what two honest ends get, and that any byte changed on the way ends it."""

import random

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.transport.handshake import (
    MAGIC,
    MAX_MESSAGE_BYTES,
    TICKET_BYTES,
    Established,
    HandshakeError,
    Hello,
    Initiator,
    Mismatch,
    NodeKey,
    Refused,
    Responder,
)
from nodewright.transport.link import NetworkIdentity

IDENTITY = NetworkIdentity("regtest", bytes(range(32)), 1, 3)
TICKET = b"t" * TICKET_BYTES
ALICE, BOB, EVE = (NodeKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))


def ends(
    seed: int = 0,
    mine: NetworkIdentity = IDENTITY,
    theirs: NetworkIdentity = IDENTITY,
    expected: bytes | None = None,
    ticket: bytes = TICKET,
    alice: NodeKey = ALICE,
) -> tuple[Initiator, Responder]:
    entropy = random.Random(seed).randbytes
    return Initiator(alice, mine, entropy, ticket, expected), Responder(BOB, theirs, entropy, TICKET)


def exchange(
    initiator: Initiator, responder: Responder, tamper=lambda number, message: message, refusal: str | None = None
) -> tuple[Established, Established | None]:
    responder.receive_hello(tamper(1, initiator.hello()))
    initiator.receive_hello(tamper(2, responder.answer()))
    responder.verify(tamper(3, initiator.prove()))
    fourth, theirs = responder.verdict(refusal)
    return initiator.finish(tamper(4, fourth)), theirs


def test_both_ends_know_each_other_and_talk() -> None:
    mine, theirs = exchange(*ends(mine=IDENTITY, theirs=evolve(IDENTITY, protocol_minimum=2, protocol_maximum=7)))
    assert theirs is not None
    assert mine.peer == BOB.public and theirs.peer == ALICE.public
    assert mine.protocol == theirs.protocol == 3
    for size in (0, 1, 100_000):
        assert theirs.stream.open(mine.stream.seal(b"a" * size)) == b"a" * size
        assert mine.stream.open(theirs.stream.seal(b"b" * size)) == b"b" * size


def test_the_messages_are_within_the_size_that_an_end_accepts() -> None:
    longest = evolve(IDENTITY, network="n" * 64)
    sizes: list[int] = []
    with pytest.raises(Refused):
        exchange(*ends(mine=longest, theirs=longest), lambda _, message: sizes.append(len(message)) or message, "r" * 999)
    assert len(sizes) == 4 and max(sizes) <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_any_byte_changed_in_any_message_ends_it(number: int) -> None:
    length = 0

    def measure(n: int, message: bytes) -> bytes:
        nonlocal length
        length = len(message) if n == number else length
        return message

    exchange(*ends(), measure)
    for at in range(length):

        def flip(n: int, message: bytes, at: int = at) -> bytes:
            if n != number:
                return message
            return message[:at] + bytes([message[at] ^ (1 << at % 8)]) + message[at + 1 :]

        with pytest.raises(HandshakeError):
            exchange(*ends(), flip)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_other_message_in_its_place_ends_it(number: int, data: st.DataObject) -> None:
    garbage = data.draw(st.binary(max_size=600) | st.binary(max_size=300).map(lambda rest: MAGIC + rest))
    with pytest.raises(HandshakeError):
        exchange(*ends(), lambda n, message: garbage if n == number else message)
    with pytest.raises(HandshakeError):
        exchange(*ends(), lambda n, message: message + garbage[:1] + b"x" if n == number else message)
    with pytest.raises(HandshakeError):
        exchange(*ends(), lambda n, message: message[: len(message) // 2] if n == number else message)


def test_messages_of_an_earlier_run_are_worth_nothing() -> None:
    recorded: dict[int, bytes] = {}
    exchange(*ends(1), lambda n, message: recorded.setdefault(n, message))
    for number in (1, 2, 3, 4):
        with pytest.raises(HandshakeError):
            exchange(*ends(2), lambda n, message, number=number: recorded[n] if n == number else message)


def test_a_reflected_hello_proves_nothing() -> None:
    initiator, _ = ends()
    with pytest.raises(HandshakeError):
        initiator.receive_hello(initiator.hello())
    with pytest.raises(HandshakeError):
        initiator.receive_hello(initiator.hello() + bytes(80))


def test_naming_a_key_that_is_not_held_is_seen() -> None:
    """Eve names Alice's key with a secret of her own; then Bob's, at the other side."""
    impostor = NodeKey(ALICE.public, EVE.secret)
    with pytest.raises(HandshakeError, match="does not hold the node key"):
        exchange(*ends(alice=impostor))
    initiator, _ = ends()
    responder = Responder(NodeKey(BOB.public, EVE.secret), IDENTITY, random.Random(5).randbytes, TICKET)
    with pytest.raises(HandshakeError, match="does not hold the node key"):
        exchange(initiator, responder)


def test_a_pinned_key_is_checked() -> None:
    exchange(*ends(expected=BOB.public))
    with pytest.raises(HandshakeError, match=EVE.public.hex()):
        exchange(*ends(expected=EVE.public))


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ({"network": "main"}, ["'main'", "'regtest'"]),
        ({"genesis_hash": b"g" * 32}, [(b"g" * 32).hex(), bytes(range(32)).hex()]),
        ({"protocol_minimum": 4, "protocol_maximum": 9}, ["4 to 9", "1 to 3"]),
    ],
)
def test_another_network_is_named_with_both_values(change, values) -> None:
    with pytest.raises(Mismatch) as caught:
        exchange(*ends(theirs=evolve(IDENTITY, **change)))
    assert all(value in str(caught.value) for value in values)
    initiator, responder = ends(theirs=evolve(IDENTITY, **change))
    responder._identity = IDENTITY  # a listener that does not look: the dialler does
    responder.receive_hello(initiator.hello())
    with pytest.raises(Mismatch):
        initiator.receive_hello(responder.answer())


def test_a_wrong_ticket_is_refused() -> None:
    with pytest.raises(HandshakeError, match="ticket"):
        exchange(*ends(ticket=b"x" * TICKET_BYTES))


def test_an_ephemeral_of_low_order_is_refused() -> None:
    initiator, responder = ends()
    hello, _ = Hello.decode(initiator.hello())
    responder.receive_hello(evolve(hello, ephemeral=bytes(32)).encode())
    with pytest.raises(HandshakeError, match="low order"):
        responder.answer()


def test_a_refusal_comes_with_its_reason_to_a_proved_peer() -> None:
    with pytest.raises(Refused, match="not in the allow list"):
        exchange(*ends(), refusal="the node key is not in the allow list")


@pytest.mark.parametrize("harm", ["lost", "repeated", "swapped", "changed", "cut", "reflected"])
def test_the_stream_sees_harm(harm: str) -> None:
    mine, theirs = exchange(*ends())
    assert theirs is not None
    first, second = mine.stream.seal(b"one"), mine.stream.seal(b"two")
    if harm in ("lost", "swapped"):
        bad = second
    elif harm == "repeated":
        theirs.stream.open(first)
        bad = first
    elif harm == "changed":
        bad = first[:-1] + bytes([first[-1] ^ 1])
    elif harm == "cut":
        bad = first[:10]
    else:
        bad = theirs.stream.seal(b"three")
    with pytest.raises(HandshakeError):
        theirs.stream.open(bad)


@given(
    network=st.text(min_size=1, max_size=16),
    genesis=st.binary(min_size=32, max_size=32),
    low=st.integers(0, 2**32 - 1),
    high=st.integers(0, 2**32 - 1),
    rest=st.binary(max_size=64),
)
@settings(max_examples=50, deadline=None)
def test_a_hello_round_trips(network: str, genesis: bytes, low: int, high: int, rest: bytes) -> None:
    hello = Hello(NetworkIdentity(network, genesis, low, high), b"k" * 32, b"e" * 32, b"n" * 32, TICKET)
    assert Hello.decode(hello.encode() + rest) == (hello, rest)
