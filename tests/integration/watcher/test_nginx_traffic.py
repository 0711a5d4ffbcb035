"""nginx's own counts: what became of each proc's requests, whose fault it was, how long they took."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lain_shared.model.route import ProxyOptions, Route
from lain_shared.model.traffic import ProcTraffic, bucket_of, middle_ms, quantile_ms
from lain_shared.testing import eventually
from lain_watcher.adapters.nginx import NginxTraffic
from lain_watcher.table import ProcEntry
from tests.fixtures.routing import Front, proc


async def traffic(front: Front, since: float | None = None) -> NginxTraffic:
    found = await front.nginx.traffic(since)
    assert found is not None
    return found


async def counted(front: Front, requests: int, name: str = "hello/web") -> ProcTraffic:
    """The counts, once so many requests are in them: a client has its answer a moment before the log phase."""

    async def reached() -> ProcTraffic | None:
        found = (await traffic(front)).procs.get(name, ProcTraffic())
        return found if found.requests >= requests else None

    found = await eventually(reached, what=f"{requests} requests of {name} counted")
    assert found is not None
    assert found.requests == requests
    return found


async def test_each_proc_has_its_own_counts(front: Front, backends: Callable[..., Any]) -> None:
    one, two = await backends("one", "two")
    await front.put(proc("hello", one), proc("shop", two, host="shop.example", name="api"))
    for _ in range(30):
        await front.get("/")
    await front.get("/", "shop.example")
    await front.get("/", "nobody.example")
    seen = await counted(front, 30)
    assert (seen.errors, seen.app_errors, seen.aborted) == (0, 0, 0)
    assert sum(seen.latency.values()) == 30
    assert (await counted(front, 1, "shop/api")).errors == 0
    assert (await traffic(front)).procs.keys() == {"hello/web", "shop/api"}


async def test_an_apps_own_errors_are_not_the_routers(front: Front, backends: Callable[..., Any]) -> None:
    (web,) = await backends("web")
    await front.put(proc("hello", web))
    for status in (500, 502, 503, 504, 404, 302):
        assert (await front.get(f"/status/{status}")).status == status
    seen = await counted(front, 6)
    assert (seen.errors, seen.app_errors) == (0, 4)
    assert (await front.request("POST", "/drop")).status == 502
    assert (await front.get("/drop")).status == 502
    await web.stop()
    assert (await front.get("/")).status == 502
    seen = await counted(front, 9)
    assert (seen.errors, seen.app_errors) == (3, 4)


async def test_an_app_without_instances_errs_by_its_router(front: Front) -> None:
    await front.put(proc("hello"), proc("late", host="late.example", options={"max_body_bytes": 10}))
    assert (await front.get("/")).status == 503
    assert (await front.request("POST", "/", "late.example", data=b"x" * 20)).status == 503
    assert (await counted(front, 1)).errors == 1
    assert (await counted(front, 1, "late/web")).errors == 1


async def test_a_failed_attempt_that_another_backend_mends_is_no_error(
    front: Front, backends: Callable[..., Any]
) -> None:
    one, two = await backends("one", "two")
    await front.put(proc("hello", one, two))
    await two.stop()
    for _ in range(4):
        assert (await front.get("/")).status == 200
    assert (await counted(front, 4)).errors == 0


@asynccontextmanager
async def breaking(size: int, given: int) -> AsyncIterator[str]:
    """A backend that announces ``size`` bytes, gives fewer, and closes a little later; its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * given)
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("buffering", [None, False])
async def test_an_answer_that_its_backend_breaks_off_is_an_error(front: Front, buffering: bool | None) -> None:
    async with breaking(1_000_000, 500_000) as peer:
        entry = ProcEntry("hello", "web", (Route("hello.example"),), ProxyOptions(buffering=buffering), (peer,))
        await front.put(entry)
        with pytest.raises(aiohttp.ClientPayloadError):
            await front.get("/")
        seen = await counted(front, 1)
        assert (seen.errors, seen.app_errors, seen.aborted) == (1, 0, 0)


