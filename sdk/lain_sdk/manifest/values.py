"""The kinds of single values: texts, numbers, sizes, commands, paths, images, assignments. Each says in words what it takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from posixpath import normpath
from typing import TypeVar

from lain_sdk.manifest.names import MAX_NAME, NAME_ALLOWED, name_problem, parse_image
from lain_sdk.manifest.parts import APP_DIRECTORY
from lain_sdk.manifest.reading import Kind, Spot
from lain_sdk.manifest.source import Shape, core_value

T = TypeVar("T")

MAX_TEXT = 4096
_SIZE = re.compile(r"([0-9]{1,15})([mMgG])\Z")
_SIZE_UNITS = {"m": 1024**2, "g": 1024**3}
_MAX_SIZE = 1024**5
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+\Z")
_YAML11_INT = re.compile(r"[-+]?[0-9][0-9_]*\Z|[-+]?0b[01_]+\Z|[-+]?[0-9]+(?::[0-5]?[0-9])+\Z")
_YAML11_TRUE = ("yes", "Yes", "YES", "on", "On", "ON", "y", "Y")
_YAML11_FALSE = ("no", "No", "NO", "off", "Off", "OFF", "n", "N")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def raw_text(
    spot: Spot, *, allowed: str, numbers: bool = False, booleans: bool = False, most: int = MAX_TEXT
) -> str | None:
    """The text at ``spot``. ``numbers``, ``booleans``: such values are taken as they were written."""
    node = spot.node
    if node.shape is not Shape.SCALAR or node.value is None:
        fix = (
            "quote the line: it has a colon and a blank in it"
            if node.shape is Shape.MAP and len(node.entries) == 1
            else ""
        )
        spot.refuse("a text is wanted", code="wrong_type", allowed=allowed, fix=fix)
        return None
    if isinstance(node.value, bool) and not booleans:
        spot.refuse("a text is wanted", code="wrong_type", allowed=allowed, fix=f'quote it: "{node.text}"')
        return None
    if isinstance(node.value, int | float) and not isinstance(node.value, bool) and not numbers:
        spot.refuse("a text is wanted", code="wrong_type", allowed=allowed, fix=f'quote it: "{node.text}"')
        return None
    if len(node.text) > most:
        spot.refuse(f"the text is too long ({len(node.text)} characters)", allowed=f"at most {most} characters")
        return None
    if found := _CONTROL.search(node.text):
        spot.refuse("there is a control character in it", found=repr(found[0]), allowed=allowed)
        return None
    return node.text


def text(
    allowed: str = "a text", *, pattern: str = "", numbers: bool = False, empty: bool = False, most: int = MAX_TEXT
) -> Kind[str]:
    """A text, optionally matching ``pattern`` as a whole. ``numbers``: 123 is taken as "123"."""
    compiled = re.compile(rf"(?:{pattern})\Z") if pattern else None

    def read(spot: Spot) -> str | None:
        value = raw_text(spot, allowed=allowed, numbers=numbers, most=most)
        if value is None:
            return None
        if not value and not empty:
            spot.refuse("it is empty", allowed=allowed)
            return None
        if compiled is not None and not compiled.match(value):
            spot.refuse("this is not taken here", allowed=allowed)
            return None
        return value

    return Kind(allowed, read)


def checked(allowed: str, problem: Callable[[str], str], *, fix: Callable[[str], str] = lambda _: "") -> Kind[str]:
    """A text for which ``problem`` answers ""."""

    def read(spot: Spot) -> str | None:
        value = raw_text(spot, allowed=allowed)
        if value is None:
            return None
        if why := problem(value):
            spot.refuse(why, allowed=allowed, fix=fix(value))
            return None
        return value

    return Kind(allowed, read)


def one_of(*words: str) -> Kind[str]:
    allowed = " or ".join(f"`{word}`" for word in words)

    def read(spot: Spot) -> str | None:
        value = raw_text(spot, allowed=allowed, booleans=True)
        if value is None or value in words:
            return value
        spot.refuse("this is none of the words taken here", allowed=allowed, nearest=spot.faults.nearest(value, words))
        return None

    return Kind(allowed, read)


def whole(least: int, most: int, unit: str = "") -> Kind[int]:
    """A whole number. Written 08, 1_000, 22:30 it means different numbers to different YAML readers, and is refused as ambiguous."""
    allowed = f"a whole number{' of ' + unit if unit else ''}, {least} to {most}"

    def read(spot: Spot) -> int | None:
        node = spot.node
        value = core_value(node.text) if node.rendered else node.value
        if node.plain and _LEADING_ZERO.match(node.text) and not node.rendered:
            spot.refuse(
                "a leading zero means octal to some YAML readers and nothing to others",
                code="ambiguous",
                allowed=allowed,
                fix="write it without the leading zero",
            )
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            fix = ""
            if isinstance(value, str) and node.plain and _YAML11_INT.match(value):
                fix = "write the number in plain decimal digits"
            elif isinstance(value, str) and re.match(r"[0-9]{1,18}\Z", value):
                fix = f"write it without quotes: {value}"
            spot.refuse("a whole number is wanted", code="wrong_type", allowed=allowed, fix=fix)
            return None
        if not least <= value <= most:
            spot.refuse(
                "the number is out of range",
                allowed=allowed,
                fix=f"write {most if value > most else least}, if the limit is what you mean",
            )
            return None
        return value

    return Kind(allowed, read)


def seconds(least: float, most: float) -> Kind[float]:
    """A duration, fractions allowed."""
    allowed = f"seconds, {least:g} to {most:g}"

    def read(spot: Spot) -> float | None:
        value = core_value(spot.node.text) if spot.node.rendered else spot.node.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            spot.refuse("a number of seconds is wanted", code="wrong_type", allowed=allowed)
            return None
        if not least <= value <= most:  # also false for nan
            spot.refuse("the number is out of range", allowed=allowed)
            return None
        return float(value)

    return Kind(allowed, read)


def _read_boolean(spot: Spot) -> bool | None:
    node = spot.node
    value = core_value(node.text) if node.rendered else node.value
    if isinstance(value, bool):
        return value
    allowed = "true or false"
    if isinstance(value, str) and node.plain and value in _YAML11_TRUE + _YAML11_FALSE:
        right = "true" if value in _YAML11_TRUE else "false"
        spot.refuse("YAML 1.2 reads this as a text", code="ambiguous", allowed=allowed, fix=f"write {right}")
    else:
        right = value if isinstance(value, str) and value in ("true", "false") else ""
        spot.refuse(
            "true or false is wanted",
            code="wrong_type",
            allowed=allowed,
            fix=f"write it without quotes: {right}" if right else "",
        )
    return None


boolean: Kind[bool] = Kind("true or false", _read_boolean)


def size(least: int) -> Kind[int]:
    """Bytes, written as a whole number and ``m``, ``M``, ``g`` or ``G`` (powers of 1024)."""
    allowed = f"a whole number and m, M, g or G (powers of 1024), at least {least // 1024**2}m"

    def read(spot: Spot) -> int | None:
        value = raw_text(spot, allowed=allowed, numbers=True)
        if value is None:
            return None
        found = _SIZE.match(value)
        if not found:
            fix = f"write {value}m or {value}g" if value.isdigit() and len(value) < 6 else ""
            spot.refuse("this is no size", allowed=allowed, fix=fix)
            return None
        result = int(found[1]) * _SIZE_UNITS[found[2].lower()]
        if not least <= result <= _MAX_SIZE:
            spot.refuse("the size is out of range", allowed=allowed)
            return None
        return result

    return Kind(allowed, read)


def list_of(item: Kind[T], *, single: bool = False, least: int = 0, most: int = 1000) -> Kind[tuple[T, ...]]:
    """A list. ``single``: one value may stand without its list. Every bad item is reported."""
    allowed = f"a list: each {item.allowed}" + ("; or one such value" if single else "")

    def read(spot: Spot) -> tuple[T, ...] | None:
        if spot.node.shape is not Shape.LIST:
            if single and spot.node.shape is Shape.SCALAR:
                only = item.read(spot)
                return None if only is None else (only,)
            fix = (
                f"write it as a list: [{spot.node.text}]"
                if spot.node.shape is Shape.SCALAR and len(spot.node.text) < 60
                else ""
            )
            spot.refuse("a list is wanted", code="wrong_type", allowed=allowed, fix=fix)
            return None
        if not least <= len(spot.node.items) <= most:
            spot.refuse(
                "too few items" if len(spot.node.items) < least else "too many items",
                allowed=f"{least} to {most} items",
            )
            return None
        values = [item.read(one) for one in spot.items()]
        return tuple(value for value in values if value is not None)

    return Kind(allowed, read)


def _read_command(spot: Spot) -> tuple[str, ...] | None:
    if spot.node.shape is Shape.LIST:
        words = [raw_text(one, allowed="a word of a command", numbers=True, most=64 * 1024) for one in spot.items()]
        return None if any(word is None for word in words) else tuple(word for word in words if word is not None)
    node = spot.node
    line = raw_text(spot, allowed=command.allowed, numbers=True, booleans=isinstance(node.value, bool), most=64 * 1024)
    if line is None:
        return None
    try:
        return tuple(shlex.split(line))
    except ValueError:
        spot.refuse(
            "a quotation mark or backslash has no partner",
            allowed=command.allowed,
            fix="close the quote, or write the command as a list",
        )
        return None


command: Kind[tuple[str, ...]] = Kind(
    "a command line (split into words as a shell does), or a list of words", _read_command
)


def _read_name(spot: Spot) -> str | None:
    value = raw_text(spot, allowed=NAME_ALLOWED)
    if value is None:
        return None
    if why := name_problem(value):
        lower = value.lower().replace("_", "-")
        fix = f"write {lower}" if not name_problem(lower) else ""
        spot.refuse(why, allowed=f"{NAME_ALLOWED}, at most {MAX_NAME} characters", fix=fix)
        return None
    return value


name: Kind[str] = Kind(NAME_ALLOWED, _read_name)


def image(*, host: bool) -> Kind[str]:
    """An image reference. ``host`` False: it must come from the cluster's own registry, so it names none."""
    allowed = (
        "an image reference" if host else "an image of the cluster's registry: repository:tag, without a registry host"
    )

    def read(spot: Spot) -> str | None:
        value = raw_text(spot, allowed=allowed)
        if value is None:
            return None
        reference = parse_image(value)
        if reference is None:
            spot.refuse("this is no image reference", allowed=allowed)
            return None
        if reference.host and not host:
            bare = value.removeprefix(reference.host + "/")
            spot.refuse(
                "a proc runs only images of the cluster's registry",
                allowed=allowed,
                fix=f"push it there and write {bare}",
            )
            return None
        return value

    return Kind(allowed, read)


