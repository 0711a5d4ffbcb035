"""``/api/v1/nodes/``: the machines of the cluster."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from marshmallow import Schema, fields, post_load, validate

from lain_deployd.api.common import ADMIN, NODE_NAME, PARAMETERS, SNAPSHOTS
from lain_deployd.controller import views
from lain_deployd.controller.views import NodeChange, NodeRequest
from lain_shared.deployd_views import NodeView
from lain_shared.errors import Invalid
from lain_shared.http_server import Api, no_content, parse, principal, reply
from lain_shared.json_fields import Address, Flag
from lain_shared.model.node import Drain, Node
from lain_shared.tokens import Access

api = Api("deployd", "", parameters=PARAMETERS)

_LABEL = validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z", error="a label is letters, digits, _ . - (at most 63)")
_VALUE = validate.Length(0, 128)


class NodeRequestSchema(Schema):
    address = Address(required=True)
    labels = fields.Dict(
        keys=fields.Str(validate=_LABEL), values=fields.Str(validate=_VALUE), load_default=dict, allow_none=True
    )

    @post_load
    def make(self, data: dict[str, Any], **_: object) -> NodeRequest:
        return NodeRequest(data["address"], data["labels"] or {})


class NodeChangeSchema(Schema):
    cordoned = Flag(load_default=None, allow_none=True)
    labels = fields.Dict(
        keys=fields.Str(validate=_LABEL),
        values=fields.Str(validate=_VALUE, allow_none=True),
        load_default=None,
        allow_none=True,
    )

    @post_load
    def make(self, data: dict[str, Any], **_: object) -> NodeChange:
        return NodeChange(**data)


@api.get("/api/v1/nodes/", access=Access.READ, summary="All nodes", response=tuple[NodeView, ...])
async def list_nodes(request: web.Request) -> web.StreamResponse:
    return reply(await asyncio.to_thread(views.nodes, request.app[SNAPSHOTS]()))


@api.get("/api/v1/nodes/{node}/", access=Access.READ, summary="One node", response=NodeView)
async def get_node(request: web.Request) -> web.StreamResponse:
    return reply(await asyncio.to_thread(views.node, request.app[SNAPSHOTS](), request.match_info["node"]))


@api.put(
    "/api/v1/nodes/{node}/",
    access=Access.OPERATOR,
    summary="Register a node, or set its address and labels anew",
    request=NodeRequestSchema,
    response=Node,
)
async def register_node(request: web.Request) -> web.StreamResponse:
    wanted = await parse(request, NodeRequestSchema)
    return reply(await request.app[ADMIN].register(_name(request), wanted, principal(request).name))


@api.patch(
    "/api/v1/nodes/{node}/",
    access=Access.OPERATOR,
    summary="Cordon, uncordon, label",
    request=NodeChangeSchema,
    response=Node,
)
async def change_node(request: web.Request) -> web.StreamResponse:
    change = await parse(request, NodeChangeSchema)
    return reply(await request.app[ADMIN].change(request.match_info["node"], change, principal(request).name))


@api.put(
    "/api/v1/nodes/{node}/drain/",
    access=Access.OPERATOR,
    summary="Move this node's pods away; those with volumes or state stay",
    response=Drain,
    status=202,
)
async def drain_node(request: web.Request) -> web.StreamResponse:
    drain = await request.app[ADMIN].drain(request.match_info["node"], principal(request).name)
    return reply(drain, status=202)


@api.delete("/api/v1/nodes/{node}/drain/", access=Access.OPERATOR, summary="End the drain", status=204)
async def end_drain(request: web.Request) -> web.StreamResponse:
    await request.app[ADMIN].end_drain(request.match_info["node"], principal(request).name)
    return no_content()


def _name(request: web.Request) -> str:
    name = request.match_info["node"]
    if not NODE_NAME.match(name):
        raise Invalid(f"{name!r} cannot name a node", why="a name is lower-case letters, digits, - and . (at most 63)")
    return name
