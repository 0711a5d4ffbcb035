"""Who calls, and what a client must know of the cluster."""

from __future__ import annotations

from aiohttp import web

from lain_console.api.context import context
from lain_console.api.schemas import PARAMETERS
from lain_sdk.api_types import ClusterView, WhoamiView
from lain_shared.http_server import Api, principal, reply
from lain_shared.platform_view import PlatformView
from lain_shared.tokens import Access

routes = Api("console", "", parameters=PARAMETERS)


@routes.get("/api/v1/whoami/", access=Access.AUTHENTICATED, summary="Who calls", response=WhoamiView)
async def whoami(request: web.Request) -> web.Response:
    caller = principal(request)
    role = caller.role.value if caller.role is not None else "daemon"
    return reply(WhoamiView(caller.name, role, caller.apps, caller.kind))


@routes.get(
    "/api/v1/platform/",
    access=Access.READ,
    summary="etcd's members, who leads deployd, unreadable records, nodes: as this replica sees them",
    response=PlatformView,
)
async def platform(request: web.Request) -> web.Response:
    return reply(await context(request).reading.platform())


@routes.get("/api/v1/cluster/", access=Access.AUTHENTICATED, summary="Domains, router, registry", response=ClusterView)
async def cluster(request: web.Request) -> web.Response:
    return reply(await context(request).reading.cluster())
