"""What a peer does not give ends nothing: the next one is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from nodewright.errors import BodyTooLarge, NotHere, PeerBusy, PeerGone, RequestTimeout
from nodewright_nightshade.delivery import Delivery
from nodewright_nightshade.witnessing import Witnesses


def transport(error: Exception | None) -> Any:
    async def fetch(peer: bytes, kind: str, id: bytes, max_bytes: int, **rest: Any) -> AsyncIterator[bytes]:
        yield b"one "
        if error is not None:
            raise error
        yield b"two"

    return SimpleNamespace(fetch=fetch)


@pytest.mark.parametrize("error", [None, BodyTooLarge(""), NotHere(""), PeerBusy(""), PeerGone(""), RequestTimeout("")])
async def test_a_body_is_whole_or_not_had(error: Exception | None) -> None:
    owner: Any = SimpleNamespace(transport=transport(error), _timeout=1.0)
    expected = b"one two" if error is None else None
    assert await Delivery._fetch(owner, b"peer", "kind", b"id", 10) == expected
    assert await Witnesses._fetch(owner, b"peer", b"id") == expected
