"""OpenAPI 3.1 out of the declared routes, and a page of it that needs nothing from elsewhere.

Request schemas are marshmallow's (apispec describes them); responses are the dataclasses that are encoded (msgspec describes them).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import Schema, fields, validate

from lain_shared.json_fields import pattern

if TYPE_CHECKING:
    from lain_shared.http_server import Endpoint

_PARAMETER = re.compile(r"{(\w+)(?::[^}]*)?}")
_ERROR_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "why", "evidence", "next", "retry_seconds"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "why": {"type": "string"},
                "evidence": {"type": "object"},
                "next": {"type": "string"},
                "retry_seconds": {"type": ["number", "null"]},
            },
        }
    },
}


class _Converter(OpenAPIConverter):
    """Says all that a request schema checks and that JSON Schema can say. A schema class may add to it: ``json_schema``."""

    def schema2jsonschema(self, schema: Any) -> dict[str, Any]:
        found: dict[str, Any] = {**super().schema2jsonschema(schema)}  # type: ignore[no-untyped-call]
        found |= getattr(schema, "json_schema", {})
        return found


class _Plugin(MarshmallowPlugin):
    Converter = _Converter

    def init_spec(self, spec: APISpec) -> None:
        super().init_spec(spec)
        if self.converter is not None:
            self.converter.add_attribute_function(_exactly)  # type: ignore[no-untyped-call]


def _exactly(
    _converter: OpenAPIConverter, field: fields.Field[Any], ret: dict[str, Any], **_: object
) -> dict[str, Any]:
    """What apispec leaves out: whole patterns, the names a map may have, and what a field says of itself."""
    if (given := getattr(field, "json_schema", None)) is not None:
        ret.clear()
        return {"anyOf": [dict(given), {"type": "null"}]} if field.allow_none else dict(given)
    found: dict[str, Any] = {}
    for validator in field.validators:
        if isinstance(validator, validate.Regexp):
            found["pattern"] = pattern(validator.regex)
    if isinstance(field, fields.Dict) and field.key_field is not None:
        for validator in field.key_field.validators:
            if isinstance(validator, validate.Regexp):
                found["propertyNames"] = {"pattern": pattern(validator.regex)}
    return found


def document(service: str, version: str, description: str, endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    plugin = _Plugin(schema_name_resolver=_name_of)
    spec = APISpec(
        title=f"LAIN {service}",
        version=version,
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": description},
    )
    spec.components.security_scheme("token", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
    spec.components.schema("Error", dict(_ERROR_SCHEMA))
    endpoints = tuple(endpoints)
    kinds = [endpoint.response for endpoint in endpoints if endpoint.response is not None]
    described, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for name, schema in components.items():
        spec.components.schema(name, schema)
    responses = iter(described)
    for endpoint in endpoints:
        schema = next(responses) if endpoint.response is not None else None
        path = _PARAMETER.sub(r"{\1}", endpoint.path)
        spec.path(path, operations={endpoint.method.lower(): _operation(endpoint, schema)})
    return dict(spec.to_dict())


def _name_of(schema: Any) -> str:
    """``AppSchema`` → ``AppRequest``: what comes in is not confused with the noun that goes out."""
    kind = schema if isinstance(schema, type) else type(schema)
    return kind.__name__.removesuffix("Schema") + "Request"


def _operation(endpoint: Endpoint, response: Mapping[str, Any] | None) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {
            "in": "path",
            "name": name,
            "required": True,
            "schema": dict(endpoint.parameters.get(name, {"type": "string"})),
        }
        for name in _PARAMETER.findall(endpoint.path)
    ]
    refusals = _refusals(endpoint, named=bool(parameters))
    if endpoint.query is not None:
        parameters.append({"in": "query", "schema": endpoint.query})
    good: dict[str, Any] = {"description": endpoint.summary}
    if response is not None:
        good["content"] = {"application/json": {"schema": dict(response)}}
    elif endpoint.media:
        good["content"] = {kind: {} for kind in endpoint.media}
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "description": (endpoint.handler.__doc__ or "").strip(),
        "tags": list(endpoint.tags),
        "parameters": parameters,
        "responses": {str(status): good for status in sorted({endpoint.status, *endpoint.also})}
        | {str(status): {"description": "refused", "content": problem} for status in sorted(refusals)},
        "security": [] if endpoint.access.value == "public" else [{"token": []}],
        "x-lain-access": endpoint.access.value,
    }
    if endpoint.request is not None:
        needed = _needs_a_body(endpoint.request)
        operation["requestBody"] = {"content": {"application/json": {"schema": endpoint.request}}, "required": needed}
    return operation


def _refusals(endpoint: Endpoint, *, named: bool) -> set[int]:
    found = {*endpoint.errors, 400, 500}  # 400: also what is no HTTP
    if endpoint.access.value != "public":
        found |= {401, 403, 503}
    if named:
        found.add(404)
    if endpoint.request is not None:
        found.add(413)
    if endpoint.method != "GET":
        found |= {409, 422}
    return found - {endpoint.status, *endpoint.also}


def _needs_a_body(schema: type[Schema]) -> bool:
    """An empty body is ``{}``: is that not enough?"""
    return bool(schema().validate({}))


def page(document: Mapping[str, Any]) -> str:
    """The document as one plain HTML page: every route, who may call it, what it takes and answers."""
    rows = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            rows.append(
                f"<tr><td><code>{method.upper()}</code></td><td><code>{html.escape(path)}</code></td>"
                f"<td>{html.escape(operation.get('x-lain-access', ''))}</td>"
                f"<td>{html.escape(operation['summary'])}<br><small>{html.escape(operation.get('description', ''))}</small></td>"
                f"<td>{', '.join(operation['responses'])}</td></tr>"
            )
    title = html.escape(document["info"]["title"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>{title}</title>"
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}"
        "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.4rem .6rem;text-align:left;"
        "vertical-align:top}small{color:#555}</style>"
        f"<h1>{title} {html.escape(document['info']['version'])}</h1><p>{html.escape(document['info'].get('description', ''))}</p>"
        "<p>The same as data: <a href=/openapi.json>/openapi.json</a></p>"
        "<table><tr><th>Method<th>Path<th>Who<th>What<th>Answers</tr>" + "".join(rows) + "</table></html>"
    )
