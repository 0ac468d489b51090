"""The columns that kernels and their callers share: accounts as rows, transactions and results as tables of words.

``rows`` (accounts, ROW_BYTES) u8: an account's two resources as BCS has them (``resources``): ``Account`` in its usual 147
bytes, then its AptosCoin store of 105, then FLAGS: which of them are there, and whether the address is reserved.

``transactions`` (n, TX) u64, one a row: ``X_*``. ``results`` (n, RESULT) u64: ``R_*``. ``snapshots`` (n, 2 · ROW_BYTES) u8:
the sender's row and the recipient's after the transaction, where its caller wants them.
"""

from __future__ import annotations

from typing import Final

from nodewright_aptos.resources import ACCOUNT_BYTES, STORE_BYTES

# --- rows ------------------------------------------------------------------------------------------------------------

STORE_AT: Final = ACCOUNT_BYTES
ROW_BYTES: Final = 256
FLAGS_AT: Final = ACCOUNT_BYTES + STORE_BYTES
HAS_ACCOUNT: Final = 1
HAS_STORE: Final = 2
RESERVED: Final = 4
BALANCE_AT: Final = STORE_AT
FROZEN_AT: Final = STORE_AT + 8
DEPOSITS_AT: Final = STORE_AT + 9
WITHDRAWALS_AT: Final = STORE_AT + 57
SEQUENCE_AT: Final = 33
CREATION_AT: Final = 41

# --- transactions ----------------------------------------------------------------------------------------------------

(
    X_KIND,
    X_SENDER,  # row
    X_RECIPIENT,  # row; that of the sender where there is none
    X_SEQUENCE,
    X_AMOUNT,
    X_MAX_GAS,
    X_PRICE,
    X_EXPIRES,
    X_LEAST,  # intrinsic gas
    X_GAS,  # what its function is charged
    X_KEY,  # 1 where it is signed by the account's key and for this chain, 0 another key, 2 another chain
) = range(11)
TX: Final = 11

TOUCH: Final = 0  # a function without effect: sequence number and gas
PAY: Final = 1  # AptosCoin; what the recipient lacks is created
MOVE: Final = 2  # AptosCoin between stores that are there
CREATE: Final = 3  # an account

GOOD_KEY: Final = 1
WRONG_KEY: Final = 0
WRONG_CHAIN: Final = 2

# --- results ---------------------------------------------------------------------------------------------------------

(
    R_STATUS,
    R_GAS,  # units used
    R_FEE,  # octas
    R_DETAIL,  # of a refusal: the account's sequence number, or what the payer holds
    R_CREATED,  # values that were not there before: 0, 1 (the recipient's store) or 2 (its account too)
    R_WITHDRAWAL,  # number of the withdraw event
    R_DEPOSIT,  # and of the deposit event
    R_EXECUTION,  # gas units, execution and intrinsic
    R_WRITES,  # values written, the payer's coins among them
) = range(9)
RESULT: Final = 9

# Kept
SUCCESS: Final = 0
OUT_OF_GAS: Final = 1
CANNOT_PAY: Final = 2
INSUFFICIENT: Final = 3
NO_STORE: Final = 4
FROZEN: Final = 5
OVERFLOW: Final = 6
RESERVED_ADDRESS: Final = 7
EXISTS: Final = 8
# Refused
REFUSED: Final = 16
GAS_ABOVE_BOUND: Final = 16
GAS_BELOW_LEAST: Final = 17
PRICE_BELOW_BOUND: Final = 18
PRICE_ABOVE_BOUND: Final = 19
EXPIRED: Final = 20
OTHER_CHAIN: Final = 21
NO_ACCOUNT: Final = 22
OTHER_KEY: Final = 23
SEQUENCE_TOO_BIG: Final = 24
SEQUENCE_OLD: Final = 25
SEQUENCE_NEW: Final = 26
CANNOT_PAY_MOST: Final = 27
