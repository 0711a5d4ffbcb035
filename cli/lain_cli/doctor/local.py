"""A local cluster seen from outside: its node and its parts, as Docker shows them. It needs none of the platform to be well."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

from lain_cli.context import Run
from lain_cli.local.docker import CommandFailed, Docker
from lain_cli.local.platform import PART_LABEL
from lain_shared.errors import LainError

LOOK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LocalSight:
    """``node_state``: Docker's word for the node's container. ``parts``: part → Docker's word for it, e.g. ``exited``.

    ``engine_trouble``: why the node's own Engine does not say what runs in it ("" when it does).
    """

    name: str
    node: str
    node_state: str
    parts: Mapping[str, str] = field(default_factory=dict)
    engine_trouble: str = ""


def look_through_docker(run: Run, phase: str) -> LocalSight | None:
    """The local cluster that is this phase; None when there is none on this machine's Engine, or no Engine to ask."""
    from lain_cli.local.cluster import LABEL, NODE  # noqa: PLC0415 - clusters elsewhere do not pay for it

    if shutil.which("docker", path=run.environ.get("PATH")) is None:
        return None
    outer, container = Docker(environ=run.environ), f"lain-{phase}-{NODE}"
    try:
        form = '{{.State.Status}} {{index .Config.Labels "' + LABEL + '"}}'
        state, _, label = outer.run(
            "container", "inspect", "--format", form, container, timeout_seconds=LOOK_SECONDS
        ).partition(" ")
    except LainError:
        return None
    if label != phase:
        return None
    if state != "running":
        return LocalSight(phase, NODE, state)
    inside = Docker(inside=container, environ=run.environ)
    form = "{{.Names}} {{.State}}"
    arguments = ("ps", "--all", "--filter", f"label={PART_LABEL}", "--format", form)
    try:
        lines = inside.run(*arguments, timeout_seconds=LOOK_SECONDS).splitlines()
    except LainError as error:
        return LocalSight(phase, NODE, state, engine_trouble=_words(error))
    states = dict(line.split(" ", 1) for line in lines if " " in line)
    parts = {name.removeprefix("lain-"): found for name, found in states.items() if not name.endswith("-old")}
    upgraded = {name.removeprefix("lain-").removesuffix("-old") for name in states if name.endswith("-old")}
    return LocalSight(phase, NODE, state, {part: found for part, found in parts.items() if part not in upgraded})


def _words(error: LainError) -> str:
    if isinstance(error, CommandFailed):
        with contextlib.suppress(IndexError, KeyError):
            return str(error.evidence["output"][-1])
    return f"{error.message}: {error.why}" if error.why else error.message
