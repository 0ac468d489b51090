"""The execution ``near``: NEAR's formats, state trie and runtime behind the ``Execution`` contract.

Formats: ``borsh``, ``primitives``, ``accounts``, ``transactions``, ``receipts``, ``outcomes``, ``headers``, ``chunks``.
State: ``trie``, ``flat``, ``state``. Rules: ``parameters``, ``fees``, ``checks``, ``runtime``, ``contracts``.
Nothing here speaks to a network, orders a block or reads a clock.
"""
