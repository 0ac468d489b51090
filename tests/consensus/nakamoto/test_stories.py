"""Networks of nodes: following, partitions, bad peers, late subtrees, reorganisations."""

from __future__ import annotations

from typing import Any

import pytest
import trio


async def test_a_miner_and_a_follower_from_genesis(world: Any, spend: Any, autojump: Any) -> None:
    async with world.Network(seed=3) as network:
        miner = world.Node("miner", network)
        follower = world.Node("follower", network)
        async with miner.running():
            for round in range(5):
                await miner.submit(*[spend(10 * round + i) for i in range(10)])
                await miner.assembled()
                await miner.generate()
            async with follower.running():
                await follower.reaches(miner.head)
                assert follower.state() == miner.state()
                assert await follower.chain_transactions() == await miner.chain_transactions()
                assert len(await follower.chain_transactions()) == 50


async def test_a_live_subtree_is_known_before_its_block(world: Any, spend: Any, autojump: Any) -> None:
    async with world.Network(seed=4) as network:
        one, two = world.Node("one", network), world.Node("two", network)
        async with one.running(), two.running():
            await trio.sleep(2)
            parents = [spend(i) for i in range(9)]
            children = [world.pay([tx.output(0)], [400]) for tx in parents]
            await one.submit(*parents, *children)
            await one.assembled()
            await trio.sleep(5)
            assert len(two.pool) == 18  # admitted by the only path there is
            assert two.events.kinds().count("bundle_accepted") >= 4
            await one.generate()
            await two.reaches(one.head)
            assert two.state() == one.state()
            assert len(two.pool) == 0 and len(two.consensus.chain.assembler) == 0
            # What the follower admits it announces on: the miner knows the follower's subtrees too.
            await two.submit(spend(100))
            await trio.sleep(3)
            assert len(one.pool) == 1


