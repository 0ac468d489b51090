"""The execution ``aptos``: Aptos's formats, authenticated state and transaction functions behind ``Execution``.

Formats: ``bcs``, ``hashing``, ``addresses``, ``typetags``, ``authenticators``, ``transactions``, ``ledger``. Trees:
``jmt``, ``accumulator``. State: ``statekeys``, ``resources``, ``state``. Rules: ``gas``, ``prologue``, ``functions``,
``runtime``, ``executors``. There is no Move VM: ``functions`` is what can be called.
Nothing here speaks to a network, orders a block or reads a clock.
"""
