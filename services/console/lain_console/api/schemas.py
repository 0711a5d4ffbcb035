"""What requests may say. Schemas are built once; every fault is told at once, with its path.

What they check stands in the OpenAPI document in full (``json_schema`` where marshmallow cannot say it): a request that keeps to the
document is not refused for its form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from lain_console.administration import CLUSTER_WIDE, KNOWN_CONFIG, MAX_TOKEN_SECONDS
from lain_console.operations.candidate import ENV_NAME
from lain_sdk.manifest.names import MAX_APPNAME, MAX_NAME, NAME, RESERVED, host_problem
from lain_sdk.manifest.versions import MAX_VERSION, VERSION
from lain_shared.json_fields import Flag, Number, QueryFlag, QueryNumber, QueryWhole, Whole, pattern
from lain_shared.model.config import Role

JsonSchema = Mapping[str, Any]
SIZE = re.compile(r"(?P<number>[1-9][0-9]{0,9})(?P<unit>[mMgG])\Z")
UNITS = {"m": 1 << 20, "g": 1 << 30}
SHORT = validate.Length(1, 128)
MAX_SECONDS = 1e10
"""Since the epoch: the year 2286."""

APP_NAME: JsonSchema = {
    "type": "string", "maxLength": MAX_APPNAME, "pattern": f"^(?!(?:{'|'.join(RESERVED)})$){pattern(NAME).removeprefix('^')}",
}  # fmt: skip
PROC_NAME: JsonSchema = {"type": "string", "maxLength": MAX_NAME, "pattern": pattern(NAME)}
HOST: JsonSchema = {
    "type": "string",
    "maxLength": 253,
    "pattern": r"^(?:\*\.)?[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$",
}
PARAMETERS: Mapping[str, JsonSchema] = {
    "app": APP_NAME,
    "proc": PROC_NAME,
    "host": HOST,
    "instance": {"type": "integer", "minimum": 1, "maximum": 999_999},
    "release": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    "operation": {"type": "string", "pattern": "^[0-9a-f-]{1,64}$"},
    "name": {"enum": sorted(KNOWN_CONFIG)},
    "id": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
}
"""What stands in a path."""


class SizeField(fields.Field[int]):
    """Bytes, or a size as the manifest has it: ``64m``, ``2G``."""

    json_schema: ClassVar[JsonSchema] = {
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "string", "pattern": re.sub(r"\?P<\w+>", "?:", pattern(SIZE))},
        ]
    }

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:  # noqa: ARG002 - its signature
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        if isinstance(value, str) and (found := SIZE.match(value)):
            return int(found["number"]) * UNITS[found["unit"].lower()]
        raise ValidationError(f"{value!r} is not a size: write 64m or 2g, or a number of bytes")


class AppName(fields.Str):
    """Judged where it is used, in words."""

    json_schema: ClassVar[JsonSchema] = APP_NAME


class VersionName(fields.Str):
    """As ``AppName``."""

    json_schema: ClassVar[JsonSchema] = {
        "type": "string",
        "maxLength": MAX_VERSION,
        "pattern": re.sub(r"\?P<\w+>", "?:", pattern(VERSION)),
    }


class Environment(fields.Dict):
    """Variables and their values; judged where they are used, in words."""

    json_schema: ClassVar[JsonSchema] = {
        "type": "object",
        "propertyNames": {"pattern": f"^(?!LAIN_){pattern(ENV_NAME).removeprefix('^')}"},
        "additionalProperties": {"type": "string", "pattern": r"^[^\u0000]*$"},
    }


class RegisterSchema(Schema):
    name = AppName(required=True, validate=SHORT)
    giturl = fields.Str(load_default="", validate=validate.Length(0, 512))


class GuestsSchema(Schema):
    guests = fields.List(AppName(validate=SHORT), required=True, validate=validate.Length(0, 100))


class DeploySchema(Schema):
    meta_version = VersionName(load_default=None, allow_none=True, validate=SHORT)
    proc = fields.Str(load_default=None, allow_none=True, validate=SHORT)
    replace = Flag(load_default=False)
    plan_only = Flag(load_default=False)


class RollbackSchema(Schema):
    release = Whole(load_default=None, allow_none=True, validate=validate.Range(1))


class OperateSchema(Schema):
    """Start, stop or restart; ``instance`` absent or 0: all of them. One instance is its proc's."""

    operation = fields.Str(required=True, validate=validate.OneOf(["start", "stop", "restart"]))
    instance = Whole(
        load_default=None,
        allow_none=True,
        validate=validate.OneOf([0], error="an instance needs its proc: PATCH …/procs/<proc>/"),
    )
    replace = Flag(load_default=False)