def absolute_path(allowed: str = "an absolute path") -> Kind[str]:
    def read(spot: Spot) -> str | None:
        value = raw_text(spot, allowed=allowed)
        if value is None:
            return None
        if not value.startswith("/"):
            spot.refuse(
                "the path is not absolute",
                allowed=allowed,
                fix=f"write /{value.removeprefix('./')}, or where it really is",
            )
            return None
        return _clean(value)

    return Kind(allowed, read)


def in_app(value: str) -> str:
    """``value`` made absolute under ``/lain/app`` and normalized; ``..`` never leads above ``/``."""
    trimmed = value.strip()
    return _clean(trimmed if trimmed.startswith("/") else f"{APP_DIRECTORY}/{trimmed}")


def _clean(path: str) -> str:
    return "/" + normpath(path).lstrip("/")


def repository_path(allowed: str) -> Kind[str]:
    """A relative path that stays inside the repository."""

    def read(spot: Spot) -> str | None:
        value = raw_text(spot, allowed=allowed)
        if value is None:
            return None
        clean = normpath(value.strip()) if value.strip() else ""
        if not clean or clean.startswith("/") or clean == ".." or clean.startswith("../"):
            spot.refuse("the path leads out of the repository", allowed=allowed)
            return None
        return clean

    return Kind(allowed, read)


