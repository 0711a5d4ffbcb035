"""The console's HTTP API: every noun's routes, and the switches that close it for changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from lain_console import version
from lain_console.api import administration, apps, cluster, operations, procs, repos
from lain_console.mirrors import Mirrors
from lain_shared.errors import Unavailable
from lain_shared.http_server import Api

DESCRIPTION = "Apps, releases, operations: what should run. Every change answers 202 and an operation to follow."
CLOSING = ("readonly", "maintenance")
READING = ("GET", "HEAD", "OPTIONS")
OPEN = frozenset({apps.APP + "plan/", administration.TOKENS, administration.TOKENS + "{id}/"})
"""A plan changes nothing; a leaked token is revoked at any time."""
CHANGING = frozenset({procs.INSTANCE + "exec/"})
"""Asked for with GET, and yet a change may come of it."""


def build_api() -> Api:
    """Every route of the console."""
    api = Api("console", version(), DESCRIPTION)
    api.include(cluster.routes, repos.routes, apps.routes, procs.routes, operations.routes, administration.routes)
    return api


def closed_by_switches(mirrors: Mirrors) -> Any:
    """Refuse changes (503) while ``readonly`` or ``maintenance`` is on."""

    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if _changes(request):
            on = mirrors.switches_on()
            for name in CLOSING:
                if name in on:
                    raise Unavailable(
                        f"the cluster is in {name} mode: nothing is changed now",
                        why=on[name] or "an operator said so",
                        next=f"try again later; an operator ends it with: lainctl switch set {name} off",
                        code=name,
                    )
        return await handler(request)

    return middleware


def _changes(request: web.Request) -> bool:
    """By the route that answers, never by what names happen to stand in the path."""
    resource = request.match_info.route.resource
    if resource is None or resource.canonical in OPEN:
        return False
    return request.method not in READING or resource.canonical in CHANGING
