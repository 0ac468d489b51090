"""Transactions into the node: ``POST /v1/transactions``, ``/batch`` and ``/simulate``.

A 202 is answered once the transaction is in the pool's synced journal. From then on its hash can be asked for until it is
committed, rejected or expired, and for some time after that (``reading``).
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from nodewright.errors import Pruned
from nodewright.interfaces.common import Refused
from nodewright.interfaces.environment import Environment
from nodewright_aptos import gas
from nodewright_aptos.bcs import Malformed, Reader
from nodewright_aptos.prologue import STATUS_CODES
from nodewright_aptos.queries import Simulated
from nodewright_aptos.transactions import UserTransaction, decode_transaction, read_signed
from nodewright_aptos_api.config import AptosApiConfig
from nodewright_aptos_api.errors import ApiError, invalid, refusal
from nodewright_aptos_api.reads import Ledger

SIGNED_BCS: Final = "application/x.aptos.signed_transaction+bcs"


def _is_bcs(request: Request, type: str = SIGNED_BCS) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == type


def _wants_bcs(request: Request) -> None:
    if not _is_bcs(request):
        raise ApiError(
            415,
            "web_framework_error",
            f"send the signed transaction in BCS, as Content-Type: {SIGNED_BCS}; transactions in JSON are not taken",
        )


class Submissions:
    def __init__(self, ledger: Ledger, config: AptosApiConfig, environment: Environment) -> None:
        self._ledger = ledger
        self._pool = ledger.node.pool
        self._config = config
        self._environment = environment

    async def submit(self, request: Request) -> Response:
        _wants_bcs(request)
        raw = await request.body()
        (answer,) = await self._pool.submit([raw], _source(request))
        if isinstance(answer, Refused):
            raise refusal(answer)
        return await self._ledger.answer(self._ledger.views.pending(raw), 202)

    async def batch(self, request: Request) -> Response:
        """vec<SignedTransaction>: 202 where all were taken, 206 with those that were not."""
        _wants_bcs(request)
        raws = self._split(await request.body())
        failures: list[dict[str, Any]] = []
        for place, answer in enumerate(await self._pool.submit(raws, _source(request))):
            if isinstance(answer, Refused):
                failures.append({"error": refusal(answer).document, "transaction_index": place})
        return await self._ledger.answer({"transaction_failures": failures}, 206 if failures else 202)

    def _split(self, body: bytes) -> list[bytes]:
        reader, raws = Reader(body), []
        try:
            for _ in range(reader.length(self._config.max_batch)):
                raws.append(read_signed(reader).raw)
            reader.finish()
        except Malformed as error:
            raise invalid(f"Failed to deserialize input into vec<SignedTransaction>: {error}") from None
        return raws

    async def simulate(self, request: Request) -> Response:
        """What the transaction would do now. Signatures must not be good ones: who holds a transaction that could be
        submitted has no need to show it around."""
        _wants_bcs(request)
        raw = await request.body()
        try:
            transaction = decode_transaction(raw)
        except Malformed as error:
            raise invalid(f"Failed to deserialize input into SignedTransaction: {error}") from None
        if _looks_signed(transaction):
            raise invalid("Simulated transactions must not have a valid signature")
        now = int(self._environment.now())
        try:
            found: Simulated = await self._ledger.ask("simulate", raw=raw, time=now)
        except Pruned as error:
            raise ApiError(503, "internal_error", f"the state moves on too fast to simulate on: {error}") from error
        if found.problem is not None:
            number = STATUS_CODES.get(found.problem.status)
            message = f"Invalid transaction: Type: Validation Code: {found.problem.status}: {found.problem.message}"
            raise ApiError(400, "vm_error", message, number)
        assert found.row is not None
        shown = self._ledger.views.transaction(found.row, bytes(32))
        return await self._ledger.answer([shown])

    async def estimate_gas_price(self, request: Request) -> Response:
        """Transactions are taken in the order they come: the least price is as good as any."""
        least = gas.MIN_GAS_PRICE
        estimate = {
            "deprioritized_gas_estimate": least,
            "gas_estimate": least,
            "prioritized_gas_estimate": least,
        }
        return await self._ledger.answer(estimate)


def _looks_signed(transaction: UserTransaction) -> bool:
    signers = [transaction.signer, *transaction.secondary_signers]
    if transaction.fee_payer_signer is not None:
        signers.append(transaction.fee_payer_signer)
    return any(any(signature) for one in signers for _, signature in one.signatures)


def _source(request: Request) -> str:
    return request.client.host if request.client is not None else "local"