async def test_whole_answers_without_a_body_are_no_errors(front: Front, backends: Callable[..., Any]) -> None:
    (web,) = await backends("web")
    await front.put(proc("hello", web))
    assert (await front.request("HEAD", "/big/4096")).status == 200
    assert (await front.get("/status/304")).status == 304
    assert len((await front.get("/big/300000")).body) == 300_000
    seen = await counted(front, 3)
    assert (seen.errors, seen.app_errors, seen.aborted) == (0, 0, 0)


async def test_a_client_that_leaves_is_nobodys_error(front: Front, backends: Callable[..., Any]) -> None:
    (web,) = await backends("web")
    await front.put(proc("hello", web))
    for path in ("/slow", "/big/50000000"):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.box.http_port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: hello.example\r\n\r\n".encode())
        if path == "/slow":
            await eventually(lambda: web.waiting == 1, what="the request is at its backend")
        else:
            await reader.read(100)
        writer.transport.abort()
    seen = await counted(front, 2)
    assert (seen.errors, seen.app_errors, seen.aborted) == (0, 0, 2)


async def test_latency_is_within_a_sixteenth(front: Front, backends: Callable[..., Any]) -> None:
    (web,) = await backends("web")
    await front.put(proc("hello", web))
    began = asyncio.get_running_loop().time()
    slow = asyncio.create_task(front.get("/slow"))
    await eventually(lambda: web.waiting == 1, what="the request is at its backend")
    await asyncio.sleep(0.25)
    web.release.set()
    await slow
    took_ms = (asyncio.get_running_loop().time() - began) * 1000
    (bucket,) = (await counted(front, 1)).latency
    assert 0.9 * 250 <= middle_ms(bucket) <= 1.07 * took_ms + 1
    assert bucket_of(250) <= bucket <= bucket_of(round(took_ms) + 1)
    assert quantile_ms({bucket: 1}, 0.99) == middle_ms(bucket)


async def test_how_long_a_websocket_lived_is_no_latency(front: Front, backends: Callable[..., Any]) -> None:
    (web,) = await backends("web")
    await front.put(proc("hello", web))
    url = f"http://127.0.0.1:{front.box.http_port}/ws"
    async with front.session.ws_connect(url, headers={"Host": "hello.example"}) as socket:
        await socket.send_str("x")
        await socket.receive_str()
        assert (await traffic(front)).procs == {}, "it counts when it ends"
    seen = await counted(front, 1)
    assert (seen.errors, dict(seen.latency)) == (0, {})


async def test_only_what_had_traffic_since_is_told(front: Front, backends: Callable[..., Any]) -> None:
    one, two = await backends("one", "two")
    await front.put(proc("hello", one), proc("shop", two, host="shop.example"))
    await front.get("/")
    await counted(front, 1)
    at = (await traffic(front)).now
    assert (await traffic(front, at)).procs.keys() == {"hello/web"}, "a few seconds are told twice rather than lost"
    assert (await traffic(front, at + 3600)).procs == {}


async def test_a_proc_is_told_with_the_counts_of_all_workers_also_of_idle_ones(
    front: Front, backends: Callable[..., Any]
) -> None:
    """What only one of two workers had requests of lately: the other's counts belong to the sum, or it would seem to shrink."""
    (web,) = await backends("web")
    await front.put(proc("hello", web))

    one, other = front.box.workers
    for frozen in (one, other):  # the rest answers
        os.kill(frozen, signal.SIGSTOP)
        try:
            await eventually(lambda pid=frozen: is_frozen(pid), what="the signal has taken effect")
            assert (await front.get("/", headers={"Connection": "close"})).status == 200
        finally:
            os.kill(frozen, signal.SIGCONT)
    before = await counted(front, 2)
    assert len(before.slots) == 2
    at = (await traffic(front)).now + 0.001

    async def later() -> bool:
        return (await traffic(front)).now > at

    await eventually(later, what="nginx's clock has moved on")
    await front.get("/")
    await counted(front, 3)
    seen = (await traffic(front, at + 5)).procs["hello/web"]
    assert (seen.requests, {*seen.slots}) == (3, {*before.slots})


