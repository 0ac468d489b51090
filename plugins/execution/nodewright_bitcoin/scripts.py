"""Scripts of a whole batch: standard inputs by columns and one call of the verifier, all others by the interpreter.

Invariant: the answer for a transaction is the interpreter's, bit for bit. The columnar path may only say *yes*, and only
to what the interpreter would: pay-to-public-key(-hash), the fork id's ALL, strict DER, S in the lower half, direct
pushes, keys of plain form. Whatever it does not recognise or cannot verify is asked of the interpreter, which alone
knows the reason. A property test over valid and damaged transactions holds the two together.

Runs in a worker thread, one call per batch; touches no shared state but the cache's dictionary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

from attrs import define

from nodewright.interfaces.storage import UtxoOutput
from nodewright.interfaces.verifier import Verifier
from nodewright.kernels.switch import compiled
from nodewright_bitcoin.columns import KERNELS, Columns, Parsed
from nodewright_bitcoin.network import ChainParameters
from nodewright_bitcoin.policy import Policy, check_policy_scripts
from nodewright_bitcoin.rules import RuleError, SpentOutput, check_scripts, era_flags
from nodewright_bitcoin.script import flags as f
from nodewright_bitcoin.script.limits import WorkBudget

CACHE_ENTRY_BYTES = 160
WORTH_COLUMNS = 2
# What the interpreter may do for one quick batch: some eight thousand signatures.
QUICK_BATCH_WORK = 1 << 29
SLOW = RuleError("script-slow", "its scripts take long to check, and many wait: send it again")


@define
class ScriptTask:
    """One transaction and the outputs that it spends, in the order of its inputs."""

    tx: Parsed
    spent: Sequence[UtxoOutput]


def spent_outputs(outputs: Sequence[UtxoOutput]) -> list[SpentOutput]:
    return [SpentOutput(output.satoshis, output.script, output.height, output.coinbase) for output in outputs]


class VerifiedCache:
    """Transactions whose scripts passed, by (txid, rules): a txid commits to all that its scripts depend on but the era.

    Bounded by ``max_bytes``; the oldest go first, an eighth at a time. Losing one costs a second check, nothing else."""

    def __init__(self, max_bytes: int) -> None:
        self._most = max_bytes // CACHE_ENTRY_BYTES
        self._rules: dict[bytes, int] = {}

    def __contains__(self, key: tuple[bytes, int]) -> bool:
        return self._rules.get(key[0]) == key[1]

    def is_strange(self, txids: Sequence[bytes]) -> bool:
        """None of these is here."""
        return self._rules.keys().isdisjoint(txids)

    def add(self, txid: bytes, rules: int) -> None:
        self.add_all([txid], rules)

    def add_all(self, txids: Sequence[bytes], rules: int) -> None:
        if not self._most:
            return
        self._rules.update(dict.fromkeys(txids, rules))
        if len(self._rules) > self._most:
            # Many at once: the first key of a dict is found by going over all that were deleted before it.
            over = len(self._rules) - self._most
            for old in list(islice(self._rules, over + self._most // 8)):
                del self._rules[old]

    def clear(self) -> None:
        self._rules.clear()

    def __len__(self) -> int:
        return len(self._rules)


def verify_batch(
    tasks: Sequence[ScriptTask],
    columns: Columns | None,
    height: int,
    parameters: ChainParameters,
    verifier: Verifier,
    policy: Policy | None,
    quick: bool = False,
) -> list[RuleError | None]:
    """One answer per task under the rules of the block at ``height``: those of relay where ``policy`` is given, else
    those of consensus. ``quick``, of relay's: what would take long is not looked at to its end, its answer is ``SLOW``."""
    answers: list[RuleError | None] = [None] * len(tasks)
    flags = int(era_flags(height, parameters))
    passed = _by_columns(tasks, columns, flags, verifier)
    if len(passed) == len(tasks):
        return answers
    left = QUICK_BATCH_WORK
    for index, task in enumerate(tasks):
        if index in passed:
            continue
        spent = spent_outputs(task.spent)
        if policy is None:
            answers[index] = check_scripts(task.tx.transaction(), spent, flags, parameters)
            continue
        whole = policy.work(len(task.tx.raw))
        given = min(policy.quick_work(len(task.tx.raw)), left) if quick else whole
        if given <= 0:
            answers[index] = SLOW
            continue
        budget = WorkBudget(given)
        answers[index] = check_policy_scripts(task.tx.transaction(), spent, height, parameters, policy, budget)
        left -= given - budget.left
        if budget.left < 0 and given < whole:
            answers[index] = SLOW
    return answers


