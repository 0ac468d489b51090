"""Batch checks of what validators signed, off the protocol's thread; the same certificate comes many times and is checked
once.

Invariant: ``good`` is true only if every signature of the batch is valid; what is remembered is that, by content.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from nodewright.interfaces.environment import Environment
from nodewright.interfaces.verifier import Verifier
from nodewright_jolteon.formats import Signed

REMEMBERED = 16_384
WORTH_A_HOP = 4


class Signatures:
    def __init__(self, verifier: Verifier, environment: Environment) -> None:
        self._verifier = verifier
        self._environment = environment
        self._known: OrderedDict[Signed, None] = OrderedDict()

    async def good(self, signed: Sequence[Signed]) -> bool:
        fresh = [one for one in signed if one not in self._known]
        if not fresh:
            return True
        keys, messages, given = zip(*fresh, strict=True)
        if len(fresh) < WORTH_A_HOP:
            answers = self._verifier.ed25519(keys, messages, given)
        else:
            answers = await self._environment.offload(self._verifier.ed25519, keys, messages, given)
        if not all(answers):
            return False
        self._known.update(dict.fromkeys(fresh))
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return True
