"""``Nightshade`` as the core's contract ``consensus`` sees it. The parts: ``chain`` (blocks accepted, run, made final),
``producer`` (what a validator signs), ``network`` (what others have and say). This module only wires them.

Queries: ``block`` (``id`` or ``height`` or ``finality`` ``final`` / ``optimistic``) → (Block, Info) | None; ``chunk``
(``id``, or ``block`` and ``shard``) → (ChunkHeader, ChunkBody, author) | None; ``validators`` → dict; ``gas_price``
(``id`` or ``height``) → int; ``network`` → dict; ``place`` (``id`` of a transaction) → where it stands, final or not.
Control: ``allow_voting`` → signs again after a restore; ``sandbox_patch_state`` (``records``) and ``sandbox_fast_forward``
(``delta_height``): see ``sandbox``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import trio
from attrs import evolve

from nodewright.errors import ConfigurationError, ControlRefused, UnknownControl, UnknownQuery
from nodewright.interfaces.common import BlockRecord, BlockRef, Location
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Execution
from nodewright.interfaces.pool import TransactionPool
from nodewright.interfaces.service import EventLog, Metrics
from nodewright.interfaces.storage import KeyValueStore
from nodewright.interfaces.transport import Transport
from nodewright.interfaces.verifier import Verifier
from nodewright_near.borsh import encode
from nodewright_near.headers import BLOCK_HEADER
from nodewright_near.primitives import key_text
from nodewright_nightshade import genesis as genesis_rules
from nodewright_nightshade import keys, local, pruning, recovery, sandbox, selection, witness
from nodewright_nightshade.chain import Chain, Held
from nodewright_nightshade.chunking import Chunk
from nodewright_nightshade.config import NightshadeConfig
from nodewright_nightshade.duties import idle
from nodewright_nightshade.epochs import Epochs
from nodewright_nightshade.network import Network
from nodewright_nightshade.producer import Producer, Said
from nodewright_nightshade.safety import Safety
from nodewright_nightshade.selection import EpochSet
from nodewright_nightshade.store import ChainStore

# Heights after a chunk's parent at which the block with it is looked for.
MAX_SKIPPED: Final = 256


class Nightshade:
    capabilities = frozenset({"sharded", "finality"})
    format = "nightshade-2"
    invalid_transaction = "discard"

    def __init__(
        self, config: NightshadeConfig, chain: Chain, signer: keys.Signer | None, transport: Transport | None
    ) -> None:
        self.chain = chain
        self._config = config
        self._signer = signer
        self._transport = transport
        self._running = False
        self.producer: Producer | None = None
        self.network = Network(chain, config, transport, signer) if transport is not None else None

    @classmethod
    def create(
        cls,
        config: NightshadeConfig,
        *,
        genesis: Mapping[str, Any],
        chain: KeyValueStore,
        execution: Execution,
        pool: TransactionPool,
        events: EventLog,
        verifier: Verifier,
        environment: Environment,
        transport: Transport | None = None,
        metrics: Metrics | None = None,
    ) -> Nightshade:
        """Raises ConfigurationError."""
        rules = genesis_rules.read(genesis)
        epochs = Epochs(rules.network.shards, rules.mandates)
        signer = keys.load(config.validator, environment) if config.validator else None
        if config.local_validator >= 0 and local.is_local(genesis):
            signer = local.signer(config.local_validator)
        store = ChainStore(chain, config.decoded_cache)
        parts = Chain(rules, epochs, store, execution, pool, events, verifier, environment)
        return cls(config, parts, signer, transport)

    # --- life ---

    async def recover(self) -> None:
        chain = self.chain
        empty = await chain.store.final() is None
        safety = await Safety.open(chain.environment, empty)
        chain.before_commit = self._before_commit
        if self._config.keep_epochs:
            chain.epoch_ended.append(self._prune)
        await recovery.recover(chain)
        self._check_tracked()
        if not self._config.save_untracked_partial_chunks_parts:
            chain.store.keep_whole(chain.tracked, chain.genesis.boundaries)
        if self._signer is not None and not safety.may_sign:
            chain.environment.logger.warning(
                "this validator signs nothing: its chain is here and what it has signed is not; use the control "
                "allow_voting once no other node signs with its key"
            )
        if self._signer is not None and self._signer.public not in chain.keys_of(self._signer.account):
            chain.environment.logger.warning(
                "no validator of this epoch or the next: it signs once its stake has a seat",
                account=self._signer.account,
                key=key_text(self._signer.public),
            )
        self.producer = Producer(chain, self._config, safety, self._signer, self._say)

    async def _before_commit(self, held: Held, shard: int) -> None:
        """Whoever has no state of a shard asks its producers for witnesses."""
        if self.network is not None and len(self.chain.approvers(held.info).all) > 1:
            try:
                await witness.keep_for_later(self.chain, held, shard)
            except witness.BadWitness as error:
                self.chain.environment.logger.warning("no witness will be had", shard=shard, reason=str(error))

    def _check_tracked(self) -> None:
        """Raises ConfigurationError where the execution keeps less than is wanted of this node, and others have not the
        state of it to give."""
        chain = self.chain
        if chain.light:
            return
        wanted = set(range(chain.genesis.network.shards))
        if self._config.track == "assigned":
            epoch = chain.epochs.of(chain.chunk_epoch(chain.head.info))
            place = epoch.place(self._signer.account, self._signer.public) if self._signer is not None else None
            wanted = {shard for shard, members in enumerate(epoch.chunk_producers) if place in members}
        lacking = sorted(wanted - chain.tracked)
        if lacking and not (self._config.track == "assigned" and self._can_fetch()):
            raise ConfigurationError(
                f"execution.kept leaves out {lacking}, which consensus.track = {self._config.track!r} needs: set "
                f"execution.kept = {sorted(wanted | chain.tracked)}"
            )

    async def _prune(self, held: Held) -> None:
        await pruning.prune(self.chain, held, self._config.keep_epochs)

    def _can_fetch(self) -> bool:
        """Whether there are states of ended epochs to be had from others."""
        fetches = self.network is not None and self.network.state_sync is not None
        return fetches and (self.chain.light or self.chain.head.info.epoch > 0)

    async def _say(self, said: Said, to: Sequence[str] = ()) -> None:
        if self.network is not None:
            await self.network.say(said, to)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        assert self.producer is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.producer.run)
            if self.network is not None:
                nursery.start_soon(self.network.run, self.producer)
            self._running = True
            task_status.started()

    def status(self) -> Mapping[str, Any]:
        network = self.network
        ahead = network.peers_ahead if network is not None else 0
        state = "idle" if not self._running else "syncing" if self._is_syncing() else "running"
        return {
            "state": state,
            "head": {"height": self.chain.head.info.height, "hash": self.chain.head.info.hash.hex()},
            "final": self.chain.final.info.height,
            "peers_ahead": ahead,
            "epoch": self.chain.head.info.epoch,
            "chunks_missing": sum(ran.missed > 0 for ran in self.chain.head.info.ran),
            "witness_bytes": network.witnesses.bytes_made if network is not None else 0,
            "witnesses_judged": network.witnesses.judged if network is not None else 0,
            "validator": None if self._signer is None else self._signer.account,
            "validator_key": None if self._signer is None else key_text(self._signer.public),
        }

    def _is_syncing(self) -> bool:
        return self.chain.light or (self.network is not None and self.network.peers_ahead > 0 and self.network.behind)

    # --- reading ---

    def head(self) -> BlockRef:
        return self.chain.head.info.ref

    def final(self) -> BlockRef:
        return self.chain.final.info.ref

    async def block(self, id: bytes) -> BlockRecord | None:
        held = await self.chain.find(id)
        if held is None:
            return None
        block, chunks = held.block, await self._chunks_of(held)
        lite, rest = block.header.inner_lite, block.header.inner_rest
        bundles = tuple(chunk.ref for chunk in chunks.values())
        return BlockRecord(
            held.info.ref,
            held.info.prev,
            lite.timestamp // 10**9,
            encode(block.header, BLOCK_HEADER),
            block.encode(),
            bundles,
            transactions=sum(one.count for one in bundles),
            size=sum(one.size for one in bundles),
            detail={
                "epoch_id": lite.epoch_id.hex(),
                "chunk_mask": list(rest.chunk_mask),
                "gas_price": str(rest.next_gas_price),
                "total_supply": str(rest.total_supply),
                "last_final_block": held.info.last_final.hex(),
                "producer": await self._producer_of(held),
            },
        )

    async def _producer_of(self, held: Held) -> str:
        epoch = await self.chain.epoch(held.info.epoch_id)
        return epoch.validators[epoch.block_producer(held.info.height)].account

    async def _chunks_of(self, held: Held) -> dict[int, Chunk]:
        found = {}
        for shard, header in enumerate(held.block.body.chunks):
            if held.block.is_new(shard):
                chunk = await self.chain.store.chunk(header.hash())
                if chunk is not None:
                    found[shard] = chunk
        return found

    async def block_at(self, height: int) -> BlockRecord | None:
        held = await self.chain.at(height)
        return await self.block(held.info.hash) if held is not None else None

    async def locate(self, ids: Sequence[bytes]) -> list[Location | None]:
        found: list[Location | None] = []
        above = (await self.chain.above_final(self.chain.head))[::-1]
        for id, place in zip(ids, await self.chain.store.places(ids), strict=True):
            held = await self.chain.find(place.block.id) if place is not None else None
            if place is not None and held is not None:
                found.append(Location(held.block.body.chunks[place.shard].hash(), place.index, place.block))
                continue
            held = next((one for one in above if id in one.placed), None)
            if held is None:
                found.append(None)
                continue
            shard, index = held.placed[id]
            found.append(Location(held.block.body.chunks[shard].hash(), index, held.info.ref))
        return found

    async def transactions(self, ids: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for location in await self.locate(ids):
            chunk = await self.chain.store.chunk(location.bundle) if location is not None else None
            found.append(None if chunk is None or location is None else chunk.body.transactions[location.index].raw)
        return found

    async def bundle(self, id: bytes) -> bytes | None:
        chunk = await self.chain.store.chunk(id)
        return None if chunk is None else encode(chunk.body)

    async def query(self, kind: str, **arguments: Any) -> Any:
        handler = getattr(self, f"_query_{kind}", None)
        if handler is None:
            known = sorted(name.removeprefix("_query_") for name in dir(self) if name.startswith("_query_"))
            raise UnknownQuery(f"nightshade answers {', '.join(known)}, not {kind!r}")
        return await handler(**arguments)

    async def _held(self, id: bytes | None, height: int | None, finality: str) -> Held | None:
        if id is not None:
            return await self.chain.find(id)
        if height is not None:
            return await self.chain.at(height)
        return self.chain.final if finality == "final" else self.chain.head

    async def _query_block(self, id: bytes | None = None, height: int | None = None, finality: str = "optimistic") -> Any:
        held = await self._held(id, height, finality)
        return None if held is None else (held.block, held.info)

    async def _query_chunk(self, id: bytes | None = None, block: bytes | None = None, shard: int = 0) -> Any:
        """Its header as the chain has it (``height_included``), its body and who made it."""
        included = None
        if id is None:
            held = await self.chain.find(block or b"")
            if held is None or not 0 <= shard < len(held.block.body.chunks):
                return None
            included = held.block.body.chunks[shard].height_included
            id = held.block.body.chunks[shard].hash()
        chunk = await self.chain.store.chunk(id)
        if chunk is None:
            return None
        if included is None:
            included = await self._included(chunk)
        parent = await self.chain.find(chunk.header.inner.prev_block_hash)
        author = ""
        if parent is not None:
            epoch = await self.chain.epoch(self.chain.chunk_epoch(parent.info))
            author = epoch.validators[epoch.chunk_producer(parent.info.height + 1, chunk.shard)].account
        return evolve(chunk.header, height_included=included), chunk.body, author

    async def _included(self, chunk: Chunk) -> int:
        """The height of the block that it is new in: the first above its parent; 0 where that has another, or is far."""
        first = chunk.header.inner.height_created
        for height in range(first, min(first + MAX_SKIPPED, self.chain.head.info.height + 1)):
            held = await self.chain.at(height)
            if held is not None:
                header = held.block.body.chunks[chunk.shard]
                return height if header.hash() == chunk.hash else 0
        return 0

    async def _query_validators(self) -> Any:
        chain = self.chain
        held = chain.head
        info, tally = held.info, held.tally
        now, after = await chain.epoch_set(info.epoch_id), await chain.epoch_set(info.next_epoch_id)
        assert tally is not None

        def rows(epoch: EpochSet, counts: Sequence[Sequence[int]]) -> list[tuple[Any, ...]]:
            return [
                (
                    one.account_id,
                    one.public_key,
                    one.stake,
                    [shard for shard, members in enumerate(epoch.members) if at in members],
                    *(column[at] for column in counts),
                )
                for at, one in enumerate(epoch.validators)
            ]

        return {
            "epoch_height": info.epoch,
            "epoch_start_height": info.epoch_start,
            "current": rows(now, (tally.blocks, tally.blocks_due, tally.chunks, tally.chunks_due)),
            "next": rows(after, ()),
            "proposals": [(one.account_id, one.public_key, one.stake) for one in tally.proposals],
            "kicked": [(one.account, selection.reason(one)) for one in now.kicked],
            "seat_price": after.seat_price,
            "protocol_version": now.version,
        }

    async def _query_epoch(self, id: bytes) -> EpochSet | None:
        known = self.chain.epochs.sets.get(id)
        return known if known is not None else await self.chain.store.epoch(id)

    async def _query_producer(self, id: bytes) -> Any:
        held = await self.chain.find(id)
        return None if held is None else await self._producer_of(held)

    async def _query_idle(self, account: str) -> Any:
        """Heights from the head's on to the end of its epoch, as (first, beyond the last), at which it makes nothing."""
        info = self.chain.head.info
        epoch = await self.chain.epoch(info.epoch_id)
        end = info.epoch_start + self.chain.genesis.network.epoch_length
        return await self.chain.environment.offload(idle, epoch, account, info.height, end)

    async def _query_gas_price(self, id: bytes | None = None, height: int | None = None) -> Any:
        held = await self._held(id, height, "optimistic")
        return None if held is None else held.block.header.inner_rest.next_gas_price

    async def _query_network(self) -> Any:
        genesis = self.chain.genesis
        return {
            "shards": genesis.network.shards,
            "boundaries": genesis.boundaries,
            "epoch_length": genesis.network.epoch_length,
            "gas_limit": genesis.network.gas_limit,
            "min_gas_price": genesis.network.min_gas_price,
            "max_gas_price": genesis.network.max_gas_price,
            "protocol_version": (await self.chain.epoch_set(self.chain.head.info.epoch_id)).version,
            "chain_id": str(genesis.document["network"]),
            "genesis_height": self.chain.root.info.height,
            "genesis_hash": self.chain.root.info.hash,
        }

    # --- control ---

    async def control(self, command: str, **arguments: Any) -> Any:
        if command == "allow_voting":
            if self.producer is None or self._signer is None:
                raise ControlRefused("this node is no validator")
            await self.producer.safety.file.allow()
            self.producer.wake()
            return None
        if command == "sandbox_patch_state":
            return await sandbox.patch_state(self.chain, self.producer, **arguments)
        if command == "sandbox_fast_forward":
            return await sandbox.fast_forward(self.chain, self.producer, **arguments)
        known = "allow_voting, sandbox_fast_forward, sandbox_patch_state"
        raise UnknownControl(f"nightshade has no control {command!r}; it has {known}")
