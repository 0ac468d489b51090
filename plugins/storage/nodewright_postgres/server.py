"""Connections to one server: opened, called with a time limit, given up. Knows nothing of what is in the tables."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from nodewright.errors import ConfigurationError, NodewrightError, StoreError
from nodewright.interfaces.environment import Environment
from nodewright_postgres.bridge import Bridge
from nodewright_postgres.config import PostgresConfig, connect_arguments, schema_name
from nodewright_postgres.problems import ConnectionGone, Place, is_gone, is_starting, is_transient, store_error

T = TypeVar("T")

OLDEST_VERSION = 140000
_CLOSE_SECONDS = 5.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class Server:
    """``call`` raises the contract's errors, and ConnectionGone where the caller may connect again and repeat."""

    def __init__(self, bridge: Bridge, config: PostgresConfig, environment: Environment) -> None:
        self._bridge = bridge
        self.config = config
        self.environment = environment
        self._arguments = connect_arguments(config, environment)
        self._reached = self._away = False
        self.place = Place(
            slot=environment.slot,
            host=config.host,
            port=config.port,
            database=config.database,
            user=config.user,
            schema=schema_name(config, environment),
            secret=config.password_secret,
        )

    @property
    def loop(self) -> Any:
        """asyncio's, of every call."""
        return self._bridge.loop

    async def connect(self) -> Any:
        import asyncpg

        async def connect() -> Any:
            return await asyncpg.connect(timeout=self.config.timeout_seconds, loop=self._bridge.loop, **self._arguments)

        try:
            connection = await self._guarded(connect)
        except ConnectionGone as error:
            if self._reached and not self._away:
                self._away = True
                self.environment.logger.warning(
                    "postgres_away", server=self.place.server, error=str(error), retry_seconds=self.config.retry_seconds
                )
            raise
        if self._away:
            self.environment.logger.info("postgres_back", server=self.place.server)
        self._reached, self._away = True, False
        return connection

    async def call(self, connection: Any, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """``await function(connection, *arguments)`` in asyncio. Whoever is told ConnectionGone, or is cancelled, gives
        the connection up: an answer may still be on its way."""
        return await self._guarded(function, connection, *arguments)

    async def call_long(self, connection: Any, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """``call`` without the time limit, for a migration of all that a store holds; a server that has gone away is found
        out by the keepalives of the connection."""
        return await self._guarded(function, connection, *arguments, seconds=math.inf)

    async def _guarded(self, function: Callable[..., Awaitable[T]], *arguments: Any, seconds: float | None = None) -> T:
        try:
            with trio.fail_after(self.config.timeout_seconds if seconds is None else seconds):
                return await self._bridge.run(function, *arguments)
        except trio.TooSlowError as error:
            raise ConnectionGone(f"no answer within {self.config.timeout_seconds:g} s") from error
        except (NodewrightError, ConnectionGone):
            raise
        except Exception as error:
            if (is_gone(error) and is_transient(error)) or is_starting(error):
                raise ConnectionGone(str(error).strip() or type(error).__name__) from error
            if is_gone(error) and not isinstance(error, OSError):
                raise  # neither the server nor the socket: a bug is not dressed up
            raise store_error(error, self.place) from error

    def give_up(self, connection: Any) -> None:
        """Drop the connection without a word to the server. Safe to repeat."""
        with contextlib.suppress(Exception):
            connection.terminate()

    async def close(self, connection: Any) -> None:
        """Say goodbye, and give up where that takes long. Shielded."""

        async def close(connection: Any) -> None:
            await connection.close(timeout=_CLOSE_SECONDS)

        with trio.CancelScope(shield=True):
            try:
                await self._bridge.run(close, connection)
            except Exception:
                self.give_up(connection)

    def patience(self) -> Patience:
        return Patience(self)

    def away(self, error: ConnectionGone) -> StoreError:
        cause = error.__cause__
        if cause is not None and is_starting(cause):
            found = store_error(cause, self.place)
            if isinstance(found, StoreError):
                return found
        return StoreError(
            f"{self.place}: the server did not answer for {self.config.retry_seconds:g} s ({error}): start it, or set "
            f"{self.place.slot}.host and {self.place.slot}.port; then start the node again"
        )

    async def check(self, connection: Any) -> None:
        """Whether durable means durable on this server."""

        async def look(connection: Any) -> Any:
            return await connection.fetchrow(
                "SELECT current_setting('server_version_num')::integer AS version, pg_is_in_recovery() AS standby, "
                "current_setting('fsync') AS fsync, current_setting('full_page_writes') AS pages"
            )

        found = await self.call(connection, look)
        if found["version"] < OLDEST_VERSION:
            raise ConfigurationError(
                f"{self.place.slot}: the server at {self.place.server} is PostgreSQL {found['version'] // 10000}, 14 or "
                "newer is needed: upgrade it"
            )
        if found["standby"]:
            raise StoreError(
                f"{self.place}: the server takes no writes (a standby): set {self.place.slot}.host to the primary"
            )
        off = [name for name, value in (("fsync", found["fsync"]), ("full_page_writes", found["pages"])) if value == "off"]
        if off and not self.config.allow_volatile:
            raise ConfigurationError(
                f"{self.place.slot}: the server at {self.place.server} runs with {' and '.join(off)} off, so that a power "
                f"cut destroys the data: set it on, or accept it with --set {self.place.slot}.allow_volatile=true"
            )


class Patience:
    """A bound on retries: ``wait`` pauses, longer each time, and raises once ``retry_seconds`` have passed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._end = server.environment.monotonic() + server.config.retry_seconds
        self._pause = _FIRST_PAUSE

    async def wait(self, error: ConnectionGone) -> None:
        environment = self._server.environment
        left = self._end - environment.monotonic()
        if left <= 0:
            raise self._server.away(error) from error
        await environment.sleep(min(left, self._pause * environment.random.uniform(0.5, 1.0)))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