class ProcSchema(Schema):
    """Either a scaling (instances, cpu, memory, reset) or an operation (start, stop, restart), never both."""

    json_schema: ClassVar[JsonSchema] = {
        "oneOf": [
            {
                "required": ["operation"],
                "properties": {"operation": {"type": "string"}, "reset": {"const": False}}
                | {name: {"type": "null"} for name in ("instances", "cpu", "memory")},
            },
            {
                "properties": {"operation": {"type": "null"}, "instance": {"type": "null"}},
                "anyOf": [
                    *(
                        {"required": [name], "not": {"properties": {name: {"type": "null"}}}}
                        for name in ("instances", "cpu", "memory")
                    ),
                    {"required": ["reset"], "properties": {"reset": {"const": True}}},
                ],
            },
        ]
    }

    instances = Whole(load_default=None, validate=validate.Range(0, 1000))
    cpu = Whole(load_default=None, validate=validate.Range(0, 8))
    memory = SizeField(load_default=None)
    reset = Flag(load_default=False)
    operation = fields.Str(load_default=None, validate=validate.OneOf(["start", "stop", "restart"]))
    instance = Whole(load_default=None, validate=validate.Range(0, 1000))
    replace = Flag(load_default=False)

    @validates_schema
    def _one_or_the_other(self, data: dict[str, Any], **_: object) -> None:
        scaling = [name for name in ("instances", "cpu", "memory") if data.get(name) is not None]
        scaling += ["reset"] if data.get("reset") else []
        if data.get("operation") is None:
            if data.get("instance") is not None:
                raise ValidationError("only an operation takes an instance", "instance")
            if not scaling:
                raise ValidationError("say what to change: instances, cpu, memory, reset, or operation")
        elif scaling:
            raise ValidationError(f"an operation stands alone: leave out {', '.join(scaling)}", "operation")


class EnvSchema(Schema):
    json_schema: ClassVar[JsonSchema] = {
        "anyOf": [
            {"required": ["set"], "properties": {"set": {"minProperties": 1}}},
            {"required": ["unset"], "properties": {"unset": {"minItems": 1}}},
        ]
    }
    set = Environment(keys=fields.Str(), values=fields.Str(), load_default=dict)
    unset = fields.List(fields.Str(), load_default=list)

    @validates_schema
    def _says_something(self, data: dict[str, Any], **_: object) -> None:
        if not data.get("set") and not data.get("unset"):
            raise ValidationError("say what to set or unset")
        both = sorted(set(data.get("set", ())) & set(data.get("unset", ())))
        if both:
            raise ValidationError(f"both set and unset: {', '.join(both)}", "unset")


class EventsSchema(Schema):
    operation = fields.Str(load_default=None, allow_none=False, validate=SHORT)


class UndeploySchema(Schema):
    delete_volumes = fields.Str(load_default=None, allow_none=False)


class LogsSchema(Schema):
    follow = QueryFlag(load_default=False)
    previous = QueryFlag(load_default=False)
    since = QueryNumber(load_default=None, allow_none=False, validate=validate.Range(0, MAX_SECONDS))
    tail = QueryWhole(load_default=None, allow_none=False, validate=validate.Range(0, 1_000_000))


class ExecSchema(Schema):
    cmd = fields.List(fields.Str(validate=validate.Length(1, 1000)), required=True, validate=validate.Length(1, 50))
    tty = QueryFlag(load_default=False)


def _host(text: str) -> None:
    if problem := host_problem(text) or ("write it in lower case" if text != text.lower() else ""):
        raise ValidationError(problem)


class Host(fields.Str):
    json_schema: ClassVar[JsonSchema] = HOST


class ClusterConfigSchema(Schema):
    """``config/cluster``: the whole of it."""

    name = fields.Str(required=True, validate=validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"))
    domain = Host(required=True, validate=_host)
    extra_domains = fields.List(Host(validate=_host), load_default=list, validate=validate.Length(0, 100))
    network = fields.Str(load_default="none", validate=validate.OneOf(["none", "networkd"]))
    pod_network = fields.Str(
        load_default="172.20.0.0/16", validate=validate.Regexp(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}\Z")
    )
    node_lease_seconds = Whole(load_default=5, validate=validate.Range(2, 300))
    router_http_port = Whole(load_default=80, validate=validate.Range(1, 65535))
    router_https_port = Whole(load_default=443, validate=validate.Range(1, 65535))
    registry_push = fields.Str(load_default="", validate=validate.Length(0, 255))
    timezone = fields.Str(
        load_default="UTC", validate=validate.Regexp(r"[A-Za-z0-9_+-]{1,32}(?:/[A-Za-z0-9_+-]{1,32}){0,2}\Z")
    )


class ConfigSchema(Schema):
    value = fields.Nested(ClusterConfigSchema, required=True)
    revision = Whole(load_default=None, allow_none=True, validate=validate.Range(0))


class TokenSchema(Schema):
    json_schema: ClassVar[JsonSchema] = {
        "anyOf": [
            {"properties": {"role": {"enum": sorted({*Role} - CLUSTER_WIDE)}}},
            {"properties": {"apps": {"maxItems": 0}}},
        ]
    }
    name = fields.Str(required=True, validate=validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9@._-]{0,63}\Z"))
    role = fields.Enum(Role, by_value=True, required=True)
    apps = fields.List(fields.Str(validate=SHORT), load_default=list, validate=validate.Length(0, 1000))
    expires_in_seconds = Number(load_default=None, allow_none=True, validate=validate.Range(1, MAX_TOKEN_SECONDS))
