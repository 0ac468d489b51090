"""Configuration: TOML files, ``extends`` and overrides into one tree whose every value knows its origin, then into attrs.

One direction: ``origin`` <- ``locate`` <- ``layer`` <- ``profile`` (the merged tree), ``structure`` (tree to attrs),
``core_settings`` (the tables the core itself reads). Which plugin a slot names is the composition's business.
"""
