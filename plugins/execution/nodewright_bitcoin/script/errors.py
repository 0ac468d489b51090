"""Why a script failed: names as in the network's public test data, messages as its nodes word them in reject reasons.

``WORK_LIMIT`` is ours: no other node counts work (they use a clock, which an outcome must not depend on).
"""

from __future__ import annotations

from enum import Enum


class ScriptError(Enum):
    """``error.name`` is the test data's name, ``str(error)`` the message of the reject reason."""

    UNKNOWN_ERROR = "unknown error"
    EVAL_FALSE = "Script evaluated without error but finished with a false/empty top stack element"
    OP_RETURN = "OP_RETURN was encountered"
    SCRIPT_SIZE = "Script is too big"
    PUSH_SIZE = "Push value size limit exceeded"
    OP_COUNT = "Operation limit exceeded"
    STACK_SIZE = "Stack size limit exceeded"
    SIG_COUNT = "Signature count negative or greater than pubkey count"
    PUBKEY_COUNT = "Pubkey count negative or limit exceeded"
    OPERAND_SIZE = "Invalid operand size"
    INVALID_NUMBER_RANGE = "Given operand is not a number within the valid range [-2^31...2^31]"
    IMPOSSIBLE_ENCODING = "The requested encoding is impossible to satisfy"
    SPLIT_RANGE = "Invalid OP_SPLIT range"
    SCRIPTNUM_OVERFLOW = "Script number overflow"
    SCRIPTNUM_MINENCODE = "Non-minimally encoded script number"
    VERIFY = "Script failed an OP_VERIFY operation"
    EQUALVERIFY = "Script failed an OP_EQUALVERIFY operation"
    CHECKMULTISIGVERIFY = "Script failed an OP_CHECKMULTISIGVERIFY operation"
    CHECKSIGVERIFY = "Script failed an OP_CHECKSIGVERIFY operation"
    NUMEQUALVERIFY = "Script failed an OP_NUMEQUALVERIFY operation"
    BAD_OPCODE = "Opcode missing or not understood"
    DISABLED_OPCODE = "Attempted to use a disabled opcode"
    INVALID_STACK_OPERATION = "Operation not valid with the current stack size"
    INVALID_ALTSTACK_OPERATION = "Operation not valid with the current altstack size"
    UNBALANCED_CONDITIONAL = "Invalid OP_IF construction"
    DIV_BY_ZERO = "Division by zero error"
    MOD_BY_ZERO = "Modulo by zero error"
    NEGATIVE_LOCKTIME = "Negative locktime"
    UNSATISFIED_LOCKTIME = "Locktime requirement not satisfied"
    SIG_HASHTYPE = "Signature hash type missing or not understood"
    SIG_DER = "Non-canonical DER signature"
    MINIMALDATA = "Data push larger than necessary"
    SIG_PUSHONLY = "Only non-push operators allowed in signatures"
    SIG_HIGH_S = "Non-canonical signature: S value is unnecessarily high"
    SIG_NULLDUMMY = "Dummy CHECKMULTISIG argument must be zero"
    PUBKEYTYPE = "Public key is neither compressed or uncompressed"
    CLEANSTACK = "Script did not clean its stack"
    MINIMALIF = "OP_IF/NOTIF argument must be minimal"
    NULLFAIL = "Signature must be zero for failed CHECK(MULTI)SIG operation"
    DISCOURAGE_UPGRADABLE_NOPS = "NOPx reserved for soft-fork upgrades"
    NONCOMPRESSED_PUBKEY = "Using non-compressed public key"
    ILLEGAL_FORKID = "Illegal use of SIGHASH_FORKID"
    MISSING_FORKID = "Signature must use SIGHASH_FORKID"
    ILLEGAL_CHRONICLE = "Illegal use of SIGHASH_CHRONICLE"
    BIG_INT = "Big integer OpenSSL error"
    INVALID_FLAGS = "Invalid script verification flag combination"
    WORK_LIMIT = "Script needs more work than this node does for one transaction"

    def __str__(self) -> str:
        return self.value


class ScriptFailure(Exception):
    """Ends an evaluation; never leaves ``verify_script``."""

    def __init__(self, error: ScriptError) -> None:
        super().__init__(error.value)
        self.error = error
