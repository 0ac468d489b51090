"""Whole NEAR-shaped nodes in virtual time: real engine, pool and consensus over memory disks and a simulated network."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from nacl.signing import SigningKey

from nodewright.interfaces import HEAD, Admitted
from nodewright.kernels.signatures import NativeVerifier
from nodewright.node.metrics import Registry
from nodewright.node.pool import Pool, PoolLimits
from nodewright.testing.simulation import EPOCH_SECONDS, SimulatedEnvironment, Simulation, simulate
from nodewright.testing.transport import Conditions, SimulatedNetwork
from nodewright_memory.disk import MemoryDisk
from nodewright_memory.store import MemoryStore
from nodewright_near.blocks import Rules
from nodewright_near.borsh import encode
from nodewright_near.config import parameters
from nodewright_near.contracts.machine import WasmtimeMachine
from nodewright_near.engine import NearEngine
from nodewright_near.genesis import check_boundaries, shard_of
from nodewright_near.headers import Approval, Skip
from nodewright_near.primitives import base58, key_text
from nodewright_near.transactions import SignedTransaction, Stake, Transaction, Transfer
from nodewright_nightshade import genesis
from nodewright_nightshade.config import NightshadeConfig
from nodewright_nightshade.consensus import Nightshade
from nodewright_nightshade.sampling import assign_chunk_producers

NEAR = 10**24


class OneVerifier(NativeVerifier):
    """Of all nodes of a process: what one of them has checked the others need not check again."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[bytes, bool] = {}

    def ed25519(self, keys: Sequence[bytes], messages: Sequence[bytes], signatures: Sequence[bytes]) -> bytes:
        ids = [
            hashlib.sha256(key + signature + message).digest()
            for key, message, signature in zip(keys, messages, signatures, strict=True)
        ]
        new = [at for at, id in enumerate(ids) if id not in self._known]
        if new:
            answers = super().ed25519(
                [keys[at] for at in new], [messages[at] for at in new], [signatures[at] for at in new]
            )
            if len(self._known) > 1 << 18:
                self._known.clear()
            self._known.update({ids[at]: bool(answer) for at, answer in zip(new, answers, strict=True)})
            return bytes(self._known[id] for id in ids)
        return bytes(self._known[id] for id in ids)


VERIFIER = OneVerifier()
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def secret(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(name.encode()).digest())


def public(name: str) -> bytes:
    return b"\0" + bytes(secret(name).verify_key)


