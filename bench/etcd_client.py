"""The etcd client by itself: puts, gets, lists and watches on etcds started for it, beside bare gRPC calls of the same etcd.

One member, then three, on loopback, without TLS. ``floor`` is what remains of the client when it has
no member to choose, no deadline to keep and nothing to explain: the generated messages over one ``grpc.aio`` channel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from bench.report import Proof
from lain_shared import etcd_proto
from lain_shared.etcd import EtcdStore
from lain_shared.etcd_grpc import grpc
from lain_shared.store import Put
from tests.fixtures.etcd import running_cluster

if TYPE_CHECKING:
    from bench.__main__ import Options

VALUE = b"x" * 512
MEMBERS = (1, 3)
IN_FLIGHT = (1, 64)
ROUNDS, SECONDS = 5, 2.0
QUICK_ROUNDS, QUICK_SECONDS = 1, 0.5
KEYS, BATCH = 10_000, 1_000
WATCHERS, CHANGES, CHANGE_EVERY_SECONDS = (1, 50), 200, 0.005
OF_FLOOR, MANY_A_SECOND = 0.6, 1_000.0
"""One after the other, which is what a daemon does; many at once, as a controller writes a hundred apps in a tenth of a second."""
LIST_SECONDS, WATCH_MILLISECONDS = 1.0, 50.0
Once = Callable[[int], Awaitable[object]]


async def run(proof: Proof, options: Options) -> None:
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    seconds = QUICK_SECONDS if options.quick else SECONDS
    proof.facts.update(rounds=rounds, seconds=seconds)
    for members in MEMBERS:
        with running_cluster(members) as cluster:
            await measure(proof, f"{members} member{'s' if members > 1 else ''}", cluster.endpoints, rounds, seconds)


async def measure(proof: Proof, on: str, endpoints: tuple[str, ...], rounds: int, seconds: float) -> None:
    async with EtcdStore.connect(endpoints) as store, grpc.aio.insecure_channel(endpoints[0]) as channel:
        contenders = {"lain": _ours(store), "floor": _bare(channel)}
        for _ in range(rounds):
            for in_flight in IN_FLIGHT:
                for verb in ("put", "get"):
                    case = proof.case(f"{on}: {verb}, {in_flight} in flight", "calls/s")
                    for name, verbs in contenders.items():
                        case.add(name, await rate(seconds, in_flight, verbs[verb]))
        for verb in ("put", "get"):
            case = proof.case(f"{on}: {verb}, 1 in flight")
            case.target(f"by the floor ≥ {OF_FLOOR:g}", case.ratio("floor"), at_least=OF_FLOOR)
            case = proof.case(f"{on}: {verb}, {IN_FLIGHT[-1]} in flight")
            case.target("median", case.median(), at_least=MANY_A_SECOND)
        await _lists(proof, on, store, rounds)
        for watchers in WATCHERS:
            case = proof.case(f"{on}: put to its arrival, {watchers} watching", "ms")
            case.add("lain", *await watch_latencies(store, watchers, CHANGES))
            case.target("p95", case.p95(), at_most=WATCH_MILLISECONDS)


def _ours(store: EtcdStore) -> dict[str, Once]:
    return {
        "put": lambda number: store.put(f"/bench/put/{number}", VALUE),
        "get": lambda number: store.get(f"/bench/put/{number}"),
    }


def _bare(channel: grpc.aio.Channel) -> dict[str, Once]:
    def stub(method: str, request: str, answer: str) -> Any:
        return channel.unary_unary(
            f"/etcdserverpb.KV/{method}",
            request_serializer=getattr(etcd_proto, request).SerializeToString,
            response_deserializer=getattr(etcd_proto, answer).FromString,
        )

    put, get = stub("Put", "PutRequest", "PutResponse"), stub("Range", "RangeRequest", "RangeResponse")
    return {
        "put": lambda number: put(etcd_proto.PutRequest(key=b"/bench/put/%d" % number, value=VALUE)),
        "get": lambda number: get(etcd_proto.RangeRequest(key=b"/bench/put/%d" % number)),
    }


async def rate(seconds: float, in_flight: int, once: Once) -> float:
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


async def _lists(proof: Proof, on: str, store: EtcdStore, rounds: int) -> None:
    for start in range(0, KEYS, BATCH):
        await store.txn([], [Put(f"/bench/list/{number:05d}", VALUE) for number in range(start, start + BATCH)])
    case = proof.case(f"{on}: list of {KEYS} keys", "s")
    for _ in range(rounds):
        began = time.monotonic()
        listed = await store.list("/bench/list/")
        case.add("lain", time.monotonic() - began)
        if len(listed.entries) != KEYS:
            raise AssertionError(f"{len(listed.entries)} of {KEYS} keys were listed")
    case.target("median", case.median(), at_most=LIST_SECONDS)


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
            await asyncio.sleep(CHANGE_EVERY_SECONDS)
    return latencies
