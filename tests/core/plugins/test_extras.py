"""A missing driver is told when a profile is checked, and by the name of what to install."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodewright.cli.app import invoke
from nodewright.plugins import extras
from nodewright.plugins.extras import missing_driver
from nodewright.plugins.registry import Provided, Provider, Registry
from nodewright.plugins.specs import StorageSpec

METADATA = """\
Metadata-Version: 2.4
Name: test-drivers
Version: 1.0
Requires-Dist: attrs
Requires-Dist: No.Such-Driver<9,>=1.2; extra == 'db'
Requires-Dist: attrs>=24; extra == "db"
Requires-Dist: nor_this; extra == "more"
Requires-Dist: only-there; sys_platform == "plan9" and extra == "db"
Requires-Dist: test_drivers[db,more]; extra == "all"
Requires-Dist: attrs; extra == "here"
"""


@pytest.fixture
def missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    folder = tmp_path / "test_drivers-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(METADATA)
    monkeypatch.syspath_prepend(tmp_path)

    def of(extra: str | None, distribution: str | None = "test-drivers") -> str | None:
        def opened(*_: Any) -> Any:
            raise AssertionError("nothing is opened")

        spec = StorageSpec(name="mine", summary="", open=opened, extra=extra)
        registry = Registry(components=(Provided("mine", spec, Provider("mine", distribution, "1.0", "mine")),))
        return missing_driver(spec, registry)

    return of


def test_what_is_missing_is_named(missing: Callable[..., str | None]) -> None:
    assert missing("db") == ("'mine' needs No.Such-Driver, which is not installed: run  pip install 'test-drivers[db]'")
    assert missing("all") == (
        "'mine' needs nor_this and No.Such-Driver, which are not installed: run  pip install 'test-drivers[all]'"
    )


@pytest.mark.parametrize(
    ("extra", "distribution"), [("here", "test-drivers"), (None, "test-drivers"), ("db", None), ("x", "test-drivers")]
)
def test_what_is_there_or_not_known(missing: Callable[..., str | None], extra: str, distribution: str) -> None:
    assert missing(extra, distribution) is None


def test_the_cluster_profile_without_its_drivers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "_installed", lambda name: name not in ("aerospike", "asyncpg"))
    assert invoke(["check", "teranode-cluster"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "teranode-cluster.toml, line 8: stores.utxo: 'aerospike' needs aerospike, which is not installed" in first
    assert "pip install 'nodewright[aerospike]'" in first
    assert "stores.chain: 'postgres' needs asyncpg, which is not installed" in second
    monkeypatch.setattr(extras, "_installed", lambda name: True)
    assert invoke(["check", "teranode-cluster"]) == 0
    assert "OK: teranode-cluster: family bitcoin, network regtest" in capsys.readouterr().out
