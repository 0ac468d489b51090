"""Blocks in Bitcoin's flat form (header, then all transactions) from and for peers that know no subtrees.

A flat block becomes a block of subtrees: placeholder and transaction ids in columns of ``subtree_size``, whose composed
root is the flat root. Splitting bytes into transactions is the caller's, who knows the family's format.

Invariants:
- nothing is stored of a block before its header has passed its checks and its transactions give the header's root, so a
  body that does not belong to its header is the sender's fault and never marks the block invalid;
- headers that a peer shows are judged beside the tree (``Offered``), so that none is in it without its body;
- a block is stored before the tip moves over it, by the one door that all blocks take (``Chain.store_block``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import trio
from attrs import define, field

from nodewright.errors import ControlRefused
from nodewright.interfaces.common import Bundle, BundleRef
from nodewright.interfaces.execution import BundleValid
from nodewright_nakamoto import merkle, subtree
from nodewright_nakamoto.blockwire import Block, flat_size
from nodewright_nakamoto.bundles import BundleKeeper
from nodewright_nakamoto.chain import MAX_FUTURE_SECONDS, BodyMismatch, Chain, InvalidHeader, NotYet, display
from nodewright_nakamoto.chainindex import MEDIAN_SPAN, Node
from nodewright_nakamoto.compact import MalformedError
from nodewright_nakamoto.compact import encode as compact_size
from nodewright_nakamoto.header import Header, meets_target, work_of
from nodewright_nakamoto.subtree import PLACEHOLDER

MAX_OFFERED = 50_000
"""Headers judged at a time."""
YIELD_EVERY = 500


@define(eq=False)
class View:
    """A header that is not in the tree, as difficulty rules and clocks look at it."""

    header: Header
    height: int
    work: int
    parent: View | Node

    @property
    def time(self) -> int:
        return self.header.time

    @property
    def bits(self) -> int:
        return self.header.bits


@define
class Offered:
    """Headers on top of a node of the tree, each checked against those below. ``Ancestry`` for difficulty rules."""

    chain: Chain
    base: Node
    views: list[View] = field(factory=list)

    @property
    def tip(self) -> View | Node:
        return self.views[-1] if self.views else self.base

    def ancestor(self, height: int) -> View | Node:
        if height > self.base.height:
            return self.views[height - self.base.height - 1]
        return self.chain.index.ancestor(self.base, height)

    def _back(self) -> Iterator[View | Node]:
        yield from reversed(self.views)
        yield from self.chain.index.back(self.base)

    def median_time(self) -> int:
        times = [one.time for one, _ in zip(self._back(), range(MEDIAN_SPAN), strict=False)]
        return sorted(times)[len(times) // 2]

    def add(self, header: Header) -> None:
        """Raises InvalidHeader, NotYet."""
        parent = self.tip
        due = self.chain.difficulty.next_bits(parent, self)
        if header.bits != due:
            raise InvalidHeader(f"its target is {header.bits:08x} where {due:08x} is due")
        if not meets_target(header.id, header.bits):
            raise InvalidHeader("its hash does not meet its target")
        if header.time <= self.median_time():
            raise InvalidHeader("its time is not after the median of the eleven before it")
        if header.time > self.chain.environment.now() + MAX_FUTURE_SECONDS:
            raise NotYet("its time is more than two hours ahead of this node's clock")
        self.views.append(View(header, parent.height + 1, parent.work + work_of(header.bits), parent))


class FlatBlocks:
    """``asked_for`` gives the ids of headers in the tree that somebody else still needs."""

    def __init__(
        self, chain: Chain, keeper: BundleKeeper, subtree_size: int, asked_for: Callable[[], Collection[bytes]]
    ) -> None:
        self._chain = chain
        self._keeper = keeper
        self._subtree_size = subtree_size
        self._asked_for = asked_for

    # --- headers ---

    async def judge_headers(self, raws: Sequence[bytes]) -> dict[str, Any]:
        """What a run of headers, lowest first, each on the one before, is worth:

        ``known`` whether the first one's parent is in the tree (if not, nothing else is there); ``height`` and ``work`` of
        the last; ``heavier`` whether it has more work than the best chain whose bodies are here; ``missing`` the ids whose
        bodies are not here, lowest first; ``bad`` why they can not be followed ('' where they can): a rule they break, or
        a block among them that is refused here; ``broken`` whether that is the sender's fault; ``early`` where a header is
        ahead of this node's clock, and the run ends before it."""
        index = self._chain.index
        try:
            headers = [Header.decode(raw) for raw in raws[:MAX_OFFERED]]
        except MalformedError as error:
            return {"known": False, "bad": str(error), "broken": True}
        base = index.get(headers[0].previous) if headers else index.best
        if base is None:
            return {"known": False, "bad": "", "broken": False}
        missing: list[bytes] = []
        offered = Offered(self._chain, base)
        bad, broken, early = base.reason if base.bad else "", False, False
        for at, header in enumerate(headers):
            if at % YIELD_EVERY == YIELD_EVERY - 1:
                await trio.lowlevel.checkpoint()
            if header.previous != (offered.views[-1].header.id if offered.views else offered.base.id):
                bad, broken = f"header {display(header.id)} is not on the one before it", True
                break
            node = index.get(header.id) if not offered.views else None
            if node is not None and node.have:
                offered.base = node
            else:
                try:
                    offered.add(header)
                except InvalidHeader as error:
                    bad, broken = f"header {display(header.id)}: {error}", True
                    break
                except NotYet:
                    early = True
                    break
                missing.append(header.id)
            if node is not None and node.bad:
                bad = f"block {display(node.id)} is refused here: {node.reason}"
                break
        tip = offered.tip
        heavier = tip.work > index.best.work
        answer = {"known": True, "height": tip.height, "work": tip.work, "heavier": heavier, "missing": missing}
        return answer | {"bad": bad, "broken": broken, "early": early}

    # --- blocks in ---

    async def submit(self, raw_header: bytes, transactions: Sequence[bytes]) -> dict[str, Any]:
        """Store a block and move the tip if it is due. ``transactions`` in block order, the coinbase first.

        Returns ``{hash, height, accepted, on_best_chain, reason}``: ``accepted`` is False where the block breaks a rule
        (the reason says which) or could not be judged yet. Raises ControlRefused with a code in front: ``orphan`` (its
        parent is not here), ``early``, ``bad-header``, ``bad-body`` (these are not its transactions)."""
        chain = self._chain
        try:
            header = Header.decode(raw_header)
        except MalformedError as error:
            raise ControlRefused(f"bad-header: {error}") from error
        known = chain.index.get(header.id)
        if known is None or not known.have:
            await self._store(header, transactions)
        await chain.activate()
        node = chain.index.nodes[header.id]
        return {
            "hash": display(node.id),
            "height": node.height,
            "accepted": not node.bad,
            "on_best_chain": chain.index.on_active(node),
            "reason": node.reason if node.bad else "",
        }

    async def _store(self, header: Header, transactions: Sequence[bytes]) -> None:
        chain = self._chain
        parent = chain.index.get(header.previous)
        if parent is None or not parent.have:
            raise ControlRefused(f"orphan: the parent of block {display(header.id)} is not here")
        try:
            chain.check_header(header)
        except InvalidHeader as error:
            raise ControlRefused(f"bad-header: block {display(header.id)}: {error}") from error
        except NotYet as error:
            raise ControlRefused(f"early: block {display(header.id)}: {error}") from error
        ids = await self._ids(header, transactions)
        parts = await self._parts(parent, ids[1:], transactions[1:])
        roots = tuple(one.root for one, _ in parts)
        size = flat_size(len(transactions), len(transactions[0]), sum(map(len, transactions[1:])))
        block = Block(header, len(transactions), size, roots, bytes(transactions[0]), parent.height + 1)
        async with self._keeper.in_use(roots):
            for built, bodies in parts:
                await self._keeper.keep(built, bodies, fresh=True)
            with trio.CancelScope(shield=True):  # a header without its body may not stay in the tree
                node = chain.add_header(header)
                try:
                    await chain.store_block(node, block)
                except BodyMismatch as error:
                    chain.index.discard(node, self._asked_for())
                    raise ControlRefused(f"bad-body: block {display(header.id)}: {error}") from error

    async def _ids(self, header: Header, transactions: Sequence[bytes]) -> list[bytes]:
        """The ids of the transactions, which are those that the header commits to."""
        if not transactions:
            raise ControlRefused(f"bad-body: block {display(header.id)} has no transactions")
        identified = await self._chain.execution.identify(transactions)
        ids = [id for id in identified if id is not None]
        if len(ids) != len(identified):
            at = identified.index(None)
            raise ControlRefused(f"bad-body: transaction {at} of block {display(header.id)} cannot be read")
        # A list with a transaction twice may have the root of the true one (CVE-2012-2459).
        root = await self._chain.environment.offload(merkle.root, b"".join(ids))
        if root != header.merkle_root or len(set(ids)) != len(ids):
            raise ControlRefused(f"bad-body: these are not the transactions of block {display(header.id)}")
        return ids

    async def _parts(
        self, parent: Node, ids: Sequence[bytes], bodies: Sequence[bytes]
    ) -> list[tuple[subtree.Subtree, Sequence[bytes]]]:
        """The block's subtrees with their bodies. Fees are known where the block is next on the tip."""
        if not ids:
            return []
        leaves = [PLACEHOLDER, *ids]
        chain, step = self._chain, self._subtree_size
        parts: list[tuple[subtree.Subtree, Sequence[bytes]]] = []
        judged = parent is chain.tip
        for start in range(0, len(leaves), step):
            part = leaves[start : start + step]
            first = 1 if start == 0 else 0
            own = bodies[max(0, start - 1) : start + len(part) - 1]
            column = b"".join(part)
            sizes = [0] * first + [len(body) for body in own]
            fees = [0] * len(part)
            built = await chain.environment.offload(subtree.build, column, fees, sizes)
            if judged:
                bundle = Bundle(BundleRef(built.root, len(own), sum(sizes)), column[32 * first :], own)
                verdict = await chain.execution.validate_bundle(bundle, parent.ref)
                judged = isinstance(verdict, BundleValid)
                if isinstance(verdict, BundleValid) and len(verdict.each_fee) == len(own):
                    fees = [0] * first + list(verdict.each_fee)
                    built = subtree.Subtree(built.root, column, fees, sizes)
            parts.append((built, own))
        return parts

    # --- blocks out ---

    async def flat_block(self, id: bytes, max_bytes: int) -> bytes | None:
        """A stored block in the flat form; None where it is not here or larger than ``max_bytes``."""
        chain = self._chain
        node = chain.index.get(id)
        if node is None or not node.have:
            return None
        block, _ = await chain.read_block(node)
        if block.size > max_bytes:
            return None
        pieces = [block.header.encode(), compact_size(block.transaction_count), block.prologue]
        for bundle in block.subtrees:
            data = await chain.store.subtree_data(bundle)
            if data is None:
                return None  # pruned, or dropped with a fork that lost
            pieces.append(data)
        return b"".join(pieces)


def locate_headers(chain: Chain, locator: Sequence[bytes], stop: bytes, limit: int) -> list[bytes]:
    """Raw headers of the best chain behind the first of ``locator`` that stands on it, up to ``stop`` if it is there."""
    found: list[bytes] = []
    for node in chain.index.after_locator(locator, limit):
        found.append(node.header.encode())
        if node.id == stop:
            break
    return found
