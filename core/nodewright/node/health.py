"""Health: what each component says of itself, and whether the node as a whole is live and ready.

*Live*: the process works; restarting it would not help. *Ready*: it takes part and answers requests. A component that fails
degrades the node and is named; only one that says ``fatal`` makes it not live.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen


@frozen
class ComponentHealth:
    """``detail`` is a sentence; ``since`` in Unix seconds is when the component last changed."""

    ok: bool
    detail: str
    since: float
    fatal: bool = False


class Health:
    """``now`` is the environment's clock. ``watch`` adds a callable that is asked at every report."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._components: dict[str, ComponentHealth] = {}
        self._watched: dict[str, Callable[[], Mapping[str, Any]]] = {}
        self._state = "starting"

    def set(self, component: str, ok: bool, detail: str = "", fatal: bool = False) -> None:
        """Components call this when something changes, by their slot name."""
        old = self._components.get(component)
        if old is None or (old.ok, old.detail, old.fatal) != (ok, detail, fatal):
            self._components[component] = ComponentHealth(ok, detail, self._now(), fatal)

    def watch(self, component: str, status: Callable[[], Mapping[str, Any]]) -> None:
        """``status()`` is shown under ``status`` in the report: JSON-ready values, or what ``str`` makes of them."""
        self._watched[component] = status

    def enter(self, state: str) -> None:
        """The node's own state: ``starting``, ``ready``, ``stopping``."""
        self._state = state

    @property
    def ready(self) -> bool:
        return self._state == "ready" and self.live

    @property
    def live(self) -> bool:
        return not any(component.fatal for component in self._components.values())

    @property
    def state(self) -> str:
        return self._state

    def report(self) -> dict[str, Any]:
        """JSON-ready: ``state``, ``ready``, ``live``, ``healthy`` (ready, and no component failing), ``components`` and
        ``status``."""
        components = {
            name: {"ok": item.ok, "detail": item.detail, "since": item.since}
            for name, item in sorted(self._components.items())
        }
        return {
            "state": self._state,
            "ready": self.ready,
            "live": self.live,
            "healthy": self.ready and all(item.ok for item in self._components.values()),
            "components": components,
            "status": {name: _plain(status()) for name, status in sorted(self._watched.items())},
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
