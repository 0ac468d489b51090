"""The service ``faucet``: gives coins of the network's faucet account to whoever asks. For local networks.

Its key is the secret ``faucet_key`` (64 hexadecimal digits: the Ed25519 seed), or on a network whose genesis says
``faucet = "local"`` the one that everybody knows.

Invariants: one transaction is made at a time, each with the next sequence number, which is read from the ledger whenever
none of ours is under way; a refused or lost one is no gap for those that follow.
"""

from __future__ import annotations

from typing import Any

import trio
from nacl.signing import SigningKey
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from nodewright.errors import ConfigurationError
from nodewright.interfaces.common import Refused
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.execution import FINAL
from nodewright.interfaces.service import NodeHandle
from nodewright.services.http import HttpServer
from nodewright.services.pulse import Pulse
from nodewright_aptos import bcs, gas, transactions
from nodewright_aptos.addresses import ED25519, ONE, authentication_key, parse_address
from nodewright_aptos.authenticators import ed25519_authenticator
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.genesis import chain_id_of, local_faucet_seed
from nodewright_aptos.queries import AccountView
from nodewright_aptos_api.accounts import json_object
from nodewright_aptos_api.config import FaucetConfig
from nodewright_aptos_api.errors import ApiError, invalid, refusal
from nodewright_aptos_api.reads import parse_number
from nodewright_aptos_api.service import application

LIFE_SECONDS = 60
MAX_GAS = 10_000
MAX_UNDER_WAY = 200
POLL_SECONDS = 1.0


def load_key(environment: Environment, genesis: Any) -> SigningKey:
    """Raises ConfigurationError."""
    text = environment.secret("faucet_key")
    if text is not None:
        try:
            return SigningKey(bytes.fromhex(text.strip().removeprefix("0x")))
        except ValueError as error:
            raise ConfigurationError("the secret faucet_key must be 64 hexadecimal digits: the Ed25519 seed") from error
    if genesis.get("execution", {}).get("faucet") == "local":
        return SigningKey(local_faucet_seed())
    raise ConfigurationError(
        f"{environment.slot}: this network has no faucet that everybody knows: give the secret faucet_key, or leave the "
        "service out"
    )


class Teller:
    """Makes the transactions and keeps their numbers."""

    def __init__(self, node: NodeHandle, key: SigningKey, environment: Environment) -> None:
        self._node = node
        self._key = key
        self._environment = environment
        self._chain_id = chain_id_of(node.genesis.get("execution", {}))
        self._turn = trio.Lock()
        self._next = 0
        self._under_way: set[bytes] = set()
        self.public = bytes(key.verify_key)
        self.address = authentication_key(self.public, ED25519)

    async def give(self, to: bytes, octas: int) -> bytes:
        """Hash of the transaction, which the pool has. Raises ApiError."""
        async with self._turn:
            await self._settle()
            account: AccountView | None = await self._node.execution.query(FINAL, "account", address=self.address)
            if account is None:
                raise ApiError(500, "internal_error", "the faucet's account is not on this network: check its key")
            if not self._under_way:
                self._next = account.sequence_number
            if len(self._under_way) >= MAX_UNDER_WAY:
                raise ApiError(503, "mempool_is_full", "the faucet has too much under way: try again", retry_after=1)
            here = await self._node.execution.query(FINAL, "account", address=to)
            raw = self._signed(self._call(to, octas, here is not None), self._next)
            (answer,) = await self._node.pool.submit([raw], "faucet")
            if isinstance(answer, Refused):
                raise refusal(answer)
            self._next += 1
            self._under_way.add(answer.id)
            return answer.id

    @staticmethod
    def _call(to: bytes, octas: int, here: bool) -> transactions.EntryFunction:
        if octas == 0 and not here:
            return transactions.EntryFunction.of(ONE, "aptos_account", "create_account", (), (to,))
        return transactions.EntryFunction.of(ONE, "aptos_account", "transfer", (), (to, bcs.u64(octas)))

    def _signed(self, call: transactions.EntryFunction, number: int) -> bytes:
        expires = int(self._environment.now()) + LIFE_SECONDS
        raw = transactions.RawTransaction(self.address, number, call, MAX_GAS, gas.MIN_GAS_PRICE, expires, self._chain_id)
        message = transactions.signing_message(raw.encode())
        signature = self._key.sign(message).signature
        return transactions.signed_transaction(raw, ed25519_authenticator(self.public, signature))

    async def _settle(self) -> None:
        """Forget those with a final status. Where one was lost, what follows it waits for a number that will not come: its
        number is used again."""
        ids = list(self._under_way)
        lost = False
        for id, status in zip(ids, await self._node.pool.status(ids), strict=True):
            if status is None or status.status != "pending":
                self._under_way.discard(id)
                lost = lost or status is None or status.status in ("rejected", "expired")
        if lost:
            account: AccountView | None = await self._node.execution.query(FINAL, "account", address=self.address)
            self._next = 0 if account is None else account.sequence_number
            self._under_way.clear()

    async def pending(self, id: bytes) -> bool:
        (status,) = await self._node.pool.status([id])
        return status is not None and status.status == "pending"


