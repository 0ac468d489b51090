"""What relay's rules say of a transaction read off its bytes is what they say of its objects."""

from __future__ import annotations

from random import Random

from nodewright.kernels.switch import compiled
from nodewright_bitcoin.checks import check_relay
from nodewright_bitcoin.columns import KERNELS, Parsed, parse_batch
from nodewright_bitcoin.policy import Policy, check_policy
from nodewright_bitcoin.rules import Era
from nodewright_bitcoin.signing import derive_key
from nodewright_bitcoin.testing.cases import case
from nodewright_bitcoin.testing.mutations import KINDS, Purse, offer


def test_read_off_the_bytes_or_off_the_objects() -> None:
    random = Random(5)
    purses = [Purse(random.randbytes(32) + bytes(4), 9_000, derive_key(b"relay", n)) for n in range(3)]
    raws = [offer(random, purses[: 1 + at % 3], kind).raw for at, kind in enumerate(KINDS * 4)]
    raws += [case(9, at).tx.raw for at in range(400)]
    policy = Policy(max_transaction_bytes=3_000)
    seen: set[str] = set()
    kernels = compiled(KERNELS) is not None
    for item in parse_batch(raws, 1_000_000).items:
        if not isinstance(item, Parsed):
            continue
        for checked in {item.checked, not kernels}:
            # Without kernels nothing is ``checked``; what is well formed may be taken for it here.
            one = Parsed(item.txid, item.raw, item.spends, item.outputs, item.value_out, item.lock, checked=checked)
            for era in (Era.GENESIS, Era.CHRONICLE):
                wanted = check_policy(one.transaction(), era, policy)
                assert check_relay(one, era, policy) == wanted
                seen.add(wanted.code if wanted else "")
    assert seen == {"", "tx-size", "version", "scriptsig-not-pushonly"}
