"""Basic authentication of the JSON-RPC: configured credentials, or a random pair in ``<data-dir>/.cookie`` (mode 0600)."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from pathlib import Path

from nodewright.errors import ConfigurationError
from nodewright.interfaces.environment import Environment

COOKIE_USER = "__cookie__"


class BasicAuth:
    def __init__(self, user: str, password: str) -> None:
        self._expected = f"{user}:{password}".encode()

    def allows(self, authorization: str | None) -> bool:
        """Whether an ``Authorization`` header carries the pair; compared in constant time."""
        if not authorization or authorization[:6].lower() != "basic ":
            return False
        try:
            given = base64.b64decode(authorization[6:].strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(given, self._expected)


def open_auth(user: str, data_dir: Path, environment: Environment) -> BasicAuth:
    """Credentials of the profile's user, or a fresh cookie. A user without a password is a configuration error."""
    if user:
        password = environment.secret("bsv_api_rpc_password")
        if not password:
            raise ConfigurationError(
                f"{environment.slot}.rpc_user is set and has no password: put it in NODEWRIGHT_BSV_API_RPC_PASSWORD or in "
                f"{data_dir / 'secrets' / 'bsv_api_rpc_password'}, or remove rpc_user to use the cookie file"
            )
        return BasicAuth(user, password)
    password = environment.entropy(32).hex()
    write_private(data_dir / ".cookie", f"{COOKIE_USER}:{password}")
    return BasicAuth(COOKIE_USER, password)


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` by a file only its owner can read; never readable by others in between."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
