"""Procs: what runs of each, scale, start, stop, restart; and the streams of their instances."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import structlog
from aiohttp import web

from lain_console.adapters.agents import relay
from lain_console.api.apps import accepted
from lain_console.api.context import context
from lain_console.api.schemas import PARAMETERS, ExecSchema, LogsSchema, OperateSchema, ProcSchema
from lain_console.procs import Scaling
from lain_console.releases import Started
from lain_sdk.api_types import Accepted, ProcView
from lain_shared.errors import Invalid, LainError
from lain_shared.http_server import Api, parse, principal, query, reply, require_websocket
from lain_shared.tokens import Access

log = structlog.get_logger()
routes = Api("console", "", parameters=PARAMETERS)
PROCS = "/api/v1/apps/{app}/procs/"
PROC = "/api/v1/apps/{app}/procs/{proc}/"
INSTANCE = "/api/v1/apps/{app}/procs/{proc}/instances/{instance}/"
FIRST_LINE_SECONDS = 1.0
"""A refusal of the agent comes within this time and keeps its status; after that the answer has begun."""
MAX_FRAME_BYTES = 1024 * 1024


@routes.get(PROCS, access=Access.READ, summary="Procs of an app", response=tuple[ProcView, ...])
async def list_procs(request: web.Request) -> web.Response:
    return reply((await context(request).reading.app(request.match_info["app"])).procs)


@routes.patch(
    PROCS,
    access=Access.DEPLOY,
    summary="Start, stop, restart all",
    request=OperateSchema,
    response=Accepted,
    status=202,
    also=(200,),
)
async def operate_all(request: web.Request) -> web.Response:
    wanted = await parse(request, OperateSchema)
    if wanted["instance"]:
        raise Invalid("an instance needs its proc: PATCH …/procs/<proc>/", code="invalid_request")
    started = await _operate(request, wanted["operation"], None, None, replace_running=wanted["replace"])
    return await accepted(request, started)


@routes.get(PROC, access=Access.READ, summary="One proc", response=ProcView)
async def get_proc(request: web.Request) -> web.Response:
    return reply(await context(request).reading.proc(request.match_info["app"], request.match_info["proc"]))


@routes.patch(
    PROC,
    access=Access.DEPLOY,
    summary="Scale, start, stop, restart",
    request=ProcSchema,
    response=Accepted,
    status=202,
    also=(200,),
)
async def set_proc(request: web.Request) -> web.Response:
    """Either ``instances``, ``cpu``, ``memory``, ``reset``; or ``operation`` and, for one of them, ``instance``."""
    wanted, proc = await parse(request, ProcSchema), request.match_info["proc"]
    if wanted["operation"] is not None:
        instance = wanted["instance"] or None
        started = await _operate(request, wanted["operation"], proc, instance, replace_running=wanted["replace"])
        return await accepted(request, started)
    scaling = Scaling(wanted["instances"], wanted["cpu"], wanted["memory"], wanted["reset"])
    started = await context(request).procs.scale(
        request.match_info["app"], proc, scaling, principal(request).name, replace_running=wanted["replace"]
    )
    return await accepted(request, started)


async def _operate(
    request: web.Request, operation: str, proc: str | None, instance: int | None, *, replace_running: bool
) -> Started:
    procs, app, who = context(request).procs, request.match_info["app"], principal(request).name
    match operation:
        case "restart":
            return await procs.restart(app, proc, instance, who)
        case "stop":
            return await procs.stop(app, proc, instance, who, replace_running=replace_running)
        case _:
            return await procs.start(app, proc, instance, who)


def _instance(request: web.Request) -> tuple[str, str, int]:
    text = request.match_info["instance"]
    if not text.isdecimal() or len(text) > 6:
        raise Invalid(f"{text!r} is not an instance number", code="invalid_request")
    return request.match_info["app"], request.match_info["proc"], int(text)


@routes.get(
    INSTANCE + "logs/",
    access=Access.READ,
    summary="Output of an instance, as lines",
    query=LogsSchema,
    media=("text/plain",),
)
async def logs(request: web.Request) -> web.StreamResponse:
    """``follow``: go on as it comes. ``previous``: of the container before the last restart. ``since``: seconds since the epoch."""
    wanted = query(request, LogsSchema)
    located = await context(request).reading.locate(*_instance(request))
    response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    response.content_type = "text/plain"
    response.charset = "utf-8"
    async with aclosing(context(request).agents.logs(located.agent_url, located.pod, wanted)) as lines:
        first = asyncio.ensure_future(anext(lines, None))
        try:
            await asyncio.wait({first}, timeout=FIRST_LINE_SECONDS)
            if first.done() and (refusal := first.exception()) is not None:
                raise refusal
            await response.prepare(request)
            line = await first
            while line is not None:
                await response.write(line + b"\n")
                line = await anext(lines, None)
        except LainError as error:
            if not response.prepared:
                raise
            log.info("log_stream_broke", app=located.pod.app, node=located.node, error=error.message)
            if request.transport is not None:
                request.transport.abort()  # so that nobody takes what came for all there is
        except ConnectionResetError:
            log.debug("log_stream_left", app=located.pod.app)
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
    return response


@routes.get(
    INSTANCE + "exec/", access=Access.DEPLOY, summary="A command inside an instance (WebSocket)", query=ExecSchema, status=101,
    errors=(409,),
)  # fmt: skip
async def exec_(request: web.Request) -> web.StreamResponse:
    """``?cmd=ls&cmd=-l&tty=true``. Binary to the server is stdin; binary from it is one byte (1 stdout, 2 stderr) and data."""
    command = request.query.getall("cmd", [])
    if not command:
        raise Invalid("say what to run: ?cmd=…", code="invalid_request")
    require_websocket(request)
    located = await context(request).reading.locate(*_instance(request))
    tty = request.query.get("tty") == "true"
    async with context(request).agents.exec(located.agent_url, located.pod, command, tty=tty) as agent:
        socket = web.WebSocketResponse(heartbeat=10.0, max_msg_size=MAX_FRAME_BYTES)
        await socket.prepare(request)
        log.info(
            "exec_started", app=located.pod.app, pod=str(located.pod), node=located.node, who=principal(request).name
        )
        await relay(socket, agent)
    return socket
