"""Plugins: what they register (specs), how they are found (host), and by which name a profile selects them (registry)."""
