"""``/api/v1/platform/``: how the platform itself is, for whoever asks what is wrong with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from lain_shared.http_server import Api, reply
from lain_shared.platform_view import PlatformView
from lain_shared.tokens import Access

api = Api("deployd", "")

PLATFORM: web.AppKey[Callable[[], Awaitable[PlatformView]]] = web.AppKey("platform", Callable)  # type: ignore[arg-type]


@api.get(
    "/api/v1/platform/",
    access=Access.READ,
    summary="etcd's members, who leads, unreadable records, nodes: as this replica sees them",
    response=PlatformView,
)
async def platform(request: web.Request) -> web.StreamResponse:
    return reply(await request.app[PLATFORM]())
