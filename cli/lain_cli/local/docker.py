"""The docker command line as this package uses it: argument vectors, no shell, failures as ``LainError`` with Docker's own words.

The command line and not the Engine's API, because ``lain build`` needs it anyway, and a person can repeat what we did.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lain_shared.errors import LainError, Unavailable

DEFAULT_TIMEOUT_SECONDS = 120.0


class CommandFailed(LainError):
    """A command ended badly; ``evidence`` holds its last lines."""

    code = "command_failed"


@dataclass(frozen=True, slots=True)
class Docker:
    """One Engine: the default one, or (``inside``) the one in a node, reached through ``docker exec``."""

    inside: str = ""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def argv(self, *arguments: str) -> list[str]:
        """The whole command line."""
        through = ["exec", "-i", self.inside, "docker"] if self.inside else []
        return ["docker", *through, *arguments]

    def run(self, *arguments: str, data: bytes | None = None, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> str:
        """Standard output, stripped. Raises ``CommandFailed`` (exit code not 0) or ``Unavailable`` (no docker, no answer in time)."""
        return run(self.argv(*arguments), data=data, environ=self.environ, timeout_seconds=timeout_seconds)

    def succeeds(self, *arguments: str) -> bool:
        """Whether the command exits 0."""
        try:
            self.run(*arguments)
        except CommandFailed:
            return False
        return True

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects of an ``inspect``-like command; those that do not exist are left out."""
        done = subprocess.run(self.argv(*arguments), capture_output=True, env=dict(self.environ), check=False)
        try:
            found = json.loads(done.stdout or b"[]")
        except ValueError as error:
            raise CommandFailed("docker did not answer in JSON", why=str(error)) from error
        if not found and done.returncode and not re.search(rb"no such|not found", done.stderr, re.IGNORECASE):
            raise _failed(self.argv(*arguments), done.returncode, done.stderr)
        return list(found)

    def has_buildx(self) -> bool:
        return self.succeeds("buildx", "version")


def run(
    argv: Sequence[str],
    *,
    data: bytes | None = None,
    environ: Mapping[str, str] | None = None,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    cwd: str | os.PathLike[str] | None = None,
) -> str:
    """Run a command to its end and return its standard output, stripped."""
    if shutil.which(argv[0]) is None:
        raise Unavailable(f"{argv[0]} is not installed", next=f"install {argv[0]} and repeat", code="not_installed")
    try:
        done = subprocess.run(
            list(argv),
            input=data if data is not None else b"",
            capture_output=True,
            env=dict(environ) if environ is not None else None,
            timeout=timeout_seconds,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(argv[:4])} … did not end within {timeout_seconds:.0f} s") from error
    if done.returncode:
        raise _failed(argv, done.returncode, done.stderr or done.stdout)
    return done.stdout.decode(errors="replace").strip()


def _failed(argv: Sequence[str], status: int, output: bytes) -> CommandFailed:
    lines = output.decode(errors="replace").strip().splitlines()[-15:]
    shown = " ".join(argv[:8]) + (" …" if len(argv) > 8 else "")
    return CommandFailed(f"{shown} failed", why=f"exit code {status}", evidence={"output": lines})
