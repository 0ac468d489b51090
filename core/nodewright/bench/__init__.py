"""What every family's benchmark shares: a node as a child process, its CPU time and memory, the report."""
