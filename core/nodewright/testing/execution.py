"""Conformance kit of the ``execution`` contract, for a plugin author to subclass."""

from nodewright.testing.execution_admission import AdmissionTests
from nodewright.testing.execution_base import GENESIS, GENESIS_TIME, LONGEST_CHAIN, Sample
from nodewright.testing.execution_blocks import BlockTests
from nodewright.testing.execution_faults import FaultTests
from nodewright.testing.execution_random import RandomTests
from nodewright.testing.execution_shards import ShardTests
from nodewright.testing.execution_undo import UndoTests

__all__ = ["GENESIS", "GENESIS_TIME", "LONGEST_CHAIN", "ExecutionTests", "Sample"]


class ExecutionTests(AdmissionTests, BlockTests, UndoTests, FaultTests, ShardTests, RandomTests):
    """Subclass with ``spec``, ``genesis``, ``chain``, ``invalid`` and ``state``; name the class ``Test…``."""
