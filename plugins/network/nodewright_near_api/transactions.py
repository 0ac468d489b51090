"""Sending transactions and asking what became of them.

A transaction that is sent again is the same transaction: whoever lost an answer sends it again or asks ``tx``. A wait that
runs out says how far the transaction is; nothing is taken back by it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

from nodewright.errors import Pruned
from nodewright.interfaces.common import Admitted, Refused
from nodewright.interfaces.execution import HEAD
from nodewright_near.borsh import Malformed
from nodewright_near.errors import value_of
from nodewright_near.primitives import base58
from nodewright_near.transactions import MAX_TRANSACTION_BYTES, SignedTransaction
from nodewright_near_api import params as take
from nodewright_near_api.config import NearApiConfig
from nodewright_near_api.errors import (
    RpcError,
    busy,
    handler_error,
    invalid_transaction,
    parse_error,
    timeout_error,
)
from nodewright_near_api.outcomes import ENOUGH, NONE, OPTIMISTIC, Fate, Outcomes
from nodewright_near_api.params import Params
from nodewright_near_api.reads import ChainReads
from nodewright_near_api.views import receipt_view

POLL_SECONDS: Final = 0.5
# What is larger than a transaction may be is told so as far as it is read.
MAX_READ_BYTES: Final = 8 * 1024 * 1024
# What the pool puts before a refusal: when it came to it, and the refusal's name once more.
_AFTER: Final = re.compile(r"^[a-z][a-z ]*: [A-Za-z]+: ")
_UNTIL: Final = {
    "INCLUDED": "in no block yet",
    "EXECUTED_OPTIMISTIC": "not all of its receipts have run yet",
    "INCLUDED_FINAL": "its block is not final yet",
    "EXECUTED": "it has not run in a final block yet",
    "FINAL": "not all of its receipts have run in final blocks yet",
}


def refusal(refused: Refused) -> RpcError:
    if "error" in refused.data:
        return invalid_transaction(refused.data["error"])
    if refused.kind == "busy":
        return busy(refused.message, float(refused.data.get("retry_after_seconds", 1)))
    if refused.kind == "malformed":
        return parse_error(f"Failed to decode transaction: {refused.message}")
    if refused.kind == "expired":
        return invalid_transaction("Expired")
    return invalid_transaction(refused.code)


class TransactionMethods:
    def __init__(self, reads: ChainReads, outcomes: Outcomes, config: NearApiConfig) -> None:
        self._reads = reads
        self._node = reads.node
        self._config = config
        self._outcomes = outcomes

    def methods(self) -> dict[str, Callable[[Params], Awaitable[Any]]]:
        return {
            "broadcast_tx_async": self.broadcast_tx_async,
            "broadcast_tx_commit": self.broadcast_tx_commit,
            "send_tx": self.send_tx,
            "tx": self.tx,
            "EXPERIMENTAL_tx_status": self.tx_status,
            "EXPERIMENTAL_receipt": self.receipt,
        }

    # --- parameters --------------------------------------------------------------------------------------------------

    def _signed(self, value: Any) -> SignedTransaction:
        raw = take.base64_bytes(value, "signed_tx_base64", MAX_READ_BYTES)
        try:
            signed = SignedTransaction.decode(raw)
        except Malformed as error:
            raise parse_error(f"Failed to decode transaction: {error}") from error
        if len(raw) > MAX_TRANSACTION_BYTES:
            size = {"size": len(raw), "limit": MAX_TRANSACTION_BYTES}
            raise invalid_transaction({"TransactionSizeExceeded": size})
        return signed

    def _level(self, found: Mapping[str, Any]) -> str:
        level = found.get("wait_until", OPTIMISTIC)
        if not isinstance(level, str) or level not in ENOUGH:
            raise parse_error(f"Failed parsing args: `wait_until` is one of {', '.join(ENOUGH)}")
        return level

    # --- sending -----------------------------------------------------------------------------------------------------

    async def broadcast_tx_async(self, params: Params) -> str:
        """The hash at once, whatever will become of it; what is refused only ``send_tx`` tells."""
        signed = self._signed(take.want(params.take(("signed_tx_base64",)), "signed_tx_base64"))
        await self._send_quietly(signed)
        return base58(signed.id)

    async def broadcast_tx_commit(self, params: Params) -> dict[str, Any]:
        signed = self._signed(take.want(params.take(("signed_tx_base64",)), "signed_tx_base64"))
        return await self._send(signed, OPTIMISTIC)

    async def send_tx(self, params: Params) -> dict[str, Any]:
        found = params.take(("signed_tx_base64",))
        signed, level = self._signed(take.want(found, "signed_tx_base64")), self._level(found)
        if level == NONE:
            await self._send_quietly(signed)
            return {"final_execution_status": NONE}
        return await self._send(signed, level)

    async def _send_quietly(self, signed: SignedTransaction) -> None:
        """Only that there is no room is told: nobody else would. One that is too old would hold its nonce for nothing."""
        if await self.expired(signed):
            return
        (answer,) = await self._node.pool.submit([signed.raw], "rpc")
        if isinstance(answer, Refused) and answer.kind == "busy" and "error" not in answer.data:
            raise refusal(answer)

    async def _send(self, signed: SignedTransaction, level: str) -> dict[str, Any]:
        if await self.expired(signed):
            raise invalid_transaction("Expired")
        (answer,) = await self._node.pool.submit([signed.raw], "rpc")
        if not isinstance(answer, Admitted) and not await self._known(signed.id):
            raise refusal(answer)
        return await self._wait(signed.id, signed, level, False)

    async def expired(self, signed: SignedTransaction) -> bool:
        """Whether its block is unknown here or too long ago. One that was taken in before is never too old to ask about."""
        found = await self._reads.block(id=signed.transaction.block_hash)
        age = self._reads.parameters.transaction_validity
        if found is not None and self._node.consensus.head().height - found.info.height <= age:
            return False
        return not await self._known(signed.id)

    async def _known(self, id: bytes) -> bool:
        (status,) = await self._node.pool.status([id])
        if status is not None and status.status in ("pending", "committed"):
            return True
        (location,) = await self._node.consensus.locate([id])
        return location is not None

    # --- asking ------------------------------------------------------------------------------------------------------

    async def tx(self, params: Params) -> dict[str, Any]:
        return await self._asked(params, False)

    async def tx_status(self, params: Params) -> dict[str, Any]:
        return await self._asked(params, True)

    async def _asked(self, params: Params, receipts: bool) -> dict[str, Any]:
        single = len(params.positional) == 1
        found = params.take(("signed_tx_base64",) if single else ("tx_hash", "sender_account_id"))
        level = self._level(found)
        if "signed_tx_base64" in found:
            signed = self._signed(found["signed_tx_base64"])
            return await self._wait(signed.id, signed, level, receipts)
        id = take.hash_of(take.want(found, "tx_hash"), "tx_hash")
        take.account(take.want(found, "sender_account_id"), "sender_account_id")
        return await self._wait(id, None, level, receipts)

    async def _wait(self, id: bytes, signed: SignedTransaction | None, level: str, receipts: bool) -> dict[str, Any]:
        start = trio.current_time()
        while True:
            fate = await self._outcomes.fate(id)
            if fate.level in ENOUGH[level] and (fate.level != NONE or await self._known(id)):
                signed = signed or await self._outcomes.body(id)
                return await self._outcomes.document(fate, signed, receipts)
            waited = trio.current_time() - start
            if fate.level == NONE:
                await self._give_up(id, signed, waited)
            if waited >= self._config.wait_seconds:
                raise self._timeout(id, fate, level)
            await self._reads.pulse.wait(min(POLL_SECONDS, self._config.wait_seconds - waited))

    async def _give_up(self, id: bytes, signed: SignedTransaction | None, waited: float) -> None:
        """Where it will come into no block, or nobody knows of it."""
        (status,) = await self._node.pool.status([id])
        if status is None:
            (location,) = await self._node.consensus.locate([id])
            if location is None and waited >= min(self._config.unknown_seconds, self._config.wait_seconds):
                info = {"requested_transaction_hash": base58(id)}
                raise handler_error("UNKNOWN_TRANSACTION", f"Transaction {base58(id)} doesn't exist", info)
        elif status.status == "expired":
            raise invalid_transaction("Expired")
        elif status.status == "rejected":
            raise invalid_transaction(await self._reason(status.detail, signed))
        elif status.status == "replaced":
            raise invalid_transaction(
                await self._nonce_used(signed, f"another transaction took its nonce: {status.detail}")
            )

    async def _reason(self, detail: str, signed: SignedTransaction | None) -> Any:
        """The error object of what the pool keeps as a sentence; the sentence where there is none."""
        value = value_of(_AFTER.sub("", detail))
        if value is not None:
            return value
        if detail.startswith("Expired: "):
            return "Expired"
        return await self._nonce_used(signed, detail) if "nonce was used" in detail else detail

    async def _nonce_used(self, signed: SignedTransaction | None, sentence: str) -> Any:
        if signed is None:
            return sentence
        body = signed.transaction
        try:
            key = await self._node.execution.query(
                HEAD, "access_key", account_id=body.signer_id, public_key=body.public_key
            )
        except Pruned:  # of a shard that is not kept here
            key = None
        return {"InvalidNonce": {"tx_nonce": body.nonce, "ak_nonce": body.nonce if key is None else key.nonce}}

    def _timeout(self, id: bytes, fate: Fate, level: str) -> RpcError:
        stands = f"it is {fate.level}" if fate.level != NONE else "it waits in the pool"
        return timeout_error(
            f"Timeout: transaction {base58(id)}: {_UNTIL.get(level, 'it is not known')}, {stands}; ask tx again"
        )

    async def receipt(self, params: Params) -> dict[str, Any]:
        id = take.hash_of(take.want(params.take(("receipt_id",)), "receipt_id"), "receipt_id")
        found = await self._outcomes.receipt(id)
        if found is None:
            raise handler_error(
                "UNKNOWN_RECEIPT",
                f"Receipt with id {base58(id)} has never been observed on this node",
                {"receipt_id": base58(id)},
            )
        return receipt_view(found)
