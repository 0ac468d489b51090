"""The columns of a block from what its transactions' functions declare (``functions.Accesses``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import define

from nodewright_aptos.functions import Functions
from nodewright_aptos.partition.model import Access
from nodewright_aptos.transactions import UserTransaction


@define
class Declared:
    """``keys`` are the state keys by their numbers in ``access``, ``senders`` addresses by theirs. ``undeclared`` are the
    transactions whose keys nobody knows before they run: they have none in ``access``, and whoever executes must not let
    one run beside others. Aggregators are no keys here: their changes commute."""

    access: Access
    keys: list[bytes]
    senders: list[bytes]
    undeclared: list[int]


def declared_access(functions: Functions, transactions: Sequence[UserTransaction]) -> Declared:
    keys: dict[bytes, int] = {}
    senders: dict[bytes, int] = {}
    aggregators = frozenset(functions.aggregators)
    own: list[int] = []
    undeclared: list[int] = []
    lengths: tuple[list[int], list[int]] = ([0], [0])
    touched: tuple[list[int], list[int]] = ([], [])
    for position, transaction in enumerate(transactions):
        own.append(senders.setdefault(transaction.sender, len(senders)))
        accesses = functions.accesses(transaction)
        if accesses is None:
            undeclared.append(position)
        else:
            for column, declared in zip(touched, (accesses.reads, accesses.writes), strict=True):
                column.extend(
                    [keys.setdefault(key, len(keys)) for key in dict.fromkeys(declared) if key not in aggregators]
                )
        for starts, column in zip(lengths, touched, strict=True):
            starts.append(len(column))
    access = Access(
        np.array(own, np.int64),
        np.array(lengths[0], np.int64),
        np.array(touched[0], np.int64),
        np.array(lengths[1], np.int64),
        np.array(touched[1], np.int64),
        len(senders),
        len(keys),
    )
    return Declared(access, list(keys), list(senders), undeclared)
