"""Executor shards (Shardines): a block's transactions executed by several processes, here or on other machines.

- ``plan``: which transaction needs which version of which key from another part. ``part``: one sub-block in a shard.
- ``messages``, ``outputs``: what crosses. ``links``: over what. ``placements``: where shards are.
- ``server``: a shard. ``supervisor``: keeps one connected. ``coordinator``: a block's parts over the shards there are.
- ``executor``: the node's (setting ``executor = "sharded"``). ``command``: ``nodewright shard``.
"""

from nodewright_aptos.shards.executor import open_executor

__all__ = ["open_executor"]
