"""What each optimisation brings: all on, and each switched off in turn, in one run of the benchmark.

The runs go by turns, round after round, so that what else the machine does falls on all alike; of each variant the medians
are told. All of them come to one final state, or the run fails: a switch changes what it costs, never what it comes to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from statistics import median
from typing import Any, Final

from attrs import evolve, frozen

from nodewright.errors import NodewrightError
from nodewright_near_api.bench.run import Plan, Progress, run


@frozen
class Switch:
    """``on`` and ``off``: settings. ``shows``: where it can do anything at all (``http``: with sockets; ``network``)."""

    name: str
    on: Mapping[str, str]
    off: Mapping[str, str]
    shows: str = ""

    def applies(self, plan: Plan) -> bool:
        return {"": True, "http": plan.load == "http", "network": plan.nodes > 1}[self.shows]


# Of a service's sockets. The buffers are those that a batch of a thousand fits into.
TUNED: Final = {"backlog": "1024", "socket_kib": "512"}
PLAIN: Final = {"backlog": "16", "socket_kib": "0"}

SWITCHES: Final = (
    Switch("Ed25519 in batches", {"verifier.ed25519_batches": "true"}, {"verifier.ed25519_batches": "false"}),
    Switch(
        "early transaction preparation",
        {"consensus.early_prepare_transactions": "true"},
        {"consensus.early_prepare_transactions": "false"},
    ),
    Switch("outcomes not saved", {"execution.save_tx_outcomes": "false"}, {"execution.save_tx_outcomes": "true"}),
    Switch("state changes not saved", {"execution.save_state_changes": "false"}, {"execution.save_state_changes": "true"}),
    Switch(
        "untracked chunk bodies not saved",
        {"consensus.save_untracked_partial_chunks_parts": "false"},
        {"consensus.save_untracked_partial_chunks_parts": "true"},
        "network",
    ),
    Switch("trie nodes held back", {"execution.trie_mib": "16"}, {"execution.trie_mib": "0"}),
    Switch("decoded-object caches", {"consensus.decoded_cache": "true"}, {"consensus.decoded_cache": "false"}),
    Switch(
        "database tuning",
        {"execution.sync_mib": "1"},
        {
            "execution.sync_mib": "0",
            **{
                f"stores.{store}.{key}": value
                for store in ("state", "chain")
                for key, value in (("write_buffer_mib", "4"), ("block_cache_mib", "8"), ("table_file_mib", "2"))
            },
        },
    ),
    Switch(
        "socket tuning",
        {f"services.near_api.{key}": value for key, value in TUNED.items()},
        {f"services.near_api.{key}": value for key, value in PLAIN.items()},
        "http",
    ),
    Switch(
        "witness and endorsement tasks",
        {"consensus.own_tasks": "true"},
        {"consensus.own_tasks": "false"},
    ),
)
FIGURES: Final = ("efficiency", "tps", "block_p50_ms", "p50_ms", "rss_mb", "node_cpu_seconds", "verify_us")


def ablation(plan: Plan, rounds: int, progress: Progress) -> dict[str, Any]:
    variants: dict[str, dict[str, str]] = {"all on": {}}
    everything = {key: value for switch in SWITCHES for key, value in switch.on.items()}
    shown = [switch for switch in SWITCHES if switch.applies(plan)]
    variants |= {f"without {switch.name}": dict(switch.off) for switch in shown}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    digest = ""
    for number in range(rounds):
        names = list(variants)
        # The first of a round is not always the same one.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            progress(name, number, rounds)
            one = run(evolve(plan, settings={**everything, **variants[name], **plan.settings}, data_dir=None), progress)
            runs[name].append({**one, "load_average": os.getloadavg()[0]})
            digest = digest or one["digest"]
            if one["lost"] or one["digest"] != digest:
                raise NodewrightError(f"{name}: {one['lost']} lost, and the state is {one['digest']}, not {digest}")
    rows = []
    for name, done in runs.items():
        middle = {figure: median(one[figure] for one in done) for figure in FIGURES}
        cost = [1e6 * one["node_cpu_seconds"] / one["committed"] for one in done]
        rows.append({"variant": name, **middle, "cpu_us": median(cost), "cpu_us_range": [min(cost), max(cost)]})
    for row in rows:
        row["against_all_on"] = row["cpu_us"] / rows[0]["cpu_us"]
    return {
        "plan": {"count": plan.count, "shards": plan.shards, "nodes": plan.nodes, "accounts": plan.accounts},
        "rounds": rounds,
        "load_average": median(one["load_average"] for done in runs.values() for one in done),
        "settings": {switch.name: dict(switch.off) for switch in shown},
        "left_out": [switch.name for switch in SWITCHES if switch not in shown],
        "rows": rows,
        "runs": runs,
    }


def ablation_table(result: Mapping[str, Any]) -> str:
    """In Markdown."""
    lines = [
        "| | CPU a transfer (range) | against all on | efficiency | transfers/s | block, median | a batch, median |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        low, high = row["cpu_us_range"]
        lines.append(
            f"| {row['variant']} | {row['cpu_us']:.0f} \u00b5s ({low:.0f} \u2013 {high:.0f}) | {row['against_all_on']:.2f} "
            f"| {row['efficiency']:.2f} | {row['tps']:,.0f} | {row['block_p50_ms']:.0f} ms | {row['p50_ms']:.0f} ms |"
        )
    if left := result["left_out"]:
        lines += ["", f"Nothing to see here of: {', '.join(left)}."]
    return "\n".join(lines)