def founding(
    validators: Sequence[str],
    shards: int,
    staked: int | None = None,
    more: Mapping[str, Any] | None = None,
    records: Sequence[Any] = (),
    **consensus: Any,
) -> dict[str, Any]:
    """``staked``: how many of those who may validate have a stake from the beginning; all, if nothing is said."""
    boundaries = [ALPHABET[26 * at // shards] + "0" for at in range(1, shards)]
    users = [f"{letter}{number}.user" for letter in ALPHABET for number in range(2)]
    return {
        "network": "test",
        "time": int(EPOCH_SECONDS) - 10,
        "consensus": {
            "validators": [
                {"account": one, "key": key_text(public(one)), "stake": str(100 * NEAR)} for one in validators[:staked]
            ],
            "epoch_length": 50,
            "kick_out_below": 0,  # of who is killed in a story; ``test_epochs`` has those that are
            **consensus,
        },
        "execution": {
            "accounts": [
                {
                    "id": one,
                    "amount": str(1000 * NEAR),
                    "locked": str(100 * NEAR if one in validators[:staked] else 0),
                    "keys": [key_text(public(one))],
                }
                for one in [*validators, *users]
            ],
            "boundary_accounts": boundaries,
            "records": list(records),
        },
        **(more or {}),
    }


async def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for lies in several components
            await trio.sleep(0.05)


class Events:
    def __init__(self) -> None:
        self.list: list[tuple[str, Any]] = []

    def publish(self, kind: str, data: Any) -> int:
        self.list.append((kind, data))
        return len(self.list)

    @property
    def last_sequence(self) -> int:
        return len(self.list)


class Died(Exception):
    """The process ends here, in the middle of whatever it does."""


class Node:
    """Disks and secrets that outlive it, and the node while it is on."""

    pool: Pool
    engine: NearEngine
    consensus: Nightshade

    def __init__(self, world: World, name: str, **config: Any) -> None:
        self.world, self.name = world, name
        self.folder = world.folder / name
        self.disks = {slot: MemoryDisk(f"{name}/{slot}") for slot in ("state", "chain")}
        self.config = NightshadeConfig(**({"validator": name if name in world.validators else ""} | config))
        self.events = Events()
        self.log: deque[Any] = deque(maxlen=5000)
        self.starts = 0
        self._ended = trio.Event()
        self._scope = trio.CancelScope()

    def environment(self, slot: str) -> SimulatedEnvironment:
        secrets = {"validator_key": "ed25519:" + base58(bytes(secret(self.name)))}
        seed = self.world.seed * 1000 + self.starts
        return SimulatedEnvironment(seed, self.name, self.folder / slot, slot=slot, log=self.log, secrets=secrets)

    async def start(self) -> Node:
        self.starts += 1
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        up = trio.Event()
        self.world.nursery.start_soon(self._live, up)
        await up.wait()
        return self

    async def _live(self, up: trio.Event) -> None:
        try:
            with self._scope:
                await self._open(up)
        except* Died:
            pass
        finally:
            if self in self.world.up:
                self.world.network.crash(self.name)
                self.world.up.remove(self)
            up.set()
            self._ended.set()

    async def _open(self, up: trio.Event) -> None:
        document = self.world.document
        table = document["execution"]
        rules = Rules(parameters(table), check_boundaries(table["boundary_accounts"]), VERIFIER, WasmtimeMachine(VERIFIER))
        stores = {slot: MemoryStore(disk, "node") for slot, disk in self.disks.items()}
        kept = self.world.assigned(self.name) if self.config.track == "assigned" else None
        settings = self.world.execution
        self.engine = NearEngine(stores["state"], self.environment("execution"), rules, kept, 1 << 22, **settings)
        await self.engine.open()
        async with (
            contextlib.aclosing(self.engine),
            Pool.open(
                self.environment("pool"),
                self.folder / "pool" / "journal",
                self.engine,
                self.events,  # type: ignore[arg-type]
                Registry(),
                PoolLimits(),
                bytes.hex,
            ) as self.pool,
        ):
            transport = self.world.network.transport(self.name, environment=self.environment("transport"))
            self.transport = transport
            self.world.up.append(self)
            self.consensus = Nightshade.create(
                self.config,
                genesis=document,
                chain=stores["chain"],
                execution=self.engine,
                pool=self.pool,
                events=self.events,  # type: ignore[arg-type]
                verifier=VERIFIER,
                environment=self.environment("consensus"),
                transport=transport,
            )
            self.pool.attach(self.consensus.head, self.consensus.locate)
            await self.consensus.recover()
            self._tap()
            await self.pool.recovered()
            async with trio.open_nursery() as nursery:
                await nursery.start(self.consensus.run)
                transport.open_gate()
                up.set()
                await trio.sleep_forever()

    def _tap(self) -> None:
        """Every approval that leaves this node goes through the world's book first."""
        assert self.consensus.producer is not None
        producer, say = self.consensus.producer, self.consensus.producer.say

        async def tapped(said: Any, to: Sequence[str] = ()) -> None:
            if isinstance(said, Approval):
                self.world.heard(said)
            await say(said, to)

        producer.say = tapped

    def die_in(self, owner: Any, step: str, after: bool) -> None:
        """At the next call of this step; ``after`` it, or before it does anything."""
        original = getattr(owner, step)

        async def dying(*arguments: Any, **named: Any) -> Any:
            if after:
                await original(*arguments, **named)
            raise Died

        setattr(owner, step, dying)

    async def dead(self) -> None:
        """Until it has died of itself."""
        await self._ended.wait()
        await self.kill()

    async def kill(self) -> None:
        """Nothing is closed in order; what was not synced may be gone."""
        self._scope.cancel()
        await self._ended.wait()
        for disk in self.disks.values():
            disk.crash(self.world.dice.randint(0, len(disk.unsynced)))

    @property
    def height(self) -> int:
        return self.consensus.head().height

    @property
    def final(self) -> int:
        return self.consensus.final().height

    async def final_hashes(self) -> list[bytes]:
        found = []
        for height in range(self.final + 1):
            hash_ = await self.consensus.chain.store.final_hash(height)
            found.append(hash_ or b"")
        return found

    async def account(self, name: str) -> Any:
        return await self.engine.query(HEAD, "account", account_id=name)

    async def balance(self, account: str) -> int:
        found = await self.account(account)
        return 0 if found is None else int(found.amount)


class World:
    def __init__(self, simulation: Simulation, network: SimulatedNetwork, nursery: trio.Nursery, folder: Path) -> None:
        self.seed, self.dice = simulation.seed, random.Random(f"nightshade {simulation.seed}")
        self.network, self.nursery, self.folder = network, nursery, folder
        self.nodes: dict[str, Node] = {}
        self.up: list[Node] = []
        self.nonces: dict[str, int] = {}
        self.validators: list[str] = []
        self.document: dict[str, Any] = {}
        self.approvals: dict[tuple[str, int], bytes] = {}
        self.tips: dict[str, int] = {}
        self.sent: list[tuple[str, str, int]] = []
        self.execution: dict[str, Any] = {}  # settings of every node's execution

    def heard(self, approval: Approval) -> None:
        """The book of approvals: one for a target, and never of a tip below one approved before."""
        inner = approval.inner
        known = self.approvals.setdefault((approval.account_id, approval.target_height), encode(approval))
        assert known == encode(approval), f"{approval.account_id} signed two approvals for {approval.target_height}"
        if isinstance(inner, Skip):
            assert inner.parent_height >= self.tips.get(approval.account_id, 0), "a skip below an endorsed tip"
            self.tips[approval.account_id] = inner.parent_height
        else:
            self.tips[approval.account_id] = approval.target_height - 1

    async def found(
        self,
        validators: int = 1,
        shards: int = 1,
        observers: int = 0,
        late: Sequence[str] = (),
        local: bool = False,
        consensus: Mapping[str, Any] | None = None,
        document: Mapping[str, Any] | None = None,
        staked: int | None = None,
        **config: Any,
    ) -> list[Node]:
        """A network of so many validators, each a node, and of nodes that only follow; who is ``late`` is not started,
        and of the validators only the first ``staked`` are any from the beginning. ``document``: more of the genesis."""
        self.validators = [f"v{at}.validator" for at in range(validators)]
        self.document = founding(self.validators, shards, staked, document, local=local, **(consensus or {}))
        names = [*self.validators, *(f"o{at}.observer" for at in range(observers))]
        for name in names:
            self.nodes[name] = Node(self, name, **config)
            if name not in late:
                await self.nodes[name].start()
        return list(self.nodes.values())

    def transfer(self, source: str, target: str, amount: int, block: bytes) -> SignedTransaction:
        # A key of the genesis begins at nonce 0.
        nonce = self.nonces[source] = self.nonces.get(source, 0) + 1
        tx = Transaction(source, public(source), nonce, target, block, (Transfer(amount),))
        return SignedTransaction.of(tx, b"\0" + secret(source).sign(tx.hash()).signature)

    def staking(self, account: str, amount: int, block: bytes) -> SignedTransaction:
        nonce = self.nonces[account] = self.nonces.get(account, 0) + 1
        tx = Transaction(account, public(account), nonce, account, block, (Stake(amount, public(account)),))
        return SignedTransaction.of(tx, b"\0" + secret(account).sign(tx.hash()).signature)

    async def send(self, node: Node, source: str, target: str, amount: int) -> SignedTransaction:
        signed = self.transfer(source, target, amount, node.consensus.final().id)
        (answer,) = await node.pool.submit([signed.raw])
        assert isinstance(answer, Admitted), answer
        self.sent.append((source, target, amount))
        return signed

    async def trade(self, nodes: Sequence[Node], rounds: int, seconds: float) -> list[SignedTransaction]:
        """Random transfers between users of all shards, posted at any node that is up. Each user sends once: a second
        transaction of a key that overtakes the first one kills it."""
        users, found = self.users(), []
        for _ in range(rounds):
            source = self.dice.choice([user for user in users if user not in self.nonces])
            target = self.dice.choice([user for user in users if user != source])
            up = [node for node in nodes if node in self.up]
            if up:
                found.append(await self.send(self.dice.choice(up), source, target, self.dice.randint(1, NEAR)))
            await trio.sleep(seconds)
        return found

    async def all_committed(self, node: Node, sent: Sequence[SignedTransaction], seconds: float = 120) -> None:
        left = list(sent)
        with trio.move_on_after(seconds):
            while left:
                await trio.sleep(0.5)
                left = [one for one in left if await self.settled(node, one) != "committed"]
            return
        states = [(one.transaction.signer_id, one.transaction.nonce, await self.settled(node, one)) for one in left]
        raise AssertionError(f"{node.name} has not committed {states}")

    def assigned(self, name: str) -> list[int]:
        """The shards that a validator makes chunks for."""
        rules = genesis.read(self.document)
        accounts = [one.account for one in rules.validators]
        place = accounts.index(name) if name in accounts else None
        members = assign_chunk_producers(rules.validators, rules.network.shards)
        return [shard for shard, those in enumerate(members) if place in those]

    async def books(self, node: Node) -> None:
        """Every transfer sent was executed exactly once, to the yocto; as far as this node has the state."""
        fee = 2 * 223_182_562_500 * 10**8
        due = dict.fromkeys(self.users(), 1000 * NEAR)
        for source, target, amount in self.sent:
            due[source] -= amount + fee
            due[target] += amount
        here = [user for user in due if shard_of(user, node.engine.rules.boundaries) in node.engine.kept]
        assert here
        assert {user: await node.balance(user) for user in here} == {user: due[user] for user in here}

    async def settled(self, node: Node, signed: SignedTransaction) -> str:
        (status,) = await node.pool.status([signed.id])
        return "unknown" if status is None else status.status

    async def same(self) -> None:
        """No two nodes hold different final blocks; equal final heights hold equal states."""
        chains = [await node.final_hashes() for node in self.up]
        for one in chains:
            for other in chains:
                shared = min(len(one), len(other))
                assert one[:shared] == other[:shared], "two final chains"

    def users(self) -> list[str]:
        return [entry["id"] for entry in self.document["execution"]["accounts"] if entry["id"].endswith(".user")]


async def at_rest(world: World, sent: Sequence[SignedTransaction], calm: float = 40.0) -> None:
    """All transfers were executed exactly once, everywhere, on one final chain. ``calm``: seconds in which receipts arrive
    and everybody catches up."""
    nodes = list(world.up)
    for node in nodes:
        await world.all_committed(node, sent)
    await trio.sleep(calm)
    top = max(node.final for node in nodes)
    await until(lambda: all(node.final >= top for node in nodes))
    await world.same()
    for node in nodes:
        await world.books(node)


@pytest.fixture
def tell(tmp_path: Path) -> Callable[..., Any]:
    told = 0

    def run(story: Callable[[World], Awaitable[Any]], seed: int = 0, **conditions: Any) -> Any:
        nonlocal told
        told += 1
        folder = tmp_path / str(told)

        async def main(simulation: Simulation) -> Any:
            async with SimulatedNetwork(seed, Conditions(**conditions)) as network, trio.open_nursery() as nursery:
                value = await story(World(simulation, network, nursery, folder))
                nursery.cancel_scope.cancel()
            return value

        return simulate(main, seed, limit_seconds=100_000)

    return run


@pytest.fixture
def near() -> Any:
    return SimpleNamespace(NEAR=NEAR, Died=Died, until=until, secret=secret, at_rest=at_rest)
