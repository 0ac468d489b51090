"""``compose``: profile × registry → ``Plan``, or every problem at once.

Pure: reads the merged profile and the registry, opens nothing. The order of work is that of a reader: top-level keys, the
core's own tables, each slot's component and settings, the wiring between slots, rules across fields, and at last, on a
plan that is otherwise whole, what plugins themselves object to (``check_plan``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from nodewright.composition.folders import shared_folders
from nodewright.composition.plan import Effective, Plan, PlannedComponent
from nodewright.composition.references import references, wraps
from nodewright.composition.slots import TOP_TEXTS, SlotTable, read_slots
from nodewright.composition.wiring import Problem, wire
from nodewright.config.core_settings import CORE_TABLES, GenesisSettings, NetworkSettings
from nodewright.config.layer import NAMED_SLOTS, SINGLE_SLOTS, slot_paths
from nodewright.config.names import suggestion
from nodewright.config.origin import DEFAULT, KeyPath, Origin, plugin_default
from nodewright.config.profile import Profile
from nodewright.config.secrets import secret_name, secret_variable
from nodewright.config.structure import Mismatch, Mismatches, config_fields, key_of, plain, shown, structure
from nodewright.errors import ConfigurationError, PluginError
from nodewright.genesis import build as build_genesis
from nodewright.plugins.registry import Provided, Registry
from nodewright.plugins.specs import ComponentSpec, ConsensusSpec

REQUIRED_SLOTS = ("execution", "consensus")
TOP_KEYS = (*TOP_TEXTS, *CORE_TABLES, *NAMED_SLOTS, *SINGLE_SLOTS)


def compose(profile: Profile, registry: Registry) -> Plan:
    """Raises ConfigurationError with all problems."""
    problems: list[str] = []
    texts = _top_level(profile, problems)
    core = {name: _core_table(profile, name, config, problems) for name, config in CORE_TABLES.items()}
    slots = read_slots(profile, problems)
    chosen, configs = _chosen(profile, slots, registry, problems)
    unread = {path for path in _slot_names(profile) if path not in {s.slot for s in slots} and _enabled(profile, path)}
    for slot in REQUIRED_SLOTS:
        if slot not in {s.slot for s in slots} and slot not in unread:
            known = suggestion("", [provided.name for provided in registry.of_kind(slot)])
            problems.append(f'{profile.source}: a node needs [{slot}]: write  [{slot}]  and under it  use = "NAME"{known}')
    absent = frozenset(slot.slot for slot in slots if slot.slot not in chosen) | unread
    components = _wired(profile, slots, registry, chosen, configs, absent, problems)
    family = texts["family"] or next(component.spec.name for component in components if component.kind == "execution")
    plan = Plan(
        profile=texts["profile"] or Path(profile.source).stem,
        family=family,
        source=profile.source,
        components=components,
        effective=_effective(profile, core, slots, chosen, configs),
        **(core | {"genesis": _genesis(profile, core["genesis"], core["network"], family, problems)}),
    )
    plan = _completed(plan, problems)
    problems += shared_folders(plan)
    problems += _objections(plan, registry)
    if problems:
        raise ConfigurationError(problems)
    return plan


def compose_stores(profile: Profile, registry: Registry) -> tuple[PlannedComponent, ...]:
    """The stores of a profile in opening order, whoever uses them and whatever else there is or is not. Raises
    ConfigurationError with all problems of theirs."""
    problems: list[str] = []
    slots = [slot for slot in read_slots(profile, problems) if slot.kind == "storage"]
    chosen, configs = _chosen(profile, slots, registry, problems)
    absent = frozenset(slot.slot for slot in slots if slot.slot not in chosen)
    return _wired(profile, slots, registry, chosen, configs, absent, problems, alone=True)


def _chosen(
    profile: Profile, slots: list[SlotTable], registry: Registry, problems: list[str]
) -> tuple[dict[str, Provided[ComponentSpec]], dict[str, Any]]:
    """Component and settings by slot; no component where there is none, no settings (None) where they are wrong."""
    found = {slot.slot: _component(profile, slot, registry, problems) for slot in slots}
    chosen = {slot: provided for slot, provided in found.items() if provided is not None}
    configs = {
        slot.slot: _settings(profile, slot, chosen[slot.slot].value, problems) for slot in slots if slot.slot in chosen
    }
    return chosen, configs


def _wired(
    profile: Profile,
    slots: list[SlotTable],
    registry: Registry,
    chosen: Mapping[str, Provided[ComponentSpec]],
    configs: Mapping[str, Any],
    absent: frozenset[str],
    problems: list[str],
    alone: bool = False,
) -> tuple[PlannedComponent, ...]:
    """Raises ConfigurationError with ``problems``, and those of the wiring, if there are any. ``alone``: what uses the
    slots is not among them."""
    specs = {slot: provided.value for slot, provided in chosen.items()}
    named = {slot.slot: references(slot.slot, specs[slot.slot], slot.table) for slot in slots if slot.slot in specs}
    incomplete = alone or any(wraps(specs[slot]) and not own for slot, own in named.items())
    wiring, wrong = wire(specs, absent, registry, named, incomplete)
    problems += [_located(profile, problem) for problem in wrong]
    if problems:
        raise ConfigurationError(problems)
    behind = {reference.slot: slot for slot, own in named.items() for reference in own}
    return tuple(
        PlannedComponent(
            slot=slot,
            kind=chosen[slot].value.kind,
            spec=chosen[slot].value,
            config=configs[slot],
            plugin=str(chosen[slot].provider),
            adapter=wiring.adapters.get(slot),
            requires=wiring.requires[slot],
            behind=behind.get(slot),
        )
        for slot in wiring.order
    )


def _path(slot: str) -> KeyPath:
    top, _, name = slot.partition(".")
    return (top, name) if name else (top,)


def _located(profile: Profile, problem: Problem) -> str:
    key = "" if problem.setting == "use" else f".{problem.setting}"
    return f"{profile.origin(*_path(problem.slot), problem.setting)}: {problem.slot}{key}: {problem.message}"


def _slot_names(profile: Profile) -> list[str]:
    return [".".join(path) for path in slot_paths(profile.layer.values)]


def _enabled(profile: Profile, slot: str) -> bool:
    return profile.value(*_path(slot), "enabled") is not False


def _top_level(profile: Profile, problems: list[str]) -> dict[str, str]:
    for key in profile.layer.values:
        if key not in TOP_KEYS:
            problems.append(f"{profile.origin(key)}: {key}: unknown key{suggestion(key, (*TOP_KEYS, 'extends'))}")
    texts = {}
    for key in TOP_TEXTS:
        value = profile.value(key)
        if value is not None and (not isinstance(value, str) or not value):
            problems.append(f"{profile.origin(key)}: {key}: must be a string, and not empty")
        texts[key] = value if isinstance(value, str) else ""
    return texts


def _core_table(profile: Profile, name: str, config: type[Any], problems: list[str]) -> Any:
    table = profile.value(name)
    if table is not None and not isinstance(table, Mapping):
        problems.append(f"{profile.origin(name)}: {name} must be a table: write  [{name}]")
        return None
    return _structured(profile, (name,), config, table or {}, problems)


def _structured(profile: Profile, path: KeyPath, config: type[Any], table: Mapping[str, Any], problems: list[str]) -> Any:
    try:
        return structure(config, table)
    except Mismatches as error:
        problems += [_sentence(profile, path, mismatch) for mismatch in error.found]
    return None


def _sentence(profile: Profile, path: KeyPath, mismatch: Mismatch) -> str:
    whole = (*path, *mismatch.path)
    message = mismatch.message
    if mismatch.secret:
        name = secret_name(".".join(path), ".".join(mismatch.path))
        message += f": set the variable {secret_variable(name)}, or write it to <data-dir>/secrets/{name}"
    return f"{profile.origin(*whole)}: {'.'.join(whole)}: {message}"


def _component(
    profile: Profile, slot: SlotTable, registry: Registry, problems: list[str]
) -> Provided[ComponentSpec] | None:
    try:
        return registry.get(slot.kind, slot.use)
    except PluginError as error:
        problems.append(f"{profile.origin(*slot.path, 'use')}: {slot.slot}: {error}")
        return None


def _settings(profile: Profile, slot: SlotTable, spec: ComponentSpec, problems: list[str]) -> Any:
    config = _structured(profile, slot.path, spec.config, slot.table, problems)
    if config is None or spec.check is None:
        return config
    try:
        said = list(spec.check(config))
    except Exception as error:  # a plugin's own code: its failure is a problem like another
        said = [f"the check of {spec.name!r} failed: {type(error).__name__}: {error}"]
    problems += [f"{_named_origin(profile, slot, problem)}: {slot.slot}: {problem}" for problem in said]
    return config


def _named_origin(profile: Profile, slot: SlotTable, problem: str) -> Origin:
    """Where the first setting of the slot that the sentence names was written, else the slot's table."""
    named = [key for key in slot.table if re.search(rf"\b{re.escape(key)}\b", problem)]
    return profile.origin(*slot.path, *named[:1])


