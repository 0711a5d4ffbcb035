"""Apps: what runs, plan, deploy, roll back, undeploy, environment, explain."""

from __future__ import annotations

from aiohttp import web

from lain_console.api.context import context
from lain_console.api.schemas import PARAMETERS, DeploySchema, EnvSchema, RollbackSchema, UndeploySchema
from lain_console.releases import Started
from lain_sdk.api_types import Accepted, AppView, EnvView, ExplainView, PlanView
from lain_shared.http_server import Api, parse, principal, query, reply
from lain_shared.tokens import Access

routes = Api("console", "", parameters=PARAMETERS)
APP = "/api/v1/apps/{app}/"


async def accepted(request: web.Request, started: Started | None) -> web.Response:
    """202 and the operation; 200 when there was nothing to do."""
    if started is None or started.operation is None:
        return reply(Accepted(None, started.plan if started is not None else None))
    view = await context(request).reading.operation_of(started.operation)
    return reply(Accepted(view, started.plan), status=202)


@routes.get(
    "/api/v1/apps/", access=Access.AUTHENTICATED, summary="Deployed apps, without pods", response=tuple[AppView, ...]
)
async def list_apps(request: web.Request) -> web.Response:
    return reply(await context(request).reading.apps(principal(request)))


@routes.get(APP, access=Access.READ, summary="One app, whole", response=AppView)
async def get_app(request: web.Request) -> web.Response:
    return reply(await context(request).reading.app(request.match_info["app"]))


@routes.put(
    APP,
    access=Access.DEPLOY,
    summary="Deploy a version",
    request=DeploySchema,
    response=Accepted,
    status=202,
    also=(200,),
)
async def deploy(request: web.Request) -> web.Response:
    """Move the app to a version (the newest deployable one if none is named)."""
    wanted, app, who = await parse(request, DeploySchema), request.match_info["app"], principal(request).name
    releases = context(request).releases
    if wanted["plan_only"]:
        plan = await releases.plan(app, who, wanted["meta_version"], wanted["proc"], replace_running=wanted["replace"])
        return reply(Accepted(None, plan))
    started = await releases.deploy(app, who, wanted["meta_version"], wanted["proc"], replace_running=wanted["replace"])
    return await accepted(request, started)


@routes.post(
    APP + "plan/", access=Access.READ, summary="What a deploy would do", request=DeploySchema, response=PlanView
)
async def plan(request: web.Request) -> web.Response:
    """The diff and the verdict of a deploy; nothing is changed. A refused plan is an answer."""
    wanted, app, who = await parse(request, DeploySchema), request.match_info["app"], principal(request).name
    return reply(
        await context(request).releases.plan(
            app, who, wanted["meta_version"], wanted["proc"], replace_running=wanted["replace"]
        )
    )


@routes.delete(
    APP,
    access=Access.DEPLOY,
    summary="Take an app out of service",
    query=UndeploySchema,
    response=Accepted,
    status=202,
    also=(200,),
)
async def undeploy(request: web.Request) -> web.Response:
    """Its name, releases and history stay, and so do its volumes, which are listed. With ``delete_volumes=<the app's name>`` their nodes
    delete them once nothing of the app is left there."""
    wanted, app, who = query(request, UndeploySchema), request.match_info["app"], principal(request).name
    operation, volumes = await context(request).apps.undeploy(app, who, wanted["delete_volumes"])
    view = await context(request).reading.operation_of(operation)
    return reply(Accepted(view, None, volumes), status=202)


@routes.post(
    APP + "rollback/",
    access=Access.DEPLOY,
    summary="Go back to a kept release",
    request=RollbackSchema,
    response=Accepted,
    status=202,
    also=(200,),
)
async def rollback(request: web.Request) -> web.Response:
    wanted = await parse(request, RollbackSchema)
    started = await context(request).releases.rollback(
        request.match_info["app"], principal(request).name, wanted["release"]
    )
    return await accepted(request, started)


@routes.get(APP + "env/", access=Access.DEPLOY, summary="The app's environment", response=EnvView)
async def get_env(request: web.Request) -> web.Response:
    return reply(await context(request).reading.env(request.match_info["app"]))


@routes.patch(
    APP + "env/",
    access=Access.DEPLOY,
    summary="Change the environment",
    request=EnvSchema,
    response=Accepted,
    status=202,
    also=(200,),
)
async def set_env(request: web.Request) -> web.Response:
    """A running app gets a new release with it."""
    wanted = await parse(request, EnvSchema)
    started = await context(request).releases.set_env(
        request.match_info["app"], principal(request).name, wanted["set"], wanted["unset"]
    )
    return await accepted(request, started)


@routes.get(APP + "explain/", access=Access.READ, summary="Why it is as it is", response=ExplainView)
async def explain(request: web.Request) -> web.Response:
    return reply(await context(request).reading.explain(request.match_info["app"]))
