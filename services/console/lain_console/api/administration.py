"""Operators' business: configuration and tokens."""

from __future__ import annotations

from aiohttp import web

from lain_console.api.context import context
from lain_console.api.schemas import PARAMETERS, ConfigSchema, TokenSchema
from lain_sdk.api_types import ConfigView, IssuedToken, TokenView
from lain_shared.http_server import Api, no_content, parse, principal, reply
from lain_shared.tokens import Access

routes = Api("console", "", parameters=PARAMETERS)
CONFIG = "/api/v1/config/"
TOKENS = "/api/v1/tokens/"


@routes.get(CONFIG, access=Access.OPERATOR, summary="Names of configurations", response=tuple[str, ...])
async def config_names(request: web.Request) -> web.Response:
    return reply(await context(request).administration.config_names())


@routes.get(CONFIG + "{name}/", access=Access.OPERATOR, summary="One configuration", response=ConfigView)
async def get_config(request: web.Request) -> web.Response:
    return reply(await context(request).administration.config(request.match_info["name"]))


@routes.put(
    CONFIG + "{name}/",
    access=Access.OPERATOR,
    summary="Replace a configuration",
    request=ConfigSchema,
    response=ConfigView,
)
async def set_config(request: web.Request) -> web.Response:
    administration, name = context(request).administration, request.match_info["name"]
    administration.require_changeable(name)
    wanted = await parse(request, ConfigSchema)
    changed = await administration.set_config(name, wanted["value"], wanted["revision"], principal(request).name)
    return reply(changed)


@routes.get(TOKENS, access=Access.OPERATOR, summary="Issued tokens, without their text", response=tuple[TokenView, ...])
async def tokens(request: web.Request) -> web.Response:
    return reply(await context(request).administration.tokens())


@routes.post(
    TOKENS, access=Access.OPERATOR, summary="Issue a token", request=TokenSchema, response=IssuedToken, status=201
)
async def issue(request: web.Request) -> web.Response:
    """Its text is in this answer and stored nowhere."""
    wanted = await parse(request, TokenSchema)
    issued = await context(request).administration.issue(
        wanted["name"], wanted["role"], wanted["apps"], wanted["expires_in_seconds"], principal(request).name
    )
    return reply(issued, status=201, headers={"Cache-Control": "no-store"})


@routes.delete(TOKENS + "{id}/", access=Access.OPERATOR, summary="Revoke a token", status=204)
async def revoke(request: web.Request) -> web.Response:
    await context(request).administration.revoke(request.match_info["id"], principal(request).name)
    return no_content()
