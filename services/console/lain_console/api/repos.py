"""Registered names, their versions, and who may share their hosts."""

from __future__ import annotations

from aiohttp import web

from lain_console import views
from lain_console.access import require
from lain_console.api.context import context
from lain_console.api.schemas import PARAMETERS, GuestsSchema, RegisterSchema
from lain_sdk.api_types import HostView, RepoView, VersionsView
from lain_shared.http_server import Api, no_content, parse, principal, reply
from lain_shared.tokens import Access

routes = Api("console", "", parameters=PARAMETERS)
REPOS = "/api/v1/repos/"
REPO = "/api/v1/repos/{app}/"


@routes.get(REPOS, access=Access.AUTHENTICATED, summary="Registered apps", response=tuple[RepoView, ...])
async def list_repos(request: web.Request) -> web.Response:
    return reply(await context(request).reading.repos(principal(request)))


@routes.post(
    REPOS, access=Access.AUTHENTICATED, summary="Register a name", request=RegisterSchema, response=RepoView, status=201
)
async def register(request: web.Request) -> web.Response:
    """Reserve a name and its default hosts."""
    wanted, caller = await parse(request, RegisterSchema), principal(request)
    require(caller, Access.DEPLOY, wanted["name"], "register")
    await context(request).apps.register(wanted["name"], wanted["giturl"], caller.name)
    return reply(await context(request).reading.repo(wanted["name"]), status=201)


@routes.get(REPO, access=Access.READ, summary="One registered app", response=RepoView)
async def get_repo(request: web.Request) -> web.Response:
    return reply(await context(request).reading.repo(request.match_info["app"]))


@routes.delete(REPO, access=Access.ADMIN, summary="Give a name back", status=204)
async def unregister(request: web.Request) -> web.Response:
    await context(request).apps.unregister(request.match_info["app"], principal(request).name)
    return no_content()


@routes.get(REPO + "versions/", access=Access.READ, summary="Versions, newest first", response=VersionsView)
async def versions(request: web.Request) -> web.Response:
    app = request.match_info["app"]
    found = await context(request).releases.versions(app)
    return reply(views.versions_view(app, found, await context(request).reading.current_version(app)))


@routes.put(
    REPO + "hosts/{host}/", access=Access.ADMIN, summary="Share a host", request=GuestsSchema, response=HostView
)
async def set_guests(request: web.Request) -> web.Response:
    """Which other apps may claim paths on a host of this app."""
    wanted = await parse(request, GuestsSchema)
    app, host = request.match_info["app"], request.match_info["host"]
    return reply(await context(request).apps.set_guests(app, host, wanted["guests"], principal(request).name))
