"""Swapping the table under traffic: nothing fails, nothing reloads, connections that stand survive, and the acknowledgement is true."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lain_shared.testing import eventually
from tests.fixtures.routing import Front, proc


class Load:
    """Clients that ask again and again, over kept connections, until told to stop."""

    def __init__(self, front: Front, clients: int = 8, method: str = "GET") -> None:
        self.answers: Counter[str] = Counter()
        self._front, self._method = front, method
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(clients)]

    async def _ask(self) -> None:
        while not self._stop.is_set():
            answer = await self._front.request(self._method, "/status/200")
            self.answers[answer.body.decode() if answer.status == 200 else f"HTTP {answer.status}"] += 1

    async def more(self, count: int) -> None:
        """Wait until this many more answers came."""
        target = self.answers.total() + count
        await eventually(lambda: self.answers.total() >= target, what=f"{count} more answers")

    async def end(self) -> Counter[str]:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        return self.answers


async def test_a_rolling_upgrade_fails_no_request(front: Front, backends: Callable[..., Any]) -> None:
    """R4 at the router: old and new instances overlap, the old ones drain and are stopped the moment they are idle."""
    generations = [
        await backends("old-1", "old-2"),
        await backends("new-1", "new-2"),
        await backends("newer-1", "newer-2"),
    ]
    live = list(generations[0])
    await front.put(proc("hello", *live))
    get, post = Load(front), Load(front, 4, "POST")
    for newer in generations[1:]:
        for number, fresh in enumerate(newer):
            await get.more(50)
            old = live[number]
            live[number] = fresh
            await front.put(proc("hello", *live, old))
            state = await front.put(proc("hello", *live, draining=(old.address,)))
            while old.address in state.inflight:
                state = await front.state()
            served = old.requests
            await old.stop()
            assert old.requests == served
    answers = await get.end() + await post.end()
    assert not [what for what in answers if what.startswith("HTTP")], answers
    assert {"new-1", "newer-2"} < set(answers)


async def test_the_acknowledgement_means_that_no_worker_sends_there_any_more(
    front: Front, backends: Callable[..., Any]
) -> None:
    one, two = await backends("one", "two")
    load = Load(front, 16) if (await front.put(proc("hello", one, two))) else None
    assert load is not None
    for round_number in range(30):
        leaving, staying = (one, two) if round_number % 2 else (two, one)
        state = await front.put(proc("hello", staying, draining=(leaving.address,)))
        while leaving.address in state.inflight:
            state = await front.state()
        before = leaving.requests
        await load.more(40)
        assert leaving.requests == before, "acknowledged and idle, and yet it got a request"
        await front.put(proc("hello", one, two))
    answers = await load.end()
    assert set(answers) == {"one", "two"}, answers


async def test_a_backend_that_dies_under_load_fails_no_read(front: Front, backends: Callable[..., Any]) -> None:
    """R3: reads in flight are tried again, and it is out of rotation long before the table says so."""
    one, two = await backends("one", "two")
    await front.put(proc("hello", one, two))
    load = Load(front, 8)
    await load.more(100)
    await one.stop()
    began = time.monotonic()
    await eventually(lambda: _ejected(front), 1, "out of rotation within a second")
    await load.more(200)
    answers = await load.end()
    assert set(answers) == {"one", "two"}, answers
    assert time.monotonic() - began < 10


async def _ejected(front: Front) -> bool:
    return bool((await front.state()).ejected)


async def test_a_request_that_waits_for_its_body_does_not_go_to_a_draining_address(
    front: Front, backends: Callable[..., Any]
) -> None:
    old, new = await backends("old", "new")
    await front.put(proc("hello", old))
    _, writer = connection = await asyncio.open_connection("127.0.0.1", front.box.http_port)
    writer.write(b"POST /status/200 HTTP/1.1\r\nHost: hello.example\r\nContent-Length: 4\r\n\r\nab")
    await writer.drain()
    await asyncio.gather(*(front.get("/") for _ in range(4)))
    state = await front.put(proc("hello", new, draining=(old.address,)))
    assert old.address not in state.inflight
    writer.write(b"cd")
    head = await connection[0].readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert old.posts == 0
    assert new.posts == 1
    writer.close()


async def test_a_websocket_survives_every_swap(front: Front, backends: Callable[..., Any]) -> None:
    """R17: fifty swaps, among them one that drains the very backend; it counts as busy until the socket is closed."""
    one, two = await backends("one", "two")
    await front.put(proc("hello", one))
    socket = await front.session.ws_connect(
        f"http://127.0.0.1:{front.box.http_port}/ws", headers={"Host": "hello.example"}
    )
    for number in range(50):
        state = await front.put(proc("hello", two, draining=(one.address,)) if number % 2 else proc("hello", one, two))
        await socket.send_str(str(number))
        assert (await socket.receive(timeout=5)).data == f"one:{number}"
        assert state.inflight == {one.address: 1}
    await socket.close()

    async def idle() -> bool:
        return (await front.state()).inflight == {}

    await eventually(idle, 2, "the draining address is idle once the socket is closed")


async def test_five_hundred_changes_reload_nothing(front: Front, backends: Callable[..., Any]) -> None:
    """R13: every change is in force when its swap returns; master and workers stay the same processes."""
    pool = await backends("a", "b", "c")
    many = [proc(f"app-{number}", pool[0], host=f"app-{number}.example") for number in range(200)]
    await front.put(*many, proc("hello", pool[0]))
    workers, load = front.box.workers, Load(front, 4)
    began = time.monotonic()
    for number in range(500):
        await front.put(*many, proc("hello", pool[number % 3], created=2))
    elapsed = time.monotonic() - began
    answers = await load.end()
    assert set(answers) <= {"a", "b", "c"}, answers
    assert (await front.get("/")).json["backend"] == pool[499 % 3].name
    assert front.box.workers == workers
    assert elapsed < 30, f"{elapsed / 500:.3f} s a swap"


async def test_an_idle_nginx_notices_a_table_at_once(front: Front, backends: Callable[..., Any]) -> None:
    (one,) = await backends("one")
    took = []
    for _ in range(10):
        began = time.monotonic()
        await front.put(proc("hello", one))
        took.append(time.monotonic() - began)
    assert sorted(took)[5] < 0.1, took


async def test_large_bodies_stream_both_ways_in_constant_memory(front: Front, backends: Callable[..., Any]) -> None:
    """R22 with 200 MB: the app gets the first bytes while the client still sends; nothing is kept on disk or in memory."""
    (one,) = await backends("one")
    await front.put(proc("hello", one))
    size, piece = 200 * 1024 * 1024, b"x" * 262_144

    async def body(paused: asyncio.Event) -> Any:
        for number in range(size // len(piece)):
            if number == 8:
                await paused.wait()
            yield piece

    paused = asyncio.Event()
    sending = asyncio.create_task(
        front.request("POST", "/upload", data=body(paused), headers={"Content-Length": str(size)})
    )
    await asyncio.wait_for(one.first_bytes.wait(), 10)
    paused.set()
    answer = await sending
    assert (answer.status, answer.json["bytes"]) == (200, size)
    memory = [resident(pid) for pid in front.box.workers]
    assert max(memory) < 150 * 1024 * 1024, memory
    url = f"http://127.0.0.1:{front.box.http_port}/big/{size}"
    async with front.session.get(url, headers={"Host": "hello.example"}) as download:
        got = 0
        async for part in download.content.iter_any():
            got += len(part)
    assert got == size
    assert max(resident(pid) for pid in front.box.workers) < 150 * 1024 * 1024


async def test_an_unbuffered_proc_gets_small_bodies_at_once_too(front: Front, backends: Callable[..., Any]) -> None:
    (one,) = await backends("one")
    await front.put(proc("hello", one, path="/up", options={"buffering": False}))
    held = asyncio.Event()

    async def body() -> Any:
        yield b"first"
        await held.wait()
        yield b"last"

    sending = asyncio.create_task(front.request("POST", "/up/upload", data=body()))
    await asyncio.wait_for(one.first_bytes.wait(), 5)
    held.set()
    assert (await sending).json["bytes"] == 9


def resident(pid: int) -> int:
    """Resident memory of a process that is its own, in bytes."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in rollup if line.endswith("kB")}
    return (int(fields["Private_Dirty"]) + int(fields["Private_Clean"])) * 1024
