"""What the doctor says: one ``Check`` for each thing that was looked at, alike for people and programs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

OK, WARNING, PROBLEM, SKIPPED = "ok", "warning", "problem", "skipped"
MOST_EVIDENCE = 8


@dataclass(frozen=True, slots=True)
class Check:
    """``state``: ``ok``, ``warning`` (about to hurt, or could), ``problem`` (something does not work), ``skipped`` (nobody could tell).

    ``found``: what, in one sentence. ``code``: the fault's name for programs, "" when there is none. ``next``: the next step for a person;
    ``command`` is its part that a shell on ``node`` runs as it is ("" when there is none).
    """

    name: str
    state: str
    found: str
    code: str = ""
    why: str = ""
    evidence: tuple[str, ...] = ()
    next: str = ""
    command: str = ""
    node: str = ""
    part: str = ""
    """The part of the platform it is about: what else is found out about that part is evidence of the same fault."""

    @property
    def bad(self) -> bool:
        return self.state in (WARNING, PROBLEM)

    def seen(self, *more: str) -> Check:
        """With more evidence; the same line is told once."""
        return replace(self, evidence=tuple(dict.fromkeys((*self.evidence, *more)))[:MOST_EVIDENCE])


@dataclass(frozen=True, slots=True)
class Site:
    """How a person reaches a node's shell. ``local``: the name of the local cluster, "" for nodes elsewhere; ``node``: its only node."""

    local: str = ""
    node: str = ""

    def on(self, node: str, command: str) -> str:
        """The command for ``node`` as it is to be typed here; told in words for a node elsewhere."""
        if not command:
            return ""
        if not self.local:
            return f"on {node or 'its node'}: {command}"
        plain = not re.search(r"[;|&$<>()*\"']", command)
        inner = command if plain else f"sh -c {shlex.quote(command)}"
        return f"lain local exec --name {self.local} -- {inner}"


def steps(*parts: str) -> str:
    """Steps one after the other, in one line."""
    return "; then ".join(part for part in parts if part)


def ok(name: str, found: str) -> Check:
    return Check(name, OK, found)


def skipped(name: str, why: str) -> Check:
    return Check(name, SKIPPED, why)


def code_of(type: str) -> str:
    """``EngineUnreachable`` → ``engine_unreachable``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type).lower()


def listed(texts: Iterable[str], most: int = 5) -> str:
    found: Sequence[str] = list(texts)
    more = len(found) - most
    return ", ".join(found[:most]) + (f" and {more} more" if more > 0 else "")
