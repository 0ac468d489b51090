"""The chain as this node holds it: header checks, storing blocks, connecting and disconnecting them, recovery.

The order in which a block becomes durable, each step after the one before has returned:
1. bodies of its bundles in ``stores.blobs``, their rows in ``stores.chain`` (``BundleKeeper``);
2. the block in ``stores.chain`` (``store_block``, durable);
3. ``execution.commit``: the state and its applied marker, one batch;
4. ``pool.settle``: final statuses, journalled; then the marker ``settled`` moves;
5. events.
Invariants:
- the execution's applied block is the tip of ``index.active``; it may lag ``index.best`` and never leads the stored blocks;
- before the first block of a reorganisation is reverted, the list of blocks to revert is durable (``restoring``), and it is
  cleared only after every transaction of them that the new chain does not hold went through ``pool.restore``: their bodies
  are in the blobs, so a crash anywhere in between repeats the restore and loses none;
- everything that moves the tip or changes the assembly holds ``lock``, and is cancelled only between two blocks;
- a block is marked invalid only by a rule it breaks, never because something is missing, and never because the bytes a
  peer sent for it do not belong to its header (that is ``BodyMismatch``, the peer's fault).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import trio
from attrs import define, field

from nodewright.errors import StoreCorrupt, StoreError
from nodewright.interfaces.common import BlockContext, BlockRef, Bundle, BundleRef
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import Deferred, Execution, ExecutionRequest, Incomplete, Invalid, Outcome, Timed
from nodewright.interfaces.pool import InBlock, TransactionPool
from nodewright.interfaces.service import EventLog
from nodewright_nakamoto import blockwire
from nodewright_nakamoto.assembler import Assembler
from nodewright_nakamoto.blockwire import Block
from nodewright_nakamoto.chainindex import ChainIndex, Node
from nodewright_nakamoto.difficulty import Difficulty
from nodewright_nakamoto.genesis import Genesis
from nodewright_nakamoto.header import Header, meets_target
from nodewright_nakamoto.restore import Restorer
from nodewright_nakamoto.store import BundleRow, ChainStore
from nodewright_nakamoto.subtree import FirstSubtree, block_root, check_shape

MAX_FUTURE_SECONDS = 2 * 60 * 60


class InvalidHeader(Exception):
    """The header breaks a rule: whoever sent it did not check it."""


class NotYet(Exception):
    """The header's time is too far ahead of this node's clock: not wrong for good."""


class BodyMismatch(Exception):
    """These bytes are not the block that its header commits to. The header may be fine."""


class MissingBundles(Exception):
    def __init__(self, ids: Sequence[bytes]) -> None:
        super().__init__(f"{len(ids)} bundles are not stored")
        self.ids = ids


def display(id: bytes) -> str:
    return id[::-1].hex()


@define
class Reorganisation:
    """What one move of the tip did, for its event."""

    start: Node
    fork: Node
    reverted: int = 0
    evicted: dict[bytes, bytes] = field(factory=dict)


class Chain:
    def __init__(
        self,
        genesis: Genesis,
        store: ChainStore,
        execution: Execution,
        pool: TransactionPool,
        events: EventLog,
        assembler: Assembler,
        environment: Environment,
    ) -> None:
        self.genesis = genesis
        self.difficulty: Difficulty = genesis.difficulty
        self.index = ChainIndex(genesis.block.header)
        self.store = store
        self.execution = execution
        self.pool = pool
        self.events = events
        self.assembler = assembler
        self.environment = environment
        self.lock = trio.Lock()
        self.validated_blocks = 0
        self.fresh_bundles: set[bytes] = set()  # stored without the pool knowing their transactions: execute with bodies
        self.offenders: dict[bytes, bytes] = {}  # block -> the transaction it was refused for
        self._moved = trio.Event()
        self._restorer = Restorer(self)
        if isinstance(execution, Timed):
            execution.use_times(self.index)

    async def moved(self) -> None:
        """Waits until the tip or the set of known headers changes."""
        await self._moved.wait()

    def notify(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    @property
    def tip(self) -> Node:
        return self.index.tip

    # --- headers ---

    def check_header(self, header: Header) -> None:
        """Proof of work, target, times. The parent must be known (KeyError). Raises InvalidHeader, NotYet."""
        parent = self.index.nodes[header.previous]
        due = self.difficulty.next_bits(parent, self.index.branch(parent))
        if header.bits != due:
            raise InvalidHeader(f"its target is {header.bits:08x} where {due:08x} is due")
        if not meets_target(header.id, header.bits):
            raise InvalidHeader("its hash does not meet its target")
        if header.time <= self.index.median_time(parent):
            raise InvalidHeader("its time is not after the median of the eleven before it")
        if header.time > self.environment.now() + MAX_FUTURE_SECONDS:
            raise NotYet("its time is more than two hours ahead of this node's clock")

    def add_header(self, header: Header) -> Node:
        known = self.index.get(header.id)
        if known is not None:
            return known
        self.check_header(header)
        return self.index.add(header)

    # --- storing ---

    async def store_block(self, node: Node, block: Block) -> None:
        """Check that the block is what the node's header commits to and store it. All its bundles are stored before.

        Raises MissingBundles, BodyMismatch. The rules that need the ancestors are checked when it is connected."""
        if node.have:
            return
        rows = await self.store.bundle_rows(block.subtrees)
        missing = [id for id, row in zip(block.subtrees, rows, strict=True) if row is None]
        if missing:
            raise MissingBundles(missing)
        known = [row for row in rows if row is not None]
        prologue_id = await self.prologue_id(block.prologue)
        problem = self._structure(node, block, known, prologue_id)
        if problem:
            raise BodyMismatch(problem)
        sequence = self.index.next_sequence()
        named = prologue_id if block.prologue else b""
        with trio.CancelScope(shield=True):  # or memory would lag the store
            await self.store.put_block(node.header, node.height, sequence, block.encode(), block.subtrees, named)
            self.index.stored(node, sequence)
        self.notify()

    async def prologue_id(self, prologue: bytes) -> bytes:
        """The prologue's id; 32 zero bytes where the execution has no prologue or cannot parse it."""
        if not prologue:
            return bytes(32)
        return (await self.execution.identify([prologue]))[0] or bytes(32)

    @staticmethod
    def _structure(node: Node, block: Block, rows: Sequence[BundleRow], prologue_id: bytes) -> str | None:
        counts = [row.leaves for row in rows]
        if block.header.encode() != node.header.encode() or block.height != node.height:
            return "it has another header or height"
        if len(set(block.subtrees)) != len(block.subtrees):
            return "it names a subtree twice"
        if [row.placeholder for row in rows] != [True, *[False] * (len(rows) - 1)][: len(rows)]:
            return "the coinbase placeholder is not in its first subtree alone"
        if problem := check_shape(counts):
            return problem
        transactions = bool(block.prologue) + sum(row.count for row in rows)
        size = blockwire.flat_size(transactions, len(block.prologue), sum(row.size for row in rows))
        if (block.transaction_count, block.size) != (transactions, size):
            return (
                f"it states {block.transaction_count} transactions in {block.size} bytes and has {transactions} in {size}"
            )
        first = FirstSubtree(rows[0].siblings) if rows else None
        if block_root(prologue_id, first, block.subtrees, counts) != block.header.merkle_root:
            return "its subtrees do not compose to its Merkle root"
        return None

    # --- moving the tip ---

    async def activate(self) -> None:
        """Move the tip to the best chain, as far as it can be judged now."""
        async with self.lock:
            await self._activate()

    async def _activate(self) -> None:
        index = self.index
        while index.best is not index.tip:
            target, start = index.best, index.tip
            move = Reorganisation(start, index.fork_point(start, target))
            if start is not move.fork:
                with trio.CancelScope(shield=True):
                    await self._disconnect_to(move)
            for node in index.path(move.fork, target):
                # A caller may be cancelled between two blocks, never within one: memory would lag the stores.
                await trio.lowlevel.checkpoint()
                with trio.CancelScope(shield=True):
                    connected = await self._connect(node, move)
                if not connected:
                    break
            if start is not move.fork and index.best is index.tip:
                await self._announce_reorganisation(move)
        with trio.CancelScope(shield=True):
            await self._restorer.finish()

    async def _disconnect_to(self, move: Reorganisation) -> None:
        reverted = self.index.path(move.fork, self.index.tip)
        await self._restorer.begin(reverted)
        for node in reversed(reverted):
            result = await self.execution.revert(node.ref)
            self.index.active.pop()
            move.reverted += 1
            if result.removed:
                reason = f"it depends on the coinbase of {display(node.id)}, which left the chain"
                await self.pool.settle(rejected=dict.fromkeys(result.removed, reason))
                self.assembler.remove(result.removed)
            self.notify()

    async def _connect(self, node: Node, move: Reorganisation) -> bool:
        """Execute, commit and settle one stored block on the tip; False where it cannot be (it is marked then)."""
        block, rows = await self.read_block(node)
        problem = await self._duplicates(node, block, rows)
        if problem:
            await self.refuse(node, "duplicate-transaction", problem)
            return False
        result, columns = await self._execute(node, block)
        self.validated_blocks += 1
        if isinstance(result, Invalid):
            await self.refuse(node, result.code, result.message, result.transaction)
            return False
        if isinstance(result, Incomplete):
            self.index.mark(node, "incomplete", f"{len(result.missing)} bodies or parents are not here")
            self.events.publish(
                "block_refused",
                {"hash": display(node.id), "height": node.height, "final": False, "reason": node.reason},
            )
            return False
        if result.discarded or result.retry:
            id, why = next(iter({**result.discarded, **result.retry}.items()))
            await self.refuse(node, "invalid-transaction", f"{display(id)}: {why}", id)
            return False
        late = await self.execution.commit(node.ref)
        self.index.active.append(node)
        evicted = {**result.evicted, **(late or {})}
        move.evicted.update(evicted)
        await self._settle(node, columns, evicted)
        self.fresh_bundles.difference_update(block.subtrees)
        self.events.publish(
            "block_accepted",
            {
                "hash": display(node.id),
                "height": node.height,
                "previous": display(block.header.previous),
                "time": block.header.time,
                "transactions": block.transaction_count,
                "size": block.size,
                "bundles": len(block.subtrees),
            },
        )
        self.notify()
        return True

    async def read_block(self, node: Node) -> tuple[Block, list[BundleRow]]:
        """A stored block and the rows of its bundles. Raises StoreCorrupt."""
        if node is self.index.root:
            return self.genesis.block, []
        wire = await self.store.block(node.id)
        if wire is None:
            raise StoreCorrupt(f"block {display(node.id)} is in the headers table and its body is not stored")
        block = blockwire.decode(wire, height=node.height)
        rows = [row for row in await self.store.bundle_rows(block.subtrees) if row is not None]
        if len(rows) != len(block.subtrees):
            raise StoreCorrupt(f"a bundle of block {display(node.id)} is not stored")
        return block, rows

    async def _duplicates(self, node: Node, block: Block, rows: Sequence[BundleRow]) -> str | None:
        """A transaction twice in the block or on its chain, asked of bundles: O(bundles + overlaps)."""
        parent = node.parent
        assert parent is not None
        here = set(block.subtrees)
        others: set[bytes] = set()
        for id, row in zip(block.subtrees, rows, strict=True):
            if here.intersection(row.overlaps):
                return f"subtree {display(id)} shares a transaction with another of its subtrees"
            if self._on_chain(row.blocks, parent):
                return f"subtree {display(id)} is in one of its ancestors"
            others.update(row.overlaps)
        for other, its in zip(others, await self.store.bundle_rows(list(others)), strict=True):
            if its is not None and self._on_chain(its.blocks, parent):
                return f"it holds a transaction of subtree {display(other)}, which is in one of its ancestors"
        return None

    def _on_chain(self, blocks: Iterable[bytes], tip: Node) -> bool:
        nodes = (self.index.get(id) for id in blocks)
        return any(node is not None and self.index.is_ancestor(node, tip) for node in nodes)

    def context(self, parent: Node, time: int, **more: Any) -> BlockContext:
        """For ``execute``: ``extra`` is the median time past of the parent, 8 bytes little-endian. For ``prologue``:
        ``proposer`` is the script to pay (empty: the execution's default), ``extra`` what the coinbase says."""
        height = parent.height + 1
        more.setdefault("extra", self.index.median_time(parent).to_bytes(8, "little"))
        return BlockContext(height=height, time=time, protocol_version=self.genesis.protocol_version(height), **more)

    async def _execute(self, node: Node, block: Block) -> tuple[Outcome | Invalid | Incomplete, list[bytes]]:
        """And the ids of its bundles, a column for each."""
        assert node.parent is not None
        with_bodies = {id for id in block.subtrees if id in self.fresh_bundles}
        context = self.context(node.parent, node.time)
        while True:
            bundles = [await self._bundle(id, id in with_bodies) for id in block.subtrees]
            request = ExecutionRequest(node.parent.ref, node.ref, context, bundles, block.prologue)
            result = await self.execution.execute(request)
            if isinstance(result, Incomplete) and len(with_bodies) < len(block.subtrees):
                with_bodies = set(block.subtrees)
                continue
            if isinstance(result, Deferred):
                raise StoreError(f"the execution stands at {result.have} where the chain's tip is {node.parent.ref}")
            return result, [bundle.ids for bundle in bundles]

    async def _bundle(self, id: bytes, with_bodies: bool) -> Bundle:
        if with_bodies:
            subtree = await self.store.subtree(id)
            if subtree is None:
                raise StoreCorrupt(f"bundle {display(id)} is not in stores.blobs")
            bodies = await self.store.bodies(subtree)
            return Bundle(BundleRef(id, subtree.count, sum(subtree.sizes)), subtree.ids, bodies)
        ids = await self.store.ids(id)
        return Bundle(BundleRef(id, len(ids) // 32), ids)

    async def _settle(self, node: Node, columns: Sequence[bytes], evicted: Mapping[bytes, bytes]) -> None:
        offload = self.environment.offload
        committed = InBlock(columns, node.ref)
        await self.pool.settle(committed=committed, replaced=evicted)
        await self.store.put_meta("settled", node.id, durable=False)
        if len(self.assembler) and (evicted or not await offload(self.assembler.remove_block, columns)):
            await offload(self.assembler.remove, [*committed, *evicted])
        if evicted:
            lost = [{"id": display(id), "winner": display(winner)} for id, winner in evicted.items()]
            detail = {"block": display(node.id), "reason": "a block ordered a conflicting transaction"}
            self.events.publish("evicted", {"transactions": lost, **detail})
            self.events.publish("double_spend", {"transactions": lost, **detail})

    async def refuse(self, node: Node, code: str, message: str, transaction: bytes | None = None) -> None:
        """Mark a block invalid for good, durably, and say why."""
        self.index.mark(node, "invalid", f"{code}: {message}"[:500])
        await self._persist([node])
        data = {"hash": display(node.id), "height": node.height, "final": True, "code": code, "reason": message}
        if transaction is not None:
            self.offenders[node.id] = transaction
            data["transaction"] = display(transaction)
        self.events.publish("block_refused", data)
        self.environment.logger.warning("block refused", **data)
        self.notify()

    async def _persist(self, nodes: Sequence[Node]) -> None:
        await self.store.put_marks([(n.height, n.header, n.sequence, n.mark, n.reason) for n in nodes])

    async def _announce_reorganisation(self, move: Reorganisation) -> None:
        tip = self.index.tip
        data = {
            "from": {"hash": display(move.start.id), "height": move.start.height},
            "to": {"hash": display(tip.id), "height": tip.height},
            "fork": {"hash": display(move.fork.id), "height": move.fork.height},
            "depth": move.reverted,
            "evicted": len(move.evicted),
            "reason": "a chain with more work" if not move.start.bad else f"the old tip is bad: {move.start.reason}",
        }
        self.events.publish("reorganised", data)
        self.environment.logger.info("reorganised", **data)

    # --- the operator's marks ---

    async def invalidate(self, node: Node) -> None:
        async with self.lock:
            self.index.mark(node, "manual", "invalidated by the operator")
            # Every stored header has its parent stored.
            await self._persist([one for one in self.index.back(node) if one is node or not one.have][::-1])
            await self._activate()
        self.notify()

    async def reconsider(self, node: Node) -> None:
        async with self.lock:
            cleared = self.index.clear(node)
            await self._persist([one for one in cleared if one.height])
            await self._activate()
        self.notify()

    async def retry_incomplete(self) -> None:
        """Judge again what could not be judged before."""
        nodes = [node for node in self.index.marked.values() if node.mark == "incomplete"]
        if nodes:
            async with self.lock:
                for node in nodes:
                    self.index.clear(node)
                await self._activate()

    # --- recovery ---

    async def recover(self) -> None:
        """Read the tree, find what the execution has applied, settle what a crash left unsettled, go to the best chain."""
        async with self.lock:
            await self._load()
            applied = await self.execution.applied()
            if applied is None:
                await self.execution.genesis(self.genesis.document, self.index.root.ref)
                applied = self.index.root.ref
            node = self.index.get(applied.id)
            if node is None or not node.connected:
                raise StoreCorrupt(
                    f"the execution has applied block {applied}, which stores.chain does not hold: the two stores are not "
                    "from the same moment; restore both from one backup"
                )
            self.index.active = list(self.index.back(node))[::-1]
            await self._settle_again()
            await self._activate()

    async def _load(self) -> None:
        marker = await self.store.meta("genesis")
        root = self.index.root
        if marker and marker != root.id:
            raise StoreCorrupt(
                f"stores.chain begins with block {display(marker)}, the genesis file gives {display(root.id)}"
            )
        if not marker:
            await self.store.put_meta("genesis", root.id, durable=True)
        marked, ahead = [], 0
        async for row in self.store.headers():
            if row.header.previous not in self.index:
                ahead += 1  # stored in a catch-up before its parent was: fetched again
                continue
            node = self.index.add(row.header)
            if row.sequence:
                self.index.stored(node, row.sequence)
            if row.mark:
                marked.append((node, row.mark, row.reason))
        for node, mark, reason in marked:
            self.index.mark(node, mark, reason)
        if ahead:
            self.environment.logger.info("blocks without their parents are fetched again", blocks=ahead)

    async def _settle_again(self) -> None:
        """Blocks committed after the last settled one: their final statuses may not have reached the pool's journal."""
        marker = self.index.get(await self.store.meta("settled")) or self.index.root
        base = self.index.fork_point(marker, self.index.tip)
        for node in self.index.path(base, self.index.tip):
            block, _ = await self.read_block(node)
            await self._settle(node, [await self.store.ids(id) for id in block.subtrees], {})

    def block_ref(self, ids: Iterable[bytes]) -> BlockRef | None:
        """The block of the active chain among these, if any."""
        for id in ids:
            node = self.index.get(id)
            if node is not None and self.index.on_active(node):
                return node.ref
        return None
