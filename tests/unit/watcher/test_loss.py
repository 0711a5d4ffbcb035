"""What the watcher publishes of operations: when, how often, and what becomes of it when processes come and go."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from lain_shared import keys
from lain_shared.errors import LainError
from lain_shared.model.traffic import OperationMark, ProcTraffic, RouterTraffic
from lain_shared.records import Records
from lain_shared.store import Store
from lain_shared.testing import ManualClock, MemoryStore, eventually
from lain_watcher.adapters.nginx import Nginx, NginxTraffic, TrafficUnknown
from lain_watcher.loss import KEEP_SECONDS, UNKNOWN_SECONDS, WRITE_SECONDS, Loss
from lain_watcher.metrics import Metrics
from tests.fixtures.parts import running


@dataclass
class FakeNginx(Nginx):
    """nginx's side of ``GET /traffic``: counts that a test makes grow."""

    clock: ManualClock
    boot_id: str = "b1"
    there: bool = True
    old: bool = False
    procs: dict[str, ProcTraffic] = field(default_factory=dict)
    asked: list[float | None] = field(default_factory=list)

    async def traffic(self, since: float | None = None) -> NginxTraffic | None:
        self.asked.append(since)
        if self.old:
            raise TrafficUnknown("nginx does not count its traffic")
        return NginxTraffic(self.boot_id, self.clock(), 0, dict(self.procs)) if self.there else None

    def serve(self, requests: int, *, app: str = "hello", ms: int = 5, errors: int = 0) -> None:
        known = self.procs.get(f"{app}/web", ProcTraffic(slots=(len(self.procs) + 1,)))
        latency = {**known.latency, ms: known.latency.get(ms, 0) + requests}
        self.procs[f"{app}/web"] = replace(
            known, requests=known.requests + requests, errors=known.errors + errors, latency=latency
        )

    def restart(self) -> None:
        self.boot_id += "'"
        self.procs.clear()


class Router:
    """One router's loss loop, stepped by hand, second by second."""

    def __init__(self, store: Store, clock: ManualClock, nginx: FakeNginx) -> None:
        self.store, self.clock, self.nginx = store, clock, nginx
        self.registry = CollectorRegistry()
        self.apps = {"hello"}
        self.loss = Loss(
            "r1", store, nginx, apps=lambda: self.apps, metrics=Metrics(self.registry), now=clock, clock=clock
        )
        self.marks = Records(store, keys.OPERATION_MARKS, OperationMark)

    async def begin(self, operation: str = "op1", app: str = "hello") -> None:
        revision = await self.marks.put(OperationMark(operation, app, self.clock()), app)
        await self.loss.marks.wait_until(revision)

    async def end(self, app: str = "hello") -> None:
        await self.marks.delete(app)
        await eventually(lambda: self.loss.marks.get(app) is None, what="the mark is gone")

    async def seconds(self, count: int, requests: int = 0, **more: int) -> None:
        for _ in range(count):
            self.clock.advance(1)
            if requests:
                self.nginx.serve(requests, **more)
            await self.loss.one_pass()

    async def look(self) -> None:
        await self.loss.one_pass()

    async def told(self, app: str = "hello") -> RouterTraffic | None:
        stored = await Records(self.store, keys.TRAFFIC, RouterTraffic).get("r1", app)
        return stored.value if stored is not None else None

    async def report(self) -> RouterTraffic:
        told = await self.told()
        assert told is not None
        return told

    def metric(self, line: str) -> bool:
        return line in generate_latest(self.registry).decode()


@dataclass
class Stage:
    """A store, an nginx, and watchers that come and go."""

    store: MemoryStore = field(default_factory=MemoryStore)
    clock: ManualClock = field(default_factory=lambda: ManualClock(1_000_000.0))

    def __post_init__(self) -> None:
        self.nginx = FakeNginx(self.clock)

    def router(self) -> Router:
        return Router(self.store, self.clock, self.nginx)


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_a_minute_before_the_operation_and_a_minute_after(stage: Stage) -> None:
    router = stage.router()
    async with running(router.loss.marks):
        await router.loss.marks.wait_whole()
        await router.look()
        await router.seconds(90, 3)
        await router.begin()
        await router.look()
        (first,) = (await router.report()).reports
        assert (first.before.counts.requests, first.before.complete, first.after) == (180, True, None)
        await router.seconds(8, 2, errors=1)
        await router.end()
        await router.look()
        (over,) = (await router.report()).reports
        assert (over.during.counts.requests, over.during.counts.errors) == (16, 8)
        assert over.after is not None and not over.final
        await router.seconds(60, 1)
        record = await router.report()
        (whole,) = record.reports
        assert whole.final and whole.after is not None
        assert (whole.after.counts.requests, whole.after.counts.errors) == (60, 0)
        assert record.mark is None, "nobody goes on from a final record"
        await router.seconds(30, 1)
        assert await router.report() == record


