"""Who gets what: requirements against slots, adapters where a store has a contract only by way of another, and the order
of opening. Pure, and knows nothing of TOML: it is given components by slot and says problems by slot."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from attrs import frozen

from nodewright.composition.plan import CORE_DEPENDENCIES
from nodewright.composition.slots import CONTRACTS_BY_KIND, RANK, kind_of
from nodewright.config.names import listed, nearest
from nodewright.plugins.registry import Registry
from nodewright.plugins.specs import BLOB, KEY_VALUE, UTXO, ComponentSpec, Requirement

ADAPTED = frozenset({UTXO, BLOB})  # contracts that an adapter of the core gives over a key-value store


@frozen
class Problem:
    slot: str
    message: str


@frozen
class Wiring:
    """``requires`` maps slot to {required slot: contract}; ``adapters`` slot to contract; ``order`` lists all slots."""

    requires: Mapping[str, Mapping[str, str]]
    adapters: Mapping[str, str]
    order: tuple[str, ...]


def wire(
    components: Mapping[str, ComponentSpec], absent: frozenset[str], registry: Registry
) -> tuple[Wiring, list[Problem]]:
    """``components`` by slot in the profile's order. ``absent`` slots are in the profile, but their component could not
    be had: that has been said, and is not said again. With problems, the wiring is incomplete."""
    problems: list[Problem] = []
    requires: dict[str, dict[str, str]] = {slot: {} for slot in components}
    adapters: dict[str, str] = {}
    native: dict[str, set[str]] = {}
    wanted: dict[str, list[tuple[str, str]]] = {}
    for slot, spec in components.items():
        for requirement in spec.requires:
            needed = requirement.slot
            if needed in CORE_DEPENDENCIES:
                continue
            wanted.setdefault(needed, []).append((slot, spec.name))
            if needed in absent:
                continue
            provider = components.get(needed)
            if provider is None:
                if not requirement.optional:
                    problems.append(Problem(slot, _nothing_there(spec, requirement, registry)))
                continue
            offered = provided(provider)
            adapted = requirement.contract not in offered
            if adapted and not (requirement.contract in ADAPTED and KEY_VALUE in offered):
                problems.append(Problem(needed, _wrong_contract(slot, spec, provider, requirement, registry)))
                continue
            lacking = requirement.capabilities - offered
            if lacking:
                problems.append(Problem(needed, _lacking(slot, spec, provider, requirement, lacking, registry)))
                continue
            if adapted:
                adapters.setdefault(needed, requirement.contract)
            else:
                native.setdefault(needed, set()).add(requirement.contract)
            requires[slot][needed] = requirement.contract
    for slot, contract in adapters.items():
        others = {contracts[slot] for contracts in requires.values() if slot in contracts} - {contract}
        if others:
            asked = f"{contract} and as {listed(others)}"
            name = components[slot].name
            problems.append(
                Problem(slot, f"asked for as {asked}, which {name!r} cannot be at once: give each a store of its own")
            )
    if not absent:  # else what is absent may have been what uses it
        problems += _unused(components, wanted)
    order, circle = _order(components, requires)
    if circle:
        problems.append(Problem(circle[0], f"{', '.join(circle)} require one another, so that none can open first"))
    return Wiring(requires, adapters, order), problems


def provided(spec: ComponentSpec) -> frozenset[str]:
    """Contract and capabilities. Other than a store, a component provides its own kind by being one."""
    return spec.provides | {spec.kind} if spec.kind in CONTRACTS_BY_KIND else spec.provides


def _nothing_there(spec: ComponentSpec, requirement: Requirement, registry: Registry) -> str:
    slot = requirement.slot
    could = _could_provide(requirement, registry)
    start = f"{spec.kind} {spec.name!r} needs {_what(requirement)} in the slot {slot}, and the profile has none there: "
    if not could:
        return start + "no installed plugin provides it (see  nodewright plugins)"
    others = f"  ({listed(could)} could provide it)" if len(could) > 1 else ""
    return start + f'write  [{slot}]  and under it  use = "{could[0]}"{others}'


def _wrong_contract(
    slot: str, spec: ComponentSpec, provider: ComponentSpec, requirement: Requirement, registry: Registry
) -> str:
    return (
        f"{provider.name!r} provides {listed(provided(provider))}, but {slot} ({spec.name}) needs {_what(requirement)} "
        f"there{_instead(requirement, registry)}"
    )


def _lacking(
    slot: str,
    spec: ComponentSpec,
    provider: ComponentSpec,
    requirement: Requirement,
    lacking: frozenset[str],
    registry: Registry,
) -> str:
    word = "capability" if len(lacking) == 1 else "capabilities"
    return (
        f"{provider.name!r} lacks the {word} {listed(lacking)} that {slot} ({spec.name}) needs"
        f"{_instead(requirement, registry)}"
    )


def _instead(requirement: Requirement, registry: Registry) -> str:
    could = _could_provide(requirement, registry)
    return f": use {' or '.join(repr(name) for name in could)}" if could else ": no installed plugin provides that"


def _what(requirement: Requirement) -> str:
    extra = f" with {listed(requirement.capabilities)}" if requirement.capabilities else ""
    noun = " store" if kind_of(requirement.slot) == "storage" else ""
    article = "an" if requirement.contract[0] in "aeio" else "a"
    return f"{article} {requirement.contract}{noun}{extra}"


def _could_provide(requirement: Requirement, registry: Registry) -> list[str]:
    kind = kind_of(requirement.slot)
    names = set()
    for entry in registry.components:
        offered = provided(entry.value)
        fits = requirement.contract in offered or (requirement.contract in ADAPTED and KEY_VALUE in offered)
        if entry.value.kind == kind and fits and requirement.capabilities <= offered:
            names.add(entry.name)
    return sorted(names)


def _unused(components: Mapping[str, ComponentSpec], wanted: Mapping[str, Sequence[tuple[str, str]]]) -> list[Problem]:
    """Stores and verifiers exist for others; anything else is of use by itself."""
    problems = []
    for slot, spec in components.items():
        if spec.kind not in ("storage", "verifier") or slot in wanted:
            continue
        free = [name for name in wanted if name not in components]
        near = nearest(slot, free)
        hint = f"; did you mean {near}?" if near else f": remove it, or set {slot}.enabled = false"
        problems.append(Problem(slot, f"used by nothing{hint}"))
    return problems


def _order(
    components: Mapping[str, ComponentSpec], requires: Mapping[str, Mapping[str, str]]
) -> tuple[tuple[str, ...], list[str]]:
    """Slots so that what is required comes first, then by kind, then as written; and those in a circle, if any."""
    position = {slot: index for index, slot in enumerate(components)}
    waiting = {slot: set(needed) for slot, needed in requires.items()}
    ready = [(RANK[components[slot].kind], position[slot], slot) for slot, needed in waiting.items() if not needed]
    heapq.heapify(ready)
    order: list[str] = []
    while ready:
        slot = heapq.heappop(ready)[2]
        order.append(slot)
        for other, needed in waiting.items():
            if slot in needed:
                needed.remove(slot)
                if not needed:
                    heapq.heappush(ready, (RANK[components[other].kind], position[other], other))
    return tuple(order), sorted(set(components) - set(order))
