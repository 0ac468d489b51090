"""Messages and bytes a second of the nng transport: two nodes in two processes on loopback, encrypted as in production.

    python benchmarks/transport.py [--seconds 3]

Prints one line per measurement. CPU is that of both processes, sender and receiver.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import structlog
import trio

from nodewright.interfaces.transport import PeerUp
from nodewright.plugins.specs import Dependencies
from nodewright.testing.environment import LocalEnvironment
from nodewright_nng.plugin import NngConfig, register_transport

GENESIS = {"network": "benchmark", "hash": bytes(32)}
BODY_BYTES = 1 << 30
BLOCK = os.urandom(1 << 20)  # every piece of the body


class Body:
    async def size(self, id: bytes) -> int | None:
        return BODY_BYTES

    async def read(self, id: bytes, offset: int, length: int) -> bytes:
        return BLOCK[:length]


def open_node(folder: Path, **config):  # type: ignore[no-untyped-def]
    logger = structlog.wrap_logger(structlog.PrintLogger(sys.stderr), processors=[structlog.dev.ConsoleRenderer()])
    (spec,) = register_transport()
    environment = LocalEnvironment(folder, logger=logger.bind())
    return spec.open(NngConfig(**config), Dependencies(genesis=GENESIS), environment)


async def receiver(address: str) -> None:
    """Counts what it is sent; answers the count to whoever asks."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_node(Path(folder), listen="", peers=[address]) as transport, trio.open_nursery() as nursery:
            stream, ask = transport.channel("stream", inbox=4096), transport.channel("ask")
            transport.provide("blob", Body())
            transport.open_gate()
            count = 0

            async def count_all() -> None:
                nonlocal count
                while True:
                    await stream.receive()
                    count += 1

            nursery.start_soon(count_all)
            while True:
                message = await ask.receive()
                used = resource.getrusage(resource.RUSAGE_SELF)
                assert message.reply is not None
                await message.reply(f"{count} {used.ru_utime + used.ru_stime}".encode())


async def sender(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with open_node(Path(folder)) as transport:
            stream, ask = transport.channel("stream", inbox=4096), transport.channel("ask")
            child = subprocess.Popen([sys.executable, __file__, "--receive", transport.address])  # noqa: ASYNC220
            try:
                transport.open_gate()
                up = await anext(transport.events())
                assert isinstance(up, PeerUp)
                peer = up.peer.id

                async def state() -> tuple[int, float]:
                    count, used = (await ask.request(peer, b"", 60.0)).split()
                    return int(count), float(used)

                for size in (32, 250, 2_000, 50_000, 1_000_000):
                    payload = os.urandom(size)
                    (before, cpu_there), start, cpu = await state(), time.perf_counter(), time.process_time()
                    sent = 0
                    while time.perf_counter() - start < seconds:
                        for _ in range(max(1, min(200, 100_000 // size))):
                            await stream.send(peer, payload)
                            sent += 1
                    after, used = await state()
                    while after - before < sent:
                        after, used = await state()
                    took = time.perf_counter() - start
                    both = time.process_time() - cpu + used - cpu_there
                    print(
                        f"messages of {size:>9,} bytes  {sent / took:>12,.0f} /s  {sent * size / took / 1e6:>9,.1f} MB/s"
                        f"  {both / sent * 1e6:>8,.1f} us CPU each"
                    )
                start, cpu, round_trips = time.perf_counter(), time.process_time(), 0
                while time.perf_counter() - start < seconds:
                    await ask.request(peer, b"")
                    round_trips += 1
                took = time.perf_counter() - start
                each = took / round_trips * 1e6
                print(f"requests one after another      {round_trips / took:>12,.0f} /s  {each:,.0f} us each")
                start, received = time.perf_counter(), 0
                async for piece in transport.fetch(peer, "blob", b"", BODY_BYTES):
                    received += len(piece)
                    if time.perf_counter() - start > seconds:
                        break
                rate = received / (time.perf_counter() - start) / 1e6
                print(f"a body fetched{rate:>46,.1f} MB/s")
            finally:
                child.kill()
                child.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement (default 3)")
    parser.add_argument("--receive", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        trio.run(receiver, options.receive)
    else:
        trio.run(sender, options.seconds)


if __name__ == "__main__":
    main()
