"""Which node is which validator: shown by a signature over the node's key, kept while the node is connected."""

from __future__ import annotations

from attrs import define, field


@define
class Identities:
    _peers: dict[bytes, bytes] = field(factory=dict)  # validator's key to node
    _keys: dict[bytes, bytes] = field(factory=dict)

    def peer(self, key: bytes) -> bytes | None:
        return self._peers.get(key)

    def key(self, peer: bytes) -> bytes | None:
        return self._keys.get(peer)

    def shown(self, peer: bytes, key: bytes) -> None:
        self.gone(peer)
        self._peers[key] = peer
        self._keys[peer] = key

    def gone(self, peer: bytes) -> None:
        key = self._keys.pop(peer, None)
        if key is not None and self._peers.get(key) == peer:
            del self._peers[key]
