"""What a REST API says of modules: their ABIs, made of the functions that can be called. There is no bytecode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nodewright_aptos import abi
from nodewright_aptos.addresses import address_text

if TYPE_CHECKING:
    from nodewright_aptos.functions import Functions


def _exposed(
    name: str, parameters: tuple[str, ...], returns: tuple[str, ...], types: int, entry: bool
) -> Mapping[str, Any]:
    return {
        "name": name,
        "visibility": "public",
        "is_entry": entry,
        "is_view": not entry,
        "generic_type_params": [{"constraints": []} for _ in range(types)],
        "params": list(parameters),
        "return": list(returns),
    }


def module_abis(functions: Functions) -> dict[tuple[bytes, str], dict[str, Any]]:
    """By (address, name): ``address``, ``name``, ``friends``, ``exposed_functions``, ``structs`` as in a MoveModule."""
    found: dict[tuple[bytes, str], dict[str, Any]] = {}

    def module(address: bytes, name: str) -> list[Mapping[str, Any]]:
        listed = found.setdefault(
            (address, name),
            {"address": address_text(address), "name": name, "friends": [], "exposed_functions": [], "structs": []},
        )
        exposed: list[Mapping[str, Any]] = listed["exposed_functions"]
        return exposed

    for known in functions.entries.values():
        one = known.function
        parameters = tuple("&signer" if abi.is_signer(type) else type for type in one.parameters)
        module(one.address, one.module).append(_exposed(one.name, parameters, (), one.type_parameters, True))
    for view in functions.views.values():
        exposed = _exposed(view.name, view.parameters, view.returns, view.type_parameters, False)
        module(view.address, view.module).append(exposed)
    return found
