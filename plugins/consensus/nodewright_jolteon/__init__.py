"""Jolteon with a Quorum Store: certified batches, ordered by a two-chain, executed behind the ordering."""
