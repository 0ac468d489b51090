"""Spends to be judged: a transaction, one of its inputs, the output that it spends, the rules. Valid ones and damaged ones.

The flags are those of the rules up to Genesis: what another node of that age knows as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from random import Random

from attrs import evolve, frozen

from nodewright_bitcoin.encoding import hash160, sha256d
from nodewright_bitcoin.script import opcodes as op
from nodewright_bitcoin.script.checker import TransactionSignatureChecker
from nodewright_bitcoin.script.errors import ScriptError
from nodewright_bitcoin.script.flags import ScriptFlags as F
from nodewright_bitcoin.script.interpreter import verify_script
from nodewright_bitcoin.script.limits import policy_limits
from nodewright_bitcoin.script.opcodes import push_data
from nodewright_bitcoin.script.signatures import CURVE_ORDER, parse_lax_der
from nodewright_bitcoin.sighash import signature_hash
from nodewright_bitcoin.signing import derive_key, public_key, sign_digest
from nodewright_bitcoin.testing import programs
from nodewright_bitcoin.transaction import Transaction, TxInput, TxOutput

BASE = F.P2SH | F.STRICTENC | F.SIGHASH_FORKID | F.LOW_S | F.NULLFAIL
"""Of a block before Genesis on the private test chain, from its third on."""
LOCKS = F.DERSIG | F.CHECKLOCKTIMEVERIFY | F.CHECKSEQUENCEVERIFY
RELAY = (
    F.DERSIG
    | F.NULLDUMMY
    | F.DISCOURAGE_UPGRADABLE_NOPS
    | F.CHECKLOCKTIMEVERIFY
    | F.CHECKSEQUENCEVERIFY
    | F.CLEANSTACK
    | F.MINIMALDATA
    | F.P2SH
)
GENESIS = F.GENESIS | F.SIGPUSHONLY
ERAS = (
    F.NONE,
    F.P2SH,
    F.P2SH | LOCKS,
    BASE,
    BASE | LOCKS,
    BASE | LOCKS | RELAY,
    BASE | LOCKS | GENESIS,
    BASE | LOCKS | GENESIS | F.UTXO_AFTER_GENESIS,
    BASE | LOCKS | GENESIS | F.UTXO_AFTER_GENESIS,
    BASE | LOCKS | GENESIS | RELAY | F.UTXO_AFTER_GENESIS,
    BASE | LOCKS | GENESIS | RELAY | F.UTXO_AFTER_GENESIS,
)
"""The rule sets that blocks and relay really have; the newest twice."""
LOOSE = (
    *(F.P2SH, F.STRICTENC, F.DERSIG, F.LOW_S, F.NULLDUMMY, F.SIGPUSHONLY, F.MINIMALDATA, F.DISCOURAGE_UPGRADABLE_NOPS),
    *(F.CLEANSTACK, F.CHECKLOCKTIMEVERIFY, F.CHECKSEQUENCEVERIFY, F.MINIMALIF, F.NULLFAIL, F.COMPRESSED_PUBKEYTYPE),
    *(F.SIGHASH_FORKID, F.GENESIS, F.UTXO_AFTER_GENESIS),
)
HASH_TYPES = (0x41, 0x41, 0x41, 0x42, 0x43, 0xC1, 0xC2, 0xC3, 0x01, 0x02, 0x03, 0x81, 0x82, 0x83)
ODD_HASH_TYPES = (0x00, 0x04, 0x1F, 0x20, 0x21, 0x40, 0x44, 0x5F, 0x61, 0x80, 0xE1, 0xFF)

Sign = Callable[[int, bytes], bytes]
"""(key number, script code) → signature with its hash type."""


@frozen
class Case:
    """``what`` says how it was made. ``satoshis`` and ``locking`` are those of the output that input ``index`` spends."""

    what: str
    tx: Transaction
    index: int
    locking: bytes
    satoshis: int
    flags: F

    def verdict(self) -> ScriptError | None:
        """This node's, under the limits of relay."""
        checker = TransactionSignatureChecker(self.tx, self.index, self.satoshis)
        script = self.tx.inputs[self.index].script
        return verify_script(script, self.locking, int(self.flags), checker, policy_limits(int(self.flags)))

    def __str__(self) -> str:
        unlocking = self.tx.inputs[self.index].script
        return (
            f"{self.what}; flags {self.flags!r}; unlocking {unlocking.hex()[:400]}; locking {self.locking.hex()[:400]}; "
            f"input {self.index} of {self.tx.raw.hex()[:400]}; {self.satoshis} satoshis"
        )