def assignments(
    allowed: str, key_pattern: str, separator: str, *, mapping: bool, single: bool = False
) -> Kind[dict[str, str]]:
    """``K=V`` (or ``k:v``) texts in a list, split at the first separator; with ``mapping`` a map too. A name given twice is a fault."""
    compiled = re.compile(rf"(?:{key_pattern})\Z")

    def pair(spot: Spot) -> tuple[str, str] | None:
        value = raw_text(spot, allowed=allowed, most=64 * 1024)
        if value is None:
            return None
        left, found, right = value.partition(separator)
        if not found:
            spot.refuse(f"there is no {separator!r} in it", allowed=allowed, fix=f"write {left}{separator}…")
            return None
        return left.strip(), right.strip() if separator == ":" else right

    def read(spot: Spot) -> dict[str, str] | None:
        values: dict[str, str] = {}
        for at, given in found_pairs(spot):
            if given is None:
                continue
            left, right = given
            if not compiled.match(left):
                at.refuse(f"{left!r} is no good name", allowed=allowed)
            elif left in values:
                at.refuse(f"{left} is given twice", code="duplicate_key", fix="keep one")
            else:
                values[left] = right
        return values

    def found_pairs(spot: Spot) -> list[tuple[Spot, tuple[str, str] | None]]:
        if spot.node.shape is Shape.LIST:
            return [(one, pair(one)) for one in spot.items()]
        if spot.node.shape is Shape.MAP and mapping:
            pairs: list[tuple[Spot, tuple[str, str] | None]] = []
            for at_key, at_value in spot.entries():
                if at_value.node.unknown:
                    continue
                value = raw_text(
                    at_value, allowed="a text, number or boolean", numbers=True, booleans=True, most=64 * 1024
                )
                pairs.append((at_key, None if value is None else (at_key.node.text, value)))
            return pairs
        if spot.node.shape is Shape.SCALAR and single:
            return [(spot, pair(spot))]
        spot.refuse("a list is wanted" + (" (or a map)" if mapping else ""), code="wrong_type", allowed=allowed)
        return []

    return Kind(allowed, read)
