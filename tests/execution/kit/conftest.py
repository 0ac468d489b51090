"""The kit's budget follows that of the repository."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def scale(request: pytest.FixtureRequest, budget: int) -> None:
    if request.instance is not None:
        request.instance.scale = budget
