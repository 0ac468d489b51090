"""What the driver and the server say, as the contract's errors with the fix; and which of it is worth another try."""

from __future__ import annotations

from attrs import frozen

from nodewright.errors import ConfigurationError, NodewrightError, StoreError, StoreFull

OK = 0
MISSING = 2
GENERATION = 3
EXISTS = 5
TOO_BIG = 13
FULL = 8
BUSY = 14
ELEMENT_EXISTS = 24
FILTERED = 27
NO_NAMESPACE = 20

# Connection refused or lost, the driver's breaker, a batch whose node is gone; no node at all (1), or a cluster that has
# not formed yet; a time-out; a key that others write; a device that does not keep up.
DOWN = frozenset({-1, -8, -10, -11, -12, -14, -15, -16, 1, 7, 9, 11})
TRANSIENT = DOWN | {BUSY, 18}


class ServerAway(Exception):
    """It may work in a moment. Whether a write took effect is not known, and need not be: it is made again."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@frozen
class Place:
    """Names the store in sentences for the operator."""

    slot: str
    host: str
    port: int
    namespace: str
    store: str

    def __str__(self) -> str:
        return f"{self.slot} (store {self.store!r} in namespace {self.namespace!r} at {self.server})"

    @property
    def server(self) -> str:
        return f"{self.host}:{self.port}"


def problem(code: int, text: str, place: Place) -> Exception:
    """ServerAway, or the contract's error."""
    if code in TRANSIENT:
        return ServerAway(code, text)
    return final(code, text, place)


def final(code: int, text: str, place: Place) -> NodewrightError:
    if code == NO_NAMESPACE:
        return ConfigurationError(
            f"{place.slot}: the server at {place.server} has no namespace {place.namespace!r}: add it to the server's "
            f"configuration, or set {place.slot}.namespace"
        )
    if code == FULL:
        return StoreFull(
            f"{place}: the namespace is full and takes no writes; enlarge its storage or memory, or raise its "
            "stop-writes settings (nothing acknowledged is lost)"
        )
    if code == BUSY:
        return StoreError(
            f"{place}: too many others use the same record; raise transaction-pending-limit of the namespace, or stop what "
            "else writes to it"
        )
    if code == TOO_BIG:
        return StoreError(f"{place}: the server refuses a record as too big; set max-record-size of the namespace to 1M")
    return StoreError(f"{place}: Aerospike failed with code {code} ({text}); see the server's log")


def away(error: ServerAway, place: Place, seconds: float) -> NodewrightError:
    """When patience has run out."""
    if error.code == BUSY:
        return final(BUSY, str(error), place)
    return StoreError(
        f"{place}: the server did not answer for {seconds:g} s ({error}): start it, or set {place.slot}.host and "
        f"{place.slot}.port; what was acknowledged is in the journal"
    )
