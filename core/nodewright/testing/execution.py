"""The conformance kit of the ``execution`` contract, for plugin authors to subclass.

::

    from nodewright.testing.execution import ExecutionTests, Sample

    class TestMyExecution(ExecutionTests):
        spec = my_spec                       # the ExecutionSpec that the plugin registers
        config = MyConfig(...)               # or its defaults
        genesis = {"execution": {...}}       # money for each of the generator's purses

        def chain(self, purse, variant, length): ...   # valid transactions, each after the one before it
        def invalid(self, purse): ...                  # one that breaks a rule for good
        async def state(self, execution): ...          # what blocks change, to compare

``nodewright.testing.execution_shapes`` has three that are whole. The kit opens the execution as a node does, by its spec,
over stores of its own that can be closed, lose power, and interrupt a caller; ``open_execution`` is there to override for
one that needs more. What is checked follows from the spec's capabilities (``undo``, ``single-head``, ``sharded``,
``witness``), from the optional protocols that the component has, and from ``policies`` and ``waits``; the rest is skipped
with its reason. ``examples`` is how many programs Hypothesis tries, ``cuts`` in how many places of a story the power goes.
"""

import pytest

_PARTS = ("terms", "base", "admission", "blocks", "undo", "faults", "shards", "audit", "random")
pytest.register_assert_rewrite(*[f"nodewright.testing.execution_{part}" for part in _PARTS])

from nodewright.testing.execution_admission import AdmissionTests  # noqa: E402 (what fails is told in detail)
from nodewright.testing.execution_audit import AuditTests  # noqa: E402
from nodewright.testing.execution_base import ExecutionKit  # noqa: E402
from nodewright.testing.execution_blocks import BlockTests  # noqa: E402
from nodewright.testing.execution_faults import FaultTests  # noqa: E402
from nodewright.testing.execution_random import RandomTests  # noqa: E402
from nodewright.testing.execution_shards import ShardTests  # noqa: E402
from nodewright.testing.execution_terms import GENESIS, GENESIS_TIME, LONGEST_CHAIN, Sample  # noqa: E402
from nodewright.testing.execution_undo import UndoTests  # noqa: E402

__all__ = ["GENESIS", "GENESIS_TIME", "LONGEST_CHAIN", "ExecutionKit", "ExecutionTests", "Sample"]


class ExecutionTests(AdmissionTests, BlockTests, UndoTests, FaultTests, ShardTests, AuditTests, RandomTests):
    """Subclass with ``spec``, ``genesis``, ``chain``, ``invalid`` and ``state``; name the class ``Test…``."""