def is_frozen(pid: int) -> bool:
    """Whether it is stopped: a signal sent is not yet a process that stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")


async def flood(front: Front, count: int) -> None:
    answers = await asyncio.gather(*(front.get("/") for _ in range(count)))
    assert {answer.status for answer in answers} == {200}


async def test_counts_outlive_the_workers(front: Front, backends: Callable[..., Any]) -> None:
    """Killed, and replaced by a reload: what they counted stays, and their heirs go on from it."""
    (web,) = await backends("web")
    await front.put(proc("hello", web))
    await flood(front, 40)
    before = await counted(front, 40)
    boot_id = (await traffic(front)).boot_id
    old = front.box.workers
    for pid in old:  # one after the other: a dead one that its master has not buried yet has no heir
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda gone=pid: len(front.box.workers) == 2 and gone not in front.box.workers, what="an heir")
    await flood(front, 40)
    seen = await counted(front, 80)
    assert {*before.slots} <= {*seen.slots}
    assert len(seen.slots) <= 2, "heirs, not further regions"
    old = front.box.workers
    os.kill(front.box.master, signal.SIGHUP)
    await eventually(lambda: len(front.box.workers) == 2 and not {*old} & {*front.box.workers}, what="new workers")
    await flood(front, 40)
    assert {*seen.slots} <= {*(await counted(front, 120)).slots}
    assert (await traffic(front)).boot_id == boot_id


async def test_nginx_started_again_counts_from_nothing(front: Front, backends: Callable[..., Any]) -> None:
    (web,) = await backends("web")
    await front.put(proc("hello", web))
    await flood(front, 10)
    await counted(front, 10)
    boot_id = (await traffic(front)).boot_id
    os.kill(front.box.master, signal.SIGKILL)

    async def again() -> bool:
        with suppress(Exception):
            found = await front.nginx.traffic()
            return found is not None and found.boot_id != boot_id
        return False

    await eventually(again, what="another nginx")
    assert (await traffic(front)).procs == {}


SLOTS = 4096
"""Procs a worker can count for at once, as ``traffic.lua`` has it."""


async def test_a_slot_is_taken_from_a_proc_that_is_gone_and_from_no_other(
    make_front: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    front: Front = await make_front(workers="1")
    (web,) = await backends("web")

    def entries(first: int, count: int) -> list[ProcEntry]:
        return [proc(f"app-{n}", web, host=f"app-{n}.example", created=n) for n in range(first, first + count)]

    async def ask(first: int, count: int) -> None:
        at_once = asyncio.Semaphore(50)

        async def one(number: int) -> None:
            async with at_once:
                assert (await front.get("/", f"app-{number}.example")).status == 200

        await asyncio.gather(*(one(number) for number in range(first, first + count)))

    await front.put(*entries(0, SLOTS + 1))
    await ask(0, SLOTS)
    await eventually(lambda: _all_there(front, SLOTS), what="all of them counted")
    assert (await traffic(front)).uncounted == 0
    await ask(SLOTS, 1)
    await eventually(lambda: _uncounted(front), what="there is no room for another, and that is told")
    assert f"app-{SLOTS}/web" not in (await traffic(front)).procs
    await front.put(*entries(1, SLOTS + 1))

    async def has_room() -> bool:
        await ask(SLOTS, 1)
        return f"app-{SLOTS}/web" in (await traffic(front)).procs

    await eventually(has_room, what="app 0 is gone, and its slot another's")
    found = (await traffic(front)).procs
    assert "app-0/web" not in found
    assert len(found) == SLOTS


async def _all_there(front: Front, count: int) -> bool:
    return len((await traffic(front)).procs) == count


async def _uncounted(front: Front) -> bool:
    return (await traffic(front)).uncounted > 0
