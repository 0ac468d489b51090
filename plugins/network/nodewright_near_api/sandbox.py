"""Sandbox calls: state written past the rules, and time that jumps. Refused unless the profile sets ``sandbox = true``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nodewright.errors import ControlRefused, UnknownControl
from nodewright.interfaces.service import NodeHandle
from nodewright_near_api import params as take
from nodewright_near_api.errors import handler_error, parse_error, unknown_method
from nodewright_near_api.params import Params


class SandboxMethods:
    def __init__(self, node: NodeHandle, allowed: bool) -> None:
        self._node = node
        self._allowed = allowed

    def methods(self) -> dict[str, Callable[[Params], Awaitable[Any]]]:
        if not self._allowed:
            return {"sandbox_patch_state": self.refused, "sandbox_fast_forward": self.refused}
        return {"sandbox_patch_state": self.patch_state, "sandbox_fast_forward": self.fast_forward}

    async def refused(self, params: Params) -> None:
        raise unknown_method("sandbox calls: this node is no sandbox (services.near_api.sandbox = true makes it one)")

    async def patch_state(self, params: Params) -> dict[str, Any]:
        """``records`` as in a genesis; in force with the next block."""
        records = take.want(params.take(("records",)), "records")
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise parse_error("Failed parsing args: `records` is not an array of records")
        return await self._control("sandbox_patch_state", records=records)

    async def fast_forward(self, params: Params) -> dict[str, Any]:
        delta = take.whole(take.want(params.take(("delta_height",)), "delta_height"), "delta_height")
        return await self._control("sandbox_fast_forward", delta_height=delta)

    async def _control(self, command: str, **arguments: Any) -> dict[str, Any]:
        try:
            await self._node.consensus.control(command, **arguments)
        except ControlRefused as error:
            raise handler_error("INTERNAL_ERROR", str(error), {"error_message": str(error)}) from error
        except UnknownControl as error:
            raise unknown_method(f"{command}: {error}") from error
        return {}
