"""Write golden documents that are missing, and complete those of the current version with fields that were added since.

Run: ``python -m tests.contract.golden.write``. A value that stands in a document is never changed; a field without a default cannot be
added to a version that exists (the family needs a new version then).
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.contract.golden.kinds import KINDS, Kind

HERE = Path(__file__).parent


def path_of(kind: Kind) -> Path:
    return HERE / str(kind.family.version) / f"{kind.name}.json"


def example(of: Any, name: str) -> Any:
    """A JSON value of this type, rarely its default; strings say which field they stand in."""
    origin, arguments = typing.get_origin(of), typing.get_args(of)
    if origin in (typing.Union, types.UnionType):
        return example(next(one for one in arguments if one is not type(None)), name)
    if origin is tuple:
        return [example(arguments[0], name)]
    if origin is not None and issubclass(origin, Mapping):
        return {"7" if arguments[0] is int else "key": example(arguments[1], name)}
    if dataclasses.is_dataclass(of):
        hints = typing.get_type_hints(of)
        return {field.name: example(hints[field.name], field.name) for field in dataclasses.fields(of)}
    if issubclass(of, enum.Enum):
        return list(of)[-1].value
    return {bool: True, int: 7, float: 7.5, str: name}[of]


def completed(document: Any, full: Any, of: Any, where: str) -> Any:
    """``document`` with the members of ``full`` that it lacks."""
    if isinstance(document, dict) and dataclasses.is_dataclass(of):
        hints = typing.get_type_hints(of)
        for field in dataclasses.fields(of):
            if field.name in document:
                inner = hints[field.name]
                document[field.name] = completed(document[field.name], full[field.name], inner, f"{where}.{field.name}")
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise SystemExit(f"{where}.{field.name} has no default: a document of this version cannot gain it")
            else:
                document[field.name] = full[field.name]
        return document
    arguments = [one for one in typing.get_args(of) if one is not type(None)]
    if isinstance(document, list) and document and arguments:
        return [completed(document[0], full[0], arguments[0], where), *document[1:]]
    if isinstance(document, dict) and "key" in document and len(arguments) == 2:
        document["key"] = completed(document["key"], full["key"], arguments[1], where)
    elif isinstance(document, dict) and len(arguments) == 1:
        return completed(document, full, arguments[0], where)
    return document


def main() -> None:
    for kind in KINDS:
        path = path_of(kind)
        full = example(kind.type, kind.name)
        if path.exists():
            held = json.loads(path.read_text())
            version = held["value"].pop("v")
            value = completed(held["value"], full, kind.type, kind.name)
        else:
            version, value = kind.family.version, full
        path.parent.mkdir(exist_ok=True)
        document = {"key": kind.family.key(*kind.parts), "value": {"v": version, **value}}
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"{path.relative_to(HERE)}\n")


if __name__ == "__main__":
    main()