class Faucet:
    """Bound while it runs; ``url`` is empty before."""

    def __init__(self, config: FaucetConfig, environment: Environment) -> None:
        self._config = config
        self._environment = environment
        self.url = ""

    def _routes(self, teller: Teller, pulse: Pulse) -> list[Route]:
        async def given(address: Any, octas: Any) -> str:
            try:
                to = parse_address(str(address))
            except Malformed as error:
                raise invalid(f"address: {error}") from None
            amount = octas if isinstance(octas, int) and not isinstance(octas, bool) else parse_number(str(octas), "amount")
            if not 0 <= amount <= self._config.max_octas:
                raise invalid(f"amount: at most {self._config.max_octas} octas are given at once, not {amount}")
            hash = await teller.give(to, amount)
            with trio.move_on_after(self._config.wait_seconds):
                while await teller.pending(hash):
                    await pulse.wait(POLL_SECONDS)
            return hash.hex()

        async def index(request: Request) -> Response:
            return PlainTextResponse("tap:ok")

        async def mint(request: Request) -> Response:
            """``?amount=&address=``: a list with the hash of the transaction."""
            query = request.query_params
            address = query.get("address") or query.get("auth_key") or _address_of_key(query.get("pub_key"))
            if address is None:
                raise invalid("say whom to give to: address, auth_key or pub_key")
            return JSONResponse([await given(address, query.get("amount", "0"))])

        async def fund(request: Request) -> Response:
            """``{"address", "amount"}``: the hashes, without 0x, under ``txn_hashes``."""
            document = await json_object(request)
            address = document.get("address") or document.get("auth_key") or _address_of_key(document.get("pub_key"))
            if address is None:
                raise invalid("say whom to give to: address, auth_key or pub_key")
            return JSONResponse({"txn_hashes": [await given(address, document.get("amount", self._config.max_octas))]})

        return [
            Route("/", index, methods=["GET"]),
            Route("/health", index, methods=["GET"]),
            Route("/mint", mint, methods=["POST"]),
            Route("/fund", fund, methods=["POST"]),
        ]

    async def run(self, node: NodeHandle, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        teller = Teller(node, load_key(self._environment, node.genesis), self._environment)
        pulse = Pulse(node.events)
        server = HttpServer(
            application(self._routes(teller, pulse), self._config.allowed_origins), self._config, self._environment
        )
        self.url = server.url
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pulse.run)
                await server.serve(task_status)
        finally:
            self.url = ""


def _address_of_key(text: Any) -> str | None:
    if not isinstance(text, str):
        return None
    try:
        key = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise invalid("pub_key is written in hexadecimal") from None
    return authentication_key(key, ED25519).hex() if len(key) == 32 else None
