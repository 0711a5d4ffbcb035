"""``/api/v1/pods/``, ``assignments/`` and ``why/``: what runs where, what was ordered, and why there and not elsewhere."""

from __future__ import annotations

import asyncio

from aiohttp import web

from lain_deployd.api.common import PARAMETERS, SNAPSHOTS, seen_by
from lain_deployd.controller import views
from lain_shared.deployd_views import AssignmentView, PodView, WhyView
from lain_shared.http_server import Api, principal, reply
from lain_shared.tokens import Access

api = Api("deployd", "", parameters=PARAMETERS)


@api.get(
    "/api/v1/pods/",
    access=Access.AUTHENTICATED,
    summary="All pods the caller may see, as their status shows them",
    response=tuple[PodView, ...],
)
async def list_pods(request: web.Request) -> web.StreamResponse:
    caller = principal(request)
    return reply([pod for pod in views.pods(request.app[SNAPSHOTS]()) if seen_by(caller, pod.app)])


@api.get(
    "/api/v1/assignments/",
    access=Access.OPERATOR,
    summary="All orders to nodes; they carry the apps' environment",
    response=tuple[AssignmentView, ...],
)
async def list_assignments(request: web.Request) -> web.StreamResponse:
    return reply(views.assignments(request.app[SNAPSHOTS]()))


@api.get(
    "/api/v1/why/{app}/{proc}/",
    access=Access.READ,
    summary="Why its pods are where they are, and why not elsewhere",
    response=WhyView,
)
async def get_why(request: web.Request) -> web.StreamResponse:
    app, proc = request.match_info["app"], request.match_info["proc"]
    return reply(await asyncio.to_thread(views.why, request.app[SNAPSHOTS](), app, proc))
