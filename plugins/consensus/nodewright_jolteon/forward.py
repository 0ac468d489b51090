"""Transactions of nodes that make no batches: handed to a validator, and to another one until they are settled.

Channel ``jolteon.tx``: transactions, as many as a message holds → ids refused for good, each with the reason.

Invariant: what was accepted here is told to one validator after the other until a block settles it; it is rejected when
validators of more power than may lie refused it for good.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio
from attrs import define

from nodewright.errors import PeerGone, RequestTimeout
from nodewright.interfaces.common import Refused
from nodewright.interfaces.transport import Message, Transport
from nodewright_jolteon.chain import Chain
from nodewright_jolteon.codec import Malformed, Reader, blob, vector
from nodewright_jolteon.config import JolteonConfig
from nodewright_jolteon.identities import Identities
from nodewright_jolteon.orderer import Orderer

TAKEN_AT_ONCE = 1000
MESSAGE_BYTES = 3 * 1024 * 1024
MAX_TRANSACTION_BYTES = 4 * 1024 * 1024
AGAIN_SECONDS = 10.0
FOR_GOOD = frozenset({"invalid", "malformed", "conflict", "expired"})
MALFORMED_POINTS = 20
MAX_REASON_BYTES = 1024


@define
class Sent:
    at: float
    ids: list[bytes]


class Forward:
    def __init__(
        self, config: JolteonConfig, chain: Chain, orderer: Orderer, transport: Transport, identities: Identities
    ) -> None:
        self._chain = chain
        self._orderer = orderer
        self._transport = transport
        self._identities = identities
        self._timeout = config.request_timeout_seconds
        self._channel = transport.channel("jolteon.tx", 64, "block", MAX_TRANSACTION_BYTES + 65536)
        self._sent: list[Sent] = []
        self._refusals: dict[bytes, dict[bytes, str]] = {}

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send)
            nursery.start_soon(self._give_back)
            nursery.start_soon(self._hear)

    async def _send(self) -> None:
        chain = self._chain
        while True:
            if chain.place is not None or not self._validators():
                await chain.environment.sleep(1.0)
                continue
            candidates = await chain.pool.take(TAKEN_AT_ONCE)
            ids = [candidate.id for candidate in candidates]
            if chain.place is not None:
                chain.pool.give_back(ids)
                continue
            self._sent.append(Sent(chain.environment.monotonic(), ids))
            lot: list[tuple[bytes, bytes]] = []
            size = 0
            for id, raw in zip(ids, chain.pool.bodies(ids), strict=True):
                if raw is None:
                    continue
                if lot and size + len(raw) > MESSAGE_BYTES:
                    await self._tell(lot)
                    lot, size = [], 0
                lot.append((id, raw))
                size += len(raw)
            if lot:
                await self._tell(lot)

    def _validators(self) -> list[tuple[bytes, bytes]]:
        """(key, node) of those that are connected."""
        members = self._chain.epoch.validators.members
        found = [(member.key, self._identities.peer(member.key)) for member in members]
        return [(key, peer) for key, peer in found if peer is not None]

    async def _tell(self, lot: Sequence[tuple[bytes, bytes]]) -> None:
        """To one validator that has refused none of them, if there is one."""
        chain = self._chain
        known = self._validators()
        fresh = [pair for pair in known if not any(pair[0] in self._refusals.get(id, ()) for id, _ in lot)]
        if not known:
            return
        key, peer = chain.environment.random.choice(fresh or known)
        try:
            reply = await self._channel.request(peer, vector([raw for _, raw in lot], blob), self._timeout)
            data = Reader(reply)
            refused = data.vector(lambda: (data.hash(), data.blob(MAX_REASON_BYTES).decode(errors="replace")), len(lot))
            data.finish()
        except (PeerGone, RequestTimeout):
            return
        except Malformed as error:
            self._transport.penalise(peer, MALFORMED_POINTS, f"an answer to transactions: {error}")
            return
        mine = {id for id, _ in lot}
        gone = {}
        for id, reason in refused:
            if id in mine:
                said = self._refusals.setdefault(id, {})
                said[key] = reason
                if self._enough(said):
                    gone[id] = reason
        if gone:
            places = await chain.store.places(list(gone))
            lost = {id: reason for (id, reason), place in zip(gone.items(), places, strict=True) if place is None}
            if lost:
                await chain.pool.settle(rejected=lost)

    def _enough(self, keys: dict[bytes, str]) -> bool:
        validators = self._chain.epoch.validators
        places = [place for place in map(validators.place, keys) if place is not None]
        return validators.power_of(places) >= validators.honest_power

    async def _give_back(self) -> None:
        chain = self._chain
        while True:
            await chain.environment.sleep(1.0)
            before = chain.environment.monotonic() - AGAIN_SECONDS
            old = [sent for sent in self._sent if sent.at <= before or chain.place is not None]
            self._sent = [sent for sent in self._sent if sent not in old]
            for sent in old:
                statuses = await chain.pool.status(sent.ids)
                pending = [
                    id
                    for id, status in zip(sent.ids, statuses, strict=True)
                    if status is not None and status.status == "pending"
                ]
                for id in set(sent.ids) - set(pending):
                    self._refusals.pop(id, None)
                chain.pool.give_back(pending)

    async def _hear(self) -> None:
        limiter = trio.CapacityLimiter(4)
        async with trio.open_nursery() as nursery:
            while True:
                message = await self._channel.receive()
                await limiter.acquire_on_behalf_of(message)
                nursery.start_soon(self._one, message, limiter)

    async def _one(self, message: Message, limiter: trio.CapacityLimiter) -> None:
        try:
            data = Reader(message.payload)
            raws = data.vector(lambda: data.blob(MAX_TRANSACTION_BYTES), TAKEN_AT_ONCE)
            data.finish()
            answers = await self._chain.pool.submit(raws, f"peer:{message.peer.hex()}")
            refused = [
                (one.id, f"{one.code}: {one.message}"[: MAX_REASON_BYTES // 4])
                for one in answers
                if isinstance(one, Refused) and one.id is not None and one.kind in FOR_GOOD
            ]
            if message.reply is not None:
                await message.reply(vector(refused, lambda item: item[0] + blob(item[1].encode())))
        except Malformed as error:
            self._transport.penalise(message.peer, MALFORMED_POINTS, f"transactions: {error}")
        except PeerGone:
            pass
        finally:
            limiter.release_on_behalf_of(message)
