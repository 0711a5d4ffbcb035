"""What may happen between two moments of one request, or of one swap: each was found by reading, and stays mended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from lain_shared.testing import eventually
from lain_watcher.adapters.nginx import TableOvertaken
from lain_watcher.table import encode
from tests.fixtures.certificates import Authority
from tests.fixtures.routing import Front, certificate, fresh_address, proc

SLOW_BODY = b"POST /status/200 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nab"


async def test_a_request_keeps_its_app_whoever_comes_while_its_body_does(
    make_front: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    """One worker: what it found for the one in hand must never be taken for another's."""
    front: Front = await make_front(workers="1")
    mine, other = await backends("mine", "other")
    await front.put(proc("a", mine, host="a.example"), proc("b", other, host="b.example"))
    reader, writer = await asyncio.open_connection("127.0.0.1", front.box.http_port)
    with closing(writer):
        writer.write(SLOW_BODY)
        await writer.drain()
        for _ in range(5):
            assert (await front.get("/", "b.example")).json["backend"] == "other"
            assert (await front.get("/", "nobody.example")).status == 404
        writer.write(b"cd")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert (mine.posts, other.posts) == (1, 0)


async def test_a_client_that_leaves_before_its_body_leaves_nothing_for_the_next(
    make_front: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    """The next request may live at the same place in memory."""
    front: Front = await make_front(workers="1")
    mine, other = await backends("mine", "other")
    await front.put(
        proc("a", mine, host="a.example"), proc("b", other, host="b.example", options={"max_body_bytes": 100})
    )
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", front.box.http_port)
        writer.write(SLOW_BODY)
        await writer.drain()
        writer.transport.abort()
        answer = await front.request("POST", "/", "b.example", data=b"x")
        assert answer.json["backend"] == "other"
    assert mine.posts == 0
    assert (await front.state()).inflight == {}


async def test_a_table_that_comes_late_does_not_bring_the_old_one_back(
    front: Front, backends: Callable[..., Any]
) -> None:
    """A worker that stalled reads its request when a newer table has been acknowledged: nothing may be sent to who drains by that one."""
    old, new = await backends("old", "new")
    before = await front.put(proc("hello", old))
    text = encode(front.table(proc("hello", old, new))).text
    reader, writer = await asyncio.open_unix_connection(str(front.box.control))
    with closing(writer):
        head = f"PUT /table?replaces={before.published} HTTP/1.0\r\nContent-Length: {len(text)}\r\n\r\n"
        writer.write(head.encode() + text[:10])
        await writer.drain()
        drained = await front.put(proc("hello", new, draining=(old.address,)))
        writer.write(text[10:])
        assert b" 409 " in await reader.readline()
    assert (await front.state()).published == drained.published
    assert {(await front.get("/")).json["backend"] for _ in range(4)} == {"new"}


async def test_a_table_replaces_the_one_it_was_made_after(front: Front, backends: Callable[..., Any]) -> None:
    (one,) = await backends("one")
    before = await front.put(proc("hello", one))
    text = encode(front.table(proc("hello", one, host="new.example")))
    for wrong in ("", "another"):
        with pytest.raises(TableOvertaken):
            await front.nginx.put_table(text.text, replaces=wrong)
    assert (await front.state()).published == before.published
    state = await front.nginx.put_table(text.text, replaces=before.published)
    assert state is not None
    assert state.version == text.version


async def test_a_limit_on_bodies_leaves_http2_alone(front: Front, backends: Callable[..., Any], tmp_path: Path) -> None:
    """HTTP/2 announces no length where there is no body: that is no body without a length."""
    (one,) = await backends("one")
    pair = certificate("hello.example", Authority(tmp_path).issue("hello.example"))
    await front.put(proc("hello", one, options={"max_body_bytes": 10}), certificates=(pair,))
    for method, status in (("GET", b"200"), ("DELETE", b"200"), ("HEAD", b"200")):
        assert await by_http2(front, method, "/status/200") == status, method


async def by_http2(front: Front, method: str, path: str) -> bytes:
    """The status curl is told over HTTP/2."""
    argv = ["curl", "-sk", "--http2", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_version} %{http_code}"]
    argv += ["--head"] if method == "HEAD" else ["-X", method]
    to = ["--connect-to", f"hello.example:443:127.0.0.1:{front.box.https_port}", f"https://hello.example{path}"]
    running = await asyncio.create_subprocess_exec(*argv, *to, stdout=asyncio.subprocess.PIPE)
    said, _ = await running.communicate()
    version, status = said.split()
    assert version == b"2"
    return status


async def test_a_host_name_of_any_length_is_not_kept(front: Front, backends: Callable[..., Any]) -> None:
    """A wildcard covers what no DNS name can be: each would have stayed in every worker's memory."""
    (one,) = await backends("one")
    await front.put(proc("hello", one, host="*.shop.example"))
    assert (await front.get("/", "a.shop.example:8080")).status == 200
    assert (await front.get("/", "a" * 20_000 + ".shop.example")).status == 404


async def test_a_body_of_unknown_length_goes_through_at_once_whatever_the_method(
    front: Front, backends: Callable[..., Any]
) -> None:
    """It would have been kept on the router's disk, to any size."""
    (one,) = await backends("one")
    await front.put(proc("hello", one))
    reader, writer = await asyncio.open_connection("127.0.0.1", front.box.http_port)
    with closing(writer):
        writer.write(b"GET /slow HTTP/1.1\r\nHost: hello.example\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await eventually(lambda: one.waiting == 1, what="the app has the request though its body has not ended")
        writer.write(b"0\r\n\r\n")
        one.release.set()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_many_backends_are_reached_each_by_its_own_route(front: Front, backends: Callable[..., Any]) -> None:
    """More than one pool of idle connections is good for: paths, bodies and retries are as before."""
    one, two = await backends("one", "two")
    many = [
        proc(f"app-{number}", host=f"app-{number}.example", ready=(f"{fresh_address()}:9",)) for number in range(80)
    ]
    await front.put(
        *many,
        proc("root", one, host="x.example"),
        proc("path", two, host="x.example", path="/api"),
        proc("pair", one, two, host="pair.example"),
    )
    for _ in range(3):
        assert (await front.get("/a?b", "x.example")).json["uri"] == "/a?b"
        answer = (await front.get("/api/v1?x=1", "x.example")).json
        assert (answer["backend"], answer["uri"]) == ("two", "/v1?x=1")
        assert (await front.request("POST", "/api/v1", "x.example", data=b"body")).json["body"] == "body"
    assert (await front.get("/", "app-7.example")).status == 502
    await two.stop()
    assert {(await front.get("/", "pair.example")).json["backend"] for _ in range(6)} == {"one"}


@asynccontextmanager
async def scripted(answer: Callable[[int], Awaitable[bytes]]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A backend that answers its n-th request with what ``answer(n)`` says, or closes for b"". Its peer, and what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            while True:
                asked.append(await reader.readuntil(b"\r\n\r\n"))
                said = await answer(len(asked))
                if not said:
                    return
                writer.write(said)
                await writer.drain()

    server = await asyncio.start_server(serve, fresh_address(), 0)
    address, port = server.sockets[0].getsockname()
    try:
        yield f"{address}:{port}", asked
    finally:
        server.close()
        await server.wait_closed()


async def test_an_app_cannot_send_a_request_through_the_router_once_more(front: Front) -> None:
    """nginx would, for a header: the first attempt stayed in flight for ever, and its address busy."""

    async def answer(_number: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\nX-Accel-Redirect: /again\r\nContent-Length: 2\r\n\r\nok"

    async with scripted(answer) as (peer, asked):
        await front.put(proc("hello", ready=(peer,)))
        said = await front.get("/")
        assert (said.status, said.body, len(asked)) == (200, b"ok", 1)
        assert "X-Accel-Redirect" not in said.headers
        await eventually(lambda: _nothing_in_flight(front), what="nothing is in flight any more")


async def _nothing_in_flight(front: Front) -> bool:
    return (await front.state()).inflight == {}


async def test_a_second_attempt_does_not_go_to_who_left_the_table_meanwhile(front: Front) -> None:
    """Nobody else is there to ask; but the acknowledgement said that nothing more is sent to that address."""
    let_go = asyncio.Event()

    async def answer(number: int) -> bytes:
        if number == 1:
            return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        await let_go.wait()
        return b""

    async with scripted(answer) as (peer, asked):
        await front.put(proc("hello", ready=(peer,)))
        assert (await front.get("/")).status == 200
        second = asyncio.create_task(front.get("/"))
        await eventually(
            lambda: len(asked) == 2, what="the second request is there, on the idle connection or a new one"
        )
        await front.put(proc("hello", draining=(peer.partition(":")[0],)))
        let_go.set()
        assert (await second).status == 502
        assert len(asked) == 2
