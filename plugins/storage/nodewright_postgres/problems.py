"""What asyncpg and the sockets raise, as the contract's errors with the fix; and which of it is worth another try."""

from __future__ import annotations

import ssl

from attrs import frozen

from nodewright.errors import ConfigurationError, NodewrightError, StoreCorrupt, StoreError, StoreFull


class ConnectionGone(Exception):
    """The connection is of no use any more; whether its last statement took effect is not known."""


@frozen
class Place:
    """Names the store in sentences for the operator."""

    slot: str
    host: str
    port: int
    database: str
    user: str
    schema: str
    secret: str

    def __str__(self) -> str:
        return f"{self.slot} (schema {self.schema!r} of database {self.database!r} at {self.server})"

    @property
    def server(self) -> str:
        return f"{self.host}:{self.port}"


def sqlstate(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", None) or "")


def is_gone(error: BaseException) -> bool:
    """Whether the connection must be given up. Class 08 and the shutdown codes of 57 come from the server; anything
    without an SQLSTATE comes from the socket or from asyncpg itself, whose state is then unknown."""
    state = sqlstate(error)
    return not state or state[:2] == "08" or state in ("57P01", "57P02", "57P03", "57P05", "25P03")


def is_transient(error: BaseException) -> bool:
    """Whether connecting again may succeed without anybody's doing: the server starts, stops, restarts or is full."""
    state = sqlstate(error)
    if isinstance(error, ssl.SSLError):
        return False
    if state:
        return state[:2] == "08" or state in ("57P01", "57P02", "57P03", "53300")
    return isinstance(error, OSError | EOFError | TimeoutError | ConnectionGone) or _from_driver(error)


def _from_driver(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "asyncpg"


def is_starting(error: BaseException) -> bool:
    """The server is there and will take connections soon, or once others have left."""
    return sqlstate(error) in ("57P03", "53300")


def store_error(error: BaseException, place: Place) -> NodewrightError:
    """The contract's error for one of asyncpg's or a socket's."""
    if isinstance(error, NodewrightError):
        return error
    state, text = sqlstate(error), str(error).strip().replace("\n", " ") or type(error).__name__
    if state in ("28P01", "28000"):
        return ConfigurationError(
            f"{place.slot}: the server at {place.server} refuses user {place.user!r} ({text}): put its password in the "
            f"environment variable NODEWRIGHT_{place.secret.upper()} or in the file secrets/{place.secret} of the data "
            f"directory, or set {place.slot}.user"
        )
    if state == "3D000":
        return ConfigurationError(
            f"{place.slot}: there is no database {place.database!r} at {place.server}: create it with  createdb -h "
            f"{place.host} -p {place.port} -O {place.user} {place.database}  , or set {place.slot}.database"
        )
    if state == "42501":
        return ConfigurationError(
            f"{place}: user {place.user!r} may not do this ({text}): run  GRANT CREATE ON DATABASE {place.database} TO "
            f"{place.user}  as its owner, or choose another schema with --set {place.slot}.schema=NAME"
        )
    if state == "25006":
        return StoreError(f"{place}: the server takes no writes (a standby?): set {place.slot}.host to the primary")
    if state in ("53100", "53400"):
        return StoreFull(
            f"{place}: the server's disk is full ({text}); make room there and start the node again (nothing acknowledged "
            "is lost)"
        )
    if state == "53300":
        return StoreError(
            f"{place}: the server has no connection left: raise its max_connections, or lower {place.slot}.readers"
        )
    if state[:2] == "XX" and state != "XX000":
        return StoreCorrupt(f"{place}: the server reports damaged data ({text}); restore the database from a copy")
    if isinstance(error, ssl.SSLError):
        return ConfigurationError(
            f"{place.slot}: no trusted TLS connection to {place.server} ({text}): set {place.slot}.tls_ca to the "
            "certificate authority of the server, or set its host to the name in the certificate"
        )
    if "rejected SSL upgrade" in text:
        return ConfigurationError(
            f"{place.slot}: the server at {place.server} does not speak TLS: set ssl = on there, or {place.slot}.tls=off"
        )
    if not state:
        return StoreError(
            f"{place.slot}: no PostgreSQL server answers at {place.server} ({text}): start it, or set {place.slot}.host "
            f"and {place.slot}.port"
        )
    return StoreError(f"{place}: PostgreSQL failed with {state} ({text}); see the server's log")
