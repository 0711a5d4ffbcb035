"""This machine: what ``lain`` itself needs of it."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lain_cli.context import Run
from lain_cli.doctor.report import PROBLEM, WARNING, Check, ok
from lain_cli.render import size
from lain_shared.errors import LainError

LEAST_FREE_BYTES = 2 * 1024**3
OLDEST_ENGINE = 20


def look_here(run: Run) -> tuple[Check, ...]:
    """In the order in which one would look."""
    return (check_docker(run), check_disk(run), check_git(run), check_configuration(run))


def check_docker(run: Run) -> Check:
    try:
        version = run.docker.available()
    except LainError as error:
        why = "only commands that build, push or run images on this machine need it"
        evidence = (error.why,) if error.why else ()
        return Check("docker", WARNING, error.message, "docker_missing", why, evidence, error.next)
    major = int(version.split(".")[0]) if version.split(".")[0].isdigit() else 0
    if major and major < OLDEST_ENGINE:
        return Check(
            "docker", WARNING, f"Engine {version} is old", "docker_old", f"{OLDEST_ENGINE}.10 or newer is supported"
        )
    return ok("docker", f"Engine {version}")


def check_disk(run: Run) -> Check:
    """Free space where Docker keeps its images, when that is on this machine; else of the home directory."""
    try:
        root = (run.docker.ask("info", "--format", "{{.DockerRootDir}}") or "").strip()
    except LainError:
        root = ""
    place = Path(root) if root and Path(root).exists() else Path.home()
    free = shutil.disk_usage(place).free
    if free < LEAST_FREE_BYTES:
        return Check(
            "disk", PROBLEM, f"this machine has {size(free)} free in {place}", "disk_full_here",
            "an image cannot be built with so little", next="docker system df; docker image prune",
        )  # fmt: skip
    return ok("disk", f"{size(free)} free in {place}")


def check_git(run: Run) -> Check:
    if shutil.which("git", path=run.environ.get("PATH")) is None:
        why = "a version is a commit: nothing is built without it"
        return Check("git", PROBLEM, "git is not installed", "git_missing", why, next="apt-get install git")
    return ok("git", "installed")


def check_configuration(run: Run) -> Check:
    try:
        phase = run.phase
    except LainError as error:
        return Check("configuration", PROBLEM, error.message, "no_phase", error.why, next=error.next)
    file = run.config.phase_file
    if file.exists() and file.stat().st_mode & 0o077:
        why = "tokens and passwords stand in it"
        found = f"{file} can be read by others"
        return Check("configuration", WARNING, found, "configuration_open", why, next=f"chmod 600 {file}")
    return ok("configuration", f"phase {phase.name}, domain {phase.domain}")


def claims_of(token: str) -> Mapping[str, Any]:
    """What a token says of itself (RFC 7519), unverified: for telling people, never for deciding. Empty for what is no token."""
    try:
        payload = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
