"""What an operator does with a stopped node's data: look, verify, compact, upgrade, copy, snapshot, restore.

Works on the stores of a plan, opened without the rest of the node, through their contracts: any store, any family. The
command line over it is ``nodewright.cli.db``."""
