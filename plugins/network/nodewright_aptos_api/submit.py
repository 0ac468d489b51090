"""Transactions into the node, in BCS or JSON: ``POST /v1/transactions``, ``/batch``, ``/simulate``, ``/encode_submission``.

A 202 is answered once the transaction is in the pool's synced journal. From then on its hash can be asked for until it is
committed, rejected or expired, and for some time after that (``reading``).
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from nodewright.errors import Pruned
from nodewright.interfaces.common import Refused
from nodewright.interfaces.environment import Environment
from nodewright_aptos import gas
from nodewright_aptos.bcs import Malformed, Reader
from nodewright_aptos.prologue import STATUS_CODES
from nodewright_aptos.queries import Simulated
from nodewright_aptos.transactions import RawTransaction, UserTransaction, decode_transaction, read_signed
from nodewright_aptos_api.config import AptosApiConfig
from nodewright_aptos_api.document import content_type, json_part
from nodewright_aptos_api.errors import ApiError, invalid, refusal
from nodewright_aptos_api.forms import JSON
from nodewright_aptos_api.reads import Ledger, yes
from nodewright_aptos_api.requests import MAX_REQUEST_BYTES, Requests
from nodewright_aptos_api.views import hexadecimal

SIGNED_BCS: Final = "application/x.aptos.signed_transaction+bcs"


class Submissions:
    def __init__(self, ledger: Ledger, requests: Requests, config: AptosApiConfig, environment: Environment) -> None:
        self._ledger = ledger
        self._requests = requests
        self._pool = ledger.node.pool
        self._config = config
        self._environment = environment

    async def _signed(self, request: Request) -> bytes:
        """One SignedTransaction in BCS, as it was sent or as JSON says it."""
        if content_type(request) == JSON:
            return self._requests.signed(await json_part(request, MAX_REQUEST_BYTES), await self._chain_id())
        _wants_bcs(request)
        return await request.body()

    async def _chain_id(self) -> int:
        return (await self._ledger.state()).chain_id

    async def submit(self, request: Request) -> Response:
        raw = await self._signed(request)
        (answer,) = await self._pool.submit([raw], _source(request))
        if isinstance(answer, Refused):
            raise refusal(answer)
        return await self._ledger.answer(self._ledger.form(request).submitted(raw), 202)

    async def batch(self, request: Request) -> Response:
        """Of signed transactions: 202 where all were taken, 206 with those that were not. One that cannot be read is a 400
        for all of them."""
        if content_type(request) == JSON:
            listed, chain_id = (await json_part(request)).items(self._config.max_batch), await self._chain_id()
            raws = [self._requests.signed(one, chain_id) for one in listed]
        else:
            _wants_bcs(request)
            raws = self._split(await request.body())
        answers = await self._pool.submit(raws, _source(request))
        failures = [(place, refusal(one).document) for place, one in enumerate(answers) if isinstance(one, Refused)]
        return await self._ledger.answer(self._ledger.form(request).refused(failures), 206 if failures else 202)

    def _split(self, body: bytes) -> list[bytes]:
        """vec<SignedTransaction>."""
        reader, raws = Reader(body), []
        try:
            for _ in range(reader.length(self._config.max_batch)):
                raws.append(read_signed(reader).raw)
            reader.finish()
        except Malformed as error:
            raise invalid(f"Failed to deserialize input into vec<SignedTransaction>: {error}") from None
        return raws

    async def encode(self, request: Request) -> Response:
        """The signing message of a transaction without a signature."""
        if content_type(request) != JSON:
            raise ApiError(415, "web_framework_error", f"send the transaction as Content-Type: {JSON}")
        if self._ledger.form(request).encoded:
            raise ApiError(400, "bcs_not_supported", f"the message is hexadecimal text: ask for {JSON}")
        part = await json_part(request, MAX_REQUEST_BYTES)
        return await self._ledger.answer(hexadecimal(self._requests.message(part, await self._chain_id())))

    async def simulate(self, request: Request) -> Response:
        """What the transaction would do now. Signatures must not be good ones: who holds a transaction that could be
        submitted has no need to show it around."""
        raw = await self._signed(request)
        try:
            transaction = decode_transaction(raw)
        except Malformed as error:
            raise invalid(f"Failed to deserialize input into SignedTransaction: {error}") from None
        if _looks_signed(transaction):
            raise invalid("Simulated transactions must not have a valid signature")
        raw = await self._estimated(transaction, request)
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
        return await self._ledger.answer(self._ledger.form(request).simulated(found.row))

    async def _estimated(self, transaction: UserTransaction, request: Request) -> bytes:
        """With the gas that a client asks to have estimated: the price, and the most that the payer can pay for."""
        price, most = transaction.gas_price, transaction.max_gas
        if yes(request, "estimate_gas_unit_price") or yes(request, "estimate_prioritized_gas_unit_price"):
            price = gas.MIN_GAS_PRICE
        if yes(request, "estimate_max_gas_amount"):
            octas = await self._ledger.ask("balance", address=transaction.payer)
            affordable = octas // price if price else gas.MAX_GAS
            most = min(gas.MAX_GAS, max(affordable, gas.intrinsic(len(transaction.raw))))
        signatures = transaction.raw[transaction.body_bytes :]
        one = transaction
        body = RawTransaction(one.sender, one.sequence_number, one.payload, most, price, one.expires_at, one.chain_id)
        return body.encode() + signatures

    async def estimate_gas_price(self, request: Request) -> Response:
        """Transactions are taken in the order they come: the least price is as good as any."""
        return await self._ledger.answer(self._ledger.form(request).gas_price(gas.MIN_GAS_PRICE))


def _wants_bcs(request: Request) -> None:
    if content_type(request) != SIGNED_BCS:
        raise ApiError(415, "web_framework_error", f"send transactions as Content-Type: {SIGNED_BCS} or {JSON}")


def _looks_signed(transaction: UserTransaction) -> bool:
    signers = [transaction.signer, *transaction.secondary_signers]
    if transaction.fee_payer_signer is not None:
        signers.append(transaction.fee_payer_signer)
    return any(any(signature) for one in signers for _, signature in one.signatures)


def _source(request: Request) -> str:
    return request.client.host if request.client is not None else "local"
