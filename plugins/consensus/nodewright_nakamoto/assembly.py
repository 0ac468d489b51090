"""Assembly at work: takes candidates from the pool, stores and announces what is sealed, announces what waits too long,
and makes block templates.

Invariants:
- a candidate enters the assembly only if it is still pending at that instant, under the chain's lock;
- a sealed subtree is announced after it is stored, and stored before a block names it;
- a template is a well-shaped block at the moment it is made; it goes stale with its parent, never wrong;
- a block of this node that is refused leaves a repaired assembly behind (``repair``); one more before a block of this node
  is accepted turns the component's health red.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio
from attrs import field, frozen

from nodewright.errors import ControlRefused
from nodewright.interfaces.execution import Candidate, Limits
from nodewright_nakamoto import blockwire, merkle
from nodewright_nakamoto.assembler import Columns
from nodewright_nakamoto.blockwire import Block
from nodewright_nakamoto.bundles import BundleKeeper, NotPending
from nodewright_nakamoto.chain import BodyMismatch, Chain, InvalidHeader, NotYet, display
from nodewright_nakamoto.chainindex import Node
from nodewright_nakamoto.config import NakamotoConfig
from nodewright_nakamoto.header import Header, meets_target, search_nonce, sha256d
from nodewright_nakamoto.messages import SubtreeAnnouncement
from nodewright_nakamoto.repair import Repairer
from nodewright_nakamoto.subtree import FirstSubtree, Subtree, block_root, coinbase_branch

MAX_TEMPLATES = 64
BLOCK_VERSION = 0x20000000
NONCE_BATCH = 50_000
ATTEMPTS_TO_GENERATE = 3

Announce = Callable[[SubtreeAnnouncement], Awaitable[None]]
Say = Callable[[bool, str], None]


class OwnBlockRefused(ControlRefused):
    """By this node's own validation. The assembly has been repaired since."""


@frozen
class Template:
    """A block but for its proof of work. ``branch`` is the Merkle branch of the prologue, lowest first."""

    id: bytes
    parent: Node
    version: int
    bits: int
    time: int
    prologue: bytes
    prologue_id: bytes
    subtrees: tuple[Subtree, ...] = field(repr=False)
    branch: tuple[bytes, ...]
    fees: int

    @property
    def height(self) -> int:
        return self.parent.height + 1

    @property
    def count(self) -> int:
        """Transactions, prologue included."""
        return bool(self.prologue) + sum(one.count for one in self.subtrees)

    def size(self, prologue: bytes) -> int:
        return blockwire.flat_size(self.count, len(prologue), sum(sum(one.sizes) for one in self.subtrees))

    def root(self, prologue_id: bytes) -> bytes:
        roots, counts = [one.root for one in self.subtrees], [len(one) for one in self.subtrees]
        first = FirstSubtree(self.branch[: merkle.depth(counts[0])]) if counts else None
        return block_root(prologue_id, first, roots, counts)


