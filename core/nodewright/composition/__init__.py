"""Composition: a profile and what plugins registered into a ``Plan``. Pure: opens nothing, reads no clock, no file."""
