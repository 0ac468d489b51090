"""What a profile says about a PostgreSQL server, and what a connection needs of it. No I/O but certificate files."""

from __future__ import annotations

import ipaddress
import re
import ssl
from pathlib import Path
from typing import Any

import attrs

from nodewright.errors import ConfigurationError
from nodewright.interfaces.environment import Environment
from nodewright.plugins.specs import setting

MIB = 1024 * 1024
MAX_NAME_BYTES = 63  # of PostgreSQL's identifiers
_SCHEMA = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")


@attrs.define
class PostgresConfig:
    host: str = setting("127.0.0.1", help="name or address of the server, or the folder of its Unix socket")
    port: int = setting(5432, help="port of the server; it also names the Unix socket", minimum=1, maximum=65535)
    database: str = setting("nodewright", help="database, which must exist")
    user: str = setting("nodewright", help="role to connect as; it needs CREATE on the database, or a schema of its own")
    password_secret: str = setting(
        "postgres_password", help="name of the secret that holds the password: NODEWRIGHT_<NAME>, or a file in secrets/"
    )
    schema: str = setting("", help="PostgreSQL schema with the tables; empty is the slot's name. One node for each schema")
    tls: str = setting(
        "auto",
        help="off; require (encrypted, any certificate); verify (certificate and host name); auto is verify, or off "
        "for a socket or loopback address",
        choices=("auto", "off", "require", "verify"),
    )
    tls_ca: str = setting("", help="file with the certificates that verify trusts; empty is those of the system")
    synchronous_commit: str = setting(
        "on",
        help="what a durable commit waits for: local (this server's disk), on (that, and the disk of every synchronous "
        "standby), remote_apply (standbys show it as well); a commit that need not be durable waits for none of them",
        choices=("local", "on", "remote_apply"),
    )
    readers: int = setting(4, help="connections for reads, beside the one that commits", minimum=1, maximum=64)
    snapshots: int = setting(8, help="snapshots held at a time, each on a connection of its own", minimum=1, maximum=64)
    retry_seconds: float = setting(
        30.0, help="how long a call is retried while the server is away before it fails", minimum=0.0, maximum=3600.0
    )
    timeout_seconds: float = setting(
        60.0, help="how long one statement may take before its connection is given up", minimum=1.0, maximum=3600.0
    )
    lock_seconds: float = setting(
        2.0, help="how long to wait at start for a previous owner's connection to end", minimum=0.0, maximum=600.0
    )
    replay_mib: int = setting(
        32, help="MiB of commits kept to be repeated after a server crash; beyond it a commit is synced", minimum=1
    )
    allow_volatile: bool = setting(False, help="accept a server with fsync or full_page_writes off (data dies with it)")


def check_config(config: PostgresConfig) -> list[str]:
    problems = []
    if config.schema and (not _SCHEMA.match(config.schema) or config.schema.startswith("pg_")):
        problems.append(
            f"schema = {config.schema!r} must match [a-z][a-z0-9_]{{0,62}} and not start with pg_: choose another"
        )
    for name in ("host", "database", "user"):
        if not getattr(config, name):
            problems.append(f"{name} is empty: give one")
    if config.tls_ca and config.tls in ("off", "require"):
        problems.append(f"tls_ca is not looked at with tls = {config.tls!r}: use tls = 'verify', or leave tls_ca out")
    return problems


def schema_name(config: PostgresConfig, environment: Environment) -> str:
    if config.schema:
        return config.schema
    name = re.sub(r"[^a-z0-9_]", "_", environment.slot.lower())[:MAX_NAME_BYTES]
    return name if _SCHEMA.match(name) and not name.startswith("pg_") else f"n_{name}"[:MAX_NAME_BYTES]


def is_local(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def tls_argument(config: PostgresConfig, slot: str) -> ssl.SSLContext | bool:
    """What asyncpg takes as ``ssl``. Raises ConfigurationError where the certificates cannot be read."""
    mode = config.tls if config.tls != "auto" else "off" if is_local(config.host) and not config.tls_ca else "verify"
    if mode == "off":
        return False
    try:
        context = ssl.create_default_context(cafile=str(Path(config.tls_ca)) if config.tls_ca else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{slot}: the certificates in {config.tls_ca} cannot be read ({error}): set {slot}.tls_ca to a PEM file"
        ) from error
    if mode == "require":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def connect_arguments(config: PostgresConfig, environment: Environment) -> dict[str, Any]:
    """For ``asyncpg.connect``. Settings of the role that would end an idle or long session are put out of force."""
    return {
        "host": config.host,
        "port": config.port,
        "database": config.database,
        "user": config.user,
        "password": environment.secret(config.password_secret),
        "ssl": tls_argument(config, environment.slot),
        "direct_tls": False,
        "statement_cache_size": 1024,
        "max_cached_statement_lifetime": 0,
        "server_settings": {
            "application_name": f"nodewright {environment.node_name} {environment.slot}".encode("ascii", "replace")[
                :MAX_NAME_BYTES
            ].decode(),
            "statement_timeout": "0",
            "lock_timeout": "0",
            "idle_in_transaction_session_timeout": "0",
            "idle_session_timeout": "0",
            "default_transaction_isolation": "read committed",
            "default_transaction_read_only": "off",
            "jit": "off",
            "plan_cache_mode": "force_generic_plan",  # the plan by key: one made for a table still empty reads all of it
            "enable_seqscan": "off",
            "synchronous_commit": config.synchronous_commit,
            "tcp_keepalives_idle": "10",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
        },
    }
