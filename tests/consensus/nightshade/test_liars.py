"""Nightshade among liars: what breaks a rule is refused, its sender is named and cut off, and the others go on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from attrs import evolve

from nodewright.errors import TransportError
from nodewright.testing.simulation import SimulatedEnvironment
from nodewright_near.borsh import encode
from nodewright_near.chunks import ChunkEndorsement
from nodewright_near.headers import Approval, ChunkHeader, Skip, endorsement_message
from nodewright_nightshade import blocks, parts, vrf
from nodewright_nightshade.blocks import Block, InvalidBlock, chunk_signing_message
from nodewright_nightshade.chunking import Chunk, parts_of, parts_root
from nodewright_nightshade.network import MAX_MESSAGE_BYTES, MAX_REPLY_BYTES, MAX_TRANSACTIONS_BYTES


class Forge:
    """The next block of a node that was cut off, and every validator's key to lie with."""

    def __init__(self, near: Any, chain: Any, block: Block, chunks: dict[int, Chunk]) -> None:
        self.near, self.chain, self.block, self.chunks = near, chain, block, chunks
        self.parent = chain.held[block.header.prev_hash]
        self.before = chain.held[self.parent.info.prev].info
        self.epoch = chain.epochs.of(chain.chunk_epoch(self.parent.info))
        self.validators = [one.account for one in self.epoch.validators]

    def sign(self, place: int, message: bytes) -> bytes:
        return b"\0" + bytes(self.near.secret(self.validators[place]).sign(message).signature)

    def signed(self, block: Block) -> Block:
        """By who may make it."""
        signature = self.sign(self.epoch.block_producer(block.height), block.hash)
        return evolve(block, header=evolve(block.header, signature=signature))

    def lite(self, **changes: Any) -> Block:
        return self.signed(
            evolve(self.block, header=evolve(self.block.header, inner_lite=evolve(self.block.header.inner_lite, **changes)))
        )

    def rest(self, **changes: Any) -> Block:
        return self.signed(
            evolve(self.block, header=evolve(self.block.header, inner_rest=evolve(self.block.header.inner_rest, **changes)))
        )

    def proof(self, further: int) -> bytes:
        """By another validator than who may make the block."""
        place = (self.epoch.block_producer(self.block.height) + further) % len(self.validators)
        secret = bytes(self.near.secret(self.validators[place]))
        return vrf.prove(secret, self.parent.block.header.inner_rest.random_value)

    def built(self, new: dict[int, Any] | None = None, approvals: Any = None, proof: bytes | None = None) -> Block:
        """With other chunks or approvals, all roots as they have to be."""
        header, body = self.block.header, self.block.body
        if new is None:
            new = {shard: (body.chunks[shard], body.endorsements[shard]) for shard in self.chunks}
        return self.signed(
            blocks.build(
                self.parent.block,
                self.parent.info,
                self.before,
                self.block.height,
                header.inner_lite.timestamp,
                new,
                header.inner_rest.approvals if approvals is None else approvals,
                body.vrf_proof if proof is None else proof,
                header.inner_lite.next_bp_hash,
                header.inner_rest.latest_protocol_version,
                self.chain.genesis.network,
            )
        )

    def chunk(
        self, shard: int, keep: Callable[[int], bool] = lambda _: True, **changes: Any
    ) -> tuple[Chunk, dict[int, Any]]:
        """A chunk with other claims, signed by its producer and endorsed by those that ``keep`` lets."""
        old = self.chunks[shard]
        inner = evolve(old.header.inner, **changes)
        made = inner.height_created
        author = self.epoch.chunk_producer(made, shard)
        header = ChunkHeader(inner, 0, self.sign(author, chunk_signing_message(inner)))
        members = sorted(self.chain.epochs.assignment(self.epoch.id, made, shard))
        given = [self.sign(at, endorsement_message(header.hash())) if keep(at) else None for at in members]
        return Chunk(header, old.body), {shard: (header, given)}


async def cut_off(world: Any, near: Any, nodes: list[Any]) -> Forge:
    """The last node, an observer, is cut off in the middle of an epoch; the others go on."""
    *others, late = nodes
    await near.until(lambda: late.final >= 3)
    world.network.cut(late.name)
    await trio.sleep(5)
    chain = others[0].consensus.chain
    held = chain.head
    while held.info.prev != late.consensus.chain.head.info.hash:
        held = await chain.find(held.info.prev)
    return Forge(near, late.consensus.chain, held.block, await chain.chunks_of(held.block, {}))


