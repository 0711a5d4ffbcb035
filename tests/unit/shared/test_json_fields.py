"""A request that keeps to the OpenAPI document is taken, and no other: field by field."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pytest
from apispec import APISpec
from marshmallow import Schema, ValidationError, fields, validate

from lain_shared import openapi
from lain_shared.json_fields import Address, Flag, Number, QueryFlag, QueryNumber, QueryWhole, Whole

TAKEN: list[tuple[fields.Field[Any], object, object]] = [
    (Flag(), True, True),
    (Whole(), 3, 3),
    (Whole(), 3.0, 3),
    (Number(), 3, 3.0),
    (Number(), 0.5, 0.5),
    (QueryFlag(), "true", True),
    (QueryFlag(), "false", False),
    (QueryWhole(), "-3", -3),
    (QueryNumber(), "1e3", 1000.0),
    (QueryNumber(), "0.25", 0.25),
    (Address(), "10.0.0.1", "10.0.0.1"),
    (Address(), "fe80::1", "fe80::1"),
]
REFUSED: list[tuple[fields.Field[Any], object]] = [
    (Flag(), "true"),
    (Flag(), 1),
    (Whole(), True),
    (Whole(), "3"),
    (Whole(), 3.5),
    (Whole(), 1e300),
    (Number(), "3"),
    (Number(), False),
    (Number(), float("nan")),
    (Number(), float("inf")),
    (QueryFlag(), "yes"),
    (QueryFlag(), "1"),
    (QueryWhole(), "٣"),
    (QueryWhole(), "3.0"),
    (QueryWhole(), "9" * 5000),
    (QueryNumber(), "nan"),
    (QueryNumber(), "1e999"),
    (Address(), "10.0.0"),
    (Address(), "fe80::1%eth0"),
]


@pytest.mark.parametrize(("field", "given", "wanted"), TAKEN)
def test_what_is_taken(field: fields.Field[Any], given: object, wanted: object) -> None:
    found = field.deserialize(given)
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(("field", "given"), REFUSED)
def test_what_is_refused(field: fields.Field[Any], given: object) -> None:
    with pytest.raises(ValidationError):
        field.deserialize(given)


class Example(Schema):
    json_schema: ClassVar[dict[str, int]] = {"minProperties": 1}
    name = fields.Str(required=True, validate=validate.Regexp(r"[a-z]{1,3}\Z"))
    labels = fields.Dict(keys=fields.Str(validate=validate.Regexp(r"[A-Z]\Z")), values=fields.Str())
    address = Address(allow_none=True)


def test_the_document_says_all_that_is_checked() -> None:
    plugin = openapi._Plugin()
    spec = APISpec("x", "1", "3.1.0", plugins=[plugin])
    spec.components.schema("Example", schema=Example)
    found = spec.to_dict()["components"]["schemas"]["Example"]
    assert found["additionalProperties"] is False and found["minProperties"] == 1 and found["required"] == ["name"]
    assert found["properties"]["name"]["pattern"] == "^(?:[a-z]{1,3})$"
    assert found["properties"]["labels"]["propertyNames"] == {"pattern": "^(?:[A-Z])$"}
    assert found["properties"]["address"]["anyOf"][-1] == {"type": "null"}


@pytest.mark.parametrize("text", ["abc", "b", "ab-c", ""])
def test_a_pattern_means_the_same_to_both(text: str) -> None:
    whole = re.compile(r"(?:a|b)+\Z")
    assert bool(whole.match(text)) == bool(re.search(openapi.pattern(whole), text))
