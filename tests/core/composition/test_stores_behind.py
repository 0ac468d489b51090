"""Stores that name another store: what they are given, which capabilities they have of it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nodewright.composition.compose import compose_stores
from nodewright.composition.plan import Plan
from nodewright.config.profile import ProfileText, profile_from_text
from nodewright.errors import ConfigurationError
from nodewright.plugins.registry import Registry

Compose = Callable[..., Plan]
Problems = Callable[..., list[str]]

WRAPPED = '[stores.chain]\nuse = "wrap"\ninner = "base"\n[stores.base]\nuse = "disk"\n'


def test_a_wrapper_is_given_the_store_it_names(plan: Compose) -> None:
    made = plan(WRAPPED)
    chain, base = made.component("stores.chain"), made.component("stores.base")
    assert chain is not None and base is not None
    assert dict(chain.requires) == {"stores.base": "key-value"} and base.adapter is None
    slots = [component.slot for component in made.components]
    assert slots.index("stores.base") < slots.index("stores.chain")
    assert base.behind == "stores.chain" and chain.behind is None
    assert made.effective["stores.chain.inner"].value == "base"


def test_wrappers_may_be_stacked_and_named_by_set(plan: Compose) -> None:
    made = plan(
        "",
        "stores.utxo.use=wrap",
        "stores.utxo.inner=middle",
        "stores.middle.use=wrap",
        "stores.middle.inner=base",
        "stores.base.use=heap",
    )
    utxo = made.component("stores.utxo")
    assert utxo is not None and utxo.adapter == "utxo"
    slots = [component.slot for component in made.components]
    assert slots.index("stores.base") < slots.index("stores.middle") < slots.index("stores.utxo")


def test_a_wrapper_has_the_capabilities_of_what_is_behind_it(problems: Problems) -> None:
    assert problems(WRAPPED.replace('"disk"', '"hash"')) == [
        "mine.toml, line 3: stores.chain: 'wrap' over stores.base lacks the capability ordered that consensus (work) "
        "needs: use 'disk' or 'heap'"
    ]


def test_a_store_may_name_another_of_another_contract(plan: Compose) -> None:
    assert plan('[stores.blobs]\nuse = "spilling"\n').component("stores.blobs") is not None
    made = plan('[stores.blobs]\nuse = "spilling"\nspill = "large"\n[stores.large]\nuse = "disk"\n')
    large = made.component("stores.large")
    assert large is not None and large.adapter == "blob"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[stores.chain]\nuse = "wrap"\n',
            "mine.toml, line 2: stores.chain.inner: missing, and has no default: the store behind it",
        ),
        (
            '[stores.chain]\nuse = "wrap"\ninner = "bass"\n[stores.base]\nuse = "disk"\n',
            "mine.toml, line 4: stores.chain.inner: there is no store 'bass'; did you mean 'base'?",
        ),
        (
            '[stores.chain]\nuse = "wrap"\ninner = "under"\n',
            "mine.toml, line 4: stores.chain.inner: there is no store 'under': write  [stores.under]  and under it  "
            'use = "disk"  (disk, hash, heap could provide a key-value store)',
        ),
        (
            '[stores.chain]\nuse = "wrap"\ninner = "stores.base"\n[stores.base]\nuse = "disk"\n',
            "mine.toml, line 4: stores.chain.inner: there is no store 'stores.base'; did you mean 'base'?",
        ),
        (
            '[stores.chain]\nuse = "wrap"\ninner = ""\n',
            "mine.toml, line 4: stores.chain.inner: must name a store of this profile, such as NAME of [stores.NAME]",
        ),
        (
            '[stores.chain]\nuse = "wrap"\ninner = "base"\n[stores.base]\nuse = "blobs-only"\n',
            "mine.toml, line 6: stores.base: 'blobs-only' provides blob, but stores.chain (wrap) needs a key-value store "
            "there: use 'disk' or 'hash' or 'heap'",
        ),
        (
            '[stores.chain]\nuse = "wrap"\ninner = "chain"\n',
            "mine.toml, line 4: stores.chain.inner: stores.chain is behind itself, so that it cannot open: name "
            "another store",
        ),
        (
            '[stores.chain]\nuse = "wrap"\ninner = "a"\n[stores.a]\nuse = "wrap"\ninner = "b"\n[stores.b]\nuse = "wrap"\n'
            'inner = "a"\n',
            "mine.toml, line 7: stores.a.inner: stores.a is behind itself (stores.a → stores.b → stores.a), so that it "
            "cannot open: name another store",
        ),
        (
            '[stores.chain]\nuse = "wrap"\ninner = "base"\n[stores.utxo]\nuse = "wrap"\ninner = "base"\n[stores.base]\n'
            'use = "disk"\n',
            "mine.toml, line 9: stores.base: is behind stores.utxo (wrap) and used by stores.chain (wrap) as well, each "
            "of which would miss what the other writes: give each a store of its own",
        ),
        (
            '[stores.chain]\nuse = "wrap"\ninner = "utxo"\n',
            "profile whole, line 6: stores.utxo: is behind stores.chain (wrap) and used by execution (coins) as well, each "
            "of which would miss what the other writes: give each a store of its own",
        ),
        (
            '[stores.base]\nuse = "disk"\n[stores.chain]\nuse = "wrap"\ninner = "base"\nbudget = 0\n',
            "mine.toml, line 7: stores.chain.budget: must be at least 1, not 0",
        ),
        (
            '[stores.chain]\nuse = "wrap"\ninner = "base"\n[stores.base]\nuse = "dsk"\n',
            "mine.toml, line 6: stores.base: no installed plugin has a storage 'dsk'; did you mean 'disk'?",
        ),
    ],
)
def test_one_thing_wrong(problems: Problems, text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_stores_alone(registry: Callable[..., Registry]) -> None:
    """What measures stores takes them from a profile that is no whole node."""
    text = '[stores.front]\nuse = "wrap"\ninner = "base"\n[stores.base]\nuse = "disk"\n[execution]\nuse = "no-such"\n'

    def composed(*overrides: str) -> list[tuple[str, str | None]]:
        profile = profile_from_text(text, "mine.toml", lambda name: ProfileText("", name, None), overrides)
        return [(store.slot, store.behind) for store in compose_stores(profile, registry())]

    assert composed() == [("stores.base", "stores.front"), ("stores.front", None)]
    assert composed("stores.more.use=heap")[-1] == ("stores.more", None)
    with pytest.raises(ConfigurationError, match="cache_mib: must be at least 1"):
        composed("stores.base.cache_mib=0")
