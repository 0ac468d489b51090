"""Who gets what: requirements against slots, adapters where a store has a contract only by way of another, and the order
of opening. Pure, and knows nothing of TOML: it is given components by slot and says problems by slot."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from attrs import frozen

from nodewright.composition.plan import CORE_DEPENDENCIES
from nodewright.composition.references import Reference, circles, unnamed, wraps
from nodewright.composition.slots import CONTRACTS_BY_KIND, RANK, kind_of
from nodewright.config.names import listed, nearest
from nodewright.plugins.registry import Registry
from nodewright.plugins.specs import BLOB, KEY_VALUE, UTXO, ComponentSpec, Requirement, StorageSpec

ADAPTED = frozenset({UTXO, BLOB})  # contracts that an adapter of the core gives over a key-value store


@frozen
class Problem:
    """``setting`` is the one of the slot that is wrong."""

    slot: str
    message: str
    setting: str = "use"


@frozen
class Wiring:
    """``requires`` maps slot to {required slot: contract}; ``adapters`` slot to contract; ``order`` lists all slots."""

    requires: Mapping[str, Mapping[str, str]]
    adapters: Mapping[str, str]
    order: tuple[str, ...]


def wire(
    components: Mapping[str, ComponentSpec],
    absent: frozenset[str],
    registry: Registry,
    named: Mapping[str, tuple[Reference, ...]] | None = None,
    incomplete: bool = False,
) -> tuple[Wiring, list[Problem]]:
    """``components`` by slot in the profile's order; ``named`` are the stores that each of them names. ``absent`` slots are
    in the profile, but their component could not be had: that has been said, and is not said again; ``incomplete`` says
    the same of what stores name. With problems, the wiring is incomplete."""
    problems: list[Problem] = []
    requires: dict[str, dict[str, str]] = {slot: {} for slot in components}
    adapters: dict[str, str] = {}
    wanted: dict[str, list[str]] = {}
    named, broken = _without_circles(named or {}, problems)
    offered = _offered(components, named, absent | broken)
    for slot, spec in components.items():
        behind = named.get(slot, ())
        for requirement in (*spec.requires, *(Requirement(one.slot, one.contract) for one in behind)):
            needed = requirement.slot
            if needed in CORE_DEPENDENCIES:
                continue
            wanted.setdefault(needed, []).append(slot)
            if needed in absent:
                continue
            provider = components.get(needed)
            if provider is None:
                reference = next((one for one in behind if one.slot == needed), None)
                if reference is not None:
                    said = unnamed(reference, components, _could_provide(requirement, registry))
                    problems.append(Problem(slot, said, reference.setting))
                    incomplete = True
                elif not requirement.optional:
                    problems.append(Problem(slot, _nothing_there(spec, requirement, registry)))
                continue
            has = offered[needed]
            adapted = requirement.contract not in has
            if adapted and not (requirement.contract in ADAPTED and KEY_VALUE in has):
                problems.append(Problem(needed, _wrong_contract(slot, spec, provider, requirement, registry)))
                continue
            lacking = requirement.capabilities - has
            if lacking:
                shown = _over(provider, named.get(needed, ()))
                problems.append(Problem(needed, _lacking(slot, spec, shown, requirement, lacking, registry)))
                continue
            if adapted:
                adapters.setdefault(needed, requirement.contract)
            requires[slot][needed] = requirement.contract
    shared = _shared(components, named, wanted)
    problems += shared
    for slot, contract in adapters.items():
        if any(problem.slot == slot for problem in shared):
            continue
        others = {contracts[slot] for contracts in requires.values() if slot in contracts} - {contract}
        if others:
            asked = f"{contract} and as {listed(others)}"
            name = components[slot].name
            problems.append(
                Problem(slot, f"asked for as {asked}, which {name!r} cannot be at once: give each a store of its own")
            )
    if not (absent or broken or incomplete):  # else what is missing may have been what uses it
        problems += _unused(components, wanted)
    order, circle = _order(components, requires)
    if circle:
        problems.append(Problem(circle[0], f"{', '.join(circle)} require one another, so that none can open first"))
    return Wiring(requires, adapters, order), problems


def _without_circles(
    named: Mapping[str, tuple[Reference, ...]], problems: list[Problem]
) -> tuple[dict[str, tuple[Reference, ...]], frozenset[str]]:
    """``named`` with every circle of stores cut and told, and the stores that name one another in it."""
    cut = dict(named)
    broken: set[str] = set()
    for first, way in circles(named):
        round_ = f" ({' → '.join(way)})" if len(way) > 2 else ""
        said = f"{first.by} is behind itself{round_}, so that it cannot open: name another store"
        problems.append(Problem(first.by, said, first.setting))
        broken.update(way)
        for slot in way:
            cut.pop(slot, None)
    return cut, frozenset(broken)


def _offered(
    components: Mapping[str, ComponentSpec], named: Mapping[str, tuple[Reference, ...]], unknown: frozenset[str]
) -> dict[str, frozenset[str]]:
    """Contract and capabilities by slot; those a store has of the ones behind it among them. Of what is unknown or not
    there, the best is believed: that has been said, or will be."""
    offered: dict[str, frozenset[str]] = {}

    def of(slot: str) -> frozenset[str]:
        if slot not in offered:
            spec = components[slot]
            inherited = spec.inherits if isinstance(spec, StorageSpec) else frozenset()
            for reference in named.get(slot, ()):
                below = (
                    of(reference.slot) if reference.slot in components and reference.slot not in unknown else frozenset()
                )
                if reference.contract in below:
                    inherited &= below
            offered[slot] = provided(spec) | inherited
        return offered[slot]

    for slot in components:
        of(slot)
    return offered


def _over(provider: ComponentSpec, behind: Sequence[Reference]) -> str:
    return f"{provider.name!r}" + (f" over {listed(one.slot for one in behind)}" if behind else "")


def _shared(
    components: Mapping[str, ComponentSpec],
    named: Mapping[str, tuple[Reference, ...]],
    wanted: Mapping[str, Sequence[str]],
) -> list[Problem]:
    """A store behind another has one user: a cache would not see what somebody else writes."""
    problems = []
    over: dict[str, str] = {}
    for slot, own in named.items():
        for reference in own:
            over.setdefault(reference.slot, slot)
    for slot, user in over.items():
        others = [other for other in wanted[slot] if other != user] if slot in components else []
        if others:
            also = listed(f"{other} ({components[other].name})" for other in others)
            said = f"is behind {user} ({components[user].name}) and used by {also} as well, each of which would miss what "
            problems.append(Problem(slot, said + "the other writes: give each a store of its own"))
    return problems


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
    provider: str,
    requirement: Requirement,
    lacking: frozenset[str],
    registry: Registry,
) -> str:
    word = "capability" if len(lacking) == 1 else "capabilities"
    return f"{provider} lacks the {word} {listed(lacking)} that {slot} ({spec.name}) needs{_instead(requirement, registry)}"


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
        if entry.value.kind == kind and fits and not wraps(entry.value) and requirement.capabilities <= offered:
            names.add(entry.name)
    return sorted(names)


def _unused(components: Mapping[str, ComponentSpec], wanted: Mapping[str, Sequence[str]]) -> list[Problem]:
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
