"""How a tree becomes values: ``Spot`` (a node and where it is), ``Kind`` (a type people can write), ``Key`` and ``Section``.

Every key of ``lain.yaml`` is declared once, as a ``Key``; the reader, the nearest-key guesses and the reference page all come from
that declaration. A kind never raises: it reports through its spot and answers None, and the reading goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from lain_sdk.manifest.faults import Faults, Path
from lain_sdk.manifest.source import Node, Shape

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Spot:
    """A node, the path that led to it, and where to report what is wrong with it."""

    node: Node
    path: Path
    faults: Faults

    def under(self, part: str | int, node: Node) -> Spot:
        return Spot(node, (*self.path, part), self.faults)

    def items(self) -> Iterator[Spot]:
        """The items of a list. Items that wait for a template's parameter are left out."""
        for index, item in enumerate(self.node.items):
            if not item.unknown:
                yield self.under(index, item)

    def entries(self) -> Iterator[tuple[Spot, Spot]]:
        """Key and value of each entry of a map, both under the key's path."""
        for key, value in self.node.entries:
            yield self.under(key.text, key), self.under(key.text, value)

    def refuse(
        self,
        message: str,
        *,
        code: str = "bad_value",
        allowed: str = "",
        fix: str = "",
        nearest: str = "",
        found: str | None = None,
    ) -> None:
        """Report this spot. ``found`` is described from the node unless given."""
        self.faults.add(
            self.node.line,
            self.node.column,
            self.path,
            code,
            message,
            found=self.node.describe() if found is None else found,
            allowed=allowed,
            nearest=nearest,
            fix=fix,
        )


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A type that people can write. ``allowed`` says it in words; ``read`` answers the value, or None after reporting why not."""

    allowed: str
    read: Callable[[Spot], T | None]

    def refused(self, spot: Spot, message: str, *, code: str = "bad_value", fix: str = "") -> None:
        spot.refuse(message, code=code, allowed=self.allowed, fix=fix)


@dataclass(frozen=True, slots=True)
class Key(Generic[T, D]):
    """One key of a section. ``default`` is used when the key is absent or null; ``shown`` says the default in words where it must."""

    name: str
    kind: Kind[T]
    default: D
    says: str
    required: bool = False
    shown: str = ""
    only: str = ""
    """What it is restricted to, in words: ``web``, ``portal``, …; the reader checks ``only_types``."""
    only_types: tuple[str, ...] = ()

    def of(self, found: Found) -> T | D:
        """The value read, or the default."""
        value: T | D = found.values.get(self.name, self.default)
        return value


@dataclass(frozen=True, slots=True)
class Found:
    """What was read from one section: the good values, and where every key that was written (and not null) stands."""

    spot: Spot
    values: Mapping[str, Any]
    at: Mapping[str, Spot]
    waiting: frozenset[str] = frozenset()
    """Keys whose value waits for a template's parameter."""

    def has(self, key: Key[Any, Any]) -> bool:
        """The key was written, well or badly."""
        return key.name in self.at or key.name in self.waiting

    def where(self, key: Key[Any, Any]) -> Spot:
        return self.at.get(key.name, self.spot)


@dataclass(frozen=True, slots=True)
class Section:
    """A map with known keys. ``name`` is how people call it, ``says`` what it is for; both go to the reference page."""

    name: str
    keys: tuple[Key[Any, Any], ...]
    says: str = ""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Keys of other sections → where they belong; for better advice on an unknown key."""

    def names(self) -> tuple[str, ...]:
        return tuple(key.name for key in self.keys)

    def read(self, spot: Spot) -> Found | None:
        """The section's keys; None when it is no map. Null is an empty map. Unknown and missing keys are reported."""
        if spot.node.shape is not Shape.MAP and not spot.node.is_null:
            spot.refuse(f"{self.name} must be a map", code="wrong_type", allowed=f"a map of: {', '.join(self.names())}")
            return None
        known = {key.name: key for key in self.keys}
        values: dict[str, Any] = {}
        at: dict[str, Spot] = {}
        waiting: set[str] = set()
        for at_key, at_value in spot.entries():
            key = known.get(at_key.node.text)
            if key is None:
                self.unknown(at_key)
            elif at_value.node.unknown:
                waiting.add(key.name)
            elif not at_value.node.is_null:
                at[key.name] = at_value
                value = key.kind.read(at_value)
                if value is not None:
                    values[key.name] = value
        for key in self.keys:
            if key.required and key.name not in at and key.name not in waiting:
                empty = any(entry.text == key.name for entry, _ in spot.node.entries)
                what = f"{key.name} is empty" if empty else f"{key.name} is missing"
                place = spot.under(key.name, spot.node)
                place.refuse(
                    what,
                    code="missing_key",
                    allowed=key.kind.allowed,
                    found="nothing",
                    fix=f"add {key.name}: {key.says}",
                )
        return Found(spot, values, at, frozenset(waiting))

    def unknown(self, at_key: Spot) -> None:
        """Report a key that this section does not have."""
        name = at_key.node.text
        nearest = at_key.faults.nearest(name, self.names())
        fix = ""
        if not nearest and name in self.elsewhere:
            fix = f"{name} is a key of {self.elsewhere[name]}: move it there"
        at_key.refuse(
            f"{self.name} has no such key",
            code="unknown_key",
            allowed=", ".join(self.names()),
            nearest=nearest,
            fix=fix,
        )
