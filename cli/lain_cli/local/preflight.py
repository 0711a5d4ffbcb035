"""What could stop ``lain local up``, found in two seconds and before anything is changed: facts first, then a judgement that is pure."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lain_cli.local import images
from lain_cli.local.docker import Docker
from lain_cli.local.engine import SOCKET, OwnEngine
from lain_shared.errors import LainError, Refused, Unavailable

OLDEST_ENGINE = (20, 10)
LEAST_MEMORY_BYTES = 1_500_000_000
LEAST_DISK_BYTES = 4_000_000_000
ANSWER_SECONDS = 2.0
CONNECT_SECONDS = 0.5
PORTS: Mapping[str, int] = {
    "router_http": 80, "router_https": 443, "console": 9510, "deployd": 9511, "registry": 5000,
}  # fmt: skip
"""What a local cluster offers on this machine's loopback → the port it would like."""
LAN_POOL = ipaddress.ip_network("10.77.0.0/16")


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen. ``engine``: ``docker info``'s answer, None when no Engine answered; ``engine_error``: its words.

    ``engine_absent``: no Engine runs, for sure. One that is slow or may not be used is not absent, and what runs on it is not known.
    """

    docker_installed: bool
    engine: Mapping[str, object] | None
    engine_error: str
    can_start_engine: bool
    disk_free_bytes: int | None
    images_missing: tuple[str, ...]
    can_build: bool
    engine_absent: bool = False


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing in the way, and how to remove it."""

    what: str
    fix: str


def gather(docker: Docker, own: OwnEngine) -> Facts:
    """Look at this machine. At most ``ANSWER_SECONDS`` are spent on an Engine that does not answer."""
    installed = shutil.which("docker") is not None
    engine, error = _engine(docker) if installed else (None, "the command docker is not installed")
    can_build = images.source_root() is not None
    started = own.started()
    if engine is None and started is not None:
        error += f" (lain local started it: process {started.pid}, log {own.folder / 'dockerd.log'})"
    return Facts(
        docker_installed=installed,
        engine=engine,
        engine_error=error,
        can_start_engine=own.can_start(),
        disk_free_bytes=_disk_free(engine, own),
        images_missing=images.missing(docker) if engine is not None and not can_build else (),
        can_build=can_build,
        engine_absent=engine is None and started is None and nobody_listens(_endpoint(docker, installed=installed)),
    )


def _endpoint(docker: Docker, *, installed: bool) -> str:
    """Where the docker command looks for its Engine (``DOCKER_HOST``, its context, the usual socket); empty when it does not say."""
    if not installed:
        return f"unix://{SOCKET}"
    try:
        return docker.run(
            "context", "inspect", "--format", "{{.Endpoints.docker.Host}}", timeout_seconds=ANSWER_SECONDS
        )
    except LainError:
        return ""


def nobody_listens(endpoint: str) -> bool:
    """Whether this machine itself says that no process serves ``endpoint``. Silence, missing rights, another machine: False."""
    if not endpoint.startswith("unix://"):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_SECONDS)
        try:
            probe.connect(endpoint.removeprefix("unix://"))
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        except OSError:
            return False
    return False