async def test_counts_are_written_rarely_and_turns_at_once(stage: Stage) -> None:
    router = stage.router()
    writes = 0
    put = stage.store.put

    async def counting(key: str, value: bytes, *, expect: int | None = None, lease: int = 0) -> int:
        nonlocal writes
        writes += key.startswith(keys.TRAFFIC.prefix)
        return await put(key, value, expect=expect, lease=lease)

    stage.store.put = counting  # type: ignore[method-assign]
    async with running(router.loss.marks):
        await router.loss.marks.wait_whole()
        await router.seconds(5, 3)
        assert writes == 0, "without an operation there is nothing to tell"
        await router.begin()
        await router.look()
        assert writes == 1
        await router.seconds(20, 3)
        assert writes == 1 + 20 / WRITE_SECONDS
        await router.seconds(20)
        assert writes <= 2 + 20 / WRITE_SECONDS, "nothing new"
        before = writes
        await router.end()
        await router.look()
        assert writes == before + 1


async def test_apps_without_routes_and_requests_are_not_told_of(stage: Stage) -> None:
    router = stage.router()
    async with running(router.loss.marks):
        await router.loss.marks.wait_whole()
        await router.look()
        await router.begin("op1", "worker")
        await router.seconds(3)
        await router.end("worker")
        await router.seconds(70)
        assert await router.told("worker") is None
        await router.begin("op2", "hello")
        await router.look()
        router.apps.clear()  # undeployed
        await router.end("hello")
        await router.seconds(70)
        assert (await router.report()).reports[-1].final, "what was begun is ended"


async def test_the_next_watcher_goes_on_where_the_last_one_stopped(stage: Stage) -> None:
    first = stage.router()
    async with running(first.loss.marks):
        await first.loss.marks.wait_whole()
        await first.look()
        await first.seconds(70, 2)
        await first.begin()
        await first.seconds(7, 2)
    stage.clock.advance(3)
    stage.nginx.serve(100, errors=1)
    second = stage.router()
    async with running(second.loss.marks):
        await second.loss.marks.wait_whole()
        await second.look()
        await second.seconds(5, 2)
        (report,) = (await second.report()).reports
        assert report.before.counts.requests == 120
        assert report.during.counts.requests == 14 + 100 + 10
        assert (report.during.counts.errors, report.during.complete) == (1, True)
        await second.end()
        await second.seconds(61)
        assert (await second.report()).reports[-1].final


async def test_an_nginx_that_starts_anew_is_told_and_not_made_up_for(stage: Stage) -> None:
    router = stage.router()
    async with running(router.loss.marks):
        await router.loss.marks.wait_whole()
        await router.look()
        await router.seconds(70, 2)
        await router.begin()
        await router.seconds(2, 2)
        stage.nginx.there = False
        await router.seconds(1)
        stage.nginx.restart()
        stage.nginx.there = True
        await router.seconds(6, 5)
        await router.end()
        await router.look()
        (report,) = (await router.report()).reports
        assert report.before.complete
        assert report.during.counts.requests == 2 + 4 - 2 + 30
        assert not report.during.complete and "nginx" in report.during.why
        await router.seconds(61, 1)
        after = (await router.report()).reports[-1].after
        assert after is not None and after.complete


async def test_a_store_that_is_away_delays_the_telling_only(stage: Stage) -> None:
    router = stage.router()
    async with running(router.loss.marks):
        await router.loss.marks.wait_whole()
        await router.look()
        await router.seconds(70, 2)
        await router.begin()
        await router.look()
        refused = 0
        with stage.store.outage():
            for _ in range(10):
                try:
                    await router.seconds(1, 4)
                except LainError:
                    refused += 1
        assert refused > 0
        await router.look()
        (report,) = (await router.report()).reports
        assert report.during.counts.requests == 40


async def test_an_nginx_of_before_is_left_alone(stage: Stage) -> None:
    stage.nginx.old = True
    router = stage.router()
    assert await router.loss.one_pass() == UNKNOWN_SECONDS
    stage.nginx.old = False
    assert await router.loss.one_pass() < UNKNOWN_SECONDS


async def test_metrics_are_by_app_and_go_with_it(stage: Stage) -> None:
    router = stage.router()
    await router.look()
    stage.nginx.serve(10, errors=2)
    stage.nginx.serve(1, app="shop")
    router.apps.add("shop")
    await router.seconds(1)
    assert router.metric('lain_watcher_requests_total{app="hello"} 10.0')
    assert router.metric('lain_watcher_failed_requests_total{app="hello",fault="router"} 2.0')
    router.apps.discard("shop")
    await router.seconds(601)
    assert not router.metric('app="shop"')
    assert router.metric('app="hello"')


async def test_a_record_outlives_its_watcher_but_not_by_much(stage: Stage) -> None:
    router = stage.router()
    async with running(router.loss.marks):
        await router.loss.marks.wait_whole()
        await router.look()
        await router.begin()
        await router.seconds(1, 1)
    entry = await stage.store.get(keys.TRAFFIC.key("r1", "hello"))
    assert entry is not None and entry.lease
    assert KEEP_SECONDS >= 2 * 900
