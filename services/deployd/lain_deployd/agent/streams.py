"""A pod's output, over its restarts; and a command inside it, over a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import aiohttp
import msgspec
from aiohttp import web

from lain_deployd.agent.engine import Container, Engine, ExecSession
from lain_deployd.agent.execute import after
from lain_deployd.agent.keeper import Keeper
from lain_deployd.agent.plan import ALIVE
from lain_shared.errors import Conflict, Invalid, LainError, NotFound
from lain_shared.model.pod import PodId

FOLLOW_POLL_SECONDS = 0.2
"""How often a followed pod is looked at while its container does not run."""


class NoSuchPod(NotFound):
    code = "no_such_pod"


class Resize(msgspec.Struct):
    """A text frame from the client: the terminal's new size, or the end of the input."""

    resize: tuple[int, int] | None = None
    eof: bool = False


def container_of(keeper: Keeper, name: str) -> tuple[PodId, Container]:
    """The container that stands for the pod of that name now. ``Invalid``, ``NoSuchPod``."""
    try:
        pod = PodId.parse(name)
    except ValueError as error:
        raise Invalid(str(error)) from error
    container = keeper.view(pod).container
    if container is None:
        raise NoSuchPod(f"{pod} has no container on node {keeper.node}", next=f"lain ps {pod.app}")
    return pod, container


async def output(
    keeper: Keeper, engine: Engine, name: str, *, follow: bool, previous: bool, since: float | None, tail: int | None
) -> AsyncGenerator[bytes, None]:
    """Pieces of output as they come. ``follow`` goes on over restarts until the pod is gone; ``previous`` is the run that ended last."""
    pod, container = container_of(keeper, name)
    if previous:
        memory = keeper.view(pod).memory
        if memory is None or memory.ended_at is None:
            raise NoSuchPod(f"{pod} has not ended a run on this node", why="it never restarted")
        start = max(since or 0.0, after(memory.ended_before_at))
        async with engine.logs(container.id, since=start, until=after(memory.ended_at), tail=tail) as chunks:
            async for chunk in chunks:
                yield chunk.data
        return
    start = since or 0.0
    while True:
        run = container.started_at
        async with engine.logs(container.id, follow=follow, since=start, tail=tail) as chunks:
            async for chunk in chunks:
                yield chunk.data
        if not follow:
            return
        following = await _next_run(keeper, pod, run)
        if following is None:
            return
        ended = keeper.view(pod).memory
        container, start, tail = following, after(ended.ended_at if ended is not None else None), None


async def _next_run(keeper: Keeper, pod: PodId, run: float | None) -> Container | None:
    """Wait for the run after ``run``; None: the pod is gone, or is not to run again."""
    while True:
        view = keeper.view(pod)
        if (
            view.order is None
            or not view.order.assignment.run
            or (view.memory and view.memory.done_exit_code is not None)
        ):
            return None
        if view.container is not None and view.container.started_at != run:
            return view.container
        await asyncio.sleep(FOLLOW_POLL_SECONDS)


def running_container(keeper: Keeper, name: str) -> Container:
    """As ``container_of``, and it runs."""
    pod, container = container_of(keeper, name)
    if container.state not in ALIVE:
        raise Conflict(
            f"{pod} does not run now", why=f"its container is {container.state.value}", code="pod_not_running"
        )
    return container


async def relay(socket: web.WebSocketResponse, session: ExecSession) -> None:
    """Frames both ways until the command ends or the client leaves; the last one tells the exit code."""
    reading = asyncio.create_task(_from_client(socket, session), name="exec-input")
    writing = asyncio.create_task(_to_client(socket, session), name="exec-output")
    try:
        await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
        if writing.done() and not socket.closed:
            writing.result()
            await socket.send_str(msgspec.json.encode({"exit": await session.exit_code()}).decode())
            await socket.close()
    finally:
        reading.cancel()
        writing.cancel()
        await asyncio.gather(reading, writing, return_exceptions=True)


async def _to_client(socket: web.WebSocketResponse, session: ExecSession) -> None:
    while (chunk := await session.read()) is not None:
        await socket.send_bytes(bytes((chunk.stream,)) + chunk.data)


async def _from_client(socket: web.WebSocketResponse, session: ExecSession) -> None:
    """Ends when the client leaves; input that the command no longer takes is dropped."""
    try:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                await session.write(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                await _control(session, message.data)
    except LainError:
        await asyncio.Event().wait()  # the command is ending: its output decides when we are done


async def _control(session: ExecSession, text: str) -> None:
    try:
        asked = msgspec.json.decode(text, type=Resize)
    except msgspec.MsgspecError:
        return  # a newer client may say more than we know
    if asked.resize is not None:
        await session.resize(*asked.resize)
    if asked.eof:
        await session.close_input()