class Assembly:
    def __init__(
        self,
        chain: Chain,
        keeper: BundleKeeper,
        config: NakamotoConfig,
        announce: Announce,
        health: Say = lambda ok, detail: None,
    ) -> None:
        self.health = health
        self.chain = chain
        self.keeper = keeper
        self.config = config
        self.templates: dict[bytes, Template] = {}
        self._announce = announce
        self._built: list[tuple[Columns, Subtree]] = []  # sealed ones, by identity of their columns
        self._stored: dict[bytes, SubtreeAnnouncement] = {}  # sealed, stored and told
        self._open: SubtreeAnnouncement | None = None  # the last partial one told
        self._deferred: list[Candidate] = []
        self._changed = trio.Event()
        self._sealed = trio.Event()
        self._filled = trio.Event()
        self._partial = (-1, 0)  # series and leaves of the last partial announcement
        self._counter = 0
        self._repairer = Repairer(chain, keeper)
        self._repaired = False  # since a block of this node was accepted last
        self._failing = False  # what health was told
        # With the counter behind it: no two nodes, and no two templates of one, make the same coinbase.
        self._tag = config.coinbase_text.encode() + chain.environment.entropy(4)
        keeper.pinned = lambda: {built.root for _, built in self._built}
        keeper.announced = lambda: [*self._stored.values(), *([self._open] if self._open is not None else [])]

    # --- filling ---

    async def take(self) -> None:
        """Moves candidates from the pool into the assembly, for ever."""
        pool, assembler = self.chain.pool, self.chain.assembler
        while True:
            candidates = await pool.take(self.config.take_count)
            async with self.chain.lock:
                await self._insert(candidates)
            if assembler.sealed:
                self._sealed.set()
            self._changed.set()
            self._filled.set()

    async def _insert(self, candidates: list[Candidate]) -> None:
        chain = self.chain
        # What a block settled between ``take`` and this lock is no longer pending, and keeps its status.
        # What was deferred before is looked at again with them: their parents may be among it.
        candidates = self._pending(list({one.id: one for one in [*self._deferred, *candidates]}.values()))
        limits = Limits(len(candidates), sum(one.size for one in candidates))
        selection = await chain.execution.select(chain.tip.ref, candidates, limits)
        chosen = selection.chosen
        if selection.rejected:
            await chain.pool.settle(rejected=selection.rejected)
            chosen = self._pending(chosen)
        self._deferred = list(selection.deferred)
        chain.assembler.extend(chosen)

    def _pending(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        bodies = self.chain.pool.bodies([one.id for one in candidates])
        return [one for one, body in zip(candidates, bodies, strict=True) if body is not None]

    async def retry_deferred(self) -> None:
        """After every move of the tip, what could not run before is ready again, and what the pool gave up is not mined."""
        tip = self.chain.tip
        while True:
            await self.chain.moved()
            if self.chain.tip is not tip:
                tip = self.chain.tip
                await self._drop_given_up()
            if self._deferred:  # and they stay deferred until they were looked at: who spends from them waits with them
                self.chain.pool.give_back([one.id for one in self._pending(self._deferred)])
            self._changed.set()

    async def _drop_given_up(self) -> None:
        """The next block's rules may refuse what those of the last one allowed: the pool has rejected it then."""
        async with self.chain.lock:
            assembler = self.chain.assembler
            if not len(assembler):
                return
            ids = assembler.ids()
            gone = [id for id, body in zip(ids, self.chain.pool.bodies(ids), strict=True) if body is None]
            if gone:
                assembler.remove(gone)

    # --- publishing ---

    async def publish(self) -> None:
        """Stores and announces subtrees, for ever."""
        while True:
            await self._changed.wait()
            with trio.move_on_after(self.config.announce_after_seconds):
                await self._sealed.wait()
            self._changed = trio.Event()
            self._sealed = trio.Event()
            await self.publish_now()

    async def publish_now(self) -> None:
        for built, series in await self._sealed_subtrees():
            if built.root in self._stored or not await self._keep(built):
                continue
            announcement = SubtreeAnnouncement(built.root, len(built), series, True)
            self._stored[built.root] = announcement
            self.chain.events.publish(
                "bundle_sealed", {"hash": display(built.root), "transactions": built.count, "fees": sum(built.fees)}
            )
            await self._announce(announcement)
        await self._publish_partial()

    async def _publish_partial(self) -> None:
        assembler = self.chain.assembler
        async with self.chain.lock:
            snapshot, series = assembler.snapshot(), assembler.series
            position = len(assembler.sealed)
        if snapshot is None:
            self._open = None
        if snapshot is None or self._partial == (series, position << 32 | len(snapshot)):
            return
        self._partial = (series, position << 32 | len(snapshot))
        built = await self.keeper.build(snapshot)
        self.keeper.offer(built.root, snapshot)
        self._open = SubtreeAnnouncement(built.root, len(built), series << 32 | position, False)
        await self._announce(self._open)

    async def _sealed_subtrees(self) -> list[tuple[Subtree, int]]:
        """The sealed subtrees of the assembly as it is now, each with its series on the wire."""
        async with self.chain.lock:
            sealed, series = list(self.chain.assembler.sealed), self.chain.assembler.series
        known = {id(columns): built for columns, built in self._built}
        pairs = []
        for columns in sealed:
            pairs.append((columns, known.get(id(columns)) or await self.keeper.build(columns)))
        self._built = pairs
        self._stored = {built.root: self._stored[built.root] for _, built in pairs if built.root in self._stored}
        return [(built, series << 32 | position) for position, (_, built) in enumerate(pairs)]

    async def _keep(self, built: Subtree) -> bool:
        try:
            await self.keeper.keep_own(built)
        except NotPending as error:
            async with self.chain.lock:
                self.chain.assembler.remove(error.ids)
            self._changed.set()
            return False
        return True

    # --- templates ---

    async def template(self, payout: bytes | None = None) -> Template:
        """A template on the tip with everything assembled now."""
        chain = self.chain
        async with chain.lock:
            parent, columns = chain.tip, chain.assembler.template()
        known = {id(one): built for one, built in self._built}
        subtrees = tuple([known.get(id(one)) or await self.keeper.build(one) for one in columns])
        fees = sum(sum(one.fees) for one in subtrees)
        time = max(int(chain.environment.now()), chain.index.median_time(parent) + 1)
        if payout is None:
            payout = bytes.fromhex(self.config.payout_script)
        self._counter += 1
        counter = self._counter.to_bytes(8, "little")
        context = chain.context(parent, time, fees=fees, proposer=payout, extra=self._tag + counter)
        prologue = await chain.execution.prologue(context)
        first = await chain.environment.offload(FirstSubtree.of, subtrees[0].leaves) if subtrees else None
        branch = coinbase_branch(first, [one.root for one in subtrees], [len(one) for one in subtrees])
        job = sha256d(parent.id + prologue.id + counter)[:16]
        bits = chain.difficulty.next_bits(parent, chain.index.branch(parent))
        prologue_id = prologue.id or bytes(32)
        made = Template(job, parent, BLOCK_VERSION, bits, time, prologue.raw, prologue_id, subtrees, tuple(branch), fees)
        self.templates = {key: one for key, one in self.templates.items() if one.parent is parent}
        while len(self.templates) >= MAX_TEMPLATES:
            del self.templates[next(iter(self.templates))]
        self.templates[job] = made
        return made

    async def submit(
        self, template: Template, nonce: int, time: int, version: int | None = None, prologue: bytes | None = None
    ) -> Node:
        """A solved template becomes a block of this node. Raises ControlRefused with a sentence."""
        chain = self.chain
        raw, prologue_id = template.prologue, template.prologue_id
        if prologue is not None and prologue != raw:
            (given,) = await chain.execution.identify([prologue])
            if given is None:
                raise ControlRefused("the coinbase cannot be parsed")
            raw, prologue_id = prologue, given
        wanted = version if version is not None else template.version
        header = Header(wanted, template.parent.id, template.root(prologue_id), time, template.bits, nonce)
        if not meets_target(header.id, header.bits):
            raise ControlRefused(f"high-hash: block {display(header.id)} does not meet its target")
        roots = tuple(one.root for one in template.subtrees)
        block = Block(header, template.count, template.size(raw), roots, raw, template.height)
        try:
            async with self.keeper.in_use(roots):
                for built in template.subtrees:
                    await self.keeper.keep_own(built)
                node = chain.add_header(header)
                await chain.store_block(node, block)
        except NotPending as error:
            raise ControlRefused(f"stale: {error}; ask for a new candidate") from error
        except (InvalidHeader, NotYet, BodyMismatch) as error:
            raise ControlRefused(f"block {display(header.id)} is refused: {error}") from error
        await chain.activate()
        if node.bad:
            await self._repair(node, raw == template.prologue)
            raise OwnBlockRefused(f"block {display(node.id)} is refused: {node.reason}")
        self._repaired = False
        if self._failing:
            self._failing = False
            self.health(True, "")
        return node

    async def _repair(self, node: Node, own_prologue: bool) -> None:
        """A block of one's own that breaks a rule: nothing of what broke it may be in the next one."""
        chain = self.chain
        chain.offenders.pop(node.id, None)
        self.templates.clear()
        async with chain.lock:
            repaired = await self._repairer.run()
            self._deferred = list(repaired.deferred)
        self._changed.set()
        chain.environment.logger.error(
            "own block refused, assembly repaired",
            hash=display(node.id),
            reason=node.reason,
            kept=repaired.kept,
            struck=repaired.struck,
            deferred=len(repaired.deferred),
        )
        # A coinbase that an outside miner made is that miner's fault, where nothing else was found.
        blameless = not own_prologue and not repaired.struck and not repaired.deferred
        if repaired.problem or (self._repaired and not blameless):
            self._failing = True
            self.health(
                False,
                "blocks of this node are refused by its own validation also after the assembly was repaired "
                f"({repaired.problem or node.reason}): other nodes' blocks are followed; report the log's lines about it",
            )
        self._repaired = self._repaired or not blameless

    async def solve(self, template: Template) -> tuple[int, int] | None:
        """(nonce, time) that meets the template's target; None when the tip moved away first."""
        chain = self.chain
        time = template.time
        while chain.tip is template.parent:
            header = Header(
                template.version, template.parent.id, template.root(template.prologue_id), time, template.bits, 0
            )
            raw = header.encode()
            for start in range(0, 1 << 32, NONCE_BATCH):
                nonce = await chain.environment.offload(search_nonce, raw, template.bits, start, NONCE_BATCH)
                if nonce is not None:
                    return nonce, time
                if chain.tip is not template.parent:
                    return None
            time += 1
        return None

    async def generate(self, count: int, payout: bytes | None = None) -> list[Node]:
        """Mine blocks now, one on the other. One that is refused is tried again from the repaired assembly."""
        nodes: list[Node] = []
        refused = 0
        while len(nodes) < count:
            template = await self.template(payout)
            solved = await self.solve(template)
            if solved is None:
                continue
            try:
                nodes.append(await self.submit(template, *solved))
                refused = 0
            except OwnBlockRefused:
                refused += 1
                if refused == ATTEMPTS_TO_GENERATE:
                    raise
        return nodes

    # --- the built-in miner ---

    async def mine(self) -> None:
        """Mines for ever: at most one block each ``block_interval_seconds`` after the last, empty ones if asked to."""
        chain, environment = self.chain, self.chain.environment
        while True:
            tip = chain.tip
            with trio.move_on_after(self.config.block_interval_seconds) as waited:
                while chain.tip is tip:
                    await chain.moved()
            if not waited.cancelled_caught and self.config.block_interval_seconds:
                continue
            if not self.config.mine_empty and not len(chain.assembler):
                self._filled = trio.Event()
                await self._filled.wait()
                continue
            template = await self.template()
            solved = await self.solve(template)
            if solved is None:
                continue
            try:
                node = await self.submit(template, *solved)
            except ControlRefused as error:
                environment.logger.warning("mined block refused", reason=str(error))
                await environment.sleep(1)
                continue
            environment.logger.info("block mined", hash=display(node.id), height=node.height, transactions=template.count)
