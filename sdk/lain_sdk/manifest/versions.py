"""Versions: ``<commit unix time>-<commit>``, the tags that carry them, and which of them can be deployed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lain_shared.errors import Invalid

MAX_VERSION = 120
PHASES = ("prepare", "build", "release", "test", "meta")
VERSION = re.compile(r"(?P<time>[0-9]+(?:\.[0-9]+)?)-(?P<commit>[0-9A-Za-z_]+)(?P<suffix>(?:-[0-9A-Za-z_]+)*)\Z")


@dataclass(frozen=True, slots=True)
class MetaVersion:
    """A version taken apart. ``suffix`` is what follows the commit (``-dirty``), or ""."""

    text: str
    time: float
    commit: str
    suffix: str = ""

    @property
    def dirty(self) -> bool:
        """Built from a work tree that no commit describes."""
        return self.suffix.startswith("-dirty")


def parse_version(text: str) -> MetaVersion | None:
    """The version in ``<time>-<commit>``, or None when it is none."""
    found = VERSION.match(text) if len(text) <= MAX_VERSION else None
    return None if found is None else MetaVersion(text, float(found["time"]), found["commit"], found["suffix"])


def require_version(text: str) -> MetaVersion:
    """As ``parse_version``; ``Invalid`` when it is none."""
    version = parse_version(text)
    if version is None:
        raise Invalid(
            f"{text!r} is no version",
            why="a version is <commit unix time>-<commit>",
            next="list them with: lain versions",
            code="invalid_version",
        )
    return version


def version_of_tag(tag: str, phase: str = "meta") -> str | None:
    """The version of a tag of this phase: ``meta-123-abc`` → ``123-abc``; None for any other tag."""
    head = f"{phase}-"
    version = parse_version(tag.removeprefix(head)) if tag.startswith(head) else None
    return None if version is None else version.text


@dataclass(frozen=True, slots=True)
class Version:
    """A version in the registry. ``deployable``: its manifest and its release image are both there."""

    name: str
    time: float
    deployable: bool


def versions(tags: Iterable[str]) -> tuple[Version, ...]:
    """The versions among a repository's tags, newest commit first; equal times by name, so that the order is always the same."""
    given = set(tags)
    found = [version for tag in given if (name := version_of_tag(tag)) and (version := parse_version(name))]
    found.sort(key=lambda version: (-version.time, version.text))
    return tuple(Version(one.text, one.time, f"release-{one.text}" in given) for one in found)


def newest_deployable(tags: Iterable[str]) -> str | None:
    """The newest version whose ``meta`` and ``release`` tags both exist."""
    return next((version.name for version in versions(tags) if version.deployable), None)
