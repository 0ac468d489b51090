"""Rules of the tree that no type checker holds: who imports whom, and who may touch clock, threads, processes, entropy.

Read from the source with ``ast``, wherever the packages are installed.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

# A family's API may import that family's packages for their formats, and a consensus that is one family's alone (its
# headers are that family's) that family's execution package. Nothing else crosses.
ALLOWED_BETWEEN_PLUGINS = {
    ("nodewright_aptos_api", "nodewright_aptos"),
    ("nodewright_bsv_api", "nodewright_bitcoin"),
    ("nodewright_bsv_p2p", "nodewright_bitcoin"),
    ("nodewright_near_api", "nodewright_near"),
    ("nodewright_near_api", "nodewright_nightshade"),
    ("nodewright_nightshade", "nodewright_near"),
}

# Where the outside world is touched on purpose: the environment of a real node, the simulated one and the kits, what
# measures, and what runs before a node does (the command line, and signals of the process it starts).
ALLOWED_IMPURE = (
    "nodewright/environment.py",
    "nodewright/testing/",
    "nodewright/bench/",
    "nodewright/cli/",
    "nodewright/node/devnet",
    "nodewright/kernels/yardstick.py",
    "nodewright_aptos/bench/",
    "nodewright_bsv_api/bench/",
    "nodewright_near_api/bench/",
    "nodewright_bsv_p2p/testing/",
)

FORBIDDEN_MODULES = frozenset(
    {"time", "secrets", "threading", "_thread", "subprocess", "multiprocessing", "concurrent", "asyncio", "uuid"}
)
FORBIDDEN_NAMES = frozenset(
    {
        "os.urandom",
        "os.getrandom",
        "os.fork",
        "os.system",
        "os.popen",
        "datetime.datetime.now",
        "datetime.datetime.utcnow",
        "datetime.datetime.today",
        "datetime.date.today",
        "trio.to_thread",
        "trio.from_thread",
        "trio.run_process",
        "trio.lowlevel.open_process",
        "trio.lowlevel.start_thread_soon",
    }
)
RANDOM_ALLOWED = frozenset({"random.Random"})  # as a type, or with a seed


@functools.cache
def plugin_packages() -> frozenset[str]:
    points = importlib.metadata.entry_points(group="nodewright")
    return frozenset(point.module.split(".")[0] for point in points) - {"nodewright"}


@functools.cache
def modules(package: str) -> Sequence[tuple[str, list[tuple[int, str]], list[str]]]:
    """(path below the source root, what it imports, what of the outside it touches) of every module of a package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(), str(path))))
        below = path.relative_to(root.parent).as_posix()
        touched = [] if below.startswith(ALLOWED_IMPURE) else list(impurities(nodes))
        found.append((below, list(imported(nodes)), touched))
    return found


def imported(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all that is imported, anywhere in a module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def bindings(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Local name to the dotted name it stands for, of every import in a module."""
    bound = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return bound


def dotted(node: ast.AST, bound: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return bound.get(node.id)
    if isinstance(node, ast.Attribute):
        base = dotted(node.value, bound)
        return f"{base}.{node.attr}" if base is not None else None
    return None


def impurities(nodes: Sequence[ast.AST]) -> Iterator[str]:
    for line, name in imported(nodes):
        if name.split(".")[0] in FORBIDDEN_MODULES:
            yield f"line {line}: imports {name}"
    bound = bindings(nodes)
    for node in nodes:
        if isinstance(node, ast.Call) and dotted(node.func, bound) in RANDOM_ALLOWED and not (node.args or node.keywords):
            yield f"line {node.lineno}: random.Random() without a seed"
        if isinstance(node, ast.Name | ast.Attribute):
            name = dotted(node, bound) or ""
            of_random = name.startswith("random.") and name.count(".") == 1 and name not in RANDOM_ALLOWED
            if of_random or name in FORBIDDEN_NAMES:
                yield f"line {node.lineno}: uses {name}"


@pytest.mark.parametrize("package", ["nodewright", *sorted(plugin_packages())])
def test_only_the_environment_touches_clock_threads_processes_and_entropy(package: str) -> None:
    assert [f"{path}: {problem}" for path, _, touched in modules(package) for problem in touched] == []


def test_the_core_imports_no_plugin() -> None:
    plugins = plugin_packages()
    found = [
        f"{path}: line {line}: imports {name}"
        for path, names, _ in modules("nodewright")
        for line, name in names
        if name.split(".")[0] in plugins
    ]
    assert found == []


@pytest.mark.parametrize("package", sorted(plugin_packages()))
def test_a_plugin_imports_no_other_plugin(package: str) -> None:
    found = [
        f"{path}: line {line}: imports {name}"
        for path, names, _ in modules(package)
        for line, name in names
        if (other := name.split(".")[0]) in plugin_packages() - {package}
        and (package, other) not in ALLOWED_BETWEEN_PLUGINS
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import time", "line 1: imports time"),
        ("def f():\n    from time import sleep", "line 2: imports time.sleep"),
        ("from concurrent.futures import ThreadPoolExecutor", "line 1: imports concurrent.futures.ThreadPoolExecutor"),
        ("import os\nos.urandom(3)", "line 2: uses os.urandom"),
        ("from os import urandom as u\nu(3)", "line 2: uses os.urandom"),
        ("import random\nrandom.random()", "line 2: uses random.random"),
        ("from random import choice\nchoice([1])", "line 2: uses random.choice"),
        ("import random\nrandom.Random()", "line 2: random.Random() without a seed"),
        ("import trio\ntrio.to_thread.run_sync(print)", "line 2: uses trio.to_thread"),
        ("from datetime import datetime\ndatetime.now()", "line 2: uses datetime.datetime.now"),
        ("import datetime as d\nd.datetime.now()", "line 2: uses datetime.datetime.now"),
    ],
)
def test_the_rule_sees(text: str, problem: str) -> None:
    assert problem in list(impurities(list(ast.walk(ast.parse(text)))))


@pytest.mark.parametrize(
    "text", ["import random\ndef f(r: random.Random) -> None: ...", "import os\nos.open", "import random\nrandom.Random(3)"]
)
def test_the_rule_lets_pass(text: str) -> None:
    assert list(impurities(list(ast.walk(ast.parse(text))))) == []
