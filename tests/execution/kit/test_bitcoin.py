"""The kit on the execution ``bitcoin``: over the adapter of a key-value store, as a node opens it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodewright.interfaces import HEAD, Execution
from nodewright.testing.execution import ExecutionTests, Sample
from nodewright_bitcoin import coinbase, plugin
from nodewright_bitcoin.config import BitcoinConfig
from nodewright_bitcoin.signing import build_transaction, derive_key, p2pkh_script, public_key, sign_p2pkh_inputs

COINS = 1_000_000
OWNERS = [derive_key(b"kit", purse) for purse in range(12)]
SCRIPTS = [p2pkh_script(public_key(owner)) for owner in OWNERS]
CONFIG = BitcoinConfig(kernels="off")
FEES = (500, 700)  # of the two variants
DOCUMENT: dict[str, Any] = {
    "execution": {"allocations": [{"satoshis": COINS, "script": script.hex()} for script in SCRIPTS]}
}


class TestBitcoin(ExecutionTests):
    (spec,) = plugin.register_execution()
    config = CONFIG
    genesis = DOCUMENT

    def chain(self, purse: int, variant: int, length: int) -> Sequence[Sample]:
        given = coinbase.allocation(DOCUMENT["execution"], CONFIG.parameters())
        assert given is not None
        made, txid, index, left = [], given.txid, purse, COINS
        for _ in range(length):
            paid = left - FEES[variant]
            tx = build_transaction([(txid, index, left, SCRIPTS[purse])], [(paid, SCRIPTS[purse])])
            tx = sign_p2pkh_inputs(tx, [OWNERS[purse]])
            made.append(Sample(tx.txid, tx.raw))
            txid, index, left = tx.txid, 0, paid
        return made

    def invalid(self, purse: int) -> Sample:
        """Signed by somebody else's key."""
        given = coinbase.allocation(DOCUMENT["execution"], CONFIG.parameters())
        assert given is not None
        tx = build_transaction([(given.txid, purse, COINS, SCRIPTS[purse])], [(COINS - 900, SCRIPTS[purse])])
        tx = sign_p2pkh_inputs(tx, [OWNERS[purse - 1]])
        return Sample(tx.txid, tx.raw)

    async def state(self, execution: Execution) -> Any:
        digest = await execution.query(HEAD, "unspent_digest")
        del digest["bestblock"]
        return digest
