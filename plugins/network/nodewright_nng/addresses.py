"""How addresses are written in the profile: ``host:port``, ``[v6 address]:port``, and for a peer whose node key must be a
certain one ``<64 hex digits>@host:port``."""

from __future__ import annotations

from attrs import frozen


@frozen
class Address:
    host: str  # as in a URL: a v6 address in brackets
    port: int
    node_key: bytes | None = None

    @property
    def url(self) -> str:
        return f"tcp://{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Raises ValueError with a sentence."""
    rest, node_key = text.removeprefix("tcp://"), None
    if "@" in rest:
        digits, rest = rest.split("@", 1)
        node_key = parse_key(digits)
    host, colon, port = rest.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed) or any(c.isspace() or c in "/*" for c in host):
        raise ValueError(f"{text!r} is not an address: write host:port, for example 127.0.0.1:8833")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r}: the port is a number from 0 to 65535")
    return Address(host, int(port), node_key)


def parse_key(text: str) -> bytes:
    """Raises ValueError with a sentence."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ValueError(f"{text!r} is not a node key: 64 hex digits, as in the node.json of that node")
    return key


def parse_ports(text: str) -> range:
    """``"40000-40100"``, or empty for any free port. Raises ValueError with a sentence."""
    if not text:
        return range(0)
    low, dash, high = text.partition("-")
    if not (dash and low.isdigit() and high.isdigit() and 0 < int(low) <= int(high) <= 65535):
        raise ValueError(f"{text!r} is not a range of ports: write first-last, for example 40000-40100")
    return range(int(low), int(high) + 1)
