"""Environment → one frozen dataclass, read once. A bad value ends the start in one line that names it."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lain_shared.errors import Invalid

T = TypeVar("T")

TRUE, FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


class InvalidSettings(Invalid):
    code = "invalid_settings"


def read_settings(kind: type[T], prefix: str, environ: Mapping[str, str] = os.environ) -> T:
    """An instance of the dataclass ``kind``: field ``etcd`` comes from ``<prefix>ETCD``, and so on.

    Types: ``str int float bool Path``, ``tuple[str, ...]`` (comma-separated) and ``X | None`` (unset or empty: None). Raises
    ``InvalidSettings`` naming every faulty variable at once, what was found and what is allowed. A variable with the prefix
    that belongs to no field is a fault too: it is a misspelt one.
    """
    hints = typing.get_type_hints(kind)
    faults: list[str] = []
    values: dict[str, Any] = {}
    known = set()
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        variable = prefix + field.name.upper()
        known.add(variable)
        text = environ.get(variable)
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if text is None or (text == "" and has_default):
            if not has_default:
                faults.append(f"{variable} is not set (wanted: {_describe(hints[field.name])})")
            continue
        try:
            values[field.name] = _convert(hints[field.name], text)
        except ValueError:
            faults.append(f"{variable}={text!r} is not {_describe(hints[field.name])}")
    for variable in sorted(environ):
        if variable.startswith(prefix) and variable not in known:
            faults.append(f"{variable} is not a setting (known: {', '.join(sorted(known))})")
    if faults:
        raise InvalidSettings("; ".join(faults), next="set the variables named and start again")
    return kind(**values)


def _convert(hint: Any, text: str) -> Any:
    if isinstance(hint, types.UnionType):
        inner = [each for each in typing.get_args(hint) if each is not type(None)]
        return None if text == "" else _convert(inner[0], text)
    if typing.get_origin(hint) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if hint is bool:
        if text.lower() in TRUE | FALSE:
            return text.lower() in TRUE
        raise ValueError(text)
    if hint in (int, float, str, Path):
        return hint(text)
    raise TypeError(f"settings cannot hold {hint}")


def _describe(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_describe(each) for each in typing.get_args(hint) if each is not type(None))
    if typing.get_origin(hint) is tuple:
        return "a comma-separated list"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return names.get(hint, str(hint))
