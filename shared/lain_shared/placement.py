"""Which node a pod goes to, and why not the others: pure, and one code for the console's plan, the leader and simulations.

Filters (``constraint:<key><op><value>`` on a node's name and labels, ``affinity:<label><op><value>`` on the labels of pods already
there; ``==`` or ``!=``; ``~`` before the value makes one soft; the value may be a glob or a ``/regex/``) rule nodes out; what is left is
ordered by soft matches, then fewest pods of the same proc, then the lower of the two shares in use, then a hash of the names.
Every node is ruled out by the *first* thing that speaks against it, so that the numbers of a verdict add up.
"""

from __future__ import annotations

import fnmatch
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from lain_shared.errors import Invalid
from lain_shared.model.node import Node, NodeState
from lain_shared.model.pod import Assignment, PodTemplate

CPU_LEVELS = 16
"""A whole node in CPU levels: one level is 1/8 of half the node's cores."""
DEFAULT_GROUP = "default"
MAX_PATTERN, MAX_SUBJECT, MAX_QUANTIFIERS = 128, 128, 3

_FILTER = re.compile(
    r"(?P<kind>constraint|affinity):(?P<key>[A-Za-z0-9][A-Za-z0-9_.-]{0,62})(?P<op>==|!=)(?P<soft>~?)(?P<value>.+)\Z"
)
_QUANTIFIER = re.compile(r"[*+?]|\{[0-9,]*\}")


class BadFilter(Invalid):
    code = "bad_filter"

    def __init__(self, text: str, why: str) -> None:
        super().__init__(
            f"{text!r} is not a placement filter",
            why=why,
            next="write constraint:<label>==<value> or affinity:<label>!=<value>; ~ before the value makes it a preference",
        )


@dataclass(frozen=True, slots=True)
class Filter:
    """One parsed filter. ``text`` is what the manifest said."""

    text: str
    kind: Literal["constraint", "affinity"]
    key: str
    equal: bool
    soft: bool
    value: str

    def allows(self, room: Room) -> bool:
        """Whether this node satisfies the filter. ``!=`` holds where the label is absent."""
        if self.kind == "constraint":
            found = room.label(self.key)
            return (found is not None and _matches(self.value, found)) is self.equal
        there = any(_matches(self.value, value) for key, value in room.pod_labels if key == self.key)
        return there is self.equal


@lru_cache(maxsize=4096)
def parse_filter(text: str) -> Filter:
    """The filter in ``text``; ``BadFilter`` says what is wrong with it."""
    found = _FILTER.match(text)
    if found is None:
        raise BadFilter(text, "it does not have the form kind:key, == or !=, value")
    value = found["value"]
    if value.startswith("/"):
        _check_regex(text, value)
    kind: Literal["constraint", "affinity"] = "constraint" if found["kind"] == "constraint" else "affinity"
    return Filter(text, kind, found["key"], found["op"] == "==", bool(found["soft"]), value)


def _check_regex(text: str, value: str) -> None:
    """Refuse what could take long: Python's ``re`` backtracks, and a filter is written by an app's developer."""
    pattern = value[1:-1]
    if len(value) < 3 or not value.endswith("/"):
        raise BadFilter(text, "a regular expression stands between two slashes")
    if len(pattern) > MAX_PATTERN:
        raise BadFilter(text, f"the regular expression is longer than {MAX_PATTERN} characters")
    plain = re.sub(r"\\.", "x", pattern)
    plain = re.sub(r"\[[^\]]*\]", "x", plain)
    if re.search(r"\\[0-9]", pattern) or "(?" in plain:
        raise BadFilter(text, "back-references and (?…) groups are not allowed in a filter")
    if re.search(r"\)(?:[*+?]|\{)", plain):
        raise BadFilter(text, "a group cannot be repeated in a filter")
    if len(_QUANTIFIER.findall(plain)) > MAX_QUANTIFIERS:
        raise BadFilter(text, f"more than {MAX_QUANTIFIERS} repetitions in a regular expression")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error"
            )  # "[[a]": a later Python may read it in another way, and place pods elsewhere
            re.compile(pattern)
    except (re.error, OverflowError, Warning) as error:
        raise BadFilter(text, f"the regular expression is wrong: {error}") from error


@lru_cache(maxsize=65536)
def _matches(pattern: str, value: str) -> bool:
    if pattern.startswith("/"):
        return re.search(pattern[1:-1], value[:MAX_SUBJECT]) is not None
    return fnmatch.fnmatchcase(value[:MAX_SUBJECT], pattern[:MAX_PATTERN])


