"""The handshake of two nodes: pure functions of bytes, no socket and no clock. ``docs/transport.md`` has the threat model.

A signed Diffie-Hellman exchange of the SIGMA family (H. Krawczyk, "SIGMA: the 'SIGn-and-MAc' approach", 2003), with both
identities inside what is signed. I dials, R listens::

    I -> R   hello_I                                           network, genesis, protocols, node key, ephemeral,
                                                               nonce, ticket
    R -> I   hello_R, box(K2, sign_R("responder" | T1))        T1 = hash(hello_I | hello_R)
    I -> R   box(K3, sign_I("initiator" | T2) | stream_I)      T2 = hash(T1 | box of the second)
    R -> I   box(K4, verdict | stream_R)                       T3 = hash(T2 | box of the third)

``box`` is ChaCha20-Poly1305 with the transcript so far as associated data; each K is used once. The keys are keyed BLAKE2b
of the transcript under the X25519 secret. ``stream_*`` are the headers of two secretstreams (XChaCha20-Poly1305), one for
each direction, keyed like the box that carries its header; they carry everything after.

Invariants:
- ``Established`` exists at an end only after the other end proved its node key over this very transcript: roles, both
  ephemerals, both node keys, both networks, genesis hashes and protocol ranges, both nonces, the ticket.
- Network, genesis and protocols are compared by R before it computes anything, and by I before it signs anything.
- Any byte changed on the way ends it with ``HandshakeError`` (or its subclass ``Mismatch``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import nacl.exceptions
from attrs import field, frozen
from nacl import bindings

from nodewright.errors import TransportError
from nodewright.transport.link import NetworkIdentity

MAGIC = b"NWHS\x01"
TICKET_BYTES = 16
MAX_NETWORK_BYTES = 64
MAX_REASON_BYTES = 200
_FIXED = struct.Struct("<32sII32s32s32s16s")  # genesis, protocol range, node key, ephemeral, nonce, ticket
_STREAM_HEADER = int(bindings.crypto_secretstream_xchacha20poly1305_HEADERBYTES)
_TAG = 16
STREAM_OVERHEAD = int(bindings.crypto_secretstream_xchacha20poly1305_ABYTES)
MAX_MESSAGE_BYTES = 512  # no message of the handshake is longer


class HandshakeError(TransportError):
    """The other end is no node of ours, or somebody is in between."""


class Mismatch(HandshakeError):
    """Another network, genesis or protocol; the message names both values."""


class Refused(HandshakeError):
    """The other end proved who it is and does not want this connection; the message says why."""


@frozen
class NodeKey:
    """An Ed25519 key pair of libsodium. ``public`` is the node id; ``secret`` is seed and public key, 64 bytes."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> NodeKey:
        """``seed`` is 32 bytes."""
        return cls(*bindings.crypto_sign_seed_keypair(seed))

    def sign(self, message: bytes) -> bytes:
        return bytes(bindings.crypto_sign(message, self.secret)[:64])


def check_signature(key: bytes, message: bytes, signature: bytes) -> None:
    try:
        bindings.crypto_sign_open(signature + message, key)
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise HandshakeError("the other end does not hold the node key that it names") from error


@frozen
class Hello:
    identity: NetworkIdentity
    node_key: bytes
    ephemeral: bytes
    nonce: bytes
    ticket: bytes

    def encode(self) -> bytes:
        network = self.identity.network.encode()
        if not 0 < len(network) <= MAX_NETWORK_BYTES or len(self.identity.genesis_hash) != 32:
            raise ValueError(f"a network id is 1 to {MAX_NETWORK_BYTES} bytes and a genesis hash 32")
        fixed = _FIXED.pack(
            self.identity.genesis_hash,
            self.identity.protocol_minimum,
            self.identity.protocol_maximum,
            self.node_key,
            self.ephemeral,
            self.nonce,
            self.ticket,
        )
        return MAGIC + bytes([len(network)]) + network + fixed

    @classmethod
    def decode(cls, data: bytes) -> tuple[Hello, bytes]:
        """The hello and the bytes after it."""
        start = len(MAGIC) + 1
        if len(data) < start or len(data) > MAX_MESSAGE_BYTES or data[: len(MAGIC)] != MAGIC:
            raise HandshakeError("the other end does not speak this handshake")
        length = data[start - 1]
        end = start + length + _FIXED.size
        if not 0 < length <= MAX_NETWORK_BYTES or len(data) < end:
            raise HandshakeError("a hello cut short")
        try:
            network = data[start : start + length].decode()
        except UnicodeDecodeError as error:
            raise HandshakeError("a network id that is not UTF-8") from error
        genesis, low, high, *rest = _FIXED.unpack_from(data, start + length)
        return cls(NetworkIdentity(network, genesis, low, high), *rest), data[end:]


