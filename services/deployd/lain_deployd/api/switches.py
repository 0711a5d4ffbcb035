"""``/api/v1/switches/``: readonly, maintenance, guard, breaker."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from marshmallow import Schema, fields, post_load, validate

from lain_deployd.api.common import ADMIN, PARAMETERS, SNAPSHOTS
from lain_deployd.controller import views
from lain_deployd.controller.views import SwitchRequest
from lain_shared.http_server import Api, parse, principal, reply
from lain_shared.json_fields import Flag
from lain_shared.model.node import Switch
from lain_shared.tokens import Access

api = Api("deployd", "", parameters=PARAMETERS)


class SwitchSchema(Schema):
    on = Flag(required=True)
    why = fields.Str(load_default="", validate=validate.Length(0, 500))

    @post_load
    def make(self, data: dict[str, Any], **_: object) -> SwitchRequest:
        return SwitchRequest(**data)


@api.get("/api/v1/switches/", access=Access.READ, summary="All switches", response=tuple[Switch, ...])
async def list_switches(request: web.Request) -> web.StreamResponse:
    return reply(views.switches(request.app[SNAPSHOTS]()))


@api.get("/api/v1/switches/{name}/", access=Access.READ, summary="One switch", response=Switch)
async def get_switch(request: web.Request) -> web.StreamResponse:
    return reply(views.switch(request.app[SNAPSHOTS](), request.match_info["name"]))


@api.put(
    "/api/v1/switches/{name}/",
    access=Access.OPERATOR,
    summary="Set a switch",
    request=SwitchSchema,
    response=Switch,
)
async def set_switch(request: web.Request) -> web.StreamResponse:
    wanted = await parse(request, SwitchSchema)
    return reply(await request.app[ADMIN].set_switch(request.match_info["name"], wanted, principal(request).name))
