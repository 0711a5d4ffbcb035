"""Logs and exec, relayed from an agent: here one that answers as the real one does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web

from lain_sdk.client import Console
from lain_shared.errors import Denied, Invalid, NotFound, Unavailable
from lain_shared.http_server import reply
from lain_shared.model.config import Role
from lain_shared.testing import eventually
from tests.fixtures.console import ClusterForConsole


@dataclass
class FakeAgent:
    """The agent's streams, for one pod that speaks when told to."""

    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    speak: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    breaks: bool = False

    async def logs(self, request: web.Request) -> web.StreamResponse:
        self.asked.append({**request.query, "pod": request.match_info["pod"]})
        if request.query.get("previous") == "true":
            body = {"code": "no_previous", "message": "there was no container before", "why": "", "next": ""}
            return reply({"error": {**body, "evidence": {}, "retry_seconds": None}}, status=404)
        response = web.StreamResponse()
        await response.prepare(request)
        while (line := await self.speak.get()) is not None:
            await response.write(line + b"\n")
        if self.breaks and request.transport is not None:
            request.transport.abort()
        return response

    async def exec(self, request: web.Request) -> web.StreamResponse:
        self.asked.append({"cmd": " ".join(request.query.getall("cmd")), "pod": request.match_info["pod"]})
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                await socket.send_bytes(b"\x01" + message.data.upper())
            elif message.type is aiohttp.WSMsgType.TEXT and message.json() == {"eof": True}:
                await socket.send_json({"exit": 7})
                break
        await socket.close()
        return socket


@pytest.fixture
async def agent(cluster: ClusterForConsole) -> AsyncIterator[FakeAgent]:
    made = FakeAgent()
    app = web.Application()
    app.router.add_get("/api/v1/pods/{pod}/logs/", made.logs)
    app.router.add_get("/api/v1/pods/{pod}/exec/", made.exec)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    await cluster.add_node("n1", agent_url=made.url)
    yield made
    made.speak.put_nowait(None)
    await runner.cleanup()


@pytest.fixture
async def hello(cluster: ClusterForConsole, lain: Console) -> Console:
    """hello runs."""
    await lain.register("hello")
    await cluster.release("1-aaa")
    accepted = await lain.deploy("hello")
    assert accepted.operation is not None
    await lain.wait("hello", accepted.operation.id)
    return lain


async def test_lines_come_as_they_are_written(hello: Console, agent: FakeAgent) -> None:
    lines = hello.logs("hello", "web", 1, follow=True, since=12.5, tail=10)
    for text in (b"one", "zwölf".encode(), b"\xff\xfe"):
        agent.speak.put_nowait(text)
        assert await anext(aiter(lines)) == text
    agent.speak.put_nowait(None)
    assert [line async for line in lines] == []
    assert agent.asked == [
        {"pod": "hello.web-1.g1", "follow": "true", "previous": "false", "since": "12.5", "tail": "10"}
    ]


async def test_a_silent_pod_keeps_the_stream_open(hello: Console, agent: FakeAgent) -> None:
    lines = aiter(hello.logs("hello", "web", 1, follow=True))
    first = asyncio.ensure_future(anext(lines))
    began = time.monotonic()
    await eventually(lambda: agent.asked, what="the agent was asked")
    await asyncio.wait({first}, timeout=1.5)
    assert not first.done() and time.monotonic() - began > 1.0
    agent.speak.put_nowait(b"at last")
    assert await first == b"at last"
    await lines.aclose()  # type: ignore[attr-defined]


async def test_the_agents_refusal_keeps_its_status(hello: Console, agent: FakeAgent) -> None:
    with pytest.raises(NotFound, match="no container before"):
        await anext(aiter(hello.logs("hello", "web", 1, previous=True)))


async def test_a_stream_that_breaks_off_is_not_taken_for_all_there_is(hello: Console, agent: FakeAgent) -> None:
    agent.breaks = True
    agent.speak.put_nowait(b"one")
    agent.speak.put_nowait(None)
    with pytest.raises(Unavailable):
        async for line in hello.logs("hello", "web", 1, follow=True):
            assert line == b"one"


async def test_what_does_not_run_has_no_logs(cluster: ClusterForConsole, hello: Console, agent: FakeAgent) -> None:
    for proc, instance in (("web", 9), ("nobody", 1)):
        with pytest.raises(NotFound, match="no running instance"):
            await anext(aiter(hello.logs("hello", proc, instance)))
    with pytest.raises(NotFound, match="not registered"):
        await anext(aiter(hello.logs("nobody", "web", 1)))
    await cluster.add_node("n1", agent_url="http://127.0.0.1:1")
    with pytest.raises(Unavailable, match="cannot be reached"):
        await anext(aiter(hello.logs("hello", "web", 1)))
    await cluster.state.alive.delete("n1")
    with pytest.raises(Unavailable, match="node n1, where web 1 of hello is, is away"):
        await anext(aiter(hello.logs("hello", "web", 1)))


async def test_a_command_runs_inside(hello: Console, agent: FakeAgent) -> None:
    async with hello.exec("hello", "web", 1, ["sh", "-c", "cat"]) as socket:
        await socket.send_bytes(b"hello")
        assert await socket.receive_bytes() == b"\x01HELLO"
        await socket.send_str('{"eof": true}')
        assert await socket.receive_json() == {"exit": 7}
        assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
    assert agent.asked == [{"cmd": "sh -c cat", "pod": "hello.web-1.g1"}]


async def test_a_command_needs_the_right_and_words(
    cluster: ClusterForConsole, hello: Console, agent: FakeAgent
) -> None:
    viewer = await cluster.client(await cluster.console("c2"), Role.VIEWER, "hello", name="vic")
    with pytest.raises(Denied):
        async with viewer.exec("hello", "web", 1, ["sh"]):
            pass
    with pytest.raises(Invalid):
        async with hello.exec("hello", "web", 1, []):
            pass
