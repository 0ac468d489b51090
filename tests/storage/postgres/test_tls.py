"""TLS with a real server. That of the wheel is built without it: one of the system is used, if there is one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewright.errors import ConfigurationError
from nodewright.interfaces import WriteBatch


@pytest.fixture(scope="module")
def tls_programs() -> Path:
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        config = subprocess.run([str(folder / "pg_config"), "--configure"], capture_output=True, text=True)
        if "--with-openssl" in config.stdout or "--with-ssl" in config.stdout:
            return folder
    pytest.skip("no PostgreSQL server that is built with TLS in /usr/lib/postgresql")


@pytest.fixture(scope="module")
def tls_server(
    postgres: Any, tls_programs: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Any, Path]]:
    """(a server with a certificate for localhost, that certificate)"""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    with request.getfixturevalue("new_server")(tls_programs) as server:
        folder = tmp_path_factory.mktemp("tls")
        key, certificate = folder / "server.key", folder / "server.crt"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
        server.install(key, 0o600)
        server.install(certificate, 0o644)
        server.kill()
        server.options.append("ssl=on")
        server.start()
        yield server, certificate


async def write(server: Any, path: Path, **changes: Any) -> str:
    batch = WriteBatch()
    batch.put("a", b"key", b"value")
    async with server.open(path, **changes) as store:
        await store.commit(batch)
        assert await store.get_many("a", [b"key"]) == [b"value"]
        seen = server.sql(
            "SELECT string_agg(DISTINCT ssl::text, ' ') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
            "WHERE application_name LIKE 'nodewright test %'"
        )
        return str(seen)


async def test_encrypted_and_verified(tls_server: tuple[Any, Path], tmp_path: Path) -> None:
    server, certificate = tls_server
    assert await write(server, tmp_path, host="localhost", tls="verify", tls_ca=str(certificate)) == "true"
    assert await write(server, tmp_path, host="localhost", tls="auto", tls_ca=str(certificate)) == "true"
    assert await write(server, tmp_path, host="127.0.0.1", tls="require") == "true"
    assert await write(server, tmp_path, host="127.0.0.1") == "false"


async def test_a_certificate_that_is_not_trusted(tls_server: tuple[Any, Path], tmp_path: Path) -> None:
    server, certificate = tls_server
    for changes in ({"host": "localhost"}, {"host": "127.0.0.1", "tls_ca": str(certificate)}):
        with pytest.raises(ConfigurationError, match="tls_ca") as caught:
            await write(server, tmp_path, tls="verify", **changes)
        assert "\n" not in str(caught.value)
