"""Opening order as a property: whatever is required stands first, and every slot stands once."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nodewright.composition.slots import RANK
from nodewright.composition.wiring import wire
from nodewright.plugins.registry import Registry
from nodewright.plugins.specs import ComponentSpec, Requirement, ServiceSpec, StorageSpec


def opened(config: Any, dependencies: Any, environment: Any) -> Any:
    raise AssertionError("composition opens nothing")


@st.composite
def compositions(draw: st.DrawFn) -> dict[str, ComponentSpec]:
    """Stores and services in any order, each service requiring any services before it in some hidden order."""
    count = draw(st.integers(1, 8))
    specs: dict[str, ComponentSpec] = {}
    for number in range(count):
        before = [Requirement(f"services.s{other}", "service") for other in range(number) if draw(st.booleans())]
        if draw(st.booleans()):
            specs[f"stores.s{number}"] = StorageSpec(name="k", summary="", open=opened, provides=frozenset({"key-value"}))
            before.append(Requirement(f"stores.s{number}", "key-value"))
        specs[f"services.s{number}"] = ServiceSpec(name=f"s{number}", summary="", open=opened, requires=tuple(before))
    return {slot: specs[slot] for slot in draw(st.permutations(sorted(specs)))}


@given(compositions())
@settings(max_examples=100)
def test_what_is_required_opens_first(components: dict[str, ComponentSpec]) -> None:
    wiring, problems = wire(components, frozenset(), Registry())
    assert problems == []
    assert sorted(wiring.order) == sorted(components)
    position = {slot: index for index, slot in enumerate(wiring.order)}
    for slot, needed in wiring.requires.items():
        assert all(position[other] < position[slot] for other in needed)
    ranks = [RANK[components[slot].kind] for slot in wiring.order]
    assert ranks == sorted(ranks)  # nothing here asks a store to wait for a service
