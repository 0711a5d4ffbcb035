"""How fast the etcd client is: writes, reads, lists and watches, on an etcd started for it.

Run: ``python -m bench.etcd_client [--members 3] [--seconds 3]``. Prints one line a measurement; ``--output json`` for machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing

from lain_shared.etcd import EtcdStore
from lain_shared.store import Put
from tests.fixtures.etcd import running_cluster

VALUE = b"x" * 512


async def rate(seconds: float, in_flight: int, once: Callable[[int], Awaitable[object]]) -> float:
    """Calls a second with ``in_flight`` callers, each waiting for its answer."""
    done = 0
    until = time.monotonic() + seconds

    async def caller(number: int) -> None:
        nonlocal done
        while time.monotonic() < until:
            await once(number)
            done += 1

    began = time.monotonic()
    await asyncio.gather(*(caller(number) for number in range(in_flight)))
    return done / (time.monotonic() - began)


async def watch_latencies(store: EtcdStore, watchers: int, writes: int) -> list[float]:
    """Milliseconds from just before a put to its arrival at each of ``watchers``."""
    sent: dict[bytes, float] = {}
    latencies: list[float] = []
    standing = asyncio.Semaphore(0)

    async def follow(start_revision: int) -> None:
        seen = 0
        async with aclosing(store.watch("/bench/watch/", start_revision=start_revision)) as batches:
            async for batch in batches:
                if not batch.items and not seen:
                    standing.release()
                for change in batch.items:
                    latencies.append(1_000 * (time.monotonic() - sent[change.value or b""]))
                    seen += 1
                if seen == writes:
                    return

    start = (await store.list("/none/")).revision + 1
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(watchers):
            group.create_task(follow(start))
        for _ in range(watchers):
            await standing.acquire()
        for number in range(writes):
            value = b"%d" % number
            sent[value] = time.monotonic()
            await store.put("/bench/watch/key", value)
            await asyncio.sleep(0.005)
    return latencies


async def measure(endpoints: tuple[str, ...], seconds: float) -> dict[str, float]:
    """Name → value; names end in their unit."""
    found: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(EtcdStore.connect(endpoints))
        for in_flight in (1, 64):
            found[f"put_{in_flight}_in_flight_per_second"] = await rate(
                seconds, in_flight, lambda number: store.put(f"/bench/put/{number}", VALUE)
            )
            found[f"get_{in_flight}_in_flight_per_second"] = await rate(
                seconds, in_flight, lambda number: store.get(f"/bench/put/{number}")
            )
        for start in range(0, 10_000, 1_000):
            await store.txn([], [Put(f"/bench/list/{number:05d}", VALUE) for number in range(start, start + 1_000)])
        began = time.monotonic()
        listed = await store.list("/bench/list/")
        found["list_10000_keys_ms"] = 1_000 * (time.monotonic() - began)
        assert len(listed.entries) == 10_000
        for watchers in (1, 50):
            latencies = sorted(await watch_latencies(store, watchers, 200))
            found[f"watch_{watchers}_p50_ms"] = statistics.median(latencies)
            found[f"watch_{watchers}_p99_ms"] = latencies[int(len(latencies) * 0.99)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    with running_cluster(arguments.members) as cluster:
        found = asyncio.run(measure(cluster.endpoints, arguments.seconds))
    if arguments.output == "json":
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name, value in found.items():
        sys.stdout.write(f"{name:36} {value:10.1f}\n")


if __name__ == "__main__":
    main()
