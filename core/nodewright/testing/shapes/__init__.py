"""Three small chains over the contracts of ``nodewright.interfaces``: permanent tests of the contracts, and templates.

- a proof-of-work chain that reorganises: ``pow_rules`` (pure), ``pow`` (shell), over ``coins``;
- a round-based BFT chain with instant finality: ``bft_rules`` (pure), ``bft`` (shell), ordering certified bundles
  (``bundles``), over ``accounts`` or ``coins``;
- a chain of shards that exchange receipts, checked from witnesses: ``chunk_rules`` (pure) and ``chunks`` over the same
  shell, over ``shards`` and ``sparse``.

They are small, not fast, and no wallet speaks their formats. Nothing here is imported by a running node.
"""
