"""``lain local``: parse, one verb of ``Cluster``, render."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from lain_cli.context import Run
from lain_cli.local import images, preflight
from lain_cli.local.cluster import Cluster, Status, names
from lain_cli.local.docker import Docker
from lain_cli.local.engine import OwnEngine, answers
from lain_cli.local.preflight import PORTS
from lain_cli.local.supplies import cache_dir
from lain_cli.options import command
from lain_cli.render import Cell, Screen, columns
from lain_shared.errors import Unavailable

DEFAULT_NAME = "local"


@click.group()
def local() -> None:
    """A whole LAIN cluster on this machine: one node in a container, every part in it real.

    \b
    Example:
      lain local up          make it, start it, or do nothing if it is there
      lain local down        remove it, and leave nothing
    """


def _name(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--name", default=DEFAULT_NAME, show_default=True, help="Which local cluster; also its phase.")(
        function
    )


def _cluster(run: Run, name: str, *, isolated: bool = False) -> Cluster:
    return Cluster(name, Docker(), run.config, run.progress.line, isolated)


def _reach() -> Docker:
    """The Engine, or the reason why there is none, in words."""
    docker, own = Docker(), OwnEngine(cache_dir() / "engine")
    facts = preflight.gather(docker, own)
    preflight.require_answer(facts)
    if facts.engine is None:
        raise Unavailable(
            "no Docker Engine runs", why=facts.engine_error,
            next="lain local up" if facts.can_start_engine else "start Docker and repeat", code="engine_away",
        )  # fmt: skip
    return docker


@command("up", phase=False, examples=("lain local up", "lain local up --name test --any-ports --isolated"))
@_name
@click.option(
    "--isolated", is_flag=True, help="No packet may leave this machine: no default route, no resolver in the node."
)
@click.option("--any-ports", is_flag=True, help="Take any free ports of this machine (for tests).")
@click.option("--no-build", is_flag=True, help="Take the images as they are, though the sources changed.")
def up(run: Run, name: str, isolated: bool, any_ports: bool, no_build: bool) -> None:
    """Make the cluster, or bring it up to date, or do nothing.

    Looks for every obstacle first, and changes nothing if there is one.
    """
    began = time.monotonic()
    docker, own = Docker(), OwnEngine(cache_dir() / "engine")
    facts = preflight.gather(docker, own)
    if facts.docker_installed:
        preflight.require_answer(facts)
    preflight.refuse(preflight.judge(facts))
    if facts.engine is None:
        run.progress.line("starting the Docker Engine (nothing else starts it on this machine)")
        own.start(docker)
        preflight.refuse(preflight.judge(preflight.gather(docker, own)))
    cluster = _cluster(run, name, isolated=isolated)
    with _in_use(docker, own):
        changed = cluster.up(dict.fromkeys(PORTS, 0) if any_ports else PORTS, build=not no_build)
        status = cluster.status()
    run.progress.line(f"{name} is {'up' if changed else 'already up'} ({time.monotonic() - began:.1f} s)", "good")
    run.show(_document(status), lambda screen: _draw(screen, status))


@command("stop", phase=False, examples=("lain local stop",))
@_name
def stop(run: Run, name: str) -> None:
    """Shut the node down. Apps, images and volumes stay."""
    _reach()
    _cluster(run, name).stop()
    run.progress.line(f"{name} is stopped", "good")


@command("start", phase=False, examples=("lain local start",))
@_name
def start(run: Run, name: str) -> None:
    """Boot the node again."""
    _reach()
    _cluster(run, name).start()
    run.progress.line(f"{name} is up", "good")


@command("status", phase=False, examples=("lain local status", "lain local status -o json"))
@_name
def status(run: Run, name: str) -> int:
    """Show the node, its parts and the ports on this machine. Exit code 1 when something is not well."""
    own, docker = OwnEngine(cache_dir() / "engine"), Docker()
    facts = preflight.gather(docker, own)
    preflight.require_answer(facts)
    found = Status(name, "absent", "") if facts.engine is None else _cluster(run, name).status()
    run.show(_document(found), lambda screen: _draw(screen, found))
    return 0 if found.state == "running" and all(part.ready for part in found.parts) else 1


@command(
    "exec", phase=False, output=False, examples=("lain local exec", "lain local exec -- docker ps"),
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)  # fmt: skip
@_name
@click.argument("command_line", metavar="[COMMAND]...", nargs=-1)
def exec_(run: Run, name: str, command_line: tuple[str, ...]) -> int:
    """Run a command on the node (a shell, if none is given)."""
    docker = _reach()
    terminal = ["-t"] if os.isatty(0) and os.isatty(1) else []
    argv = docker.argv("exec", "-i", *terminal, _cluster(run, name).container, *(command_line or ("bash",)))
    return subprocess.run(argv, check=False).returncode


@command("logs", phase=False, output=False, examples=("lain local logs console", "lain local logs -f agent"))
@_name
@click.option("-f", "--follow", is_flag=True, help="Go on until interrupted.")
@click.option("--tail", default=200, show_default=True, help="How many lines of the past.")
@click.argument("part", required=False)
def logs(run: Run, name: str, follow: bool, tail: int, part: str | None) -> int:
    """Show what a part of the platform says (etcd, registry, console, deployd, agent, watcher, nginx; none: the node itself)."""
    docker = _reach()
    cluster = _cluster(run, name)
    more = ["--tail", str(tail), *(["--follow"] if follow else [])]
    if part is None:
        return subprocess.run(docker.argv("logs", *more, cluster.container), check=False).returncode
    return subprocess.run(cluster.inside.argv("logs", *more, f"lain-{part}"), check=False).returncode


@command("down", phase=False, output=False, examples=("lain local down",))
@_name
def down(run: Run, name: str) -> None:
    """Remove the cluster with all its apps, images and volumes, and stop the Docker Engine if `up` started it."""
    docker, own = Docker(), OwnEngine(cache_dir() / "engine")
    facts = preflight.gather(docker, own)
    preflight.require_answer(facts)
    if facts.engine is None:
        _cluster(run, name).forget()
        run.progress.line("no Docker Engine runs here, so nothing of LAIN runs", "good")
        return
    with _in_use(docker, own):
        there = _cluster(run, name).down()
    run.progress.line(f"{name} is gone" if there else f"there was no cluster {name}", "good")
    if own.started() is not None and not names(docker):
        left = own.stop(docker)
        run.progress.line(
            f"the Docker Engine goes on: {left}" if left else "the Docker Engine is stopped; its images stay as a cache"
        )


@contextlib.contextmanager
def _in_use(docker: Docker, own: OwnEngine) -> Iterator[None]:
    """No other `lain local` stops the Engine meanwhile."""
    with own.in_use():
        if not answers(docker):
            raise Unavailable(
                "the Docker Engine was stopped a moment ago",
                why="another lain local took the last cluster away",
                next="try again",
            )
        yield


def _document(status: Status) -> Mapping[str, Any]:
    ports = status.ports or {}
    return {
        "name": status.name,
        "state": status.state,
        "node": status.node,
        "address": status.address,
        "ports": ports,
        "version": images.VERSION,
        "parts": [
            {"name": part.name, "state": part.state, "ready": part.ready, "detail": part.detail}
            for part in status.parts
        ],
    }


def _draw(screen: Screen, status: Status) -> None:
    if status.state == "absent":
        screen.line(f"there is no local cluster {status.name}; make one: lain local up")
        return
    ports = status.ports or {}
    screen.fields(
        [
            ("cluster", status.name),
            ("node", Cell(f"{status.node} ({status.state})", "good" if status.state == "running" else "bad")),
            (
                "apps",
                f"http://APP.lain.localhost:{ports.get('router_http')}  https://APP.lain.localhost:{ports.get('router_https')}",
            ),
            ("console", f"https://127.0.0.1:{ports.get('console')}"),
            ("deployd", f"https://127.0.0.1:{ports.get('deployd')}"),
            ("registry", f"127.0.0.1:{ports.get('registry')}"),
        ]
    )
    if status.parts:
        screen.line()
        rows = [
            (
                part.name,
                part.state,
                Cell("ready" if part.ready else "not ready", "good" if part.ready else "bad"),
                part.detail,
            )
            for part in status.parts
        ]
        screen.table(columns("part", "container", "state", "why"), rows)


for _one in (up, stop, start, status, exec_, logs, down):
    local.add_command(_one)
