"""The load process: posts prepared batches over real sockets and says what came back. Run as ``python -m``; blocking code.

Usage: ``python -m nodewright.bench.load URL ROUTE CONNECTIONS FILE...``. A FILE holds batches, each a 4-byte little-endian
length and the body of one POST to ROUTE. Each file has as many connections as CONNECTIONS says, which share its batches:
with one, they are posted in their order. Progress lines (``sent N``) and a last JSON line go to standard output.
"""

from __future__ import annotations

import json
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from nodewright.errors import NodewrightError

OCTETS = "application/octet-stream"

Batch = bytes


def read_batches(path: Path) -> list[Batch]:
    data = path.read_bytes()
    batches, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        batches.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return batches


def write_batches(path: Path, bodies: Iterable[Batch]) -> int:
    """How many batches were written."""
    count = 0
    with path.open("wb") as file:
        for body in bodies:
            file.write(struct.pack("<I", len(body)) + body)
            count += 1
    return count


class Wire:
    """One keep-alive connection, as lean as a client can be: the load shares the machine with what it measures."""

    def __init__(self, url: str, route: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._socket = socket.create_connection((host.strip("[]"), int(port)), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"POST /{route} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {OCTETS}\r\nContent-Length: ".encode()

    def post(self, body: bytes) -> tuple[int, str]:
        """(status, text)."""
        self._socket.sendall(b"%s%d\r\n\r\n" % (self._head, len(body)) + body)
        data = self._receive()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._receive()
        head = data[:end].lower()
        at = head.index(b"content-length:") + 15
        whole = end + 4 + int(head[at:].split(b"\r\n", 1)[0])
        while len(data) < whole:
            data += self._receive()
        return int(data[9:12]), data[end + 4 :].decode()

    def _receive(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the node closed the connection")
        return data

    def close(self) -> None:
        self._socket.close()


class Load:
    def __init__(self, url: str, route: str, files: Sequence[list[Batch]]) -> None:
        self._url = url
        self._route = route
        self._queues: list[queue.SimpleQueue[Batch]] = []
        for batches in files:
            waiting: queue.SimpleQueue[Batch] = queue.SimpleQueue()
            for batch in batches:
                waiting.put(batch)
            self._queues.append(waiting)
        self._lock = threading.Lock()
        self.done = 0
        self.latencies: list[float] = []
        self.refusals: list[str] = []
        self.busy = 0

    def _post(self, client: Wire, batch: Batch) -> None:
        started = time.perf_counter()
        while True:
            status, text = client.post(batch)
            if status != 503:
                break
            # The node says that it is full: wait as told, then send the same batch again (known ones are success).
            with self._lock:
                self.busy += 1
            time.sleep(0.2)
        with self._lock:
            self.latencies.append(time.perf_counter() - started)
            self.done += 1
            if status != 200:
                self.refusals += text.splitlines()
            if self._route == "txs" or self.done % 100 == 0:
                print(f"sent {self.done}", flush=True)

    def worker(self, batches: queue.SimpleQueue[Batch]) -> None:
        with closing(Wire(self._url, self._route)) as client:
            while True:
                try:
                    batch = batches.get_nowait()
                except queue.Empty:
                    return
                self._post(client, batch)

    def run(self, connections: int) -> dict[str, object]:
        threads = [threading.Thread(target=self.worker, args=(one,)) for one in self._queues for _ in range(connections)]
        started, began = time.perf_counter(), time.time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {
            "seconds": time.perf_counter() - started,
            "began": began,
            "batches": self.done,
            "latencies": self.latencies,
            "refusals": self.refusals,
            "busy": self.busy,
        }


def run_load(
    url: str, route: str, connections: int, paths: Sequence[Path], progress: Callable[[int], None]
) -> dict[str, Any]:
    """In a process of its own; what it says at its end. ``progress`` hears how many batches were answered."""
    command = [sys.executable, "-m", "nodewright.bench.load", url, route, str(connections), *map(str, paths)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            if line.startswith("sent "):
                progress(int(line[5:]))
            else:
                last = line
    if process.returncode != 0 or not last:
        raise NodewrightError(f"the load process ended with code {process.returncode}")
    result: dict[str, Any] = json.loads(last)
    return result


def main() -> None:
    url, route, connections, *paths = sys.argv[1:]
    files = [read_batches(Path(path)) for path in paths]
    print(json.dumps(Load(url, route, files).run(int(connections))), flush=True)


if __name__ == "__main__":
    main()