def test_lies_in_blocks(tell: Any, near: Any) -> None:
    """Each is signed by who may make the block, and refused; and none of them makes the node refuse the good block."""

    async def story(world: Any) -> None:
        forge = await cut_off(world, near, await world.found(4, 2, observers=1))
        chain, block = forge.chain, forge.block
        bodies = {one.hash: one for one in forge.chunks.values()}
        rest, lite = block.header.inner_rest, block.header.inner_lite
        wrong = b"\x07" * 32
        someone = forge.sign(0, b"something else")
        few = [signature if at == 0 else None for at, signature in enumerate(rest.approvals)]
        liar, lie = forge.chunk(0, prev_state_root=wrong)
        _, unendorsed = forge.chunk(0, keep=lambda at: at == 0)
        stranger = evolve(liar.header, signature=someone)
        lies: list[tuple[Block, str]] = [
            (forge.lite(prev_state_root=wrong), "header is not"),
            (forge.lite(prev_outcome_root=wrong), "header is not"),
            (forge.lite(timestamp=lite.timestamp - 10**12), "time"),
            (forge.lite(timestamp=lite.timestamp + 10**12), "ahead"),
            (forge.rest(total_supply=rest.total_supply + 1), "header is not"),
            (forge.rest(last_final_block=wrong), "header is not"),
            (forge.rest(chunk_mask=(False,) * 2), "header is not"),
            (forge.rest(next_gas_price=rest.next_gas_price + 1), "header is not"),
            (evolve(block, header=evolve(block.header, signature=someone)), "signatures"),
            (evolve(block, body=evolve(block.body, vrf_proof=bytes(80))), "header is not"),
            (forge.built(proof=b"\xff" * 80), "random value"),
            (forge.built(proof=forge.proof(1)), "not its producer's"),
            (forge.rest(latest_protocol_version=83), "protocol 83"),
            (forge.built(approvals=few), "two thirds of the stake"),
            (forge.built(approvals=[someone] * 4), "signatures"),
            (forge.built(new=lie), "state"),
            (forge.built(new=unendorsed), "not endorsed"),
            (forge.built(new={0: (stranger, lie[0][1])}), "signatures"),
        ]
        for bad, message in lies:
            with pytest.raises(InvalidBlock, match=message):
                await chain.accept(bad, {**bodies, liar.hash: liar})
            assert bad.hash not in chain.held or bad.hash == block.hash
        assert forge.built() == block
        assert await chain.accept(block, bodies)
        assert chain.head.info.hash == block.hash
        world.network.heal()
        await near.until(lambda: world.up[-1].height > block.height + 3)
        await world.same()

    tell(story)


class Mallory:
    """A peer that is no node and says what it likes."""

    def __init__(self, world: Any, name: str) -> None:
        self.name = name
        self.transport = world.network.transport(name, environment=SimulatedEnvironment(1, name))
        limits = {
            "near.block": MAX_MESSAGE_BYTES,
            "near.vote": 4096,
            "near.tx": MAX_TRANSACTIONS_BYTES + 65536,
            "near.request": MAX_REPLY_BYTES + MAX_MESSAGE_BYTES,
            "near.chunk": parts.MAX_PARTS_BYTES,
        }
        self.channels = {one: self.transport.channel(one, 64, "oldest", limit) for one, limit in limits.items()}
        self.transport.open_gate()

    async def say(self, channel: str, *messages: bytes) -> None:
        for message in messages:
            try:
                await self.channels[channel].broadcast(message)
            except TransportError:
                return


def test_liars_on_the_network_are_cut_off(tell: Any, near: Any) -> None:
    async def story(world: Any) -> None:
        nodes = await world.found(4, 1, observers=1)
        forge = await cut_off(world, near, nodes)
        world.network.heal()
        await near.until(lambda: nodes[-1].height > forge.block.height)
        nobody, wrong = forge.sign(0, b"no"), b"\x07" * 32
        chain = nodes[0].consensus.chain

        def now() -> Forge:
            """The head as if it were to come."""
            return Forge(near, chain, chain.head.block, forge.chunks)

        def lying_chunk(garbage: bool) -> bytes:
            made = now()
            head = made.chain.head.info
            inner = evolve(
                forge.chunks[0].header.inner, prev_block_hash=head.hash, height_created=head.height + 1, prev_gas_used=7
            )
            author = made.epoch.chunk_producer(inner.height_created, 0)
            liar = author if garbage else (author + 1) % 4
            header = ChunkHeader(inner, 0, made.sign(liar, chunk_signing_message(inner)))
            cut = parts.cut(b"x" * inner.encoded_length, 4)
            return encode(parts.Parts(header, (cut[0],)))

        def lying_block() -> bytes:
            made = now()
            return b"B" + made.rest(total_supply=made.block.header.inner_rest.total_supply + 1).encode()

        def burning_block() -> bytes:
            """A chunk of it burns more than there is; nobody has signed anything of it."""
            made = now()
            block = made.rest(total_supply=made.block.header.inner_rest.total_supply + 1)
            first, *others = block.body.chunks
            burning = evolve(first, inner=evolve(first.inner, prev_balance_burnt=(1 << 128) - 1))
            return b"B" + evolve(block, body=evolve(block.body, chunks=(burning, *others))).encode()

        lies: dict[str, Callable[[], tuple[str, list[bytes]]]] = {
            "fire": lambda: ("near.block", [burning_block()]),
            "block": lambda: ("near.block", [lying_block()]),
            "stranger's chunk": lambda: ("near.chunk", [lying_chunk(garbage=False)]),
            "foreign part": lambda: ("near.chunk", [lying_chunk(garbage=True)]),
            "vote": lambda: (
                "near.vote",
                [b"A" + encode(Approval(Skip(1), at, nobody, "v0.validator")) for at in range(900, 905)],
            ),
            "nobody": lambda: ("near.vote", [b"E" + encode(ChunkEndorsement("nobody.near", wrong, nobody))] * 5),
            "noise": lambda: ("near.block", [b"B" + bytes([at]) * 100 for at in range(5)]),
            "promise": lambda: ("near.block", [b"N" + (10**6).to_bytes(8, "little") + wrong]),
        }
        for name, lie in lies.items():
            liar = Mallory(world, name)
            await trio.sleep(1)
            assert liar.transport.peers()
            channel, messages = lie()
            await liar.say(channel, *messages)
            await trio.sleep(3)
            for node in nodes:
                banned = liar.transport.node_id in node.transport.banned()
                assert banned == (name != "promise"), (name, node.name)
        before = nodes[0].final
        await near.until(lambda: all(node.final > before + 3 for node in nodes))
        await world.same()
        for node in nodes:
            assert not {one.transport.node_id for one in nodes} & set(node.transport.banned())

    tell(story)


