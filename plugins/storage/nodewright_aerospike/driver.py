"""The official client, imported where a store is opened and nowhere else."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from nodewright.errors import MissingDriver


@frozen
class Driver:
    aerospike: Any
    records: Any
    operations: Any
    maps: Any
    expressions: Any


def load_driver() -> Driver:
    """Raises MissingDriver."""
    try:
        import aerospike
        from aerospike_helpers import expressions
        from aerospike_helpers.batch import records
        from aerospike_helpers.operations import map_operations, operations
    except ImportError as error:
        raise MissingDriver("aerospike", "aerospike") from error
    return Driver(aerospike, records, operations, map_operations, expressions)
