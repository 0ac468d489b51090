"""What the pool tells the world: chain events per batch, metrics, health. Nothing here is called per transaction.

Events: ``admitted`` {ids, source}; ``rejected`` {transactions: [{id, code, message, kind}]}; ``double_spend`` and
``evicted`` {transactions: [{id, winner}], reason}. Lists are cut at MAX_LISTED; ``count`` is the whole number.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

from nodewright.interfaces.common import Admitted, Refused
from nodewright.interfaces.environment import Environment
from nodewright.interfaces.service import EventLog, Metrics
from nodewright.node.admission import Batch
from nodewright.node.health import Health

MAX_LISTED = 4096
MAX_TEXT = 512


class PoolEvents:
    def __init__(
        self,
        events: EventLog,
        metrics: Metrics,
        environment: Environment,
        display: Callable[[bytes], str],
        health: Health | None = None,
    ) -> None:
        self.display = display
        self._events = events
        self._logger = environment.logger
        self._health = health
        self._metrics = metrics
        self._accepted = metrics.counter("nodewright_pool_accepted_total", "Transactions accepted and journalled")
        self._refused = metrics.counter("nodewright_pool_refused_total", "Transactions refused at submission")
        self._busy = metrics.counter("nodewright_pool_busy_total", "Transactions refused because the pool was full")
        self._batches = metrics.counter("nodewright_pool_batches_total", "Batches admitted")
        self._full = False

    def observe(self, pool: Any) -> None:
        gauge = self._metrics.gauge
        gauge("nodewright_pool_transactions", "Transactions without a final status").set_function(lambda: len(pool))
        gauge("nodewright_pool_bytes", "Bytes of pending transactions").set_function(lambda: pool.bytes_used)

    def batch(self, batch: Batch, fresh: Container[bytes], refusals: Sequence[Refused]) -> None:
        self._batches.inc()
        sources = {submission.source for submission in batch.submissions}
        if len(sources) == 1:
            self._admitted(batch.answers, fresh, sources.pop())
        else:
            by_source: dict[str, list[Any]] = {}
            start = 0
            for submission in batch.submissions:
                end = start + len(submission.txs)
                by_source.setdefault(submission.source, []).extend(batch.answers[start:end])
                start = end
            for source, answers in by_source.items():
                self._admitted(answers, fresh, source)
        if refusals:
            self.rejected(refusals)

    def _admitted(self, answers: Sequence[Any], fresh: Container[bytes], source: str) -> None:
        display = self.display
        ids = [
            display(answer.id) for answer in answers if type(answer) is Admitted and not answer.known and answer.id in fresh
        ]
        if ids:
            self._accepted.inc(len(ids))
            self._events.publish("admitted", {"ids": ids, "source": source})

    def rejected(self, refusals: Sequence[Refused]) -> None:
        self._refused.inc(len(refusals))
        told = [answer for answer in refusals if answer.kind != "busy"]
        if told:
            listed = [
                {
                    "id": self.display(answer.id) if answer.id is not None else None,
                    "code": answer.code,
                    "message": answer.message[:MAX_TEXT],
                    "kind": answer.kind,
                }
                for answer in told[:MAX_LISTED]
            ]
            self._events.publish("rejected", {"transactions": listed, "count": len(told)})
        spent = [
            {"id": self.display(answer.id) if answer.id is not None else None, "winner": self.display(winner)}
            for answer in told
            if answer.kind == "conflict" and isinstance(winner := answer.data.get("winner"), bytes)
        ]
        if spent:
            reason = "an output it spends is spent by a transaction seen first"
            self._events.publish(
                "double_spend", {"transactions": spent[:MAX_LISTED], "count": len(spent), "reason": reason}
            )

    def evicted(self, ids: Sequence[bytes], reason: str) -> None:
        listed = [{"id": self.display(id)} for id in ids[:MAX_LISTED]]
        self._events.publish("evicted", {"transactions": listed, "count": len(ids), "reason": reason})

    def refused_busy(self, count: int) -> None:
        self._busy.inc(count)

    def store_full(self, message: str) -> None:
        if not self._full:
            self._full = True
            self._say(False, message)
            self._logger.error("transactions are refused", reason=message)

    def store_works(self) -> None:
        if self._full:
            self._full = False
            self._say(True)
            self._logger.info("transactions are accepted again")

    def _say(self, ok: bool, detail: str = "") -> None:
        if self._health is not None:
            self._health.set("pool", ok, detail)
