"""Contracts: what a call is given and gives back (``calls``), and the machine that runs it (``machine`` and below)."""
