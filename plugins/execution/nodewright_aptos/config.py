"""What an operator may set for the execution ``aptos``. Rules of the network are in its genesis, not here."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import attrs

from nodewright.plugins.specs import setting


@attrs.define
class AptosConfig:
    executor: str = setting(
        "sequential",
        help="how blocks are run: sequential, columnar (transfers as arrays), block-stm (in parallel) or sharded (by "
        "several processes, here or on other machines): one result",
    )
    history: int = setting(
        1000, help="blocks whose state stays readable, provable and can be undone", minimum=1, maximum=1_000_000
    )
    cache_bytes: int = setting(
        256 * 1024 * 1024, help="memory for state values and tree nodes read before", minimum=1 << 20
    )
    save_changes: bool = setting(True, help="keep each transaction's write set, for those who ask for its changes")
    index_accounts: bool = setting(True, help="keep which transaction an account sent with a sequence number")
    index_events: bool = setting(True, help="keep where the events of each handle are")
    functions: list[str] = setting(
        factory=list, help="modules that add transaction functions (register_transaction_functions); the same on all nodes"
    )
    kernels: str = setting(
        "auto", help="auto compiles the batch hashes in the background while plain code serves", choices=("auto", "off")
    )
    executor_options: dict[str, Any] = setting(factory=dict, help="settings of the executor chosen: see docs/aptos.md")


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # what it is in
        return False


def check(config: AptosConfig) -> list[str]:
    from nodewright_aptos.executors import EXECUTORS, option_problems

    problems = []
    if config.executor not in EXECUTORS:
        problems.append(f"executor: {config.executor!r} is not one of {', '.join(EXECUTORS)}")
    else:
        problems += [
            f"executor_options: {problem}" for problem in option_problems(config.executor, config.executor_options)
        ]
    for name in config.functions:
        if not all(part.isidentifier() for part in name.split(".")):
            problems.append(f"functions: {name!r} is no module's name")
        elif not _found(name):
            problems.append(f"functions: there is no module {name!r}: install what has it, or leave it out")
    return problems
