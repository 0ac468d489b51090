"""Nightshade: NEAR's sharded consensus. Doomslug finality, chunks by shard, stateless validation."""
