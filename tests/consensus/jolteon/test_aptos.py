"""Over Aptos's execution: blocks run on uncommitted parents, votes on the ledger cover its state root."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import trio
from nacl.signing import SigningKey

from nodewright.testing.simulation import EPOCH_SECONDS
from nodewright_aptos import bcs
from nodewright_aptos.addresses import ED25519, ONE, authentication_key
from nodewright_aptos.authenticators import ed25519_authenticator
from nodewright_aptos.transactions import EntryFunction, RawTransaction, signed_transaction, signing_message

APT = 10**8
PEOPLE = ("ann", "ben", "cat")


def secret(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(name.encode()).digest())


def address(name: str) -> bytes:
    return authentication_key(bytes(secret(name).verify_key), ED25519)


def pay(sender: str, recipient: str, amount: int, number: int) -> bytes:
    payload = EntryFunction.of(ONE, "aptos_account", "transfer", (), (address(recipient), bcs.u64(amount)))
    raw = RawTransaction(
        sender=address(sender),
        sequence_number=number,
        payload=payload,
        max_gas=10_000,
        gas_price=100,
        expires_at=int(EPOCH_SECONDS) + 3000,
        chain_id=4,
    )
    signature = secret(sender).sign(signing_message(raw.encode())).signature
    return signed_transaction(raw, ed25519_authenticator(bytes(secret(sender).verify_key), signature))


def test_four_nodes_agree_on_states(play: Callable[..., Any], kit: Any, book: Any) -> None:
    """One sender's numbers over all nodes, in any order; two spend one number at two nodes; one node is killed."""

    async def story(world: Any) -> None:
        people = [{"public_key": bytes(secret(name).verify_key).hex(), "balance": 1000 * APT} for name in PEOPLE]
        world.found(kit.names, {"accounts": people})
        nodes = [world.node(name, "aptos") for name in kit.names]
        for node in nodes:
            node.meddle = book.watch
        await world.start()
        ids: list[bytes] = []
        for number in range(8):
            ids += await world.submit(nodes[number % 4], pay("ann", "cat", APT, number))
            await trio.sleep(0.05)
        one, other = pay("ben", "cat", APT, 0), pay("ben", "ann", APT, 0)
        (first,), (second,) = await nodes[0].pool.submit([one]), await nodes[1].pool.submit([other])
        await nodes[3].crash()
        ids += await world.submit(nodes[2], pay("cat", "ann", 2 * APT, 0))
        await trio.sleep(3)
        await world.start(nodes[3])
        for node in nodes:
            await world.settled(node, ids)
        pairs = [tuple(await node.statuses([first.id, second.id])) for node in nodes]
        assert len({pair.index("committed") for pair in pairs}) == 1 and all("pending" not in pair for pair in pairs)
        await world.agree()
        proof = await nodes[0].consensus.query("ledger_proof")
        record = await nodes[3].consensus.block_at(proof["height"])
        assert proof["commitment"] == record.detail["commitment"] != ""

    play(story, 4)
