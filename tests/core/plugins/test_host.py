"""The host: what makes a plugin broken and how it is said; that it stays the plugin's own trouble; names claimed twice."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nodewright.errors import ConfigurationError, PluginError
from nodewright.plugins.host import PluginHost, directories_from_environment

Load = Callable[..., PluginHost]
Reason = Callable[[str], str]

WHOLE = "@hookimpl\ndef register_storage():\n    return [store()]\n"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def (", "cannot be imported: SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("x = 1", "it has no hook: mark at least one function with @hookimpl from nodewright.plugins.hooks"),
        (
            "def register_storage():\n    return []",
            "the function register_storage is named like a hook but has no marker: put @hookimpl above it",
        ),
        (
            "@hookimpl\nasync def register_storage():\n    return []",
            "the hook register_storage is an async def: hooks are plain functions, only what a spec opens is async",
        ),
        (
            "@hookimpl\nasync def node_ready(node):\n    yield 1",
            "the hook node_ready is an async def: hooks are plain functions, only what a spec opens is async",
        ),
        (
            "@hookimpl\ndef register_storage():\n    yield store()",
            "the hook register_storage yields: hooks return a value, and wrap no other plugin's",
        ),
        (
            "@hookimpl(wrapper=True)\ndef register_storage():\n    return (yield)",
            "the hook register_storage yields: hooks return a value, and wrap no other plugin's",
        ),
        (
            "@hookimpl\ndef register_stroage():\n    return []",
            "register_stroage is marked @hookimpl but there is no such hook; did you mean 'register_storage'?",
        ),
        (
            "@hookimpl\ndef register_storage(node):\n    return []",
            "the hook register_storage has an argument 'node': it takes no argument",
        ),
        ("@hookimpl\ndef node_ready(plan):\n    pass", "the hook node_ready has an argument 'plan': it takes (node)"),
        (
            "@hookimpl\ndef register_storage():\n    raise KeyError('x')",
            "register_storage failed: KeyError: 'x'",
        ),
        ("@hookimpl\ndef register_storage():\n    pass", "register_storage returned nothing, not a list of StorageSpec"),
        (
            "@hookimpl\ndef register_storage():\n    return store()",
            "register_storage returned a StorageSpec, not a list of StorageSpec",
        ),
        (
            "@hookimpl\ndef register_services():\n    return [store()]",
            "register_services returned a list with a StorageSpec in it: it takes ServiceSpec only",
        ),
        (
            "@hookimpl\ndef register_storage():\n    return [store(), store()]",
            "register_storage returned two specs named 'mine'",
        ),
        (
            "@hookimpl\ndef register_storage():\n    return [store('My Store')]",
            "storage 'My Store': its name must be 1 to 64 of  a-z 0-9 _ . -  and start with a letter or digit",
        ),
        (
            "@hookimpl\ndef register_storage():\n    return [store(api_version=2)]",
            "storage 'mine': made for plugin API version 2, and this nodewright has version 1: upgrade nodewright",
        ),
        (
            "@hookimpl\ndef register_storage():\n    return [store(api_version=0)]",
            "storage 'mine': made for plugin API version 0, and this nodewright has version 1: upgrade the plugin",
        ),
        (
            "@hookimpl\ndef register_storage():\n    return [StorageSpec(name='x', summary='', open=opened)]",
            "storage 'x': provides no contract: name key-value, utxo or blob in provides",
        ),
        (
            "@hookimpl\ndef register_verifiers():\n    return [VerifierSpec(name='x', summary='', open=3)]",
            "verifier 'x': its open is not callable",
        ),
        (
            "@hookimpl\ndef register_storage():\n    return [store(config=dict)]",
            "storage 'mine': its config <class 'dict'> is not an attrs class",
        ),
        (
            "@attrs.define\nclass C:\n    x: 'Nowhere' = 1\n"
            "@hookimpl\ndef register_storage():\n    return [store(config=C)]",
            "storage 'mine': the types of its config C cannot be resolved: name 'Nowhere' is not defined",
        ),
        (
            "@attrs.define\nclass C:\n    use: str = ''\n@hookimpl\ndef register_storage():\n    return [store(config=C)]",
            "storage 'mine': its config has a field 'use', which every slot already has: rename it",
        ),
        (
            "@attrs.define\nclass C:\n    password: str = setting(help='x', secret=True)\n"
            "@hookimpl\ndef register_storage():\n    return [store(config=C)]",
            "storage 'mine': its secret setting 'password' needs a default, since a profile cannot set it",
        ),
        (
            "@hookimpl\ndef register_profiles():\n    return ['x']",
            "register_profiles returned a list, not a mapping of name to TOML text or file",
        ),
        (
            "@hookimpl\ndef register_profiles():\n    return {'a b': '', 'c': 3}",
            "register_profiles: 'a b' is no profile name; register_profiles: profile 'c' is a int, not TOML text or a file",
        ),
    ],
)
def test_a_broken_plugin_says_why_and_breaks_nothing_else(reason: Reason, source: str, said: str) -> None:
    assert reason(source).startswith(said)


def test_all_problems_of_one_plugin_at_once(reason: Reason) -> None:
    said = reason("def register_storage():\n    pass\n@hookimpl\nasync def node_ready(node):\n    pass\n")
    assert "no marker" in said and "async def" in said


def test_a_plugin_with_one_bad_hook_gives_nothing_at_all(load: Load) -> None:
    host = load(
        half=WHOLE + "@hookimpl\ndef register_services():\n    return 3\n@hookimpl\ndef node_ready(node):\n    1/0\n"
    )
    assert host.registry.components == () and host.registry.plugins == ()
    assert host.notify("node_ready", node=None) == []


def test_hosts_share_nothing(load: Load) -> None:
    first = load(one=WHOLE)
    second = PluginHost([], entry_points=[])
    assert len(first.registry.components) == 1 and second.registry.components == ()


def test_order_is_by_name_and_files_of_underscore_are_none(load: Load) -> None:
    registry = load(b=WHOLE.replace("store()", "store('b')"), a=WHOLE, _helper="1 / 0").registry
    assert [provider.name for provider in registry.plugins] == ["a", "b"]
    assert registry.broken == ()


def test_a_config_class_of_a_file_resolves_its_types(load: Load) -> None:
    source = "@attrs.define\nclass C:\n    hosts: 'list[str]' = setting(factory=list, help='x')\n"
    registry = load(mine=source + "@hookimpl\ndef register_storage():\n    return [store(config=C)]\n").registry
    assert registry.broken == ()


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"the plugins directory .*nowhere is not a directory"):
        PluginHost([tmp_path / "nowhere"], entry_points=[])


def test_directories_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NODEWRIGHT_PLUGINS_DIR", os.pathsep.join(["a", "", str(tmp_path)]))
    assert directories_from_environment() == (Path("a"), tmp_path)


# --- installed plugins ----------------------------------------------------------------------------------------------


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str) -> Callable[..., None]:
    """Put a distribution with one plugin on ``sys.path``, as pip would."""

    def make(distribution: str, plugin: str, module: str, source: str) -> None:
        site = tmp_path / distribution
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(head + source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[nodewright]\n{plugin} = {module}\n")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return make


def installed(*distributions: str) -> PluginHost:
    points = importlib.metadata.entry_points(group="nodewright")
    return PluginHost([], [point for point in points if point.dist is not None and point.dist.name in distributions])


def test_two_distributions_claim_one_name(install: Callable[..., None]) -> None:
    install("alpha-db", "db", "alpha_db_module", WHOLE)
    install("beta-db", "db", "beta_db_module", WHOLE)
    registry = installed("alpha-db", "beta-db").registry
    with pytest.raises(PluginError) as caught:
        registry.get("storage", "mine")
    assert str(caught.value) == (
        "storage 'mine' is claimed by plugin 'db' (distribution alpha-db 1.0) and plugin 'db' (distribution beta-db 1.0): "
        "say which, as 'alpha-db:mine' or 'beta-db:mine'"
    )
    assert registry.get("storage", "beta-db:mine").provider.distribution == "beta-db"
    with pytest.raises(PluginError, match="is claimed by"):
        registry.get("storage", "db:mine")


def test_a_broken_distribution_is_told_where_its_name_is_used(install: Callable[..., None]) -> None:
    install("gamma-db", "gamma", "gamma_db_module", "import no_such_module")
    install("delta-db", "delta", "delta_db_module", WHOLE)
    registry = installed("gamma-db", "delta-db").registry
    assert registry.get("storage", "mine").provider.name == "delta"
    for name in ("gamma", "gamma:any", "gamma-db:any"):
        with pytest.raises(PluginError, match=r"because plugin 'gamma' .* is broken: .*no_such_module"):
            registry.get("storage", name)


def test_a_distribution_seen_twice_counts_once(install: Callable[..., None]) -> None:
    install("twice-db", "twice", "twice_db_module", WHOLE)
    points = [point for point in importlib.metadata.entry_points(group="nodewright") if point.name == "twice"]
    host = PluginHost([], points * 2)
    assert len(host.registry.components) == 1 and host.registry.broken == ()


# --- names ------------------------------------------------------------------------------------------------------------


def test_two_files_claim_one_name(load: Load) -> None:
    registry = load(one=WHOLE, two=WHOLE).registry
    with pytest.raises(PluginError, match="say which, as 'one:mine' or 'two:mine'"):
        registry.get("storage", "mine")
    assert registry.get("storage", "two:mine").provider.name == "two"


def test_an_unknown_name_suggests_the_nearest(load: Load) -> None:
    registry = load(one=WHOLE).registry
    with pytest.raises(PluginError) as caught:
        registry.get("storage", "mime")
    assert str(caught.value) == "no installed plugin has a storage 'mime'; did you mean 'mine'?"
    with pytest.raises(PluginError, match="no plugin with a consensus is installed"):
        registry.get("consensus", "mine")


def test_an_unknown_name_recalls_broken_plugins(load: Load) -> None:
    registry = load(one=WHOLE, other="1 / 0").registry
    with pytest.raises(PluginError, match=r"broken plugins may have had it: other; see  nodewright plugins"):
        registry.get("storage", "quite-different")
    with pytest.raises(PluginError, match=r"because plugin 'other' .* is broken"):
        registry.get("storage", "other")


def test_an_unknown_profile_suggests_the_nearest(load: Load) -> None:
    host = load(one="@hookimpl\ndef register_profiles():\n    return {'teranode': ''}\n")
    with pytest.raises(ConfigurationError, match=r"no installed plugin has a profile 'teranod'; did you mean 'teranode'\?"):
        host.find_profile("teranod")


@pytest.mark.parametrize("value", ["b'\\xff'", "b'#' * 2_000_000"])
def test_a_profile_that_is_no_text(load: Load, value: str) -> None:
    host = load(
        one=f"class R:\n    def read_bytes(self):\n        return {value}\n"
        "@hookimpl\ndef register_profiles():\n    return {'p': R()}\n"
    )
    with pytest.raises(ConfigurationError, match="profile p: "):
        host.find_profile("p")


def test_everything_installed_here_is_whole() -> None:
    host = PluginHost()
    assert [str(broken) for broken in host.registry.broken] == []
