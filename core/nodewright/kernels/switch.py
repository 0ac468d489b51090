"""Whether compiled kernels may be used. Compilation itself is an import of ``nodewright.kernels.compiled``.

Invariant: ``compiled()`` is None until every kernel has been compiled (or loaded from its cache), and whoever reads it
once uses what it read for the whole batch. A failure to compile is remembered with its reason, and the node goes on plain.
"""

from __future__ import annotations

import importlib
from types import ModuleType

_modules: dict[str, ModuleType] = {}
_reason: str | None = "warm_up has not run"
CORE = "nodewright.kernels.compiled"


def warm_up(*also: str) -> str | None:
    """Compile or load all kernels of the core and of the modules named in ``also``. Blocking, seconds when nothing is
    cached: run it off the event loop. Returns None, or the sentence why the plain path stays. Idempotent."""
    global _reason
    try:
        fresh = {name: importlib.import_module(name) for name in (CORE, *also)}
    except Exception as error:  # numba raises its own family for an unsupported processor; none of them may stop a node
        _reason = f"compiled kernels are not available: {type(error).__name__}: {error}"
        return _reason
    _modules.update(fresh)
    _reason = None
    return None


def compiled(name: str = CORE) -> ModuleType | None:
    """The module of compiled kernels, or None while the plain path is to be used."""
    return _modules.get(name)


def ready() -> bool:
    return CORE in _modules


def why_not() -> str | None:
    return _reason


def disable() -> None:
    """Back to the plain path (tests, ``kernels = "off"``). Compiled code stays loaded for the next ``warm_up``."""
    global _reason
    _modules.clear()
    _reason = "switched off"
