"""The running node: journal, pool, events, health, metrics, lifecycle."""