@pytest.mark.parametrize("depth", [1, 6])
async def test_partitioned_miners_heal_to_one_tip(world: Any, spend: Any, autojump: Any, depth: int) -> None:
    async with world.Network(seed=depth) as network:
        one, two = world.Node("one", network), world.Node("two", network)
        async with one.running(), two.running():
            await one.submit(spend(0))
            await one.assembled()
            await one.generate(2)
            await two.reaches(one.head)
            network.partition(["one"], ["two"])
            await trio.sleep(3)
            shared = [spend(i) for i in range(10, 15)]  # both sides see these
            losing = [spend(i) for i in range(20, 30)]  # only the losing side
            child = world.pay([losing[0].output(0)], [300])
            double = spend(40, nonce=1), spend(40, nonce=2)  # each side its own
            grandchild = world.pay([double[0].output(0)], [100])
            everything = [*shared, *losing, child, double[0], grandchild]
            share = -(-len(everything) // depth)
            for block in range(depth):
                answers = await one.submit(*everything[share * block : share * (block + 1)])
                assert all(isinstance(answer, world.Admitted) for answer in answers)
                await one.assembled()
                await one.generate()
            await two.submit(*shared, double[1])
            await two.assembled()
            await two.generate(depth + 1)
            pending = spend(60)
            await one.submit(pending)
            network.heal()
            await one.reaches(two.head)
            assert one.state() == two.state()
            kinds = one.events.kinds()
            assert kinds.count("reorganised") == 1
            (move,) = [data for kind, data in one.events.list if kind == "reorganised"]
            assert move["depth"] == depth
            # Nothing of the losing side is lost: pending again, in an order that can be mined.
            await trio.sleep(5)
            await one.generate()
            await two.reaches(one.head)
            mined = await one.chain_transactions()
            assert len(mined) == len(set(mined))
            expected = {tx.id for tx in [spend(0), *shared, *losing, child, double[1], pending]}
            names = {tx.id: name for name, tx in {"child": child, "pending": pending, "winner": double[1]}.items()}
            assert not [names.get(id, id) for id in expected.symmetric_difference(mined)]
            lost = await one.pool.status([double[0].id, grandchild.id])
            assert lost[0].status == "replaced"
            assert lost[1].status in ("replaced", "rejected")
            assert one.state() == two.state()


async def test_two_miners_partitioned_again_and_again(world: Any, spend: Any, autojump: Any) -> None:
    async with world.Network(seed=11) as network:
        nodes = [world.Node(name, network) for name in ("one", "two", "three")]
        async with nodes[0].running(), nodes[1].running(), nodes[2].running():
            submitted = []
            for round in range(4):
                network.partition(["one", "three"], ["two"])
                for side, node in enumerate(nodes[:2]):
                    batch = [spend(50 * side + 10 * round + i) for i in range(5)]
                    submitted += batch
                    await node.submit(*batch)
                    await node.assembled()
                    await node.generate(1 + (round + side) % 2)
                network.heal()
                ahead = max(nodes[:2], key=lambda node: node.head.height)
                for node in nodes:
                    await node.reaches(ahead.head)
            await trio.sleep(10)
            await nodes[0].generate(2)
            for node in nodes:
                await node.reaches(nodes[0].head)
            mined = await nodes[2].chain_transactions()
            assert sorted(mined) == sorted(tx.id for tx in submitted)
            assert nodes[0].state() == nodes[1].state() == nodes[2].state()


async def test_a_late_subtree_is_waited_for(world: Any, spend: Any, autojump: Any) -> None:
    async with world.Network(seed=5) as network:
        miner, follower = world.Node("miner", network), world.Node("follower", network)
        async with miner.running(), follower.running():
            await trio.sleep(2)
            await miner.submit(spend(0), spend(1))
            await miner.assembled()
            blobs = miner.disks["blobs"]
            rows = miner.disks["chain"]
            await miner.generate()
            # The miner has announced the block and cannot serve its subtree for a while.
            hidden = {name: rows.live[name] for name in ("bundles",)}
            kept = dict(hidden["bundles"].rows)
            hidden["bundles"].rows.clear()
            miner.consensus._keeper.offered.clear()
            await trio.sleep(5)
            assert follower.head.height == 0
            node = follower.consensus.chain.index.get(miner.head.id)
            assert node is not None and not node.bad and not node.have
            hidden["bundles"].rows.update(kept)
            await follower.reaches(miner.head)
            assert follower.state() == miner.state()
            assert blobs.live


async def test_missing_transactions_come_from_another_peer(world: Any, spend: Any, autojump: Any) -> None:
    async with world.Network(seed=6) as network:
        miner, other, late = (world.Node(name, network) for name in ("miner", "other", "late"))
        async with miner.running(), other.running():
            await miner.submit(*[spend(i) for i in range(20)])
            await miner.assembled()
            await miner.generate(3)
            await other.reaches(miner.head)
            # The miner forgets the bodies: only the other peer can give them.
            for name in ("subtree_data", "subtree"):
                miner.disks["blobs"].live[name].rows.clear()
            miner.pool.raw.clear()
            async with late.running():
                await late.reaches(miner.head)
                assert late.state() == other.state()
                assert not late.transport.banned()


async def test_an_invalid_subtree_penalises_its_peer_by_name(world: Any, spend: Any, autojump: Any) -> None:
    async with world.Network(seed=7) as network:
        liar, honest = world.Node("liar", network), world.Node("honest", network)
        async with liar.running(), honest.running():
            await trio.sleep(2)
            await liar.submit(*[spend(i) for i in range(2)])
            await liar.assembled()
            # One transaction of what it serves is another one than it announced.
            keeper = liar.consensus._keeper
            genuine = keeper.bodies

            async def wrong(ids: Any) -> Any:
                bodies = await genuine(ids)
                return [spend(200).raw if body is not None else None for body in bodies]

            keeper.bodies = wrong
            await trio.sleep(5)
            (info,) = honest.transport.peers()
            assert info.score >= 40  # it fades with time
            assert any(
                line.get("reason", "").startswith("2 transactions with other ids") for line in honest.environment.log
            )
            assert len(honest.pool) == 0


async def test_an_invalid_block_is_refused_and_its_peer_cut_off(world: Any, spend: Any, autojump: Any) -> None:
    async with world.Network(seed=8) as network:
        liar, honest = world.Node("liar", network), world.Node("honest", network)
        async with liar.running(), honest.running():
            await honest.generate(1)
            await liar.reaches(honest.head)
            real = liar.ledger.prologue

            async def greedy(context: Any) -> Any:
                tx = world.Transaction(0, context.height, [], [10**6])
                return type(await real(context))(tx.raw, tx.id)

            liar.ledger.prologue = greedy
            execute = liar.ledger.execute

            async def blind(request: Any) -> Any:
                outcome = type(await execute(request))
                from nodewright.interfaces import Outcome

                result = Outcome(request.block)
                liar.ledger.executed[request.block.id] = (result, [world.Transaction.parse(request.prologue)])
                assert outcome is not None
                return result

            liar.ledger.execute = blind
            await liar.generate(1)
            await world.until(lambda: "block_refused" in honest.events.kinds())
            await trio.sleep(1)
            assert honest.head.height == 1
            assert honest.transport.banned()
            (refused,) = [data for kind, data in honest.events.list if kind == "block_refused"]
            assert refused["code"] == "bad-coinbase-amount" and refused["final"]
            await honest.generate(1)
            assert honest.head.height == 2


async def test_the_better_chain_proves_invalid_midway(world: Any, spend: Any, autojump: Any) -> None:
    """The node reverts, connects a part of the other side, and comes back with nothing lost."""
    async with world.Network(seed=9) as network:
        liar, honest = world.Node("liar", network), world.Node("honest", network)
        network.partition(["liar"], ["honest"])
        async with liar.running(), honest.running():
            await honest.submit(spend(0), spend(1))
            await honest.assembled()
            await honest.generate(2)
            head = honest.head
            await liar.submit(spend(1, nonce=9))
            await liar.assembled()
            await liar.generate(1)
            execute = liar.ledger.execute
            real = liar.ledger.prologue

            async def greedy(context: Any) -> Any:
                tx = world.Transaction(0, context.height, [], [10**6])
                return type(await real(context))(tx.raw, tx.id)

            async def blind(request: Any) -> Any:
                from nodewright.interfaces import Outcome

                await execute(request)
                result = Outcome(request.block)
                liar.ledger.executed[request.block.id] = (result, [world.Transaction.parse(request.prologue)])
                return result

            liar.ledger.prologue, liar.ledger.execute = greedy, blind
            await liar.generate(2)
            network.heal()
            await world.until(lambda: "block_refused" in honest.events.kinds())
            await trio.sleep(5)
            assert honest.head == head
            assert sorted(await honest.chain_transactions()) == sorted([spend(0).id, spend(1).id])
            statuses = await honest.pool.status([spend(0).id, spend(1).id])
            assert [one.status for one in statuses] == ["committed", "committed"]


async def test_garbage_is_scored_and_cut_off(world: Any, autojump: Any) -> None:
    async with world.Network(seed=10) as network:
        node = world.Node("node", network)
        vandal = network.transport("vandal")
        announce, request = vandal.channel("nakamoto.announce"), vandal.channel("nakamoto.request")
        vandal.open_gate()
        async with node.running():
            await trio.sleep(2)
            (peer,) = vandal.peers()
            for payload in (b"", b"B", b"S" * 7, b"\xff" * 100, b"B" + b"\xff" * 116):
                await announce.send(peer.id, payload)
                await request.send(peer.id, payload)
            await trio.sleep(5)
            assert vandal.node_id in node.transport.banned()
            await node.generate(1)
            assert node.head.height == 1