def _genesis(
    profile: Profile, genesis: GenesisSettings, network: NetworkSettings, family: str, problems: list[str]
) -> GenesisSettings:
    """The file made absolute, or a document that says its network; that of the network's name where there is neither."""
    if genesis.file is not None and genesis.document is not None:
        origin = profile.origin("genesis", "document")
        problems.append(f"{origin}: genesis: has both a file and a document: keep one")
        return genesis
    if genesis.file is not None:
        return attrs.evolve(genesis, file=str(profile.directory_of(("genesis", "file")) / genesis.file))
    document = dict(genesis.document) if genesis.document is not None else {"extends": network.id}
    named = document.setdefault("network", network.id)
    if named != network.id:
        origin = profile.origin("genesis", "document", "network")
        problems.append(f"{origin}: genesis.document.network: {named!r} is not network.id, which is {network.id!r}")
    if "extends" not in document:
        document.setdefault("family", family)
    return GenesisSettings(document=document)


def _completed(plan: Plan, problems: list[str]) -> Plan:
    """The genesis document with what the consensus's settings add to it on a local network."""
    (consensus,) = (component for component in plan.components if component.kind == "consensus")
    complete = consensus.spec.complete_genesis if isinstance(consensus.spec, ConsensusSpec) else None
    if complete is None or plan.genesis.document is None or problems:
        return plan
    try:
        document = complete(consensus.config, build_genesis(plan.genesis.document).document())
    except ConfigurationError as error:
        problems += error.problems
        return plan
    return attrs.evolve(plan, genesis=GenesisSettings(document=document))