def test_nobody_believes_how_high_a_stranger_is(tell: Any, near: Any) -> None:
    """It answers that its chain is long, or says that it has a block far above, and has none to give: no node gives up its
    state for that, and none says for long that it is behind."""

    async def story(world: Any) -> None:
        nodes = await world.found(4, 2, observers=1, request_timeout_seconds=1.0)
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        liar = Mallory(world, "far")

        async def answer() -> None:
            while True:
                message = await liar.channels["near.request"].receive()
                with suppress(TransportError):
                    await message.reply((10**9).to_bytes(8, "little") + b"\x07" * 32 if message.payload == b"S" else b"")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            await trio.sleep(1)
            await liar.say("near.block", b"N" + (10**6).to_bytes(8, "little") + b"\x07" * 32)
            before = nodes[0].final
            await near.until(lambda: all(node.final > before + 30 for node in nodes), 120)
            for node in nodes:
                assert not node.consensus.chain.light and node.consensus.chain.tracked
                assert node.consensus.status()["state"] == "running", node.name
            nursery.cancel_scope.cancel()
        await world.same()

    tell(story)


@pytest.mark.parametrize("lie", ["claims", "body", "withheld chunks", "withheld blocks"])
def test_one_of_four_validators_lies(tell: Any, near: Any, lie: str) -> None:
    """What it makes enters no block, or hurts nobody; each shard has another producer, and all transfers run."""

    async def story(world: Any) -> None:
        *honest, liar = nodes = await world.found(4, 2)
        await near.until(lambda: all(node.final >= 2 for node in nodes))
        producer, lied = liar.consensus.producer, []
        say = producer.say

        async def lies(said: Any, to: Any = ()) -> None:
            if isinstance(said, Chunk) and lie == "claims":
                inner = evolve(said.header.inner, prev_state_root=b"\x07" * 32)
                said = Chunk(ChunkHeader(inner, 0, producer.signer.sign(chunk_signing_message(inner))), said.body)
                lied.append(said.hash)
            elif isinstance(said, Chunk) and lie == "body":
                garbage = b"\xff" * 500
                inner = evolve(said.header.inner, encoded_merkle_root=parts_root(parts_of(garbage, 4)), encoded_length=500)
                header = ChunkHeader(inner, 0, producer.signer.sign(chunk_signing_message(inner)))
                lied.append(header.hash())
                message = encode(parts.Parts(header, tuple(parts.cut(garbage, 4)[:1])))
                await liar.consensus.network.delivery.channel.broadcast(message)
                return
            elif (
                isinstance(said, Chunk | Block) and lie == {Chunk: "withheld chunks", Block: "withheld blocks"}[type(said)]
            ):
                lied.append(said.hash)
                return
            await say(said, to)

        producer.say = lies
        sent = await world.trade(honest, 12, 0.5)
        await near.until(lambda: len(lied) >= (1 if lie == "body" else 2))
        for node in honest:
            await world.all_committed(node, sent)
        await trio.sleep(40)
        assert lied
        chain = honest[0].consensus.chain
        for height in range(1, honest[0].final + 1):
            held = await chain.at(height)
            if held is not None and lie != "withheld blocks":
                assert not {chunk.hash() for chunk in held.block.body.chunks} & set(lied)
        banned = [liar.transport.node_id in node.transport.banned() for node in honest]
        assert all(banned) == (lie == "body")
        if lie == "body":
            world.up.remove(liar)
        await world.same()
        for node in honest:
            await world.books(node)

    tell(story)
