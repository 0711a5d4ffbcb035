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
OPEN_PATHS = ("/plan/", "/api/v1/tokens/")
"""A plan changes nothing; a leaked token is revoked at any time."""


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
        if request.method not in ("GET", "HEAD", "OPTIONS") and not any(path in request.path for path in OPEN_PATHS):
            on = mirrors.switches_on()
            for name in CLOSING:
                if name in on:
                    raise Unavailable(
                        f"the cluster is in {name} mode: nothing is changed now",
                        why=on[name] or "an operator said so",
                        next=f"try again later; an operator ends it with: lainctl switch {name} off",
                        code=name,
                    )
        return await handler(request)

    return middleware