def _objections(plan: Plan, registry: Registry) -> list[str]:
    problems = []
    for hook in registry.plan_checks:
        try:
            said = hook.check(plan)
        except Exception as error:
            problems.append(f"{hook.provider}: check_plan failed: {type(error).__name__}: {error}")
            continue
        if not isinstance(said, list | tuple) or not all(isinstance(problem, str) for problem in said):
            problems.append(f"{hook.provider}: check_plan did not return a list of sentences")
            continue
        problems += [f"{plan.source}: {problem}" for problem in said]
    return problems


def _effective(
    profile: Profile,
    core: Mapping[str, Any],
    slots: list[SlotTable],
    chosen: Mapping[str, Provided[ComponentSpec]],
    configs: Mapping[str, Any],
) -> dict[str, Effective]:
    values: dict[str, Effective] = {}
    for key in TOP_TEXTS:
        if profile.value(key) is not None:
            values[key] = Effective(profile.value(key), profile.origin(key))
    for name, settings in core.items():
        _add_settings(values, profile, (name,), settings, None)
    for slot in slots:
        given = (*slot.path, "use") in profile.layer.origins
        origin = profile.origin(*slot.path, "use") if given else DEFAULT
        values[f"{slot.slot}.use"] = Effective(slot.use, origin)
        _add_settings(values, profile, slot.path, configs[slot.slot], chosen[slot.slot].name)
    return values


def _add_settings(
    values: dict[str, Effective], profile: Profile, path: KeyPath, settings: Any, component: str | None
) -> None:
    for field in config_fields(type(settings)):
        whole = (*path, key_of(field))
        value = getattr(settings, field.name)
        if profile.layer.at(whole) is not None:
            origin = profile.origin(*whole)
        else:
            origin = plugin_default(component) if component is not None else DEFAULT
        if isinstance(value, Mapping) and profile.layer.at(whole) is not None:
            _add_table(values, profile, whole, value)
        else:
            values[".".join(whole)] = Effective(shown(field, value), origin)


def _add_table(values: dict[str, Effective], profile: Profile, path: KeyPath, table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        whole = (*path, key)
        if isinstance(value, Mapping):
            _add_table(values, profile, whole, value)
        else:
            values[".".join(whole)] = Effective(plain(value), profile.origin(*whole))
