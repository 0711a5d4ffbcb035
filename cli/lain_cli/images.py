"""Names of images (pure): which tag says which phase and version, and which of several prepare images is the one to use."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

APP_LABEL, PHASE_LABEL, VERSION_LABEL = "lain.app", "lain.phase", "lain.meta_version"
PHASES = ("prepare", "script_inter", "build", "release", "test", "meta")

_VERSION = re.compile(r"(?P<time>[0-9]+(?:\.[0-9]+)?)-(?P<commit>[0-9A-Za-z]+)(?P<dirty>-dirty)?\Z")
_TAG = re.compile(r"(?P<phase>meta|release)-(?P<version>[0-9]+(?:\.[0-9]+)?-[0-9A-Za-z]+(?:-dirty)?)\Z")


def image(app: str, phase: str, version: str | None, registry: str = "") -> str:
    """``[registry/]<app>:<phase>[-<version>]``."""
    name = f"{app}:{phase}-{version}" if version else f"{app}:{phase}"
    return f"{registry}/{name}" if registry else name


def parse_tag(tag: str) -> tuple[str, str] | None:
    """``meta-5-a`` → ``("meta", "5-a")``; None when the tag names no version."""
    found = _TAG.match(tag)
    return (found["phase"], found["version"]) if found else None


def version_time(version: str) -> float:
    """Commit time of a version, in seconds since the epoch; 0 for text that is none."""
    found = _VERSION.match(version)
    return float(found["time"]) if found else 0.0


def short_version(version: str) -> str:
    """``1500000000-0123456789…`` → ``1500000000-0123456`` for tables."""
    found = _VERSION.match(version)
    return f"{found['time']}-{found['commit'][:7]}{found['dirty'] or ''}" if found else version


def script_digest(base: str, script: Sequence[str]) -> str:
    """First 16 hex digits of sha256 over base and joined script: a changed base or script is another prepare image."""
    return hashlib.sha256((base + "\n" + "\n".join(script)).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class PrepareKey:
    """What a prepare image is found by: the manifest's own version, or base image and script."""

    version: str | None
    base_id: str = ""
    """First 10 hex digits of the base image's id; needed without ``version``."""
    script: str = ""
    """``script_digest``; needed without ``version``."""

    def tag(self, now: int) -> str:
        """The tag a prepare image made at ``now`` (unix seconds) gets."""
        if self.version is not None:
            return f"prepare-{self.version}-{now}"
        return f"prepare-{now}-{self.base_id}-{self.script}"

    def time_of(self, tag: str) -> int | None:
        """When ``tag`` was made, if it is a prepare image of this key; else None."""
        if self.version is not None:
            found = re.fullmatch(rf"prepare-{re.escape(self.version)}-([0-9]+)", tag)
        else:
            found = re.fullmatch(rf"prepare-([0-9]+)-{re.escape(self.base_id)}-{re.escape(self.script)}", tag)
        return int(found[1]) if found else None

    def newest(self, tags: Iterable[str]) -> str | None:
        """The newest of ``tags`` that fits, or None."""
        dated = [(made, tag) for tag in tags if (made := self.time_of(tag)) is not None]
        return max(dated)[1] if dated else None