def _engine(docker: Docker) -> tuple[Mapping[str, object] | None, str]:
    try:
        done = subprocess.run(
            docker.argv("info", "--format", "{{json .}}"), capture_output=True, timeout=ANSWER_SECONDS, check=False,
            env=dict(docker.environ),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, f"no answer within {ANSWER_SECONDS:.0f} s"
    try:
        found = json.loads(done.stdout or b"{}")
    except ValueError:
        found = {}
    errors = [*found.get("ServerErrors", ()), *done.stderr.decode(errors="replace").strip().splitlines()]
    if not found.get("ServerVersion"):
        return None, " ".join(errors) or "it did not say why"
    return found, ""


def _disk_free(engine: Mapping[str, object] | None, own: OwnEngine) -> int | None:
    root = Path(str(engine["DockerRootDir"])) if engine and engine.get("DockerRootDir") else own.folder
    while not root.exists() and root != root.parent:
        root = root.parent
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return None


def require_answer(facts: Facts) -> None:
    """Raise ``Unavailable`` when an Engine may run and does not answer us: then nothing may be started, forgotten or called absent."""
    if facts.engine is not None or facts.engine_absent:
        return
    if "permission denied" in facts.engine_error.lower():
        raise Unavailable(
            "this user may not use the Docker Engine", why=facts.engine_error, code="engine_denied",
            next="add yourself to its group (usermod -aG docker $USER, then log in again), or use sudo",
        )  # fmt: skip
    raise Unavailable(
        "the Docker Engine does not answer; nothing was changed", why=facts.engine_error, code="engine_silent",
        next="see what keeps it (docker info; journalctl -u docker), and repeat",
    )  # fmt: skip


def judge(facts: Facts) -> tuple[Obstacle, ...]:
    """Every obstacle at once; none: go. Of an Engine that answers, or of its sure absence (``require_answer``). Pure."""
    found: list[Obstacle] = []
    if not facts.docker_installed:
        return (
            Obstacle(
                "docker is not installed",
                "on Debian: apt-get install docker.io; elsewhere: https://docs.docker.com/engine/install/",
            ),
        )
    if facts.engine is None:
        if facts.can_start_engine:
            return ()
        return (
            Obstacle(
                f"no Docker Engine answers: {facts.engine_error}",
                "start it: systemctl start docker, or Docker Desktop; or install dockerd and run this as root",
            ),
        )
    engine = facts.engine
    version = str(engine.get("ServerVersion", ""))
    if (number := _version(version)) and number < OLDEST_ENGINE:
        found.append(Obstacle(f"the Docker Engine is {version}", "upgrade it to 20.10 or newer"))
    if engine.get("OSType") not in (None, "linux"):
        found.append(
            Obstacle(f"the Docker Engine runs {engine.get('OSType')} containers", "switch it to Linux containers")
        )
    options = engine.get("SecurityOptions") or ()
    if isinstance(options, Sequence) and any("rootless" in str(option) for option in options):
        found.append(
            Obstacle(
                "the Docker Engine is rootless, and a node needs an Engine of its own inside",
                "use a rootful Engine: docker context use default",
            )
        )
    memory = engine.get("MemTotal")
    if isinstance(memory, int) and memory < LEAST_MEMORY_BYTES:
        found.append(
            Obstacle(
                f"the Docker Engine has {memory / 1e9:.1f} GB of memory",
                f"give it {LEAST_MEMORY_BYTES / 1e9:.1f} GB or more",
            )
        )
    if facts.disk_free_bytes is not None and facts.disk_free_bytes < LEAST_DISK_BYTES:
        found.append(
            Obstacle(
                f"only {facts.disk_free_bytes / 1e9:.1f} GB are free where Docker keeps images",
                f"free {LEAST_DISK_BYTES / 1e9:.0f} GB: docker system df shows what fills it",
            )
        )
    if facts.images_missing and not facts.can_build:
        found.append(
            Obstacle(
                f"images are missing: {', '.join(facts.images_missing)}",
                "run this from a checkout of LAIN, or docker load the release's images",
            )
        )
    return tuple(found)


def refuse(obstacles: Sequence[Obstacle]) -> None:
    """Raise ``Refused`` with every obstacle and its fix, or do nothing."""
    if obstacles:
        raise Refused(
            "this machine cannot run a local cluster yet; nothing was changed",
            evidence={"obstacles": [f"{obstacle.what} → {obstacle.fix}" for obstacle in obstacles]},
            next="remove them and repeat: lain local up",
            code="preflight",
        )


def _version(text: str) -> tuple[int, ...] | None:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


# --- ports and addresses ----------------------------------------------------------------------------------------------


def choose_ports(wanted: Mapping[str, int], is_free: Callable[[int], bool]) -> dict[str, int]:
    """Each name's port, or the next one that is free: 80 → 8080 …, 443 → 8443 …, others one up. 0 stays 0: any."""
    chosen: dict[str, int] = {}
    for name, port in wanted.items():
        candidates: Iterable[int] = (
            (port,) if port == 0 else (port, *range(port + 8000 if port < 1024 else port + 1, 65536))
        )
        chosen[name] = next(at for at in candidates if at == 0 or (at not in chosen.values() and is_free(at)))
    return chosen


def port_is_free(port: int, address: str = "127.0.0.1") -> bool:
    """Whether this machine could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except PermissionError:
            return _nobody_answers(port, address)  # an ordinary user; Docker can bind it
        except OSError:
            return False
    return True


def _nobody_answers(port: int, address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.3)
        return probe.connect_ex((address, port)) != 0


def choose_lan(taken: Iterable[str]) -> str:
    """A /24 for the cluster's bridge that overlaps none of ``taken`` (CIDRs). Pure."""
    networks = [ipaddress.ip_network(text, strict=False) for text in taken]
    for candidate in LAN_POOL.subnets(new_prefix=24):
        if not any(network.version == 4 and candidate.overlaps(network) for network in networks):
            return str(candidate)
    raise Refused(
        f"no /24 of {LAN_POOL} is free on this machine",
        next="remove Docker networks you no longer need: docker network prune",
    )


def taken_networks(docker: Docker) -> list[str]:
    """Every range in use here: Docker's networks, and this machine's routes where they can be read."""
    ids = docker.run("network", "ls", "-q").split()
    found = [
        str(config["Subnet"])
        for network in (docker.json("network", "inspect", *ids) if ids else [])
        for config in (network.get("IPAM") or {}).get("Config") or ()
        if config.get("Subnet")
    ]
    if sys.platform == "linux" and os.access("/proc/net/route", os.R_OK):
        for line in Path("/proc/net/route").read_text().splitlines()[1:]:
            fields = line.split()
            destination, mask = (int.from_bytes(bytes.fromhex(fields[i])[::-1], "big") for i in (1, 7))
            if mask:
                found.append(f"{ipaddress.ip_address(destination)}/{mask.bit_count()}")
    return found
