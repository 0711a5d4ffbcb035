"""The agent's API: the pods of this node, their output, and commands inside them. Callers are daemons (the console relays)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import structlog
from aiohttp import web
from marshmallow import Schema, fields, validate

from lain_deployd.agent import streams, volumes
from lain_deployd.agent.engine import Engine
from lain_deployd.agent.keeper import Keeper
from lain_deployd.agent.loops import NodeReport
from lain_shared import keys
from lain_shared.agent_views import LossView, NodeVolume
from lain_shared.errors import Invalid, LainError, NotFound
from lain_shared.http_server import Api, principal, query, reply, require_websocket
from lain_shared.json_fields import QueryFlag, QueryNumber, QueryWhole
from lain_shared.loop import Loop
from lain_shared.model.pod import Observed
from lain_shared.tokens import Access

log = structlog.get_logger()

KEEPER: web.AppKey[Keeper] = web.AppKey("keeper", Keeper)
ENGINE: web.AppKey[Engine] = web.AppKey("engine", Engine)
NODE: web.AppKey[NodeReport] = web.AppKey("node", NodeReport)
NODE_LOOP: web.AppKey[Loop] = web.AppKey("node_loop", Loop)
RELAYS = (keys.CONSOLE,)
"""Who may read output and run commands for people: it has asked them who they are. No other daemon's certificate passes."""
MAX_FRAME_BYTES = 1024 * 1024

MAX_SECONDS = 1e10
"""Since the epoch: the year 2286."""
PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "pod": {"type": "string", "pattern": r"^.{1,128}\.[^.]{1,63}-[0-9]{1,6}\.g[0-9]{1,18}$"},
    "volume": {"type": "string", "minLength": 1, "maxLength": 255},
}
"""What stands in a path."""

api = Api("agent", "0.1.0", "The pods of one node: what runs, its output, commands inside.", PARAMETERS)


class LogsSchema(Schema):
    """``since``: seconds since the epoch. ``previous``: the run that ended last. ``follow``: else go on, over restarts, till it is gone."""

    follow = QueryFlag(load_default=False)
    previous = QueryFlag(load_default=False)
    since = QueryNumber(load_default=None, allow_none=False, validate=validate.Range(0, MAX_SECONDS))
    tail = QueryWhole(load_default=None, allow_none=False, validate=validate.Range(0, 1_000_000))


class ExecSchema(Schema):
    """The command's words, and whether it wants a terminal."""

    cmd = fields.List(fields.Str(validate=validate.Length(1, 1000)), required=True, validate=validate.Length(1, 50))
    tty = QueryFlag(load_default=False)


@api.get("/api/v1/pods/", access=Access.DAEMON, summary="The pods of this node, as seen now", response=list[Observed])
async def pods(request: web.Request) -> web.Response:
    report = request.app[KEEPER].report
    return reply([report[pod] for pod in sorted(report)])


@api.get(
    "/api/v1/pods/{pod}/logs/",
    access=Access.DAEMON,
    daemons=RELAYS,
    summary="Output of a pod, as it came",
    query=LogsSchema,
    media=("text/plain",),
)
async def logs(request: web.Request) -> web.StreamResponse:
    wanted = query(request, LogsSchema)
    response = web.StreamResponse(headers={"Cache-Control": "no-store"})
    response.content_type, response.charset = "text/plain", "utf-8"
    pieces = streams.output(request.app[KEEPER], request.app[ENGINE], request.match_info["pod"], **wanted)
    async with aclosing(pieces):
        try:
            if wanted["previous"] or not wanted["follow"]:
                first = await anext(pieces, b"")  # a refusal still has its status
                await response.prepare(request)
                await response.write(first)
            else:
                streams.container_of(request.app[KEEPER], request.match_info["pod"])
                await response.prepare(request)
            async for piece in pieces:
                await response.write(piece)
        except LainError as error:
            if not response.prepared:
                raise
            log.info("log_stream_broke", pod=request.match_info["pod"], error=error.message)
            if request.transport is not None:
                request.transport.abort()  # so that nobody takes what came for all there is
        except ConnectionResetError:
            log.debug("log_stream_left", pod=request.match_info["pod"])
    return response


@api.get(
    "/api/v1/pods/{pod}/exec/", access=Access.DAEMON, daemons=RELAYS, summary="A command inside a pod (WebSocket)",
    query=ExecSchema, status=101, errors=(409,),
)  # fmt: skip
async def exec_(request: web.Request) -> web.StreamResponse:
    """``?cmd=ls&cmd=-l&tty=true``. Binary to us is its input; binary from us is one byte (1 stdout, 2 stderr) and data.

    Text to us: ``{"resize": [columns, rows]}``, ``{"eof": true}``; text from us: ``{"exit": n}``, last.
    """
    command = tuple(request.query.getall("cmd", []))
    if not command:
        raise Invalid("say what to run: ?cmd=…", code="invalid_request")
    require_websocket(request)
    container = streams.running_container(request.app[KEEPER], request.match_info["pod"])
    terminal = request.query.get("tty") == "true"
    async with request.app[ENGINE].exec(container.id, command, terminal=terminal) as session:
        socket = web.WebSocketResponse(heartbeat=10.0, max_msg_size=MAX_FRAME_BYTES)
        await socket.prepare(request)
        log.info("exec_started", pod=request.match_info["pod"], who=principal(request).name)
        await streams.relay(socket, session)
    return socket


@api.get(
    "/api/v1/volumes/", access=Access.DAEMON, summary="Instances with data on this node", response=list[NodeVolume]
)
async def list_volumes(request: web.Request) -> web.Response:
    node = request.app[NODE]
    missing = await node.look_at_volumes()
    return reply(
        [
            NodeVolume(name, str(volumes.path_of(name, node.root)), name in missing)
            for name in request.app[KEEPER].saved.volumes
        ]
    )


@api.post(
    "/api/v1/volumes/{volume}/confirm-loss/", access=Access.OPERATOR,
    summary="Confirm that the data of an instance is lost: it may start with none", response=LossView,
)  # fmt: skip
async def confirm_loss(request: web.Request) -> web.Response:
    name, node = request.match_info["volume"], request.app[NODE]
    if name not in await node.look_at_volumes():
        raise NotFound(f"no data of {name} is missed on this node", code="no_such_volume")
    node.forget_volume(name)
    log.warning("volume_loss_confirmed", volume=name, who=principal(request).name)
    request.app[NODE_LOOP].wake()
    return reply(LossView(name))
