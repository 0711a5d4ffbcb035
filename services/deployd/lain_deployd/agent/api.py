"""The agent's API: the pods of this node, their output, and commands inside them. Callers are daemons (the console relays)."""

from __future__ import annotations

from aiohttp import web

from lain_deployd.agent.engine import Engine
from lain_deployd.agent.keeper import Keeper
from lain_shared.http_server import Api, reply
from lain_shared.loop import Loop
from lain_shared.model.pod import Observed
from lain_shared.tokens import Access

KEEPER: web.AppKey[Keeper] = web.AppKey("keeper", Keeper)
ENGINE: web.AppKey[Engine] = web.AppKey("engine", Engine)
NODE_LOOP: web.AppKey[Loop] = web.AppKey("node_loop", Loop)

api = Api("agent", "0.1.0", "The pods of one node: what runs, its output, commands inside.")


@api.get("/api/v1/pods/", access=Access.DAEMON, summary="The pods of this node, as seen now", response=list[Observed])
async def pods(request: web.Request) -> web.Response:
    report = request.app[KEEPER].report
    return reply([report[pod] for pod in sorted(report)])
