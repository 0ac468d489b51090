"""Profile × registry → plan: what a right profile gives, and one sentence for each way to be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodewright.composition.plan import Plan

Compose = Callable[..., Plan]
Problems = Callable[..., list[str]]


def test_a_whole_plan(plan: Compose) -> None:
    made = plan()
    assert (made.profile, made.family, made.network.id, made.pool.max_bytes) == ("whole", "test", "testnet", 256 * 2**20)
    assert [component.slot for component in made.components] == [
        "stores.utxo",
        "stores.chain",
        "stores.blobs",
        "verifier",
        "execution",
        "transport",
        "consensus",
        "services.api",
    ]
    utxo, chain = made.component("stores.utxo"), made.component("stores.chain")
    assert utxo is not None and chain is not None
    assert utxo.adapter == "utxo" and chain.adapter is None
    assert utxo.config.cache_mib == 16 and chain.config.cache_mib == 8
    consensus = made.component("consensus")
    assert consensus is not None and dict(consensus.requires) == {
        "stores.chain": "key-value",
        "stores.blobs": "blob",
        "execution": "execution",
        "transport": "transport",
    }
    assert [component.slot for component in made.dependents("execution")] == ["consensus"]
    assert [component.spec.name for component in made.of_kind("service")] == ["api"]
    assert "plugin 'testing'" in consensus.plugin


def test_every_value_has_its_origin(plan: Compose) -> None:
    made = plan('[pool]\nmax_bytes = 2097152\n[log]\nlevel="debug"\n', "log.level=error")
    shown = {key: (effective.value, str(effective.origin)) for key, effective in made.effective.items()}
    assert shown["profile"] == ("whole", "profile whole, line 1")
    assert shown["pool.max_bytes"] == (2097152, "mine.toml, line 3")
    assert shown["pool.status_retention_seconds"] == (86400, "default")
    assert shown["log.level"] == ("error", "--set")
    assert shown["stores.utxo.use"] == ("disk", "profile whole, line 6")
    assert shown["stores.utxo.cache_mib"] == (16, "profile whole, line 7")
    assert shown["stores.utxo.path"] == ("", "default of disk")
    assert shown["services.api.use"] == ("api", "default")
    assert shown["stores.utxo.password"] == (None, "default of disk")


def test_a_native_store_has_no_adapter(plan: Compose) -> None:
    utxo = plan('[stores.utxo]\nuse = "native-utxo"\n').component("stores.utxo")
    assert utxo is not None and utxo.adapter is None


def test_an_adapter_gives_blobs_too(plan: Compose) -> None:
    blobs = plan('[stores.blobs]\nuse = "hash"\n').component("stores.blobs")
    assert blobs is not None and blobs.adapter == "blob"


def test_an_optional_requirement_may_stay_empty(plan: Compose) -> None:
    made = plan("[transport]\nenabled = false\n")
    consensus = made.component("consensus")
    assert made.component("transport") is None
    assert consensus is not None and "transport" not in consensus.requires


def test_requirements_order_services(plan: Compose) -> None:
    made = plan('[services.index]\n[services.first]\nuse = "api"\n[stores.index]\nuse = "heap"\n')
    slots = [component.slot for component in made.components]
    assert slots.index("services.api") < slots.index("services.index")
    assert slots.index("stores.index") < slots.index("verifier")


def test_the_smallest_profile(plan: Compose) -> None:
    made = plan('[network]\nid = "n"\n[execution]\nuse = "plain"\n[consensus]\nuse = "lone"\n', base=False)
    assert made.profile == "mine" and made.family == "plain"
    assert made.genesis.document == {"extends": "n", "network": "n"}


def test_qualified_names(plan: Compose) -> None:
    for name in ("testing:heap", "test-plugins:heap"):
        chain = plan(f'[stores.chain]\nuse = "{name}"\n').component("stores.chain")
        assert chain is not None and chain.spec.name == "heap"


# --- genesis ---------------------------------------------------------------------------------------------------------


def test_a_genesis_document_is_told_its_network_and_family(plan: Compose) -> None:
    assert plan("[genesis.document]\ntime = 5\n").genesis.document == {"time": 5, "network": "testnet", "family": "test"}


def test_a_genesis_file_is_relative_to_the_profile(plan: Compose) -> None:
    file = plan('[genesis]\nfile = "sub/g.json"\n').genesis.file
    assert file == str(Path.cwd() / "sub" / "g.json")


def test_a_genesis_of_another_network(problems: Problems) -> None:
    assert problems('[genesis.document]\nnetwork = "other"\n') == [
        "mine.toml, line 3: genesis.document.network: 'other' is not network.id, which is 'testnet'"
    ]


def test_two_geneses(problems: Problems) -> None:
    assert problems('[genesis]\nfile = "g"\n[genesis.document]\ntime = 1\n') == [
        "mine.toml, line 4: genesis: has both a file and a document: keep one"
    ]


# --- one sentence each -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[poool]\nx = 1\n", "mine.toml, line 2: poool: unknown key; did you mean 'pool'?"),
        ("[pool]\nmax_bites = 1\n", "mine.toml, line 3: pool.max_bites: unknown key; did you mean 'max_bytes'?"),
        (
            '[pool]\nmax_bytes = "1"\n',
            "mine.toml, line 3: pool.max_bytes: must be a whole number, not the string '1'",
        ),
        ("[pool]\nmax_bytes = 1\n", "mine.toml, line 3: pool.max_bytes: must be at least 1048576, not 1"),
        ("pool = 3\n", "mine.toml, line 2: pool must be a table: write  [pool]"),
        (
            '[log]\nformat = "xml"\n',
            "mine.toml, line 3: log.format: must be one of 'auto', 'console', 'json', not the string 'xml'",
        ),
        ("profile = 3\n", "mine.toml, line 2: profile: must be a string, and not empty"),
        (
            '[network]\nid = "Main Net"\n',
            "profile whole, line 3: network: id must be 1 to 32 of  a-z 0-9 -  and start with a letter or digit, "
            "not 'Main Net'",
        ),
        (
            '[stores.utxo]\nuse = "dsk"\n',
            "mine.toml, line 3: stores.utxo: no installed plugin has a storage 'dsk'; did you mean 'disk'?",
        ),
        (
            "[stores.utxo]\ncahce_mib = 1\n",
            "mine.toml, line 3: stores.utxo.cahce_mib: unknown key; did you mean 'cache_mib'?",
        ),
        (
            '[stores.utxo]\npassword = "hush"\n',
            "mine.toml, line 3: stores.utxo.password: a secret, which never stands in a profile: set the variable "
            "NODEWRIGHT_STORES_UTXO_PASSWORD, or write it to <data-dir>/secrets/stores_utxo_password",
        ),
        (
            '[stores.extra]\nuse = "heap"\n',
            "mine.toml, line 3: stores.extra: used by nothing: remove it, or set stores.extra.enabled = false",
        ),
        ("execution = 3\n", 'mine.toml, line 2: execution must be a table: write  [execution]  and under it  use = "NAME"'),
        (
            '[stores."../up"]\nuse = "disk"\n',
            "mine.toml, line 2: 'stores.../up' is no slot: its name is 1 to 64 of  a-z 0-9 _ -  and starts with a letter "
            "or digit",
        ),
        ("[stores.utxo]\nenabled = 1\n", "mine.toml, line 3: stores.utxo.enabled must be true or false"),
        ("[stores.utxo]\nuse = 1\n", "mine.toml, line 3: stores.utxo.use is missing: name the component, a string"),
        (
            '[services.api]\nlisten = "here"\n',
            "mine.toml, line 3: services.api: listen has no port: write host:port",
        ),
        (
            '[services.api]\nlisten = "boom"\n',
            "profile whole, line 20: services.api: the check of 'api' failed: RuntimeError: boom",
        ),
        (
            '[stores.utxo]\nuse = "blobs-only"\n',
            "mine.toml, line 3: stores.utxo: 'blobs-only' provides blob, but execution (coins) needs a utxo store there: "
            "use 'disk' or 'hash' or 'heap' or 'native-utxo'",
        ),
        (
            '[stores.chain]\nuse = "hash"\n',
            "mine.toml, line 3: stores.chain: 'hash' lacks the capability ordered that consensus (work) needs: use "
            "'disk' or 'heap'",
        ),
        (
            '[execution]\nuse = "plain"\n[stores.utxo]\nenabled = false\n[verifier]\nenabled = false\n',
            "mine.toml, line 3: execution: 'plain' lacks the capability undo that consensus (work) needs: use 'coins'",
        ),
        (
            "[verifier]\nenabled = false\n",
            "profile whole, line 15: execution: execution 'coins' needs a verifier in the slot verifier, and the profile "
            'has none there: write  [verifier]  and under it  use = "native"',
        ),
        (
            "[stores.blobs]\nenabled = false\n",
            "profile whole, line 19: consensus: consensus 'work' needs a blob store in the slot stores.blobs, and the "
            'profile has none there: write  [stores.blobs]  and under it  use = "blobs-only"  (blobs-only, disk, hash, '
            "heap, spilling could provide it)",
        ),
        (
            "[consensus]\nenabled = false\n[transport]\nenabled = false\n[stores.chain]\nenabled = false\n"
            "[stores.blobs]\nenabled = false\n",
            'mine.toml: a node needs [consensus]: write  [consensus]  and under it  use = "NAME"; known are lone, raw, '
            "work",
        ),
        (
            "[services.egg]\n[services.hen]\n",
            "mine.toml, line 2: services.egg: services.egg, services.hen require one another, so that none can open first",
        ),
        (
            '[consensus]\nuse = "raw"\n[stores.chain]\nenabled = false\n[stores.blobs]\nenabled = false\n',
            "profile whole, line 6: stores.utxo: asked for as utxo and as key-value, which 'disk' cannot be at once: give "
            "each a store of its own",
        ),
        (
            '[stores.utxo]\npath = "/srv/one"\n[stores.chain]\npath = "/srv/./one/"\n',
            "mine.toml, line 5: stores.chain.path: '/srv/./one/' is the folder of stores.utxo, too: give each store one of "
            "its own",
        ),
        (
            '[stores.utxo]\npath = "../chain"\n',
            "mine.toml, line 3: stores.utxo.path: '../chain' is the folder of stores.chain, too: give each store one of "
            "its own",
        ),
    ],
)
def test_one_thing_wrong(problems: Problems, text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_stores_that_are_no_tables(problems: Problems) -> None:
    assert problems("stores = 3\n")[0] == "mine.toml, line 2: stores must hold tables such as [stores.NAME]"


def test_the_network_is_required(problems: Problems) -> None:
    assert problems('[execution]\nuse = "plain"\n[consensus]\nuse = "lone"\n', base=False) == [
        "mine.toml: network.id: missing, and has no default: Name of the network: peers and databases of another name are "
        "refused"
    ]


def test_a_mistake_in_set_is_told_as_such(problems: Problems) -> None:
    assert problems("", "pool.max_bytes=none") == ["--set: pool.max_bytes: must be a whole number, not the string 'none'"]


def test_a_slot_named_almost_as_what_is_required(problems: Problems) -> None:
    first, second = problems('[stores.block]\nuse = "disk"\n[stores.blobs]\nenabled = false\n')
    assert "stores.blobs" in first
    assert second == "mine.toml, line 3: stores.block: used by nothing; did you mean stores.blobs?"


def test_all_problems_at_once(problems: Problems) -> None:
    text = 'famly = "x"\n[pool]\nmax_bites = 1\n[log]\nlevel = 3\n[stores.utxo]\nuse = "dsk"\n[stores.chain]\npaht = "x"\n'
    found = problems(text)
    assert [line.split(": ")[1] for line in found] == [
        "famly",
        "pool.max_bites",
        "log.level",
        "stores.utxo",
        "stores.chain.paht",
    ]


def test_a_broken_plugin_matters_only_where_it_is_named(plan: Compose, problems: Problems) -> None:
    assert plan(broken=("rocks",)).profile == "whole"
    assert problems('[stores.utxo]\nuse = "rocks"\n', broken=("rocks",)) == [
        "mine.toml, line 3: stores.utxo: no storage 'rocks', because plugin 'rocks' (distribution broken-plugins 2.0) is "
        "broken: it fell over"
    ]


# --- check_plan ------------------------------------------------------------------------------------------------------


def test_plugins_may_object_to_a_plan(problems: Problems) -> None:
    def objects(plan: Plan) -> list[str]:
        return [f"{plan.network.id} is closed on Sundays"]

    def fails(plan: Plan) -> list[str]:
        raise KeyError("x")

    def lies(plan: Any) -> Any:
        return "no list"

    assert problems(checks=(objects, fails, lies)) == [
        "mine.toml: testnet is closed on Sundays",
        "plugin 'testing' (distribution test-plugins 1.0): check_plan failed: KeyError: 'x'",
        "plugin 'testing' (distribution test-plugins 1.0): check_plan did not return a list of sentences",
    ]


def test_nobody_is_asked_about_a_plan_that_is_not_whole(problems: Problems) -> None:
    def never(plan: Plan) -> list[str]:
        raise AssertionError

    assert len(problems("[pool]\nx = 1\n", checks=(never,))) == 1
