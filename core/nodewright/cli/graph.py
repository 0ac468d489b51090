"""``nodewright graph``: who is given what."""

from __future__ import annotations

import click

from nodewright.cli.common import ProfileRequest, profile_options
from nodewright.composition.plan import Plan, PlannedComponent


@click.command()
@profile_options
@click.option("--dot", is_flag=True, help="Graphviz instead of text: pipe it to  dot -Tsvg.")
def graph(request: ProfileRequest, dot: bool) -> None:
    """Print the wiring of a profile: which component stands in each slot, and what it is given.

    A branch reads: slot, component, and in brackets the contract that is asked of it. Components open in the order
    printed below the tree and close in the reverse order.

    \b
    nodewright graph teranode
    nodewright graph teranode --dot | dot -Tsvg > teranode.svg
    """
    _, plan = request.compose()
    for line in dot_lines(plan) if dot else tree_lines(plan):
        click.echo(line)


def tree_lines(plan: Plan) -> list[str]:
    lines = [f"{plan.profile}: family {plan.family}, network {plan.network.id}"]
    roots = [component for component in plan.components if not plan.dependents(component.slot)]
    shown: set[str] = set()

    def add(component: PlannedComponent, contract: str, indent: str, last: bool) -> None:
        again = component.slot in shown and bool(component.requires)
        asked = f" [{contract}{_by_adapter(component)}]" if contract else ""
        mark = "  (see above)" if again else ""
        lines.append(f"{indent}{'└─' if last else '├─'} {component.slot}: {component.spec.name}{asked}{mark}")
        if again:
            return
        shown.add(component.slot)
        needs = list(component.requires.items())
        for index, (slot, needed) in enumerate(needs):
            below = plan.component(slot)
            if below is not None:
                add(below, needed, indent + ("   " if last else "│  "), index == len(needs) - 1)

    for index, root in enumerate(roots):
        add(root, "", "", index == len(roots) - 1)
    order = " → ".join(component.slot for component in plan.components)
    return [*lines, "", f"opens: {order}"]


def dot_lines(plan: Plan) -> list[str]:
    lines = [f'digraph "{plan.profile}" {{', "  rankdir=LR;", "  node [shape=box];"]
    for component in plan.components:
        lines.append(f'  "{component.slot}" [label="{component.slot}\\n{component.spec.name}"];')
    for component in plan.components:
        for slot, contract in component.requires.items():
            below = plan.component(slot)
            label = contract + (_by_adapter(below) if below is not None else "")
            lines.append(f'  "{component.slot}" -> "{slot}" [label="{label}"];')
    return [*lines, "}"]


def _by_adapter(component: PlannedComponent) -> str:
    return ", by adapter" if component.adapter and component.native is None else ""