@frozen
class Established:
    """Both ends proved. ``protocol`` is the agreed version."""

    peer: bytes
    protocol: int
    stream: SecureStream


class SecureStream:
    """Two secretstreams. What ``open`` returns is what the other end sealed, in order, without gap, repetition or change;
    anything else is ``HandshakeError`` and the stream is dead. Not for two threads at once in one direction."""

    def __init__(self, push: Any, pull: Any) -> None:
        self._push = push
        self._pull = pull

    def seal(self, message: bytes) -> bytes:
        return bindings.crypto_secretstream_xchacha20poly1305_push(self._push, message)

    def open(self, sealed: bytes) -> bytes:
        if len(sealed) < STREAM_OVERHEAD:
            raise HandshakeError("a message too short to be sealed")
        try:
            message, _tag = bindings.crypto_secretstream_xchacha20poly1305_pull(self._pull, sealed)
        except (nacl.exceptions.CryptoError, ValueError) as error:
            raise HandshakeError("a message lost, repeated, reordered or changed on the way") from error
        return message


class _Side:
    def __init__(self, key: NodeKey, identity: NetworkIdentity, entropy: Callable[[int], bytes], ticket: bytes) -> None:
        self._key = key
        self._identity = identity
        self._ephemeral_secret = entropy(32)
        ephemeral = bindings.crypto_scalarmult_base(self._ephemeral_secret)
        self._hello = Hello(identity, key.public, ephemeral, entropy(32), ticket)
        self._peer: Hello | None = None
        self._shared = b""
        self._transcript = b""

    @property
    def peer(self) -> bytes:
        """The node key the other end names: proved once this side's last receiving step has returned."""
        assert self._peer is not None
        return self._peer.node_key

    def _accept_hello(self, hello: Hello) -> None:
        mismatch = self._identity.mismatch(hello.identity)
        if mismatch is not None:
            raise Mismatch(mismatch)
        self._peer = hello

    def _agree(self, first: bytes, second: bytes) -> None:
        """Both hellos are known: the first transcript and the shared secret."""
        assert self._peer is not None
        try:
            self._shared = bindings.crypto_scalarmult(self._ephemeral_secret, self._peer.ephemeral)
        except (nacl.exceptions.CryptoError, RuntimeError) as error:
            raise HandshakeError("an ephemeral key of low order") from error
        self._transcript = _hash(first, second)

    def _derive(self, label: bytes) -> bytes:
        return blake2b(label + self._transcript, key=self._shared, digest_size=32, person=b"nw-transport").digest()

    def _box(self, label: bytes, message: bytes) -> bytes:
        return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(message, self._transcript, bytes(12), self._derive(label))

    def _unbox(self, label: bytes, box: bytes) -> bytes:
        if not _TAG <= len(box) <= MAX_MESSAGE_BYTES:
            raise HandshakeError("a handshake message of a wrong size")
        try:
            return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(box, self._transcript, bytes(12), self._derive(label))
        except nacl.exceptions.CryptoError as error:
            raise HandshakeError("a handshake message changed on the way") from error

    def _extend(self, message: bytes) -> None:
        self._transcript = _hash(self._transcript, message)

    def _push(self, label: bytes) -> tuple[Any, bytes]:
        state = bindings.crypto_secretstream_xchacha20poly1305_state()
        return state, bindings.crypto_secretstream_xchacha20poly1305_init_push(state, self._derive(label))

    def _pull(self, label: bytes, header: bytes) -> Any:
        state = bindings.crypto_secretstream_xchacha20poly1305_state()
        bindings.crypto_secretstream_xchacha20poly1305_init_pull(state, header, self._derive(label))
        return state

    def _established(self, push: Any, pull: Any) -> Established:
        assert self._peer is not None
        return Established(
            self._peer.node_key, self._identity.agreed_protocol(self._peer.identity), SecureStream(push, pull)
        )