def _by_columns(tasks: Sequence[ScriptTask], columns: Columns | None, flags: int, verifier: Verifier) -> set[int] | range:
    """Indexes of the tasks that surely pass."""
    kernels = compiled(KERNELS)
    places_of = [index for index, task in enumerate(tasks) if task.tx.row >= 0]
    if kernels is None or columns is None or len(places_of) < WORTH_COLUMNS or not flags & f.SIGHASH_FORKID:
        return set()
    import numpy as np

    candidates = tasks if len(places_of) == len(tasks) else [tasks[index] for index in places_of]
    spent = list(chain.from_iterable([task.spent for task in candidates]))
    scripts = [output.script for output in spent]
    satoshis = [output.satoshis for output in spent]
    txs, inputs = columns.txs, columns.inputs
    rows = np.array([task.tx.row for task in candidates], np.int64)
    counts = txs[rows, kernels.T_INPUTS]
    total = int(counts.sum())
    if total != len(scripts):
        return set()
    # first input of each transaction, repeated, plus 0, 1, 2 … within it
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.repeat(txs[rows, kernels.T_FIRST], counts) + within
    locking = np.frombuffer(bytearray(b"".join(scripts)) or bytearray(1), np.uint8)
    ends = np.cumsum(np.fromiter(map(len, scripts), np.int64, total))
    starts = np.concatenate((np.zeros(1, np.int64), ends[:-1]))
    places = np.zeros((total, 6), np.int64)
    kinds = np.zeros(total, np.int64)
    kernels.match(columns.data, inputs, chosen, locking, starts, ends, places, kinds)
    standard = np.nonzero(kinds)[0]
    if not len(standard):
        return set()
    chosen, places, kinds = chosen[standard], np.ascontiguousarray(places[standard]), kinds[standard]
    amounts = np.array(satoshis, np.int64)[standard]
    digests = kernels.digests(columns.data, txs, inputs, chosen, locking, places, amounts)
    good = _hashes_match(kernels, columns.data, locking, places, kinds)
    data, locks = columns.data.tobytes(), locking.tobytes()
    table = places.tolist()
    keys = [
        data[place[0] : place[1]] if kind == kernels.P2PKH else locks[place[0] : place[1]]
        for place, kind in zip(table, kinds.tolist(), strict=True)
    ]
    signatures = [data[place[2] : place[3] - 1] for place in table]
    verified = np.frombuffer(verifier.ecdsa(keys, kernels.rows(digests), signatures), np.uint8)
    valid = np.zeros(total, bool)
    valid[standard] = good & (verified == 1)
    if valid.all() and len(candidates) == len(tasks):
        return range(len(tasks))
    owners = np.repeat(np.array(places_of, np.int64), counts)
    return set(places_of).difference(owners[~valid].tolist())


def _hashes_match(kernels: Any, data: Any, locking: Any, places: Any, kinds: Any) -> Any:
    """Whether each key hashes to what its P2PKH script asks for; true for P2PK, whose key is in the script."""
    import numpy as np

    good = np.ones(len(kinds), bool)
    hashed = np.nonzero(kinds == kernels.P2PKH)[0]
    if len(hashed):
        begins, ends = (np.ascontiguousarray(places[hashed, column]) for column in (0, 1))
        wanted = locking[places[hashed, 4][:, None] + np.arange(3, 23)]
        good[hashed] = (kernels.hash160_ranges(data, begins, ends) == wanted).all(axis=1)
    return good