def cases(seed: int, count: int) -> Iterator[Case]:
    """Case ``n`` depends on the seed and ``n`` alone, so that one found among many can be had again by itself."""
    for at in range(count):
        yield case(seed, at)


def case(seed: int, at: int) -> Case:
    random = Random(f"{seed} {at}")
    flags = _flags(random)
    tx = _transaction(random)
    index = random.randrange(len(tx.inputs))
    satoshis = random.choice((0, 1, random.getrandbits(40), 2_100_000_000_000_000))
    if random.random() < 0.5:
        what, unlocking, locking = _of_opcodes(random)
    else:
        what, unlocking, locking = _signed(random, tx, index, satoshis, flags)
    if random.random() < 0.15:
        what, unlocking = f"{what}, unlocking damaged", programs.damaged(random, unlocking)
    if random.random() < 0.05:
        what, locking = f"{what}, locking damaged", programs.damaged(random, locking)
    if random.random() < 0.05:
        # Another transaction than was signed.
        what, tx = f"{what}, other lock time", evolve_transaction(tx, locktime=tx.locktime ^ 1)
    return Case(f"{at}: {what}", with_script(tx, index, unlocking), index, locking, satoshis, flags)


def evolve_transaction(tx: Transaction, **changes: object) -> Transaction:
    fields = {"version": tx.version, "inputs": tx.inputs, "outputs": tx.outputs, "locktime": tx.locktime}
    return Transaction(**(fields | changes))  # type: ignore[arg-type]


def with_script(tx: Transaction, index: int, script: bytes) -> Transaction:
    inputs = [evolve(one, script=script) if at == index else one for at, one in enumerate(tx.inputs)]
    return evolve_transaction(tx, inputs=tuple(inputs))


def _flags(random: Random) -> F:
    flags = random.choice(ERAS)
    if random.random() < 0.25:
        for _ in range(random.randint(1, 3)):
            flags ^= random.choice(LOOSE)
    if flags & F.CLEANSTACK:
        flags |= F.P2SH  # the other node stops at an assertion without it
    return flags


def _transaction(random: Random) -> Transaction:
    final = 0xFFFFFFFF
    sequences = (final, final, final, 0, 1, final - 1, 1 << 31, 1 << 22 | 5, 100, random.getrandbits(32))
    inputs = [
        TxInput(random.randbytes(32) + random.randrange(4).to_bytes(4, "little"), b"", random.choice(sequences))
        for _ in range(random.choice((1, 1, 1, 2, 3)))
    ]
    outputs = [
        TxOutput(random.getrandbits(random.choice((8, 40))), random.randbytes(random.choice((0, 25, 25, 300))))
        for _ in range(random.choice((1, 1, 2, 3)))
    ]
    locktime = random.choice((0, 0, 1, 100, 499_999_999, 500_000_000, 1_600_000_000, final))
    return Transaction(random.choice((1, 1, 2, 2, 0, 3, -1)), tuple(inputs), tuple(outputs), locktime)


def _of_opcodes(random: Random) -> tuple[str, bytes, bytes]:
    script = programs.program(random)
    kind = random.randrange(5)
    if kind == 0:
        return "program unlocks", script, b"\x51"
    if kind == 1:
        at = random.randrange(len(script) + 1)
        return "program in two", script[:at], script[at:]
    if kind == 2:
        return "program by its hash", push_data(script), b"\xa9\x14" + hash160(script) + b"\x87"
    pushes = b"".join(programs.any_push(random, programs.some_bytes(random)) for _ in range(random.randrange(3)))
    return "program locks", pushes, script


# --- signatures -------------------------------------------------------------------------------------------------------


