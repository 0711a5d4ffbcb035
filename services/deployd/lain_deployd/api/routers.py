"""``/api/v1/routers/``: the routers every rollout waits for."""

from __future__ import annotations

from aiohttp import web

from lain_deployd.api.common import ADMIN, PARAMETERS, SNAPSHOTS
from lain_deployd.controller import views
from lain_shared.deployd_views import RouterView
from lain_shared.http_server import Api, no_content, principal, reply
from lain_shared.tokens import Access

api = Api("deployd", "", parameters=PARAMETERS)


@api.get("/api/v1/routers/", access=Access.READ, summary="All routers", response=tuple[RouterView, ...])
async def list_routers(request: web.Request) -> web.StreamResponse:
    return reply(views.routers(request.app[SNAPSHOTS]()))


@api.delete(
    "/api/v1/routers/{router}/",
    access=Access.OPERATOR,
    summary="Forget a router that is gone for good: no rollout waits for it any more",
    status=204,
)
async def forget_router(request: web.Request) -> web.StreamResponse:
    await request.app[ADMIN].forget_router(request.match_info["router"], principal(request).name)
    return no_content()
