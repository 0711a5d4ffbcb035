"""A real router measures operations: what it publishes is what its clients saw, also when its processes are replaced meanwhile."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from lain_shared import keys
from lain_shared.etcd import EtcdStore
from lain_shared.model.traffic import OperationMark, OperationTraffic, RouterTraffic
from lain_shared.records import Records
from lain_shared.store import Store
from lain_shared.testing import MemoryStore, eventually
from tests.fixtures.nginx import NginxBox
from tests.integration.watcher.test_nginx_swaps import Load
from tests.integration.watcher.watched import Watched, ready


class Marked:
    """Operations of ``hello``, and what router ``r1`` tells of them."""

    def __init__(self, store: Store) -> None:
        self._marks = Records(store, keys.OPERATION_MARKS, OperationMark)
        self._told = Records(store, keys.TRAFFIC, RouterTraffic)

    async def begin(self, operation: str) -> None:
        await self._marks.put(OperationMark(operation, "hello", time.time()), "hello")
        await self.report(operation, lambda _: True, "it is told that the operation began")

    async def end(self) -> None:
        await self._marks.delete("hello")

    async def report(self, operation: str, holds: Callable[[OperationTraffic], bool], what: str) -> OperationTraffic:
        async def found() -> OperationTraffic | None:
            stored = await self._told.get("r1", "hello")
            reports = stored.value.reports if stored is not None else ()
            return next((each for each in reports if each.operation == operation and holds(each)), None)

        report = await eventually(found, 20, what)
        assert report is not None
        return report


async def counted(watched: Watched) -> float:
    """Requests of ``hello`` in the watcher's metrics."""
    answer = await watched.front.session.get(f"http://127.0.0.1:{watched.settings.port}/metrics")
    found = re.search(r'lain_watcher_requests_total\{app="hello"\} (\S+)', await answer.text())
    return float(found[1]) if found else 0.0


async def looked(watched: Watched, requests: int) -> None:
    """Wait until the watcher knows of so many."""

    async def reached() -> bool:
        return await counted(watched) >= requests

    await eventually(reached, what=f"the watcher knows of {requests} requests")


async def one_operation(watched: Watched, store: Store, backends: Callable[..., Any]) -> None:
    """Clients ask throughout; the windows together have every request of theirs, each once."""
    old, new = await backends("old", "new")
    await watched.applied(await watched.put("hello", old, host="hello.example"))
    await ready(watched)
    marked, load = Marked(store), Load(watched.front, 4)
    await looked(watched, 100)
    await marked.begin("op1")
    await watched.applied(await watched.put("hello", new, host="hello.example"))
    await load.more(100)
    failed = 3
    for _ in range(failed):
        await watched.front.get("/status/500")
    asked = (await load.end()).total() + failed
    await marked.end()
    over = await marked.report("op1", lambda report: report.after is not None, "the operation is over")
    assert over.before.counts.requests + over.during.counts.requests == asked
    assert over.before.counts.requests > 0
    assert (over.during.counts.errors, over.during.counts.app_errors) == (0, failed)
    assert over.during.complete
    assert not over.before.complete, "the watcher has not run for a minute, and says so"
    await marked.begin("op2")
    over = await marked.report("op1", lambda report: report.final, "the next operation ends the window after the first")
    assert over.after is not None
    assert await counted(watched) == asked


async def test_what_a_router_tells_is_what_its_clients_saw(
    watch: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    store = MemoryStore()
    await one_operation(await watch(store), store, backends)


async def test_the_same_on_etcd(store: EtcdStore, watch: Callable[..., Any], backends: Callable[..., Any]) -> None:
    await one_operation(await watch(store), store, backends)


async def test_a_watcher_replaced_meanwhile_loses_no_count(
    watch: Callable[..., Any], backends: Callable[..., Any], nginx_box: NginxBox
) -> None:
    store = MemoryStore()
    await asyncio.to_thread(nginx_box.start, wait=False)
    first: Watched = await watch(store, box=nginx_box)
    await asyncio.to_thread(nginx_box.wait_up)
    (web,) = await backends("web")
    await first.applied(await first.put("hello", web, host="hello.example"))
    marked, load = Marked(store), Load(first.front, 4)
    await looked(first, 1)
    await marked.begin("op1")
    await load.more(100)
    await first.end()
    await load.more(200)
    second: Watched = await watch(store, box=nginx_box)
    await ready(second)
    await load.more(100)
    asked = (await load.end()).total()
    await marked.end()
    over = await marked.report("op1", lambda report: report.after is not None, "the operation is over")
    assert over.before.counts.requests + over.during.counts.requests == asked
    assert over.during.complete


async def test_an_nginx_that_dies_takes_counts_with_it_and_that_is_told(
    watch: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    store = MemoryStore()
    watched: Watched = await watch(store)
    (web,) = await backends("web")
    await watched.applied(await watched.put("hello", web, host="hello.example"))
    await ready(watched)
    marked = Marked(store)
    await marked.begin("op1")
    assert (await watched.front.get("/")).status == 200
    master = watched.front.box.master
    os.kill(master, signal.SIGKILL)

    async def answers() -> bool:
        with suppress(Exception):
            return watched.front.box.master != master and (await watched.front.get("/")).status == 200
        return False

    await eventually(answers, 20, "nginx is back")
    await marked.end()
    over = await marked.report("op1", lambda report: report.after is not None, "the operation is over")
    assert not over.during.complete
    assert "nginx" in over.during.why


@pytest.fixture
def nginx_box(make_nginx: Callable[..., NginxBox]) -> NginxBox:
    return make_nginx(wait_seconds="30")
