"""What an operator may set for the execution ``near``. Rules of the network are in its genesis, not here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from nodewright.errors import ConfigurationError
from nodewright.plugins.specs import setting
from nodewright_near.parameters import Parameters


@attrs.define
class NearConfig:
    kept: list[int] | None = setting(None, help="shards whose state is kept on this node; unset: all of them")
    cache_bytes: int = setting(256 * 1024 * 1024, help="memory for rows and trie nodes read before", minimum=1 << 20)
    compiled_contracts: int = setting(64, help="contracts kept compiled", minimum=1, maximum=10_000)
    view_calls: int = setting(
        2, help="contract calls for queries that run at once, each on a thread; 32 more wait", minimum=1, maximum=64
    )
    view_seconds: float = setting(5.0, help="how long one of them may go on asking its host", minimum=0.1, maximum=600)
    kernels: str = setting(
        "auto",
        help="auto compiles the batch kernels in the background while plain code serves; off stays plain",
        choices=("auto", "off"),
    )
    save_tx_outcomes: bool = setting(
        True, help="keep outcomes of transactions and receipts: an RPC node needs them, a block producer does not"
    )
    save_state_changes: bool = setting(
        False, help="keep what each chunk changed of the state, for EXPERIMENTAL_changes and EXPERIMENTAL_changes_in_block"
    )
    sync_mib: int = setting(
        1,
        help="MiB of state written before the store is synced; 0: every commit is. What a power cut takes is run again "
        "from the chain, and the death of the process takes nothing",
        minimum=0,
        maximum=1024,
    )
    trie_mib: int = setting(
        16,
        help="MiB of trie nodes held back before they are written, over all shards; the rows of the state are written at "
        "each commit, and nodes that a crash takes are made from them; 0: nodes are written at each commit too",
        minimum=0,
        maximum=4096,
    )


def check(config: NearConfig) -> list[str]:
    if config.kept is not None and any(shard < 0 for shard in config.kept):
        return ["kept: shards are numbered from 0"]
    return []


_WHOLE = {"minimum_stake", "min_top_level", "gas_limit", "min_gas_price", "storage_amount_per_byte", "transaction_validity"}


def parameters(table: Mapping[str, Any]) -> Parameters:
    """The network's rules: those of the protocol, with what the genesis table ``execution`` changes of them
    (``registrar``, ``minimum_stake``, ``min_top_level``, ``gas_limit``, ``min_gas_price``, ``storage_amount_per_byte``,
    ``transaction_validity``). Raises ConfigurationError."""
    changes: dict[str, Any] = {}
    for name in _WHOLE & set(table):
        try:
            changes[name] = int(table[name])
        except (TypeError, ValueError):
            changes[name] = -1
        if changes[name] < 0:
            raise ConfigurationError(f"genesis: execution.{name} is not a whole number: {table[name]!r}")
    if "registrar" in table:
        changes["registrar"] = str(table["registrar"])
    return attrs.evolve(Parameters(), **changes)