def _signed(random: Random, tx: Transaction, index: int, satoshis: int, flags: F) -> tuple[str, bytes, bytes]:
    keys = [derive_key(b"oracle", random.randrange(50)) for _ in range(5)]
    compressed = random.random() < 0.8
    publics = [_public(random, key, compressed) for key in keys]

    def sign(key: int, code: bytes) -> bytes:
        hash_type = random.choice(HASH_TYPES if random.random() < 0.9 else ODD_HASH_TYPES)
        if not flags & F.SIGHASH_FORKID and random.random() < 0.7:
            hash_type &= ~0x40
        digest = signature_hash(tx, index, code, satoshis, hash_type, int(flags))
        return _spoiled(random, sign_digest(keys[key], digest) + bytes((hash_type,)))

    template = random.choice(
        (_pay_to_hash, _pay_to_hash, _pay_to_key, _multisig, _multisig, _puzzle, _locked, _separated, _odd)
    )
    what, unlocking, locking = template(random, publics, sign)
    kind = random.randrange(12)
    if kind == 0:
        # Pay to script hash: the redeem script is what was signed for.
        return f"{what} by script hash", unlocking + push_data(locking), b"\xa9\x14" + hash160(locking) + b"\x87"
    if kind == 1:
        unlocking = random.choice((b"\x51", b"\x61", b"\x00", b"\x51\x75", b"\x50")) + unlocking
        return f"{what}, more in front", unlocking, locking
    if kind == 2:
        return (
            f"{what}, something behind",
            unlocking,
            locking + random.choice((b"\x61", b"\x91", b"\x51", b"\x6a", b"\xab")),
        )
    return what, unlocking, locking


def _public(random: Random, key: bytes, compressed: bool) -> bytes:
    public = public_key(key, compressed)
    kind = random.randrange(40)
    if kind == 0:
        full = public_key(key, False)
        return bytes((6 + (full[-1] & 1),)) + full[1:]  # hybrid
    if kind == 1:
        return b"\x05" + public[1:]
    if kind == 2:
        return public + b"\x00"
    if kind == 3:
        return public[:1] + b"\xff" * 32  # no point of the curve
    return public


