"""How a refusal reads on the wire: HTTP status, JSON-RPC code, ARC problem document. One table for all three."""

from __future__ import annotations

import binascii
from typing import Any

from nodewright.interfaces.common import Refused

HTTP_STATUS = {
    "malformed": 400,
    "invalid": 400,
    "policy": 400,
    "expired": 400,
    "frozen": 403,
    "conflict": 409,
    "locked": 409,
    "missing": 422,
    "busy": 503,
}

# Codes of Bitcoin's JSON-RPC: deserialization, verification error, rejected, already in chain, misc.
RPC_DESERIALIZATION = -22
RPC_VERIFY_REJECTED = -26
RPC_VERIFY_ERROR = -25
RPC_CODE = {"malformed": RPC_DESERIALIZATION, "missing": RPC_VERIFY_ERROR}


def display(id: bytes) -> str:
    """The hex the family shows: bytes reversed."""
    return id[::-1].hex()


def parse_id(text: str) -> bytes | None:
    """32 bytes from display hex; None where it is not that."""
    if len(text) != 64:
        return None
    try:
        return binascii.unhexlify(text)[::-1]
    except ValueError:
        return None


def http_status(refused: Refused) -> int:
    return HTTP_STATUS.get(refused.kind, 500)


def retry_after(refused: Refused) -> dict[str, str]:
    if refused.kind != "busy":
        return {}
    return {"retry-after": str(max(1, round(float(refused.data.get("retry_after_seconds", 1)))))}


def winner_of(refused: Refused) -> str | None:
    winner = refused.data.get("winner")
    return display(winner) if isinstance(winner, bytes) else None


def missing_of(refused: Refused) -> list[str]:
    return [display(id) for id in refused.data.get("missing", ()) if isinstance(id, bytes)]


def sentence(refused: Refused) -> str:
    """``code: message``, with the winner of a double spend or the missing parents by their displayed id."""
    text = refused.message or refused.code
    if not text.startswith(refused.code):
        text = f"{refused.code}: {text}"
    winner = winner_of(refused)
    if winner and winner not in text:
        text += f" (spent by {winner})"
    missing = [id for id in missing_of(refused) if id not in text]
    if missing:
        text += f" (missing {', '.join(missing[:8])})"
    return text


def problem(refused: Refused, txid: str | None) -> dict[str, Any]:
    """ARC's error body: an RFC 7807 problem with txid and extraInfo."""
    status = http_status(refused)
    titles = {400: "Transaction is invalid", 403: "Output is frozen", 409: "Conflicting transaction", 422: "Missing parent"}
    document: dict[str, Any] = {
        "type": f"about:blank#{refused.code}",
        "title": titles.get(status, "Busy" if status == 503 else "Not accepted"),
        "status": status,
        "detail": sentence(refused),
        "instance": None,
        "txid": txid,
        "extraInfo": refused.message,
    }
    winner = winner_of(refused)
    if winner:
        document["competingTxs"] = [winner]
    return document