@dataclass(slots=True)
class Room:
    """One node as placement sees it. ``take`` and ``give_back`` keep it up to date while a plan is being made."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    away: bool = False
    """Its agent is not present."""
    cordoned: bool = False
    leaving: bool = False
    """It is being drained."""
    state: NodeState | None = None
    used_memory_bytes: int = 0
    used_cpu: int = 0
    """In CPU levels."""
    new_pods: int = 0
    """Pods taken in this plan: their addresses are not yet counted by the node."""
    procs: Counter[tuple[str, str]] = field(default_factory=Counter)
    pod_labels: Counter[tuple[str, str]] = field(default_factory=Counter)

    def label(self, key: str) -> str | None:
        if key == "node":
            return self.name
        return self.labels.get(key, DEFAULT_GROUP if key == "group" else None)

    @property
    def memory_bytes(self) -> int:
        """What pods may have: the node's memory less what is reserved for the platform."""
        return 0 if self.state is None else max(self.state.memory_bytes - self.state.reserved_memory_bytes, 0)

    @property
    def free_memory_bytes(self) -> int:
        return self.memory_bytes - self.used_memory_bytes

    @property
    def free_cpu(self) -> int:
        return CPU_LEVELS - self.used_cpu

    @property
    def share(self) -> float:
        """The higher of the two shares in use, memory and CPU; 1.0 is full."""
        memory = self.used_memory_bytes / self.memory_bytes if self.memory_bytes else 1.0
        return max(memory, self.used_cpu / CPU_LEVELS)

    def copy(self) -> Room:
        return replace(self, procs=self.procs.copy(), pod_labels=self.pod_labels.copy())

    def take(self, app: str, proc: str, template: PodTemplate, *, new: bool = True) -> None:
        self._change(app, proc, template, 1)
        self.new_pods += new

    def give_back(self, app: str, proc: str, template: PodTemplate) -> None:
        self._change(app, proc, template, -1)

    def fits(self, template: PodTemplate) -> bool:
        return template.request_bytes <= self.free_memory_bytes and template.cpu <= self.free_cpu

    def _change(self, app: str, proc: str, template: PodTemplate, by: int) -> None:
        self.used_memory_bytes += by * template.request_bytes
        self.used_cpu += by * template.cpu
        self.procs[app, proc] += by
        labels = [("app", app), ("proc", f"{app}.{proc}"), *template.labels.items()]
        for label in labels:
            self.pod_labels[label] += by
            if self.pod_labels[label] <= 0:
                del self.pod_labels[label]


def make_rooms(
    nodes: Mapping[str, Node],
    present: Collection[str],
    states: Mapping[str, NodeState],
    assigned: Iterable[tuple[str, Assignment]],
    leaving: Collection[str] = (),
) -> dict[str, Room]:
    """Every registered node with what is assigned to it, pods being stopped included: their room is not free until they are gone."""
    rooms = {
        name: Room(name, node.labels, name not in present, node.cordoned, name in leaving, states.get(name))
        for name, node in nodes.items()
    }
    for name, pod in assigned:
        if (room := rooms.get(name)) is not None:
            room.take(pod.app, pod.proc, pod.template, new=False)
    return rooms


