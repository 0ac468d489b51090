"""Which script rules hold: one flag per rule, named as in the network's public test data.

``GENESIS`` and ``CHRONICLE`` say under which rules the *block* is judged, ``UTXO_AFTER_GENESIS`` and
``UTXO_AFTER_CHRONICLE`` in which era the output spent was *created* (so they differ from input to input of one
transaction). ``rules.era_flags`` and ``rules.input_flags`` choose them.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final


class ScriptFlags(IntFlag):
    NONE = 0
    P2SH = 1 << 0
    STRICTENC = 1 << 1
    DERSIG = 1 << 2
    LOW_S = 1 << 3
    NULLDUMMY = 1 << 4
    SIGPUSHONLY = 1 << 5
    MINIMALDATA = 1 << 6
    DISCOURAGE_UPGRADABLE_NOPS = 1 << 7
    CLEANSTACK = 1 << 8
    CHECKLOCKTIMEVERIFY = 1 << 9
    CHECKSEQUENCEVERIFY = 1 << 10
    MINIMALIF = 1 << 13
    NULLFAIL = 1 << 14
    COMPRESSED_PUBKEYTYPE = 1 << 15
    SIGHASH_FORKID = 1 << 16
    GENESIS = 1 << 18
    UTXO_AFTER_GENESIS = 1 << 19
    CHRONICLE = 1 << 20
    UTXO_AFTER_CHRONICLE = 1 << 21


# Plain integers for the interpreter's inner tests: an IntFlag operation costs a microsecond.
P2SH: Final = int(ScriptFlags.P2SH)
STRICTENC: Final = int(ScriptFlags.STRICTENC)
DERSIG: Final = int(ScriptFlags.DERSIG)
LOW_S: Final = int(ScriptFlags.LOW_S)
NULLDUMMY: Final = int(ScriptFlags.NULLDUMMY)
SIGPUSHONLY: Final = int(ScriptFlags.SIGPUSHONLY)
MINIMALDATA: Final = int(ScriptFlags.MINIMALDATA)
DISCOURAGE_UPGRADABLE_NOPS: Final = int(ScriptFlags.DISCOURAGE_UPGRADABLE_NOPS)
CLEANSTACK: Final = int(ScriptFlags.CLEANSTACK)
CHECKLOCKTIMEVERIFY: Final = int(ScriptFlags.CHECKLOCKTIMEVERIFY)
CHECKSEQUENCEVERIFY: Final = int(ScriptFlags.CHECKSEQUENCEVERIFY)
MINIMALIF: Final = int(ScriptFlags.MINIMALIF)
NULLFAIL: Final = int(ScriptFlags.NULLFAIL)
COMPRESSED_PUBKEYTYPE: Final = int(ScriptFlags.COMPRESSED_PUBKEYTYPE)
SIGHASH_FORKID: Final = int(ScriptFlags.SIGHASH_FORKID)
GENESIS: Final = int(ScriptFlags.GENESIS)
UTXO_AFTER_GENESIS: Final = int(ScriptFlags.UTXO_AFTER_GENESIS)
CHRONICLE: Final = int(ScriptFlags.CHRONICLE)
UTXO_AFTER_CHRONICLE: Final = int(ScriptFlags.UTXO_AFTER_CHRONICLE)


def parse_flags(names: str) -> ScriptFlags:
    """``"P2SH,STRICTENC"`` as the test data writes it; the empty string and ``NONE`` are no flags. KeyError names an
    unknown one."""
    result = ScriptFlags.NONE
    for name in names.split(","):
        if name:
            result |= ScriptFlags[name]
    return result
