"""``Jolteon`` as the core's contract ``consensus`` sees it. The parts: ``orderer`` (rounds and votes, over ``rules``),
``quorum`` (batches), ``chain`` (running and committing), ``network`` (what others say). This module only wires them.

Queries: ``validators`` → epoch and its members; ``epoch`` (``number``) → ``Epoch`` | None; ``executed`` (``id`` or
``height``) → what a block kept, rejected and retried; ``ledger_proof`` (``height``) → a certificate over outcomes;
``parameters`` → the network's ``Parameters``.
Control: ``allow_voting`` → signs again after a restore.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio

from nodewright.errors import ConfigurationError, ControlRefused, UnknownControl, UnknownQuery
from nodewright.interfaces.common import BlockRecord, BlockRef, Location
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Execution
from nodewright.interfaces.pool import TransactionPool
from nodewright.interfaces.service import EventLog
from nodewright.interfaces.storage import KeyValueStore
from nodewright.interfaces.transport import Transport
from nodewright.interfaces.verifier import Verifier
from nodewright_jolteon import genesis as genesis_rules
from nodewright_jolteon import keys, local, recovery
from nodewright_jolteon.chain import Chain
from nodewright_jolteon.config import JolteonConfig
from nodewright_jolteon.identities import Identities
from nodewright_jolteon.network import Network
from nodewright_jolteon.orderer import Orderer
from nodewright_jolteon.quorum import QuorumStore
from nodewright_jolteon.reads import Reads
from nodewright_jolteon.sending import Sender
from nodewright_jolteon.signatures import Signatures
from nodewright_jolteon.store import ChainStore


class Jolteon:
    capabilities = frozenset({"finality"})
    format = "jolteon-1"
    invalid_transaction = "discard"

    def __init__(
        self,
        chain: Chain,
        orderer: Orderer,
        quorum: QuorumStore,
        signer: keys.Signer | None,
        network: Network | None,
    ) -> None:
        self.network = network
        self.chain = chain
        self.orderer = orderer
        self.quorum = quorum
        self._signer = signer
        self._reads = Reads(chain)
        self._running = False

    @classmethod
    def create(
        cls,
        config: JolteonConfig,
        *,
        genesis: Mapping[str, Any],
        chain: KeyValueStore,
        execution: Execution,
        pool: TransactionPool,
        events: EventLog,
        verifier: Verifier,
        environment: Environment,
        transport: Transport | None = None,
    ) -> Jolteon:
        """Raises ConfigurationError."""
        shards = genesis.get("execution", {}).get("shards", 1)
        if "sharded" in execution.capabilities and shards != 1:
            raise ConfigurationError(
                f"consensus: jolteon orders for one shard and the genesis has {shards}: set execution.shards = 1 in it, or "
                'use = "nightshade"'
            )
        rules = genesis_rules.read(genesis)
        signer = keys.load(environment) if config.validator else None
        if config.local_validator >= 0 and local.is_local(genesis):
            signer = local.signer(config.local_validator)
        store = ChainStore(chain)
        signatures = Signatures(verifier, environment)
        identities, sender = Identities(), Sender()
        quorum = QuorumStore(
            config,
            rules.parameters,
            store,
            execution,
            pool,
            events,
            environment,
            signatures,
            transport,
            identities,
            signer,
            sender,
        )
        parts = Chain(rules, store, execution, pool, events, environment, quorum, signer)
        orderer = Orderer(config, parts, quorum, events, environment, signer)
        network = None
        if transport is not None:
            network = Network(config, parts, orderer, transport, signatures, identities, signer, sender)
        return cls(parts, orderer, quorum, signer, network)

    # --- life ---

    async def recover(self) -> None:
        await recovery.recover(self.chain, self.orderer)
        if self._signer is None:
            return
        logger = self.chain.environment.logger
        if not self.chain.safety.may_sign:
            logger.warning(
                "this validator signs nothing: its chain is here and what it has signed is not; use the control "
                "allow_voting once no other node signs with its key"
            )
        if self.orderer.rules.me is None:
            logger.warning("this node's key is no validator's of the epoch: it follows", key=self._signer.public.hex())

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.chain.run)
            nursery.start_soon(self.quorum.run)
            nursery.start_soon(self.orderer.run)
            if self.network is not None:
                nursery.start_soon(self.network.run)
            self._running = True
            task_status.started()

    def status(self) -> Mapping[str, Any]:
        rules, head = self.orderer.rules, self.chain.head()
        sync = self.network.sync if self.network is not None else None
        state = "idle" if not self._running else "syncing" if sync is not None and sync.behind else "running"
        return {
            "state": state,
            "head": {"height": head.height, "hash": head.id.hex()},
            "peers_ahead": sync.peers_ahead if sync is not None else 0,
            "epoch": rules.epoch.number,
            "round": rules.round,
            "ordered": rules.root.height,
            "backlog": self.quorum.proofs.backlog,
            "validator": rules.validator,
        }

    # --- reading ---

    def head(self) -> BlockRef:
        return self.chain.head()

    def final(self) -> BlockRef:
        return self.chain.head()

    async def block(self, id: bytes) -> BlockRecord | None:
        return await self._reads.block(id)

    async def block_at(self, height: int) -> BlockRecord | None:
        return await self._reads.block_at(height)

    async def locate(self, ids: Sequence[bytes]) -> list[Location | None]:
        return await self._reads.locate(ids)

    async def transactions(self, ids: Sequence[bytes]) -> list[bytes | None]:
        return await self._reads.transactions(ids)

    async def bundle(self, id: bytes) -> bytes | None:
        return await self.chain.store.batch(id)

    async def query(self, kind: str, **arguments: Any) -> Any:
        handlers: dict[str, Callable[..., Awaitable[Any]]] = {
            "validators": self._validators,
            "epoch": self._epoch,
            "executed": self._reads.executed,
            "ledger_proof": self._reads.ledger_proof,
            "parameters": self._parameters,
        }
        if kind not in handlers:
            raise UnknownQuery(f"jolteon answers {', '.join(sorted(handlers))}, not {kind!r}")
        return await handlers[kind](**arguments)

    async def _validators(self) -> dict[str, Any]:
        epoch = self.chain.epoch
        return {
            "epoch": epoch.number,
            "start": epoch.start.height,
            "validators": [
                {"key": member.key.hex(), "power": member.power, "account": member.account.hex()}
                for member in epoch.validators.members
            ],
        }

    async def _epoch(self, number: int | None = None) -> Any:
        return self.chain.epoch if number is None else await self.chain.store.epoch(number)

    async def _parameters(self) -> Any:
        return self.chain.genesis.parameters

    # --- control ---

    async def control(self, command: str, **arguments: Any) -> Any:
        if command != "allow_voting":
            raise UnknownControl(f"jolteon has the control allow_voting, not {command!r}")
        if self._signer is None:
            raise ControlRefused("this node is no validator: set consensus.validator and give it a key")
        await self.orderer.allow()
