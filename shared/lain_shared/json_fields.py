"""Fields of requests that take what their OpenAPI schema says, and nothing else: marshmallow's own are more generous (``"yes"`` is true).

In a body, numbers and booleans are JSON's (1.0 is an integer: JSON Schema, 6.1.1; true is none). In a query they are texts. ``NULL_FREE``
texts can be kept in etcd, an environment, a log. ``json_schema`` replaces what apispec would make of a field.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from marshmallow import ValidationError, fields

WHOLE = r"\Z"
"""How a Python expression says that nothing may follow."""
MAX_EXACT = 2**53
"""Above it a float is no exact integer."""
_WHOLE = re.compile(r"-?[0-9]{1,16}\Z")
_NUMBER = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,16})?([eE][+-]?[0-9]{1,3})?\Z")


def pattern(expression: re.Pattern[Any]) -> str:
    """A Python expression that is matched from the start on, as JSON Schema has it (ECMA-262, unanchored)."""
    text = str(expression.pattern)
    return f"^(?:{text.removesuffix(WHOLE)})" + ("$" if text.endswith(WHOLE) else "")


class Flag(fields.Bool):
    """``true`` or ``false`` of a JSON body."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> bool:  # noqa: ARG002 - its signature
        if isinstance(value, bool):
            return value
        raise ValidationError("write true or false")


class QueryFlag(fields.Bool):
    """``true`` or ``false`` of a query."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> bool:  # noqa: ARG002
        if value in ("true", "false"):
            return bool(value == "true")
        raise ValidationError("write true or false")


class Whole(fields.Int):
    """An integer of a JSON body."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> int:  # noqa: ARG002
        if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_EXACT:
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ValidationError("write a whole number")


class QueryWhole(fields.Int):
    """An integer of a query."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> int:  # noqa: ARG002
        if isinstance(value, str) and _WHOLE.match(value):
            return int(value)
        raise ValidationError("write a whole number")


class Number(fields.Float):
    """A finite number of a JSON body."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> float:  # noqa: ARG002
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) < 1e300
            and math.isfinite(value)
        ):
            return float(value)
        raise ValidationError("write a number")


class QueryNumber(fields.Float):
    """A number of a query."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> float:  # noqa: ARG002
        if isinstance(value, str) and _NUMBER.match(value) and math.isfinite(float(value)):
            return float(value)
        raise ValidationError("write a number")


class Address(fields.Str):
    """An IP address, version 4 or 6, without a zone."""

    json_schema: ClassVar[Mapping[str, Any]] = {
        "anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]
    }

    def _deserialize(self, value: Any, attr: str | None, data: Any, **more: Any) -> str:
        text = super()._deserialize(value, attr, data, **more)
        try:
            ipaddress.ip_address(text)
        except ValueError as error:
            raise ValidationError("not an IP address") from error
        if text is None or "%" in text:
            raise ValidationError("not an IP address")
        return text