def _hash(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=64, person=b"nw-transcript")
    for part in parts:
        digest.update(struct.pack("<I", len(part)) + part)
    return digest.digest()


class Initiator(_Side):
    """Call ``hello``, ``receive_hello(second message)``, ``prove``, ``finish(fourth message)``.
    ``expected`` pins the other end's node key."""

    def __init__(
        self,
        key: NodeKey,
        identity: NetworkIdentity,
        entropy: Callable[[int], bytes],
        ticket: bytes,
        expected: bytes | None = None,
    ) -> None:
        super().__init__(key, identity, entropy, ticket)
        self._expected = expected
        self._stream: Any = None

    def hello(self) -> bytes:
        return self._hello.encode()

    def receive_hello(self, second: bytes) -> None:
        """Checks everything of the second message; ``peer`` is proved when it returns."""
        hello, box = Hello.decode(second)
        self._accept_hello(hello)
        if self._expected is not None and hello.node_key != self._expected:
            raise HandshakeError(f"the node key is {hello.node_key.hex()}, where {self._expected.hex()} is expected")
        self._agree(self._hello.encode(), hello.encode())
        signature = self._unbox(b"second", box)
        if len(signature) != 64:
            raise HandshakeError("a handshake message of a wrong size")
        check_signature(hello.node_key, b"nodewright transport responder" + self._transcript, signature)
        self._extend(box)

    def prove(self) -> bytes:
        """The third message."""
        signature = self._key.sign(b"nodewright transport initiator" + self._transcript)
        self._stream, header = self._push(b"stream of the initiator")
        third = self._box(b"third", signature + header)
        self._extend(third)
        return third

    def finish(self, fourth: bytes) -> Established:
        verdict = self._unbox(b"fourth", fourth)
        if len(verdict) < 1 + _STREAM_HEADER:
            raise HandshakeError("a handshake message of a wrong size")
        if verdict[0] != 1:
            raise Refused(verdict[1 + _STREAM_HEADER :].decode("utf-8", "replace"))
        return self._established(self._stream, self._pull(b"stream of the responder", verdict[1 : 1 + _STREAM_HEADER]))


class Responder(_Side):
    """Call ``receive_hello(first message)``, ``answer``, ``verify(third message)``, ``verdict``."""

    def __init__(self, key: NodeKey, identity: NetworkIdentity, entropy: Callable[[int], bytes], ticket: bytes) -> None:
        super().__init__(key, identity, entropy, bytes(TICKET_BYTES))
        self._ticket = ticket
        self._pull_state: Any = None

    def receive_hello(self, first: bytes) -> None:
        hello, rest = Hello.decode(first)
        if rest:
            raise HandshakeError("a hello with more after it")
        if hello.ticket != self._ticket:
            raise HandshakeError("a ticket that was not given for this connection")
        self._accept_hello(hello)

    def answer(self) -> bytes:
        """The second message."""
        assert self._peer is not None
        own = self._hello.encode()
        self._agree(self._peer.encode(), own)
        signature = self._key.sign(b"nodewright transport responder" + self._transcript)
        box = self._box(b"second", signature)
        self._extend(box)
        return own + box

    def verify(self, third: bytes) -> None:
        """``peer`` is proved when this returns."""
        proof = self._unbox(b"third", third)
        if len(proof) != 64 + _STREAM_HEADER:
            raise HandshakeError("a handshake message of a wrong size")
        check_signature(self.peer, b"nodewright transport initiator" + self._transcript, proof[:64])
        self._pull_state = self._pull(b"stream of the initiator", proof[64:])
        self._extend(third)

    def verdict(self, refusal: str | None = None) -> tuple[bytes, Established | None]:
        """The fourth message; the connection, unless refused."""
        push, header = self._push(b"stream of the responder")
        reason = b"" if refusal is None else refusal.encode()[:MAX_REASON_BYTES]
        fourth = self._box(b"fourth", bytes([refusal is None]) + header + reason)
        if refusal is not None:
            return fourth, None
        return fourth, self._established(push, self._pull_state)
