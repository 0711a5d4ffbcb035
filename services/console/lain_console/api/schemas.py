"""What requests may say. Schemas are built once; every fault is told at once, with its path."""

from __future__ import annotations

import re
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from lain_shared.model.config import Role

SIZE = re.compile(r"(?P<number>[1-9][0-9]{0,9})(?P<unit>[mMgG])\Z")
UNITS = {"m": 1 << 20, "g": 1 << 30}
NAME = validate.Length(1, 128)


class SizeField(fields.Field[int]):
    """Bytes, or a size as the manifest has it: ``64m``, ``2G``."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:  # noqa: ARG002 - its signature
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        if isinstance(value, str) and (found := SIZE.match(value)):
            return int(found["number"]) * UNITS[found["unit"].lower()]
        raise ValidationError(f"{value!r} is not a size: write 64m or 2g, or a number of bytes")


class RegisterSchema(Schema):
    name = fields.Str(required=True, validate=NAME)
    giturl = fields.Str(load_default="", validate=validate.Length(0, 512))


class GuestsSchema(Schema):
    guests = fields.List(fields.Str(validate=NAME), required=True, validate=validate.Length(0, 100))


class DeploySchema(Schema):
    meta_version = fields.Str(load_default=None, allow_none=True, validate=NAME)
    proc = fields.Str(load_default=None, allow_none=True, validate=NAME)
    replace = fields.Bool(load_default=False)
    plan_only = fields.Bool(load_default=False)


class RollbackSchema(Schema):
    release = fields.Int(load_default=None, allow_none=True, strict=True, validate=validate.Range(1))


class OperateSchema(Schema):
    """Start, stop or restart; ``instance`` absent or 0: all of them."""

    operation = fields.Str(required=True, validate=validate.OneOf(["start", "stop", "restart"]))
    instance = fields.Int(load_default=None, allow_none=True, strict=True, validate=validate.Range(0, 1000))
    replace = fields.Bool(load_default=False)


class ProcSchema(Schema):
    """Either a scaling (instances, cpu, memory, reset) or an operation (start, stop, restart), never both."""

    instances = fields.Int(load_default=None, strict=True, validate=validate.Range(0, 1000))
    cpu = fields.Int(load_default=None, strict=True, validate=validate.Range(0, 8))
    memory = SizeField(load_default=None)
    reset = fields.Bool(load_default=False)
    operation = fields.Str(load_default=None, validate=validate.OneOf(["start", "stop", "restart"]))
    instance = fields.Int(load_default=None, strict=True, validate=validate.Range(0, 1000))
    replace = fields.Bool(load_default=False)

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
    set = fields.Dict(keys=fields.Str(), values=fields.Str(), load_default=dict)
    unset = fields.List(fields.Str(), load_default=list)

    @validates_schema
    def _says_something(self, data: dict[str, Any], **_: object) -> None:
        if not data.get("set") and not data.get("unset"):
            raise ValidationError("say what to set or unset")
        both = sorted(set(data.get("set", ())) & set(data.get("unset", ())))
        if both:
            raise ValidationError(f"both set and unset: {', '.join(both)}", "unset")


class EventsSchema(Schema):
    operation = fields.Str(load_default=None, validate=NAME)


class UndeploySchema(Schema):
    delete_volumes = fields.Str(load_default=None)


class LogsSchema(Schema):
    follow = fields.Bool(load_default=False)
    previous = fields.Bool(load_default=False)
    since = fields.Float(load_default=None, validate=validate.Range(0))
    tail = fields.Int(load_default=None, validate=validate.Range(0, 1_000_000))


class ConfigSchema(Schema):
    value = fields.Dict(keys=fields.Str(), required=True)
    revision = fields.Int(load_default=None, allow_none=True, strict=True, validate=validate.Range(0))


class TokenSchema(Schema):
    name = fields.Str(required=True, validate=validate.Regexp(r"[A-Za-z0-9][A-Za-z0-9@._-]{0,63}\Z"))
    role = fields.Enum(Role, by_value=True, required=True)
    apps = fields.List(fields.Str(validate=NAME), load_default=list, validate=validate.Length(0, 1000))
    expires_in_seconds = fields.Float(load_default=None, allow_none=True)