@dataclass(frozen=True, slots=True)
class Ask:
    """What wants a node. ``only_node``: the one node it may go to (its volume is there), with the reason."""

    app: str
    proc: str
    template: PodTemplate
    filters: tuple[str, ...] = ()
    only_node: str | None = None
    only_why: str = "its volume is there"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The node chosen, or None; and how many nodes each filter ruled out, with the numbers in ``details``."""

    node: str | None
    nodes: int
    ruled_out: Mapping[str, int]
    details: Mapping[str, str] = field(default_factory=dict)
    """Filter → numbers, where there are any."""

    @property
    def sentence(self) -> str:
        """For people: ``no node fits: of 3 nodes, memory rules out 2 (needs …), cordoned 1``."""
        if self.node is not None:
            return f"goes to {self.node}"
        if not self.nodes:
            return "no node fits: no node is registered"
        parts = [
            f"{name} rules out {count}" + (f" ({self.details[name]})" if name in self.details else "")
            for name, count in sorted(self.ruled_out.items(), key=lambda item: (-item[1], item[0]))
        ]
        return f"no node fits: of {self.nodes} node{'s' if self.nodes > 1 else ''}, " + ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Opinion:
    """What placement thinks of one node for one ask: ``against`` is "" when it fits; ``why`` has the numbers."""

    node: str
    against: str
    why: str
    soft_matches: int
    same_proc: int
    share: float


def place(ask: Ask, rooms: Mapping[str, Room]) -> Verdict:
    """The best node for ``ask``. Raises ``BadFilter``. The chosen room is not changed: ``take`` it."""
    hard, soft = _split(ask.filters)
    best: tuple[tuple[int, int, float, int, str], str] | None = None
    ruled_out: dict[str, list[Room]] = {}
    for name, room in rooms.items():
        if against := _against(ask, room, hard):
            ruled_out.setdefault(against, []).append(room)
            continue
        rank = _rank(ask, room, soft)
        if best is None or rank < best[0]:
            best = rank, name
    counts = {against: len(those) for against, those in ruled_out.items()}
    if best is not None:
        return Verdict(best[1], len(rooms), counts)
    return Verdict(None, len(rooms), counts, _numbers(ask, ruled_out))


def explain(ask: Ask, rooms: Mapping[str, Room]) -> tuple[Opinion, ...]:
    """Every node, best first, with what speaks against it: why here, why not there. Raises ``BadFilter``."""
    hard, soft = _split(ask.filters)
    found = []
    for name, room in rooms.items():
        against = _against(ask, room, hard)
        matches = sum(each.allows(room) for each in soft)
        opinion = Opinion(
            name, against, _why(ask, room, against), matches, room.procs[ask.app, ask.proc], round(room.share, 4)
        )
        found.append(((bool(against), _rank(ask, room, soft)), opinion))
    return tuple(opinion for _, opinion in sorted(found, key=lambda item: item[0]))


def place_many(asks: Sequence[Ask], rooms: Mapping[str, Room]) -> tuple[Verdict, ...]:
    """One after the other, each taking the room it is given (``rooms`` are changed): would all of this fit?"""
    verdicts = []
    for ask in asks:
        verdict = place(ask, rooms)
        if verdict.node is not None:
            rooms[verdict.node].take(ask.app, ask.proc, ask.template)
        verdicts.append(verdict)
    return tuple(verdicts)


def _split(texts: Iterable[str]) -> tuple[tuple[Filter, ...], tuple[Filter, ...]]:
    filters = [parse_filter(text) for text in texts]
    hard = [each for each in filters if not each.soft]
    if not any(each.kind == "constraint" and each.key == "group" for each in filters):
        hard.append(parse_filter(f"constraint:group=={DEFAULT_GROUP}"))
    return tuple(hard), tuple(each for each in filters if each.soft)


def _rank(ask: Ask, room: Room, soft: tuple[Filter, ...]) -> tuple[int, int, float, int, str]:
    matches = sum(each.allows(room) for each in soft)
    same = room.procs.get((ask.app, ask.proc), 0)
    return -matches, same, round(room.share, 3), _tie(room.name, ask.app, ask.proc), room.name


@lru_cache(maxsize=65536)
def _tie(node: str, app: str, proc: str) -> int:
    return zlib.crc32(f"{node}/{app}.{proc}".encode())


def _against(ask: Ask, room: Room, hard: tuple[Filter, ...]) -> str:
    """The first thing that rules this node out; "" when nothing does."""
    if ask.only_node is not None and room.name != ask.only_node:
        return "pinned"
    if room.away:
        return "away"
    if room.cordoned:
        return "cordoned"
    if room.leaving:
        return "draining"
    for each in hard:
        if not each.allows(room):
            return each.text
    if room.state is None:
        return "unknown"
    if not room.state.engine_reachable:
        return "engine"
    if room.state.block and room.state.free_addresses - room.new_pods <= 0:
        return "addresses"
    if ask.template.request_bytes > room.free_memory_bytes:
        return "memory"
    if ask.template.cpu > room.free_cpu:
        return "cpu"
    return ""


def _why(ask: Ask, room: Room, against: str) -> str:
    match against:
        case "":
            return f"{_size(room.free_memory_bytes)} of {_size(room.memory_bytes)} free"
        case "pinned":
            return f"it must run on {ask.only_node}: {ask.only_why}"
        case "away":
            return "its agent is not present"
        case "cordoned":
            return "it takes no new pods until it is uncordoned"
        case "draining":
            return "it is being drained"
        case "unknown":
            return "its agent has not yet said what it has"
        case "engine":
            return "its Docker Engine does not answer"
        case "addresses":
            return f"no free address in {room.state.block if room.state else 'its block'}"
        case "memory":
            return (
                f"needs {_size(ask.template.request_bytes)}, "
                f"{_size(max(room.free_memory_bytes, 0))} of {_size(room.memory_bytes)} free"
            )
        case "cpu":
            return f"needs {ask.template.cpu} CPU levels, {max(room.free_cpu, 0)} of {CPU_LEVELS} free"
        case _:
            key = parse_filter(against).key
            return f"its {key} is {room.label(key) or 'not set'}" if against.startswith("constraint") else "not so here"


def _numbers(ask: Ask, ruled_out: Mapping[str, Sequence[Room]]) -> dict[str, str]:
    found: dict[str, str] = {}
    if "memory" in ruled_out:
        roomiest = max(ruled_out["memory"], key=lambda room: (room.free_memory_bytes, room.name))
        needs, free = _size(ask.template.request_bytes), _size(max(roomiest.free_memory_bytes, 0))
        found["memory"] = f"needs {needs}, the most that is free is {free} on {roomiest.name}"
    if "cpu" in ruled_out:
        idlest = max(ruled_out["cpu"], key=lambda room: (room.free_cpu, room.name))
        free = f"{max(idlest.free_cpu, 0)} of {CPU_LEVELS} on {idlest.name}"
        found["cpu"] = f"needs {ask.template.cpu} levels, the most that is free is {free}"
    if "pinned" in ruled_out:
        found["pinned"] = f"it must run on {ask.only_node}: {ask.only_why}"
    return found


def _size(number: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:.1f} {unit}".replace(".0 ", " ")
    return f"{number} B"
