"""The service ``faucet``: gives coins of the network's faucet account to whoever asks. For local networks.

Its key is the secret ``faucet_key`` (64 hexadecimal digits: the Ed25519 seed), or on a network whose genesis says
``faucet = "local"`` the one that everybody knows.

Invariants: one transaction is made at a time, each with the lowest sequence number that is free; one that is lost (on a
local network every node's faucet signs for the same account) leaves no gap and is made again. A request is answered with
200 only for a transaction that did what it was for, or that is pending still when ``wait_seconds`` are over.
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
from nodewright.services.pulse import Pulse
from nodewright.services.service import HttpService
from nodewright_aptos import bcs, gas, transactions
from nodewright_aptos.addresses import ED25519, ONE, authentication_key, parse_address
from nodewright_aptos.authenticators import ed25519_authenticator
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.genesis import chain_id_of, local_faucet_seed
from nodewright_aptos.queries import AccountView
from nodewright_aptos.records import TransactionRow
from nodewright_aptos_api.config import FaucetConfig
from nodewright_aptos_api.document import json_object
from nodewright_aptos_api.errors import ApiError, invalid, refusal
from nodewright_aptos_api.reads import parse_number
from nodewright_aptos_api.service import application

LIFE_SECONDS = 60
MAX_GAS = 10_000
MAX_UNDER_WAY = 200
POLL_SECONDS = 1.0
EXECUTION_FAILED = 4016  # ABORTED, among the VM's status codes


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

    def __init__(self, node: NodeHandle, key: SigningKey, environment: Environment, pulse: Pulse) -> None:
        self._node = node
        self._key = key
        self._environment = environment
        self._pulse = pulse
        self._chain_id = chain_id_of(node.genesis.get("execution", {}))
        self._turn = trio.Lock()
        self._next = 0
        self._under_way: set[bytes] = set()
        self.public = bytes(key.verify_key)
        self.address = authentication_key(self.public, ED25519)

    async def give(self, to: bytes, octas: int, seconds: float) -> bytes:
        """Hash of the transaction that gave it: committed, or pending still after that long. Raises ApiError."""
        id = b""
        with trio.move_on_after(seconds):
            while True:
                id = await self._send(to, octas)
                status = await self._outcome(id)
                if status == "committed":
                    await self._check(id)
                    return id
                # Another node's faucet used its number, or it was not ordered in time: again, with the next number.
        if id and await self._status(id) in ("pending", "committed"):
            return id
        raise ApiError(503, "mempool_is_full", "what was sent was not taken into the chain: try again", retry_after=1)

    async def _send(self, to: bytes, octas: int) -> bytes:
        async with self._turn:
            await self._settle()
            if len(self._under_way) >= MAX_UNDER_WAY:
                raise ApiError(503, "mempool_is_full", "the faucet has too much under way: try again", retry_after=1)
            here = await self._node.execution.query(FINAL, "account", address=to)
            call = self._call(to, octas, here is not None)
            for _ in range(MAX_UNDER_WAY):
                (answer,) = await self._node.pool.submit([self._signed(call, self._next)], "faucet")
                if isinstance(answer, Refused):
                    if answer.code == "SEQUENCE_NUMBER_TAKEN":
                        self._next += 1
                    elif answer.code == "SEQUENCE_NUMBER_TOO_OLD":
                        self._next = max(self._next + 1, await self._number())
                    else:
                        raise refusal(answer)
                else:
                    self._next += 1
                    self._under_way.add(answer.id)
                    return answer.id
        raise ApiError(503, "mempool_is_full", "others use the faucet's account too fast: try again", retry_after=1)

    async def _number(self) -> int:
        account: AccountView | None = await self._node.execution.query(FINAL, "account", address=self.address)
        if account is None:
            raise ApiError(500, "internal_error", "the faucet's account is not on this network: check its key")
        return account.sequence_number

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
        """Forget those with a final status. Where one was lost, its number is free, and used before any later one."""
        ids, number, lost = list(self._under_way), await self._number(), False
        for id, status in zip(ids, await self._node.pool.status(ids), strict=True):
            if status is None or status.status != "pending":
                self._under_way.discard(id)
                lost = lost or status is None or status.status != "committed"
        self._next = number if lost or not self._under_way else max(self._next, number)

    async def _status(self, id: bytes) -> str:
        (status,) = await self._node.pool.status([id])
        return "lost" if status is None else status.status

    async def _outcome(self, id: bytes) -> str:
        while (status := await self._status(id)) == "pending":
            await self._pulse.wait(POLL_SECONDS)
        return status

    async def _check(self, id: bytes) -> None:
        """That it did what it was for. Raises ApiError."""
        row: TransactionRow | None = await self._node.execution.query(FINAL, "transaction", hash=id)
        status = None if row is None else row.transaction_info().status
        if status is not None and not status.success:
            raise ApiError(400, "vm_error", f"the transaction {id.hex()} failed: {status.text()}", EXECUTION_FAILED)


class Faucet(HttpService[FaucetConfig]):
    """Bound while it runs; ``url`` is empty before."""

    def _routes(self, teller: Teller) -> list[Route]:
        async def given(address: Any, octas: Any) -> str:
            try:
                to = parse_address(str(address))
            except Malformed as error:
                raise invalid(f"address: {error}") from None
            amount = octas if isinstance(octas, int) and not isinstance(octas, bool) else parse_number(str(octas), "amount")
            if not 0 <= amount <= self._config.max_octas:
                raise invalid(f"amount: at most {self._config.max_octas} octas are given at once, not {amount}")
            return (await teller.give(to, amount, self._config.wait_seconds)).hex()

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
        pulse = Pulse(node.events)
        teller = Teller(node, load_key(self._environment, node.genesis), self._environment, pulse)
        app = application(self._routes(teller), self._config.allowed_origins)
        await self.serve(app, task_status, beside=[pulse.run])


def _address_of_key(text: Any) -> str | None:
    if not isinstance(text, str):
        return None
    try:
        key = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise invalid("pub_key is written in hexadecimal") from None
    return authentication_key(key, ED25519).hex() if len(key) == 32 else None
