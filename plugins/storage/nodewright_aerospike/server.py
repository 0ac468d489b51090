"""Calls to one server, each bounded in time, with results looked at record by record; and what its settings promise.

Everything here blocks: it runs in worker threads. A call raises ServerAway where it is worth another try, else the
contract's errors. Nothing is retried by the driver when it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from nodewright.errors import ConfigurationError
from nodewright.interfaces.environment import Environment
from nodewright_aerospike.config import AerospikeConfig
from nodewright_aerospike.driver import Driver
from nodewright_aerospike.layout import PART_BYTES
from nodewright_aerospike.problems import (
    DOWN,
    ELEMENT_EXISTS,
    EXISTS,
    FILTERED,
    GENERATION,
    MISSING,
    NO_NAMESPACE,
    OK,
    Place,
    ServerAway,
    away,
    final,
    problem,
)

T = TypeVar("T")
Key = tuple[str, str, bytearray]

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_SCAN_RECORDS = 2000
_SETTLE_SECONDS = 0.05
_LOST = -15  # what the driver says of a record whose node it could not reach


class Server:
    def __init__(self, driver: Driver, config: AerospikeConfig, environment: Environment) -> None:
        self._driver = driver
        self.config = config
        self.environment = environment
        self.place = Place(environment.slot, config.host, config.port, config.namespace, config.store or environment.slot)
        milliseconds = int(config.timeout_seconds * 1000)
        self._timeouts = {"total_timeout": milliseconds, "socket_timeout": milliseconds}
        self._writing = {**self._timeouts, "max_retries": 0}
        self._client: Any = None
        self._away = False
        self.settle_seconds = _SETTLE_SECONDS

    # --- trying again ------------------------------------------------------------------------------------------------

    async def patiently(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run in a worker thread, again while the server is away, for ``retry_seconds`` at most."""
        environment = self.environment
        end = environment.monotonic() + self.config.retry_seconds
        pause = _FIRST_PAUSE
        while True:
            try:
                result = await environment.offload(function, *arguments)
            except ServerAway as error:
                self.tell_away(error)
                left = end - environment.monotonic()
                if left <= 0:
                    raise away(error, self.place, self.config.retry_seconds) from error
                await environment.sleep(min(left, pause * environment.random.uniform(0.5, 1.0)))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self.tell_back()
                return result

    def tell_away(self, error: ServerAway) -> None:
        """The log has it once for each time that the server goes away."""
        if not self._away and error.code in DOWN:
            self._away = True
            self.environment.logger.warning(
                "aerospike_away", server=self.place.server, error=str(error), retry_seconds=self.config.retry_seconds
            )

    def tell_back(self) -> None:
        if self._away:
            self._away = False
            self.environment.logger.info("aerospike_back", server=self.place.server)

    def _guarded(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return function(*arguments)
        except self._driver.aerospike.exception.AerospikeError as error:
            raise problem(int(error.code), _text(error), self.place) from error

    # --- connecting --------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Raises ServerAway until the server has formed its cluster; ConfigurationError for settings it may not have."""
        if self._client is None:
            settings = {
                "hosts": [(self.config.host, self.config.port)],
                "max_error_rate": 0,
                "tend_interval": 250,
                "connect_timeout": int(self.config.timeout_seconds * 1000),
                "policies": {"read": self._timeouts, "write": self._writing, "batch": self._timeouts},
            }
            self._client = self._guarded(lambda: self._driver.aerospike.client(settings).connect())
        self.incarnation()
        self.check()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def info(self, command: str) -> str:
        answers = self._guarded(self._client.info_all, command)
        for error, answer in answers.values():
            if error is None:
                return str(answer).strip()
        raise ServerAway(-8, "no node of the cluster answers")

    def incarnation(self) -> str:
        """Changes whenever the server starts, or its cluster forms anew. Raises ServerAway until it has."""
        answer = self.info("cluster-stable:")
        if answer.upper().startswith("ERROR"):
            raise ServerAway(7, answer)
        return answer

    def settings(self) -> dict[str, str]:
        answer = self.info(f"namespace/{self.config.namespace}")
        if answer.upper().startswith("ERROR") or "=" not in answer or "type=unknown" in answer:
            raise final(NO_NAMESPACE, answer, self.place)
        return dict(item.partition("=")[::2] for item in answer.split(";"))

    def check(self) -> None:
        """Raises ConfigurationError naming every setting under which acknowledged data could be lost."""
        found = self.settings()
        at = f"{self.place.slot}: namespace {self.config.namespace!r} of the server at {self.place.server}"
        if int(found.get("max-record-size") or 0) and int(found["max-record-size"]) < 2 * PART_BYTES:
            raise ConfigurationError(f"{at} has max-record-size {found['max-record-size']}: set it to 1M or more")
        if found.get("default-ttl", "0") not in ("0", "-1"):
            raise ConfigurationError(f"{at} lets records expire: set its default-ttl to 0")
        files = any(name.startswith("storage-engine.file[") for name in found)
        devices = any(name.startswith("storage-engine.device[") for name in found)
        risks = []
        if not files and not devices:
            risks.append("keeps nothing on a disk: give it storage-engine device with a device or file")
        elif files and found.get("storage-engine.direct-files") != "true":
            risks.append("leaves its files to the page cache: set direct-files true")
        if found.get("storage-engine.disable-odsync") == "true":
            risks.append("does not wait for its disk: set disable-odsync false")
        if found.get("storage-engine.cold-start-empty") == "true":
            risks.append("starts empty: set cold-start-empty false")
        if int(found.get("ns_cluster_size") or 1) > 1:
            risks.append("is spread over several nodes, which may lose writes when they part: run one node")
        if risks and not self.config.allow_volatile:
            raise ConfigurationError(
                [
                    f"{at} {risk}, or accept that it may lose data with --set {self.place.slot}.allow_volatile=true"
                    for risk in risks
                ]
            )
        self.settle_seconds = max(_SETTLE_SECONDS, 4 * int(found.get("storage-engine.flush-max-ms") or 0) / 1000)

    def flushed(self) -> bool:
        """Whether nothing waits to be written to the device."""
        return not any(name.endswith(".write_q") and value != "0" for name, value in self.settings().items())

    # --- single records ----------------------------------------------------------------------------------------------

    def get(self, key: Key) -> tuple[dict[str, Any], int] | None:
        """(bins, generation), None where there is none."""
        try:
            _, meta, bins = self._client.get(key)
        except self._driver.aerospike.exception.RecordNotFound:
            return None
        except self._driver.aerospike.exception.AerospikeError as error:
            raise problem(int(error.code), _text(error), self.place) from error
        return bins, int(meta["gen"])

    def write(self, key: Key, bins: dict[str, Any], policy: dict[str, Any], generation: int | None = None) -> int:
        """The result code: OK, or one of those that a condition in ``policy`` gives."""
        operations = [self._driver.operations.write(name, value) for name, value in bins.items()]
        meta = {} if generation is None else {"gen": generation}
        try:
            self._client.operate(key, operations, meta, {**self._writing, **policy})
        except self._driver.aerospike.exception.AerospikeError as error:
            if error.code in (MISSING, GENERATION, EXISTS, FILTERED):
                return int(error.code)
            raise problem(int(error.code), _text(error), self.place) from error
        return OK

    # --- batches -----------------------------------------------------------------------------------------------------

    def read(self, keys: Sequence[Key], bins: list[str]) -> list[dict[str, Any] | None]:
        """The bins of each record, None where there is none."""
        found: list[dict[str, Any] | None] = []
        for start in range(0, len(keys), self.config.batch_records):
            part = list(keys[start : start + self.config.batch_records])
            done = self._guarded(self._client.batch_read, part, bins)
            for record in self._answers(done, len(part)):
                if record.result == OK:
                    found.append(record.record[2])
                elif record.result == MISSING:
                    found.append(None)
                else:
                    raise problem(record.result, _said(record), self.place)
        return found

    def _answers(self, done: Any, count: int) -> list[Any]:
        """The records of a batch, each with its own result. A request that failed as a whole is short of records, or has
        records that say OK without one thing of the server's."""
        records: list[Any] = done.batch_records
        if len(records) == count and all(record.record is not None for record in records if record.result == OK):
            return records
        raise problem(int(done.result) or _LOST, f"a request was not answered (result {done.result})", self.place)

    def newer_than(self, number: int) -> Any:
        """The condition of writes of commit ``number``: the record is older."""
        expressions = self._driver.expressions
        return expressions.LT(expressions.IntBin("n"), number).compile()

    def write_all(self, writes: Sequence[Any], condition: Any) -> list[Any]:
        """At most ``batch_records`` writes. One that finds its record as new already counts as made, and so does one that
        was to delete what is not there. Returns those refused because a map has an element already; of anything else the
        first is raised."""
        batch = self._driver.records.BatchRecords(list(writes))
        policy = {**self._writing, "expressions": condition}
        done = self._guarded(self._client.batch_write, batch, policy)
        refused = []
        for record in self._answers(done, len(writes)):
            result = record.result
            if result in (OK, FILTERED, MISSING):
                continue
            if result != ELEMENT_EXISTS:
                raise problem(result, _said(record), self.place)
            refused.append(record)
        return refused

    def remove_all(self, keys: Sequence[Key], condition: Any) -> None:
        """Give space back, if it goes well: nothing depends on it. What is newer than ``condition`` says stays."""
        policy = {**self._writing, "expressions": condition}
        for start in range(0, len(keys), self.config.batch_records):
            self._guarded(self._client.batch_remove, list(keys[start : start + self.config.batch_records]), policy)

    # --- scans -------------------------------------------------------------------------------------------------------

    def with_set_index(self, set_name: str) -> None:
        """Has the server find the records of a set without looking at all others. Forgotten when it restarts."""
        self.info(f"set-config:context=namespace;namespace={self.config.namespace};set={set_name};enable-index=true")

    def walk(self, set_name: str, bins: list[str], present: str) -> Walk:
        """The records of a set that have the bin ``present``, in no order."""
        query = self._client.query(self.config.namespace, set_name)
        query.select(*bins)
        query.max_records = _SCAN_RECORDS
        query.paginate()
        condition = self._driver.expressions.BinExists(present).compile()
        return Walk(query, lambda: self._guarded(query.results, {**self._timeouts, "expressions": condition}))


class Walk:
    """A scan of a set, page by page; a page that could not be had may be asked for again."""

    def __init__(self, query: Any, results: Callable[[], list[Any]]) -> None:
        self._query = query
        self._results = results

    def page(self) -> list[tuple[bytes, dict[str, Any]]] | None:
        """(key, bins) of some records, maybe of none; None at the end."""
        if self._query.is_done():
            return None
        return [(bytes(key[2]), bins) for key, _, bins in self._results() if key[2] is not None]


def _text(error: Any) -> str:
    return str(getattr(error, "msg", "") or error).replace("\n", " ")


def _said(record: Any) -> str:
    return str(record.message or f"result {record.result}").replace("\n", " ")
