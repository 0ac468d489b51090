"""A registry made of plain specs, and profiles composed from text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from nodewright.composition.compose import compose
from nodewright.composition.plan import Plan
from nodewright.config.profile import ProfileText, profile_from_text
from nodewright.errors import ConfigurationError
from nodewright.plugins.registry import Broken, PlanCheck, Provided, Provider, Registry
from nodewright.plugins.specs import (
    ComponentSpec,
    ConsensusSpec,
    ExecutionSpec,
    Requirement,
    ServiceSpec,
    StorageSpec,
    TransportSpec,
    VerifierSpec,
    setting,
)

config_class: Any = attrs.define


def opened(config: Any, dependencies: Any, environment: Any) -> Any:
    raise AssertionError("composition opens nothing")


@config_class
class DiskConfig:
    path: str = setting("", help="a folder")
    cache_mib: int = setting(8, help="MiB of cache", minimum=1, maximum=100)
    password: str | None = setting(None, help="of the database", secret=True)


@config_class
class WrapConfig:
    inner: str = setting(help="the store behind it", store="key-value")
    budget: int = setting(8, help="MiB", minimum=1)


@config_class
class SpillConfig:
    spill: str | None = setting(None, help="the store of what is too large", store="blob")


@config_class
class ApiConfig:
    listen: str = setting("127.0.0.1:0", help="host:port")


def check_api(config: Any) -> list[str]:
    if config.listen == "boom":
        raise RuntimeError("boom")
    return [] if ":" in config.listen else ["listen has no port: write host:port"]


def needs(*requirements: Requirement) -> dict[str, Any]:
    return {"summary": "s", "open": opened, "requires": requirements}


def store(name: str, *provides: str, **more: Any) -> StorageSpec:
    return StorageSpec(name=name, summary="s", open=opened, provides=frozenset(provides), **more)


SPECS: list[ComponentSpec] = [
    store("disk", "key-value", "ordered", "snapshot", config=DiskConfig),
    store("heap", "key-value", "ordered", "volatile"),
    store("hash", "key-value"),
    store("blobs-only", "blob"),
    store("native-utxo", "utxo"),
    store("wrap", "key-value", config=WrapConfig, inherits=frozenset({"ordered", "snapshot", "volatile"})),
    store("spilling", "blob", config=SpillConfig),
    ExecutionSpec(
        name="coins",
        provides=frozenset({"undo"}),
        **needs(Requirement("stores.utxo", "utxo"), Requirement("verifier", "verifier")),
    ),
    ExecutionSpec(name="plain", **needs()),
    ConsensusSpec(
        name="work",
        **needs(
            Requirement("stores.chain", "key-value", frozenset({"ordered"})),
            Requirement("stores.blobs", "blob"),
            Requirement("execution", "execution", frozenset({"undo"})),
            Requirement("transport", "transport", optional=True),
            Requirement("pool", "pool"),
        ),
    ),
    ConsensusSpec(name="lone", **needs(Requirement("execution", "execution"))),
    ConsensusSpec(name="raw", **needs(Requirement("stores.utxo", "key-value"))),
    TransportSpec(name="wire", config=ApiConfig, **needs()),
    VerifierSpec(name="native", **needs()),
    ServiceSpec(name="api", config=ApiConfig, check=check_api, **needs()),
    ServiceSpec(name="index", **needs(Requirement("stores.index", "key-value"), Requirement("services.api", "service"))),
    ServiceSpec(name="egg", **needs(Requirement("services.hen", "service"))),
    ServiceSpec(name="hen", **needs(Requirement("services.egg", "service"))),
]

WHOLE = """\
profile = "whole"
family = "test"
[network]
id = "testnet"
[stores.utxo]
use = "disk"
cache_mib = 16
[stores.chain]
use = "disk"
[stores.blobs]
use = "blobs-only"
[verifier]
use = "native"
[execution]
use = "coins"
[transport]
use = "wire"
[consensus]
use = "work"
[services.api]
listen = "127.0.0.1:8000"
"""


@pytest.fixture
def provider() -> Provider:
    return Provider("testing", "test-plugins", "1.0", "test_plugins")


@pytest.fixture
def registry(provider: Provider) -> Callable[..., Registry]:
    """``registry(broken=["name"], checks=[function])``"""

    def make(broken: tuple[str, ...] = (), checks: tuple[Callable[[Any], Any], ...] = ()) -> Registry:
        return Registry(
            components=tuple(Provided(spec.name, spec, provider) for spec in SPECS),
            plugins=(provider,),
            broken=tuple(Broken(Provider(name, "broken-plugins", "2.0", name), "it fell over") for name in broken),
            plan_checks=tuple(PlanCheck(check, provider) for check in checks),
        )

    return make


def find(name: str) -> ProfileText:
    assert name == "whole"
    return ProfileText(WHOLE, "profile whole", None)


@pytest.fixture
def plan(registry: Callable[..., Registry]) -> Callable[..., Plan]:
    """``plan("extra TOML", "set=1")``: the whole profile with a text that extends it."""

    def make(text: str = "", *overrides: str, base: bool = True, **options: Any) -> Plan:
        text = ('extends = "whole"\n' if base else "\n") + text
        return compose(profile_from_text(text, "mine.toml", find, overrides), registry(**options))

    return make


@pytest.fixture
def problems(plan: Callable[..., Plan]) -> Callable[..., list[str]]:
    def of(text: str = "", *overrides: str, **options: Any) -> list[str]:
        with pytest.raises(ConfigurationError) as caught:
            plan(text, *overrides, **options)
        return caught.value.problems

    return of
