"""YAML text to a tree of nodes that know their line and column: YAML 1.2's core scalars, and nothing that can hurt the reader.

pyyaml's own loaders read YAML 1.1 (``no`` is false, ``010`` is 8, ``22:30`` is 1350), let the last of two equal keys win, follow
aliases without end and lose every position. Here its *events* are composed by hand, without recursion, within fixed limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NoReturn

import yaml

from lain_sdk.manifest.faults import Faults, Path, shorten

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 20_000
"""Values in a document once every alias is written out."""
MAX_CHARACTERS = 2 * MAX_BYTES
"""Text in a document once every alias is written out."""
_MAX_NUMBER = 32

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_TRUE = re.compile(r"(?:true|True|TRUE)\Z")
_FALSE = re.compile(r"(?:false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]+\Z")
_OCTAL = re.compile(r"0o[0-7]+\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL_FLOAT = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_CORE_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")} | {"!"}

Scalar = None | bool | int | float | str


class Shape(Enum):
    SCALAR = "a value"
    LIST = "a list"
    MAP = "a map"


@dataclass(frozen=True, slots=True)
class Node:
    """One value of the document. ``line`` and ``column`` count from 1.

    A scalar has the ``value`` that YAML 1.2 gives it and the ``text`` that was written; ``plain``: it stood without quotes.
    ``rendered``: the text came out of a template, so it may be read as whatever type the key wants. ``unknown``: it will come out of
    a template once its parameters are known, and nothing can be said about it yet.
    """

    shape: Shape
    line: int
    column: int
    value: Scalar = None
    text: str = ""
    plain: bool = False
    items: tuple[Node, ...] = ()
    entries: tuple[tuple[Node, Node], ...] = ()
    count: int = 1
    characters: int = 0
    height: int = 1
    rendered: bool = False
    unknown: bool = False

    @property
    def is_null(self) -> bool:
        return self.shape is Shape.SCALAR and self.value is None and not self.unknown

    def describe(self) -> str:
        """What stands here, in words, for ``found``."""
        if self.shape is Shape.LIST:
            return f"a list of {len(self.items)}" if self.items else "an empty list"
        if self.shape is Shape.MAP:
            keys = ", ".join(shorten(key.text, 20) for key, _ in self.entries[:3])
            return f"a map ({keys}{', …' if len(self.entries) > 3 else ''})" if self.entries else "an empty map"
        if self.value is None:
            return "nothing" if not self.text else self.text
        if isinstance(self.value, bool):
            return f"the boolean {self.text}"
        if isinstance(self.value, int | float):
            return f"the number {shorten(self.text)}"
        return f'the text "{shorten(self.value)}"'


class _Stop(Exception):
    """Reading cannot go on; the fault is already recorded."""


def parse(text: str | bytes, faults: Faults) -> Node | None:
    """The tree of one YAML document, or None when there is none to speak of; every mistake goes into ``faults``.

    Never raises for bad input, whatever it is. Work is bounded by ``MAX_BYTES``, ``MAX_DEPTH`` and ``MAX_NODES``.
    """
    decoded = _decode(text, faults)
    if decoded is None:
        return None
    try:
        return _Composer(faults).compose(decoded)
    except _Stop:
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark if error.problem_mark is not None else error.context_mark
        line, column = getattr(mark, "line", -1) + 1, getattr(mark, "column", -1) + 1
        problem = " ".join(part for part in (error.context, error.problem) if part) or "it is not YAML"
        faults.add(line, column, (), "yaml", f"not readable as YAML: {shorten(problem, 200)}", fix=_yaml_fix(problem))
    except yaml.YAMLError as error:
        faults.add(0, 0, (), "yaml", f"not readable as YAML: {shorten(str(error), 200)}")
    except (ValueError, RecursionError) as error:
        faults.add(0, 0, (), "yaml", f"not readable as YAML: {shorten(str(error), 200)}")
    return None


def _decode(text: str | bytes, faults: Faults) -> str | None:
    try:
        raw = text if isinstance(text, bytes) else text.encode("utf-8")
        size = len(raw)
        decoded = raw.decode("utf-8")
    except UnicodeError as error:
        faults.add(0, 0, (), "yaml", "the file is not UTF-8 text", found=shorten(str(error), 100), allowed="UTF-8")
        return None
    if size > MAX_BYTES:
        faults.add(
            0, 0, (), "too_big", "the manifest is too big", found=f"{size} bytes", allowed=f"at most {MAX_BYTES} bytes"
        )
        return None
    return decoded.removeprefix("\ufeff")


def _yaml_fix(problem: str) -> str:
    if "start any token" in problem:
        return "quote the value, or indent with blanks: YAML takes neither tabs nor a leading @, ` or % as plain text"
    if "mapping values are not allowed" in problem:
        return 'quote a text that holds ": "'
    if "expected <block end>" in problem or "could not find expected ':'" in problem:
        return "check the indentation of this line and the one before"
    return ""


@dataclass(slots=True)
class _Open:
    """A list or map whose end has not been read yet."""

    shape: Shape
    line: int
    column: int
    anchor: str | None
    items: list[Node] = field(default_factory=list)
    entries: list[tuple[Node, Node]] = field(default_factory=list)
    merges: list[Node] = field(default_factory=list)
    key: Node | None = None
    seen: dict[str, int] = field(default_factory=dict)
    count: int = 1
    characters: int = 0
    height: int = 0


class _Composer:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._anchors: dict[str, Node | None] = {}
        self._stack: list[_Open] = []
        self._count = 0
        self._characters = 0

    def compose(self, text: str) -> Node | None:
        root: Node | None = None
        documents = 0
        for event in _events(text):
            mark = event.start_mark
            line, column = (0, 0) if mark is None else (mark.line + 1, mark.column + 1)
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._stop(
                        line,
                        column,
                        "yaml",
                        "a manifest is one document",
                        found="a second one",
                        fix="remove the --- line",
                    )
                continue
            node = self._node(event, line, column)
            if node is not None:
                root = self._put(node)
        return root

    def _node(self, event: yaml.Event, line: int, column: int) -> Node | None:
        """The node that this event completes."""
        if isinstance(event, yaml.ScalarEvent):
            return self._remember(event.anchor, self._scalar(event, line, column))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor or "", line, column)
        if isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            shape = Shape.MAP if isinstance(event, yaml.MappingStartEvent) else Shape.LIST
            self._check_tag(event.tag, line, column)
            if len(self._stack) >= MAX_DEPTH:
                self._stop(line, column, "too_big", "nested too deep", allowed=f"at most {MAX_DEPTH} levels")
            if event.anchor is not None:
                self._anchors[event.anchor] = None
            self._stack.append(_Open(shape, line, column, event.anchor))
            return None
        if isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            return self._close(self._stack.pop())
        return None

    def _put(self, node: Node) -> Node | None:
        """Give a finished node to what encloses it; returns it when nothing does: it is the document."""
        if not self._stack:
            return node
        top = self._stack[-1]
        top.count += node.count
        top.characters += node.characters
        top.height = max(top.height, node.height)
        if top.height + len(self._stack) > MAX_DEPTH:
            self._stop(node.line, node.column, "too_big", "nested too deep", allowed=f"at most {MAX_DEPTH} levels")
        if top.shape is Shape.LIST:
            top.items.append(node)
        elif top.key is None:
            top.key = node
        else:
            key, top.key = top.key, None
            self._pair(top, key, node)
        return None

    def _pair(self, top: _Open, key: Node, value: Node) -> None:
        if key.shape is not Shape.SCALAR:
            self._fault(
                key,
                "wrong_type",
                "a key must be a text",
                found=key.describe(),
                fix="quote it, or check for a stray { or [",
            )
        elif key.plain and key.text == "<<":
            top.merges.append(value)
        elif key.text in top.seen:
            first = top.seen[key.text]
            self._fault(
                key,
                "duplicate_key",
                f'"{shorten(key.text)}" is given twice',
                found=f"first on line {first}",
                fix="keep one",
                under=key.text,
            )
        else:
            top.seen[key.text] = key.line
            top.entries.append((key, value))

    def _close(self, done: _Open) -> Node:
        for merge in done.merges:
            self._merge(done, merge)
        node = Node(
            done.shape, done.line, done.column, items=tuple(done.items), entries=tuple(done.entries),
            count=done.count, characters=done.characters, height=done.height + 1,
        )  # fmt: skip
        self._spend(node, 1, 0)
        return self._remember(done.anchor, node)

    def _merge(self, into: _Open, source: Node) -> None:
        """``<<: *other``: the other map's keys, where this one lacks them."""
        for one in source.items if source.shape is Shape.LIST else (source,):
            if one.shape is not Shape.MAP:
                self._fault(one, "wrong_type", "<< takes a map or a list of maps", found=one.describe())
                continue
            for key, value in one.entries:
                if key.text not in into.seen:
                    into.seen[key.text] = key.line
                    into.entries.append((key, value))

    def _alias(self, anchor: str, line: int, column: int) -> Node:
        if anchor not in self._anchors:
            self._stop(
                line,
                column,
                "yaml",
                f"*{shorten(anchor)} refers to nothing",
                fix=f"define &{shorten(anchor)} before it is used",
            )
        node = self._anchors[anchor]
        if node is None:
            self._stop(line, column, "yaml", f"*{shorten(anchor)} contains itself")
        self._spend(node, node.count, node.characters)
        return node

    def _scalar(self, event: yaml.ScalarEvent, line: int, column: int) -> Node:
        self._check_tag(event.tag, line, column)
        text = event.value
        plain = not event.style
        tag = (event.tag or "").removeprefix("tag:yaml.org,2002:")
        if tag in ("str", "!"):
            plain = False
        value = core_value(text) if (plain and not tag) or tag in ("int", "float", "bool", "null") else text
        node = Node(Shape.SCALAR, line, column, value=value, text=text, plain=plain, characters=len(text))
        self._spend(node, 1, len(text))
        return node

    def _check_tag(self, tag: str | None, line: int, column: int) -> None:
        if tag is not None and tag not in _CORE_TAGS:
            self._faults.add(
                line, column, self._path(), "yaml", "tags are not taken", found=shorten(tag), fix="remove the tag"
            )

    def _remember(self, anchor: str | None, node: Node) -> Node:
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _spend(self, node: Node, count: int, characters: int) -> None:
        """Count what this node adds to the document written out: an alias costs as much as what it stands for."""
        self._count += count
        self._characters += characters
        if self._count > MAX_NODES or self._characters > MAX_CHARACTERS:
            allowed = f"at most {MAX_NODES} values and {MAX_CHARACTERS} characters once aliases are written out"
            self._stop(node.line, node.column, "too_big", "the manifest holds too much", allowed=allowed)

    def _path(self, under: str | None = None) -> Path:
        parts: list[str | int] = []
        for level in self._stack:
            if level.shape is Shape.LIST:
                parts.append(len(level.items))
            elif level.key is not None:
                parts.append(level.key.text)
        return (*parts, under) if under is not None else tuple(parts)

    def _fault(
        self, node: Node, code: str, message: str, *, found: str = "", fix: str = "", under: str | None = None
    ) -> None:
        self._faults.add(node.line, node.column, self._path(under), code, message, found=found, fix=fix)

    def _stop(
        self, line: int, column: int, code: str, message: str, *, found: str = "", allowed: str = "", fix: str = ""
    ) -> NoReturn:
        self._faults.add(line, column, self._path(), code, message, found=found, allowed=allowed, fix=fix)
        raise _Stop


def _events(text: str) -> Iterator[yaml.Event]:
    loader = _LOADER(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


def core_value(text: str) -> Scalar:
    """What a plain scalar means in YAML 1.2's core schema. Numbers longer than anybody writes stay text."""
    if _NULL.match(text):
        return None
    if _TRUE.match(text):
        return True
    if _FALSE.match(text):
        return False
    if len(text) > _MAX_NUMBER:
        return text
    if _INT.match(text):
        return int(text)
    if _OCTAL.match(text):
        return int(text[2:], 8)
    if _HEX.match(text):
        return int(text, 16)
    if _FLOAT.match(text):
        return float(text)
    if _SPECIAL_FLOAT.match(text):
        return float(text.replace(".", "", 1).lower())
    return text


def as_rendered(node: Node, text: str) -> Node:
    """``node`` with the text that its template gave."""
    return replace(node, value=text, text=text, rendered=True, characters=len(text))


def as_unknown(node: Node) -> Node:
    """``node`` whose template waits for a parameter."""
    return replace(node, unknown=True)