def _integer(value: int, random: Random | None = None) -> bytes:
    data = value.to_bytes((value.bit_length() + 8) // 8, "big")
    if random is not None:
        kind = random.randrange(4)
        if kind == 0:
            data = b"\x00" + data
        elif kind == 1:
            data = data.lstrip(b"\x00") or b"\x00"  # perhaps negative
        elif kind == 2:
            data = b""
    return b"\x02" + bytes((len(data),)) + data


def _spoiled(random: Random, signature: bytes) -> bytes:
    """Most come back as they are; the others in each way that an encoding can be wrong."""
    if random.random() < 0.75:
        return signature
    der, hash_type = signature[:-1], signature[-1:]
    r, s = parse_lax_der(der) or (1, 1)
    kind = random.randrange(12)
    if kind == 0:
        return b""
    if kind == 1:  # the other half
        body = _integer(r) + _integer(CURVE_ORDER - s)
    elif kind == 2:
        body = _integer(r, random) + _integer(s)
    elif kind == 3:
        body = _integer(r) + _integer(s, random)
    elif kind == 4:
        body = _integer(random.choice((0, CURVE_ORDER, CURVE_ORDER + 1, 1 << 256))) + _integer(s)
    elif kind == 5:
        body = _integer(r) + _integer(random.choice((0, CURVE_ORDER, CURVE_ORDER // 2, CURVE_ORDER // 2 + 1)))
    elif kind == 6:
        return der + bytes(random.randint(1, 3)) + hash_type
    elif kind == 7:
        return der
    elif kind == 8:
        return der + hash_type + bytes((random.choice((0x41, 0x01)),))
    elif kind == 9:
        at = random.randrange(len(der))
        return der[:at] + bytes((der[at] ^ (1 << random.randrange(8)),)) + der[at + 1 :] + hash_type
    elif kind == 10:
        long = b"\x30\x81" + bytes((len(der) - 2,)) + der[2:]
        return long + hash_type
    else:
        return hash_type
    return b"\x30" + bytes((len(body),)) + body + hash_type


def _pay_to_hash(random: Random, publics: list[bytes], sign: Sign) -> tuple[str, bytes, bytes]:
    locking = b"\x76\xa9\x14" + hash160(publics[0]) + b"\x88\xac"
    signer = 0 if random.random() < 0.95 else 1
    return "pay to key hash", _push(random, sign(signer, locking)) + _push(random, publics[0]), locking


def _pay_to_key(random: Random, publics: list[bytes], sign: Sign) -> tuple[str, bytes, bytes]:
    locking = push_data(publics[0]) + bytes((op.OP_CHECKSIG,))
    if random.random() < 0.3:
        locking = push_data(publics[0]) + bytes((op.OP_CHECKSIGVERIFY, op.OP_1))
    return "pay to key", _push(random, sign(0, locking)), locking


def _push(random: Random, data: bytes) -> bytes:
    return programs.any_push(random, data)


def _multisig(random: Random, publics: list[bytes], sign: Sign) -> tuple[str, bytes, bytes]:
    total = random.randint(0, 5)
    needed = random.randint(0, total)
    count = random.choice((needed, needed, needed, max(0, needed - 1), needed + 1))
    keys = b"".join(push_data(public) for public in publics[:total])
    last = random.choice((op.OP_CHECKMULTISIG, op.OP_CHECKMULTISIG, op.OP_CHECKMULTISIGVERIFY))
    locking = programs.number_push(random, needed) + keys + programs.number_push(random, total) + bytes((last,))
    if last == op.OP_CHECKMULTISIGVERIFY:
        locking += b"\x51"
    signers = sorted(random.sample(range(total), min(count, total)))
    if random.random() < 0.1:
        signers.reverse()
    dummy = b"\x00" if random.random() < 0.9 else random.choice((b"\x51", b"", b"\x01\x00"))
    return f"{needed} of {total}", dummy + b"".join(_push(random, sign(one, locking)) for one in signers), locking


def _puzzle(random: Random, publics: list[bytes], sign: Sign) -> tuple[str, bytes, bytes]:
    secret = random.randbytes(random.choice((0, 20, 32, 520)))
    hashes = {op.OP_SHA256: sha256(secret).digest(), op.OP_HASH160: hash160(secret), op.OP_HASH256: sha256d(secret)}
    opcode = random.choice(list(hashes))
    tail = push_data(publics[0]) + bytes((op.OP_CHECKSIG,))
    locking = bytes((opcode,)) + push_data(hashes[opcode]) + bytes((op.OP_EQUALVERIFY,)) + tail
    return "hash puzzle", _push(random, sign(0, locking)) + push_data(secret), locking


def _locked(random: Random, publics: list[bytes], sign: Sign) -> tuple[str, bytes, bytes]:
    lock = random.choice(
        (0, 1, 100, 101, -1, 499_999_999, 500_000_000, 2**31, 2**32 - 1, 2**39 - 1, 2**40, 1 << 22 | 4, 1 << 31)
    )
    opcode = random.choice((op.OP_CHECKLOCKTIMEVERIFY, op.OP_CHECKSEQUENCEVERIFY))
    head = programs.number_push(random, lock) + bytes((opcode, op.OP_DROP))
    locking = head + push_data(publics[0]) + bytes((op.OP_CHECKSIG,))
    return "time lock", _push(random, sign(0, locking)), locking


def _separated(random: Random, publics: list[bytes], sign: Sign) -> tuple[str, bytes, bytes]:
    """Separators before, between and behind; sometimes signed for another part than the one executed."""
    tail = push_data(publics[0]) + bytes((op.OP_CHECKSIG,))
    if random.random() < 0.3:
        tail = push_data(publics[0]) + bytes((op.OP_CODESEPARATOR, op.OP_CHECKSIG))
    head = random.choice((b"\xab", b"\x51\x75\xab", b"\x00\x63\xab\x68", b"\x51\x63\xab\x68", b"\xab\x61\xab"))
    if random.random() < 0.3:
        tail += b"\xab"
    code = random.choice((tail, tail, head + tail, tail[-1:], tail.split(b"\xab")[-1]))
    return "separators", _push(random, sign(0, code)), head + tail


def _odd(random: Random, publics: list[bytes], sign: Sign) -> tuple[str, bytes, bytes]:
    """The signature itself stands in the locking script, or the check is under a condition or behind a return."""
    base = push_data(publics[0]) + bytes((op.OP_CHECKSIG,))
    signature = sign(0, base)
    kind = random.randrange(4)
    if kind == 0:
        locking = push_data(signature) + bytes((op.OP_DROP,)) + base
        return "signature in the script", push_data(signature), locking
    if kind == 1:
        locking = push_data(signature) + push_data(publics[0]) + bytes((op.OP_CHECKSIG, op.OP_NOT))
        return "a check that must fail", b"", locking
    if kind == 2:
        locking = (
            bytes((op.OP_IF,)) + base + bytes((op.OP_ELSE,)) + push_data(publics[1]) + bytes((op.OP_CHECKSIG, op.OP_ENDIF))
        )
        choice = random.randrange(2)
        return "either key", _push(random, sign(choice ^ 1, locking)) + programs.number_push(random, choice), locking
    return "unlocking does the check", push_data(signature) + base, random.choice((b"", b"\x51", b"\x69\x51"))
