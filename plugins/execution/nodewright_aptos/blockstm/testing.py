"""Workers for tests of what must not depend on them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import trio

from nodewright_aptos.blockstm.coordinator import WorkerLost
from nodewright_aptos.blockstm.speculate import Answer, Item, speculate
from nodewright_aptos.functions import Functions
from nodewright_aptos.state import BlockEnvironment


class Hostile:
    """A worker that gets its batch done when a dice says so, others going on meanwhile; now and then it is lost."""

    def __init__(self, functions: Functions, rng: random.Random, mortal: bool) -> None:
        self._functions = functions
        self._rng = rng
        self._mortal = mortal

    async def run(self, block: BlockEnvironment, items: Sequence[Item]) -> list[Answer]:
        await self._wait()
        if self._mortal and self._rng.random() < 0.1:
            raise WorkerLost
        answers = speculate(self._functions, block, items)
        await self._wait()
        return answers

    async def _wait(self) -> None:
        for _ in range(self._rng.randrange(6)):
            await trio.lowlevel.checkpoint()
