"""The simulated network under the kit every transport passes (on the real clock: virtual time is in test_simulation)."""

from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest
import trio

from nodewright.testing.simulation import SimulatedEnvironment
from nodewright.testing.transport import Conditions, SimulatedNetwork, SimulatedTransport
from nodewright.testing.transport_kit import KIT_GENESIS, KIT_LIMITS, KIT_NETWORK, TransportTests
from nodewright.transport.link import Limits, NetworkIdentity

QUICK = Conditions(delay_seconds=(0.0, 0.001))


class SimulatedWorld:
    def __init__(self, network: SimulatedNetwork) -> None:
        self.network = network

    async def open(
        self,
        name: str,
        *,
        network: str = KIT_NETWORK,
        genesis: bytes = KIT_GENESIS,
        limits: Limits = KIT_LIMITS,
        allow: Collection[bytes] = (),
    ) -> SimulatedTransport:
        await trio.lowlevel.checkpoint()
        identity = NetworkIdentity(network, genesis)
        return self.network.transport(name, environment=SimulatedEnvironment(1, name), identity=identity, allow=allow)

    async def close(self, transport: Any) -> None:
        await transport.aclose()

    async def kill(self, transport: Any) -> None:
        self.network.crash(transport.name)

    def break_connection(self, transport: Any, peer: bytes) -> None:
        self.network.disconnect(transport.name, self.network.name_of(peer))

    def log(self, transport: Any) -> list[dict[str, Any]]:
        return list(transport.environment.log)


class TestSimulatedNetwork(TransportTests):
    @pytest.fixture
    async def world(self) -> AsyncIterator[SimulatedWorld]:
        async with SimulatedNetwork(
            1, QUICK, mesh=False, limits=KIT_LIMITS, detect_seconds=0.05, reconnect_seconds=0.02
        ) as network:
            yield SimulatedWorld(network)
