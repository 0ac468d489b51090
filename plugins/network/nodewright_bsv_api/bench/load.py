"""The load process: posts prepared batches over real sockets and says what came back. Run as ``python -m``; blocking code.

Usage: ``python -m nodewright_bsv_api.bench.load URL FILE CONNECTIONS``. FILE holds batches, each a 4-byte little-endian
length and the concatenated transactions. Progress lines (``sent N``) and a last JSON line go to standard output.
"""

from __future__ import annotations

import json
import queue
import struct
import sys
import threading
import time
from pathlib import Path

from nodewright_bsv_api.client import BsvClient

Batch = bytes


def read_batches(path: Path) -> list[Batch]:
    data = path.read_bytes()
    batches, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        batches.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return batches


def write_batches(path: Path, raws: list[bytes], batch: int) -> int:
    """How many batches were written."""
    count = 0
    with path.open("wb") as file:
        for at in range(0, len(raws), batch):
            body = b"".join(raws[at : at + batch])
            file.write(struct.pack("<I", len(body)) + body)
            count += 1
    return count


class Load:
    def __init__(self, url: str, batches: list[Batch]) -> None:
        self._url = url
        self._batches: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        for batch in batches:
            self._batches.put(batch)
        self._lock = threading.Lock()
        self.done = 0
        self.latencies: list[float] = []
        self.refusals: list[str] = []
        self.busy = 0

    def _post(self, client: BsvClient, batch: Batch) -> None:
        started = time.perf_counter()
        while True:
            status, text = client.post_txs(batch)
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
            print(f"sent {self.done}", flush=True)

    def worker(self) -> None:
        with BsvClient(self._url) as client:
            while True:
                try:
                    batch = self._batches.get_nowait()
                except queue.Empty:
                    return
                self._post(client, batch)

    def run(self, connections: int) -> dict[str, object]:
        threads = [threading.Thread(target=self.worker) for _ in range(connections)]
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


def main() -> None:
    url, path, connections = sys.argv[1:4]
    print(json.dumps(Load(url, read_batches(Path(path))).run(int(connections))), flush=True)


if __name__ == "__main__":
    main()
