"""SV Node judges every generated spend as this interpreter does, and gives the same reason.

A few hundred by default; ``--budget 25`` makes it 10,000. A disagreement is shown whole; ``case(SEED, n)`` makes it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs
import pytest

from nodewright_bitcoin.network import REGTEST
from nodewright_bitcoin.rules import era_flags, input_flags
from nodewright_bitcoin.script.checker import TransactionSignatureChecker
from nodewright_bitcoin.script.errors import ScriptError
from nodewright_bitcoin.script.flags import ScriptFlags as F
from nodewright_bitcoin.script.interpreter import verify_script
from nodewright_bitcoin.script.limits import consensus_limits
from nodewright_bitcoin.script.opcodes import push_data
from nodewright_bitcoin.signing import build_transaction
from nodewright_bitcoin.testing.cases import Case, case, cases
from nodewright_bsv_p2p.testing.svnode import SvNode

SEED = 1
COUNT = 400
PATIENT = {
    # Milliseconds: it is not the clock that is asked.
    "maxstdtxvalidationduration": 600_000,
    "maxnonstdtxvalidationduration": 700_000,
    "maxtxnvalidatorasynctasksrunduration": 800_000,
}
FOUND = [(2, 2922)]
"""(seed, number) of cases that were judged differently once."""
OLDER = {
    # The node at hand does not know Chronicle's hash type: the same verdict by the first name that it has for it.
    ScriptError.ILLEGAL_CHRONICLE: ScriptError.SIG_HASHTYPE,
    ScriptError.ILLEGAL_FORKID: ScriptError.SIG_HASHTYPE,
}
KEY = "mfWxJ45yp2SFn7UciZyNpvDKrzbhyfKrY8"


def asked(one: Case) -> dict[str, object]:
    spent = {"lock": one.locking.hex(), "value": one.satoshis}
    return {"tx": one.tx.raw.hex(), "n": one.index, "flags": int(one.flags), "txo": spent}


@pytest.mark.slow
def test_the_same_verdict_for_the_same_reason(svnode: Callable[..., SvNode], budget: int) -> None:
    theirs = svnode(**PATIENT)
    generated = [case(*one) for one in FOUND] + list(cases(SEED, COUNT * budget))
    answers = theirs.verify_scripts([asked(one) for one in generated])
    seen: Counter[str] = Counter()
    differ: list[str] = []
    for one, answer in zip(generated, answers, strict=True):
        ours = one.verdict()
        seen[ours.name if ours is not None else "OK"] += 1
        expected = {"ok"} if ours is None else {f"error {ours}", f"error {OLDER.get(ours, ours)}"}
        actual = f"{answer['result']} {answer.get('description', '')}".strip()
        if actual not in expected:
            differ.append(f"SV Node: {actual!r}, ours: {expected}: {one}")
    assert not differ, f"{len(differ)} of {len(generated)}:\n" + "\n".join(differ[:20])
    # A generator that has stopped to reach the rules would agree as well.
    assert seen["OK"] > len(generated) // 20 and len(seen) > 20, seen


def test_the_same_rules_at_every_height(svnode: Callable[..., SvNode]) -> None:
    """Which flags hold in the block after each height, for outputs of each era."""
    parameters = attrs.evolve(REGTEST, genesis_height=1400)
    theirs = svnode(genesisactivationheight=parameters.genesis_height)
    hashes = theirs.mine(1402, KEY)
    tx = "0100000001" + "11" * 32 + "000000000151ffffffff01" + "00" * 9 + "00" * 4
    wanted: list[tuple[int, int]] = []
    questions = []
    for height in range(1, len(hashes) + 1):
        for created in (1, parameters.genesis_height - 1, parameters.genesis_height):
            wanted.append((height, created))
            spent = {"lock": "51", "value": 0, "height": created}
            question = {"tx": tx, "n": 0, "reportflags": True, "prevblockhash": hashes[height - 1], "txo": spent}
            questions.append(question)
    answers = theirs.verify_scripts(questions)
    for (height, created), answer in zip(wanted, answers, strict=True):
        ours = input_flags(era_flags(height + 1, parameters), created, parameters)
        assert answer["flags"] == int(ours), f"block {height + 1}, output of {created}: {answer['flags']:x}, ours {ours!r}"


def test_the_longest_numbers_of_blocks(svnode: Callable[..., SvNode], budget: int) -> None:
    """Consensus knows numbers longer than those relayed: 750,000 bytes."""
    theirs = svnode(maxscriptnumlengthpolicy=750_000, maxscriptsizepolicy=0, **PATIENT)
    flags = F.P2SH | F.GENESIS | F.UTXO_AFTER_GENESIS
    longest, longer = push_data(b"\xff" * 749_999 + b"\x7f"), push_data(b"\x01" * 750_001)
    scripts = [
        longest + tail for tail in (b"\x8b", b"\x8b\x8b", b"\x76\x95", b"\x76\x95\x8b", b"\x81", b"\x76\x94\x00\x9c")
    ]
    scripts += [longer + tail for tail in (b"\x8b", b"\x81", b"\x91")]
    tx = build_transaction([(bytes(32), 0, 0, b"")], [(0, b"")])
    asking = [Case("a long number", tx, 0, script, 0, flags) for script in scripts]
    for one, answer in zip(asking, theirs.verify_scripts([asked(one) for one in asking]), strict=True):
        checker = TransactionSignatureChecker(tx, 0, 0)
        ours = verify_script(b"", one.locking, int(flags), checker, consensus_limits(int(flags)))
        assert (answer["result"], answer.get("description")) == (("error", str(ours)) if ours else ("ok", None)), (
            one.locking[-4:]
        )
