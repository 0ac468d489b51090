"""``Nakamoto``: proof of work over Teranode subtrees, as the core's contract ``consensus`` sees it.

The parts: ``chain`` (what the chain is), ``assembly`` (what comes next), ``bundles`` and ``fetch`` (what others have),
``sync`` and ``relay`` (following them), ``serve`` (answering them), ``queries``. This module only wires them.

Control commands:
``mining_candidate`` (``payout`` script bytes, ``coinbase`` bool) → Teranode's getminingcandidate fields
``submit_solution`` (``id`` hex, ``nonce``, optional ``time``, ``version``, ``coinbase`` raw bytes) → the block's id
``generate`` (``count`` 1 to 10,000, ``payout`` script bytes) → block ids, in order
``invalidate_block`` / ``reconsider_block`` (``id``) → the head afterwards
``publish`` → store and announce what is assembled now
``submit_block`` (``header`` 80 bytes, ``transactions`` raw, coinbase first) → ``{hash, height, accepted, on_best_chain,
reason}``; see ``flat`` for what is refused
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from nodewright.errors import ControlRefused, UnknownControl
from nodewright.interfaces.common import BlockRecord, BlockRef, BundleRef, Location
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Execution
from nodewright.interfaces.pool import TransactionPool
from nodewright.interfaces.service import EventLog, Metrics
from nodewright.interfaces.storage import BlobStore, KeyValueStore
from nodewright.interfaces.transport import Transport
from nodewright_nakamoto import genesis as genesis_rules
from nodewright_nakamoto import messages
from nodewright_nakamoto.assembler import Assembler
from nodewright_nakamoto.assembly import Assembly, Say, Template
from nodewright_nakamoto.bundles import BundleKeeper
from nodewright_nakamoto.chain import Chain, display
from nodewright_nakamoto.config import NakamotoConfig
from nodewright_nakamoto.fetch import Fetcher
from nodewright_nakamoto.flat import FlatBlocks
from nodewright_nakamoto.gauges import Gauges
from nodewright_nakamoto.messages import SubtreeAnnouncement
from nodewright_nakamoto.queries import Queries, difficulty_of
from nodewright_nakamoto.serve import Server
from nodewright_nakamoto.store import ChainStore
from nodewright_nakamoto.sync import Synchroniser

MAX_GENERATE = 10_000


class Nakamoto:
    """Made by ``create`` (it asks the execution for the id of the genesis coinbase)."""

    capabilities = frozenset({"proof-of-work", "reorganise", "mining"})
    format = "nakamoto/1"
    invalid_transaction = "reject_block"

    def __init__(
        self,
        config: NakamotoConfig,
        chain: Chain,
        transport: Transport | None,
        metrics: Metrics | None,
        health: Say = lambda ok, detail: None,
    ) -> None:
        self.chain = chain
        self._config = config
        self._running = False
        self._keeper = BundleKeeper(chain, config.max_unmined_bundles, config.max_subtree_data_bytes)
        self.assembly = Assembly(chain, self._keeper, config, self._announce, health)
        self._flat = FlatBlocks(chain, self._keeper, config.subtree_size, self._asked_for)
        self._queries = Queries(chain, self._flat)
        self._sync: Synchroniser | None = None
        self._server: Server | None = None
        self._gauges = Gauges(metrics, self) if metrics is not None else None
        if transport is not None:
            self._connect(transport)

    def _connect(self, transport: Transport) -> None:
        config, chain = self._config, self.chain
        requests = transport.channel(messages.REQUEST, 256, "block", messages.MAX_MESSAGE_BYTES)
        # Announcements are news: the newest matter, and a lost tip is told again with the next.
        announcements = transport.channel(messages.ANNOUNCE, 1024, "oldest", 4096)
        fetcher = Fetcher(transport, requests, chain.environment, config.request_timeout_seconds)
        self._keeper.fetcher = fetcher
        self._server = Server(chain, self._keeper, fetcher)
        self._sync = Synchroniser(chain, self._keeper, fetcher, announcements, config.max_parallel_blocks)

    @classmethod
    async def create(
        cls,
        config: NakamotoConfig,
        *,
        genesis: Mapping[str, Any],
        chain: KeyValueStore,
        blobs: BlobStore,
        execution: Execution,
        pool: TransactionPool,
        events: EventLog,
        environment: Environment,
        transport: Transport | None = None,
        metrics: Metrics | None = None,
        health: Say = lambda ok, detail: None,
    ) -> Nakamoto:
        coinbase = genesis_rules.coinbase_of(genesis)
        prologue_id = (await execution.identify([coinbase]))[0] if coinbase else None
        built = genesis_rules.build(genesis, prologue_id)
        store = ChainStore(chain, blobs, environment)
        assembler = Assembler(config.subtree_size)
        parts = Chain(built, store, execution, pool, events, assembler, environment)
        return cls(config, parts, transport, metrics, health)

    def _asked_for(self) -> set[bytes]:
        return self._sync.asked_for() if self._sync is not None else set()

    async def _announce(self, announcement: SubtreeAnnouncement) -> None:
        if self._sync is not None:
            await self._sync.announce_subtree(announcement)

    # --- life ---

    async def recover(self) -> None:
        await self._keeper.open()
        await self.chain.recover()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.assembly.take)
            nursery.start_soon(self.assembly.publish)
            nursery.start_soon(self.assembly.retry_deferred)
            if self._server is not None and self._sync is not None:
                nursery.start_soon(self._server.run)
                nursery.start_soon(self._sync.run)
            if self._gauges is not None:
                nursery.start_soon(self._gauges.run)
            if self._config.mine:
                nursery.start_soon(self.assembly.mine)
            self._running = True
            task_status.started()

    def status(self) -> Mapping[str, Any]:
        chain, sync = self.chain, self._sync
        ahead = sync.peers_ahead if sync else 0
        syncing = sync is not None and sync.syncing
        return {
            "state": "idle" if not self._running else "syncing" if syncing else "running",
            "head": {"height": chain.tip.height, "hash": display(chain.tip.id)},
            "peers_ahead": ahead,
            "headers": sync.headers if sync else chain.tip.height,
            "assembled": len(chain.assembler),
        }

    # --- reading ---

    def head(self) -> BlockRef:
        return self.chain.tip.ref

    def final(self) -> BlockRef:
        return self.chain.index.root.ref

    async def block(self, id: bytes) -> BlockRecord | None:
        chain = self.chain
        node = chain.index.get(id)
        if node is None or not node.have:
            return None
        block, rows = await chain.read_block(node)
        bundles = tuple(BundleRef(one, row.count, row.size) for one, row in zip(block.subtrees, rows, strict=True))
        prologue_id = await chain.prologue_id(block.prologue) if block.prologue else b""
        detail = {
            "bits": f"{node.bits:08x}",
            "chain_work": f"{node.work:064x}",
            "difficulty": difficulty_of(node.bits),
            "median_time": chain.index.median_time(node),
            "on_best_chain": chain.index.on_active(node),
            "merkle_root": display(node.header.merkle_root),
            "version": node.header.version,
            "nonce": node.header.nonce,
            "invalid": node.reason if node.bad else None,
        }
        return BlockRecord(
            node.ref,
            node.header.previous,
            node.time,
            node.header.encode(),
            block.encode(),
            bundles,
            block.prologue,
            prologue_id,
            block.transaction_count,
            block.size,
            detail,
        )

    async def block_at(self, height: int) -> BlockRecord | None:
        active = self.chain.index.active
        return await self.block(active[height].id) if 0 <= height < len(active) else None

    async def locate(self, ids: Sequence[bytes]) -> list[Location | None]:
        store, found = self.chain.store, list[Location | None]()
        holders = await store.holders(ids)
        named = sorted({bundle for pairs in holders for bundle, _ in pairs})
        rows = await store.bundle_rows(named)
        blocks = {
            bundle: self.chain.block_ref(row.blocks) if row is not None else None
            for bundle, row in zip(named, rows, strict=True)
        }
        prologues = await store.prologue_blocks(ids)
        for id, pairs, prologue in zip(ids, holders, prologues, strict=True):
            places = [Location(bundle, index, blocks[bundle]) for bundle, index in pairs]
            places += [Location(block, 0, self.chain.block_ref([block])) for block in prologue]
            if not places and id == self.chain.genesis.prologue_id and self.chain.genesis.block.prologue:
                places = [Location(self.chain.index.root.id, 0, self.chain.index.root.ref)]
            # One on the best chain before one that is not.
            found.append(min(places, key=lambda place: place.block is None) if places else None)
        return found

    async def transactions(self, ids: Sequence[bytes]) -> list[bytes | None]:
        bodies = await self.chain.store.transactions(ids)
        for at, (id, body) in enumerate(zip(ids, bodies, strict=True)):
            if body is None:
                bodies[at] = await self._prologue(id)
        return bodies

    async def _prologue(self, id: bytes) -> bytes | None:
        if id == self.chain.genesis.prologue_id:
            return self.chain.genesis.block.prologue or None
        (blocks,) = await self.chain.store.prologue_blocks([id])
        for block in blocks:
            node = self.chain.index.get(block)
            if node is not None and node.have:
                return (await self.chain.read_block(node))[0].prologue
        return None

    async def bundle(self, id: bytes) -> bytes | None:
        return await self.chain.store.subtree_bytes(id)

    async def query(self, kind: str, **arguments: Any) -> Any:
        return await self._queries.query(kind, arguments)

    # --- control ---

    async def control(self, command: str, **arguments: Any) -> Any:
        handler = getattr(self, f"_control_{command}", None)
        if handler is None:
            known = sorted(name.removeprefix("_control_") for name in dir(self) if name.startswith("_control_"))
            raise UnknownControl(f"nakamoto has no control {command!r}; it has {', '.join(known)}")
        return await handler(**arguments)

    async def _control_mining_candidate(self, payout: bytes | None = None, coinbase: bool = True) -> dict[str, Any]:
        template = await self.assembly.template(payout)
        return self._candidate(template, coinbase)

    @staticmethod
    def _candidate(template: Template, coinbase: bool) -> dict[str, Any]:
        candidate = {
            "id": template.id.hex(),
            "prevhash": display(template.parent.id),
            "fees": template.fees,
            "version": template.version,
            "nBits": f"{template.bits:08x}",
            "time": template.time,
            "height": template.height,
            "num_tx": template.count,
            "sizeWithoutCoinbase": template.size(b""),
            "merkleProof": [display(one) for one in template.branch],
        }
        if coinbase:
            candidate["coinbase"] = template.prologue.hex()
        return candidate

    async def _control_submit_solution(
        self,
        id: str,
        nonce: int,
        time: int | None = None,
        version: int | None = None,
        coinbase: bytes | None = None,
    ) -> bytes:
        try:
            template = self.assembly.templates.get(bytes.fromhex(id))
        except ValueError:
            template = None
        if template is None:
            raise ControlRefused(f"there is no mining candidate {id!r}: it is stale, or was never given out")
        when = template.time if time is None else time
        if not all(0 <= one <= 0xFFFF_FFFF for one in (nonce, when, version or 0)):
            raise ControlRefused("nonce, time and version must be whole numbers of 32 bits")
        node = await self.assembly.submit(template, nonce, when, version, coinbase)
        return node.id

    async def _control_generate(self, count: int = 1, payout: bytes | None = None) -> list[bytes]:
        if not 1 <= count <= MAX_GENERATE:
            raise ControlRefused(f"count must be from 1 to {MAX_GENERATE}, not {count}")
        return [node.id for node in await self.assembly.generate(count, payout)]

    async def _control_invalidate_block(self, id: bytes) -> BlockRef:
        node = self.chain.index.get(id)
        if node is None or node is self.chain.index.root:
            raise ControlRefused(f"block {display(id)} is not known, or is genesis")
        await self.chain.invalidate(node)
        return self.head()

    async def _control_reconsider_block(self, id: bytes) -> BlockRef:
        node = self.chain.index.get(id)
        if node is None:
            raise ControlRefused(f"block {display(id)} is not known")
        await self.chain.reconsider(node)
        return self.head()

    async def _control_publish(self) -> None:
        await self.assembly.publish_now()

    async def _control_submit_block(self, header: bytes, transactions: Sequence[bytes]) -> dict[str, Any]:
        return await self._flat.submit(header, transactions)
