"""The example of docs/plugins.md is whole: an author who copies it has a kit that runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nodewright.testing.execution import ExecutionTests

DOCS = Path(__file__).parents[3] / "docs" / "plugins.md"


@pytest.mark.skipif(not DOCS.exists(), reason="the tests run apart from the source tree")
async def test_the_example_runs(tmp_path: Path) -> None:
    (example,) = [
        block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "ExecutionTests" in block
    ]
    names: dict[str, Any] = {}
    exec(example, names)
    kit: ExecutionTests = names["TestAccounts"]()
    await kit.test_an_outcome_depends_on_parent_and_request_alone(tmp_path / "outcome")
    await kit.test_an_invalid_transaction_is_found_at_its_place(tmp_path / "invalid")
    await kit.test_discard_gives_each_transaction_one_fate(tmp_path / "discard")
