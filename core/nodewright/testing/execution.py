"""Conformance kit of the ``execution`` contract, for a plugin author to subclass."""

from nodewright.testing.execution_base import GENESIS, GENESIS_TIME, LONGEST_CHAIN, Sample
from nodewright.testing.execution_blocks import BlockTests

__all__ = ["GENESIS", "GENESIS_TIME", "LONGEST_CHAIN", "ExecutionTests", "Sample"]


class ExecutionTests(BlockTests):
    """Subclass with ``spec``, ``genesis``, ``chain``, ``invalid`` and ``state``; name the class ``Test…``."""
