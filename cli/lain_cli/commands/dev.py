"""``lain dev``: a proc in one container on this machine, from its release image, as it would run in the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from lain_cli import git
from lain_cli.config import DEFAULT_DOMAIN
from lain_cli.context import Run
from lain_cli.images import APP_LABEL, PHASE_LABEL, image
from lain_cli.options import command, group
from lain_cli.render import Screen
from lain_shared.errors import LainError, NotFound

if TYPE_CHECKING:
    from lain_sdk.manifest import Manifest, Proc


@command("run", phase=False, examples=("lain dev run web", "lain dev run worker --dirty"))
@click.argument("proc", default="web")
@click.option("--dirty", is_flag=True, help="The image of uncommitted changes (lain build --dirty).")
def run_(run: Run, proc: str, dirty: bool) -> None:
    """Start PROC (default: web) from its release image; prints where its port is."""
    manifest = run.manifest
    found = proc_of(manifest, proc)
    version = git.build_version(git.inspect(run.directory), allow_dirty=dirty)
    reference = image(manifest.appname, "release", version)
    run.docker.available()
    if run.docker.inspect(reference) is None:
        raise NotFound(
            f"there is no image {reference} on this machine",
            next="lain build" + (" --dirty" if dirty else ""),
            code="not_built",
        )
    name = container_name(manifest, found)
    if run.docker.inspect(name, "container") is not None:
        raise LainError(f"{name} is already there", next=f"lain dev rm {proc}", code="exists")
    domain = run.config.global_value("domain") or DEFAULT_DOMAIN
    run.docker.ask("container", "run", *run_words(manifest, found, reference, domain, version or ""))
    document = run.docker.inspect(name, "container") or {}
    state = document.get("State") or {}
    if not state.get("Running") and found.type != "oneshot":
        said = (run.docker.ask("container", "logs", "--tail", "12", name) or "").splitlines()
        raise LainError(
            f"{name} ended at once with exit code {state.get('ExitCode')}", evidence={"last lines": said},
            next=f"docker logs {name}; lain dev rm {proc}", code="exited",
        )  # fmt: skip
    ports = {} if found.port is None else port_of(document, found.port)

    def pretty(screen: Screen) -> None:
        screen.line(f"{name} runs", "good")
        for inside, outside in ports.items():
            screen.line(f"  port {inside}: http://127.0.0.1:{outside}")
        screen.line(f"  lain dev debug {proc} | lain dev stop {proc} | lain dev rm {proc} | docker logs -f {name}")

    run.show({"container": name, "image": reference, "ports": ports}, pretty)


def proc_of(manifest: Manifest, name: str) -> Proc:
    """The proc called ``name``; ``NotFound`` names those there are."""
    found = manifest.procs.get(name)
    if found is None:
        raise NotFound(
            f"the manifest has no proc {name!r}", evidence={"procs": list(manifest.procs)}, code="proc_not_found"
        )
    return found


def container_name(manifest: Manifest, proc: Proc) -> str:
    """``<app>.<type>.<proc>``."""
    return f"{manifest.appname}.{proc.type}.{proc.name}"


def environment(manifest: Manifest, proc: Proc, domain: str, version: str) -> dict[str, str]:
    """What the cluster would give instance 1, then the manifest's own (pure)."""
    found = {
        "TZ": "UTC", "LAIN_APPNAME": manifest.appname, "LAIN_PROCNAME": proc.name, "LAIN_DOMAIN": domain,
        "LAIN_APP_RELEASE_VERSION": version, "LAIN_INSTANCE_NO": "1", "DEPLOYD_POD_INSTANCE_NO": "1",
        "DEPLOYD_POD_NAME": container_name(manifest, proc), "DEPLOYD_POD_NAMESPACE": manifest.appname,
    }  # fmt: skip
    if proc.port is not None:
        found["PORT"] = str(proc.port)
    return {**found, **proc.env}


def run_words(manifest: Manifest, proc: Proc, reference: str, domain: str, version: str) -> list[str]:
    """What follows ``docker container run`` (pure). Volumes are anonymous: they go with the container."""
    words = ["--detach", "--name", container_name(manifest, proc), "--hostname", f"{proc.name}-1"]
    words += ["--label", f"{APP_LABEL}={manifest.appname}", "--label", f"{PHASE_LABEL}=dev"]
    words += [
        "--memory",
        str(proc.memory_bytes),
        "--memory-swap",
        str(proc.memory_bytes),
        "--stop-timeout",
        str(proc.kill_timeout),
    ]
    for name, value in environment(manifest, proc, domain, version).items():
        words += ["--env", f"{name}={value}"]
    for volume in proc.volumes:
        words += ["--volume", volume.path]
    if proc.read_only:
        words += ["--read-only", "--tmpfs", "/tmp"]  # noqa: S108 - the container's
    if proc.user:
        words += ["--user", proc.user]
    if proc.working_dir:
        words += ["--workdir", proc.working_dir]
    if proc.port is not None:
        words += ["--publish", f"127.0.0.1::{proc.port}"]
    command = list(proc.cmd or ())
    if proc.entrypoint is not None:
        first, *rest = proc.entrypoint or ("",)
        words += ["--entrypoint", first]
        command = [*rest, *command]
    return [*words, reference, *command]


def port_of(container: Mapping[str, Any], port: int) -> dict[str, int]:
    """Container port → port of this machine."""
    bound = ((container.get("NetworkSettings") or {}).get("Ports") or {}).get(f"{port}/tcp") or []
    return {str(port): int(bound[0]["HostPort"])} if bound else {}


@command("debug", phase=False, output=False, examples=("lain dev debug web",))
@click.argument("proc", default="web")
def debug(run: Run, proc: str) -> int:
    """A shell inside the container of PROC."""
    name = _existing(run, proc)
    shell = "command -v bash >/dev/null 2>&1 && exec bash || exec sh"
    return run.docker.interactive(["container", "exec", "--interactive", "--tty", name, "/bin/sh", "-c", shell])


@command("stop", phase=False, examples=("lain dev stop web",))
@click.argument("proc", default="web")
def stop(run: Run, proc: str) -> None:
    """Stop the container of PROC; it stays."""
    name = _existing(run, proc)
    run.docker.ask("container", "stop", name)
    run.show({"container": name, "stopped": True}, lambda screen: screen.line(f"stopped {name}"))


@command("rm", phase=False, examples=("lain dev rm web",))
@click.argument("proc", default="web")
def rm(run: Run, proc: str) -> None:
    """Remove the container of PROC and its volumes."""
    name = _existing(run, proc)
    run.docker.ask("container", "rm", "--force", "--volumes", name)
    run.show({"container": name, "removed": True}, lambda screen: screen.line(f"removed {name}"))


def _existing(run: Run, proc: str) -> str:
    """The container of ``proc``, which must be one of ours."""
    name = container_name(run.manifest, proc_of(run.manifest, proc))
    document = run.docker.inspect(name, "container")
    marks = ((document or {}).get("Config") or {}).get("Labels") or {}
    if document is None or marks.get(PHASE_LABEL) != "dev":
        raise NotFound(f"{name} does not run here", next=f"lain dev run {proc}", code="not_running")
    return name


dev = group(
    "dev", "Run a proc in a container on this machine, without a cluster.", (run_, debug, stop, rm), phase=False
)
