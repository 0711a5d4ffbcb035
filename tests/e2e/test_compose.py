"""``deploy/compose.yaml`` on a stock Docker host without nesting: the same hello, each part exchanged alone, back after a reboot.

The host is a machine in a container that has an Engine and nothing else; compose talks to that Engine from here.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lain_cli.local import images
from lain_cli.local.cluster import CAPABILITIES
from lain_cli.local.docker import Docker
from lain_cli.local.preflight import PORTS, choose_lan, taken_networks
from tests.fixtures.cluster import ROOT, LocalCluster, Traffic, wait_until

COMPOSE_FILE = ROOT / "deploy/compose.yaml"
PARTS = ("etcd", "registry", "console", "deployd", "agent", "watcher", "nginx")


def compose_command() -> list[str]:
    """``docker compose``, or the older command where that is what there is."""
    if Docker().succeeds("compose", "version"):
        return ["docker", "compose"]
    assert shutil.which("docker-compose"), "apt-get install docker-compose"
    return ["docker-compose"]


@dataclass
class Host:
    """A stock Docker host. ``socket``: its Engine, reachable from here."""

    cluster: LocalCluster
    socket: Path
    hurried: Path
    """Adds one thing to compose.yaml: healthchecks every 2 s, not every 30, since here somebody waits for them."""

    def compose(self, *argv: str, **environ: str) -> str:
        return self.cluster.run(
            *compose_command(), "--project-name", "lain", "--file", COMPOSE_FILE, "--file", self.hurried, *argv,
            environ={"DOCKER_HOST": f"unix://{self.socket}", **environ},
        ).out  # fmt: skip

    def docker(self, *argv: str, code: int | None = 0) -> str:
        return self.cluster.run(
            "docker", *argv, environ={"DOCKER_HOST": f"unix://{self.socket}"}, code=code
        ).out.strip()

    def containers(self) -> dict[str, str]:
        """Part → container id."""
        lines = self.docker(
            "ps", "--no-trunc", "--filter", "label=lain.part", "--format", '{{.Label "lain.part"}} {{.ID}}'
        ).splitlines()
        return dict(line.split() for line in lines)

    def healthy(self) -> bool:
        states = self.docker("ps", "--filter", "label=lain.part", "--format", "{{.Status}}").splitlines()
        return len(states) == len(PARTS) and all("(healthy)" in state for state in states)

    def read(self, path: str) -> str:
        return self.cluster.on_node("cat", path).out.strip()


@pytest.fixture(scope="module")
def host(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host, up, with LAIN's images loaded. ``cluster`` made the images."""
    name = f"compose-{secrets.token_hex(3)}"
    folder = tmp_path_factory.mktemp("host")
    config = json.loads((ROOT / "deploy/images/node/rootfs/etc/docker/daemon.json").read_text())
    config["hosts"] = ["unix:///run/docker.sock", "unix:///srv/docker.sock"]
    (folder / "daemon.json").write_text(json.dumps(config))
    made = LocalCluster(name, folder / "home")
    outer = Docker()
    arguments = ["--name", made.container, "--hostname", name, "--env", "LAIN_NODE_ISOLATED=1", "--cgroupns", "private"]
    for capability in CAPABILITIES:
        arguments += ["--cap-add", capability]
    for option in ("seccomp", "apparmor", "systempaths"):
        arguments += ["--security-opt", f"{option}=unconfined"]
    arguments += ["--device-cgroup-rule", "a *:* rwm", "--sysctl", "net.ipv4.ip_forward=1", "--network", name]
    for port in PORTS.values():
        arguments += ["--publish", f"127.0.0.1::{port}"]
    arguments += ["--volume", f"{folder}:/srv", "--volume", f"{folder}/daemon.json:/etc/docker/daemon.json:ro"]
    arguments += ["--volume", "/var/lib/docker", "--volume", "/var/lib/lain", "--volume", "/etc/lain"]
    masquerade = "com.docker.network.bridge.enable_ip_masquerade=false"
    outer.run("network", "create", "--subnet", choose_lan(taken_networks(outer)), "--opt", masquerade, name)
    try:
        outer.run("run", "--detach", *arguments, images.NODE.tag)
        inner = Docker(inside=made.container)
        wait_until(lambda: inner.succeeds("version"), "the host's Engine answers", 60)
        images.save_and_load(outer, inner, [image.tag for image in images.PLATFORM])
        made.ports = published(outer, made.container)
        checks = {"version": "3.9", "services": {part: {"healthcheck": {"interval": "2s"}} for part in PARTS}}
        (folder / "hurried.yaml").write_text(json.dumps(checks))
        yield Host(made, folder / "docker.sock", folder / "hurried.yaml")
    finally:
        outer.succeeds("rm", "--force", "--volumes", made.container)
        outer.succeeds("network", "rm", name)


def published(docker: Docker, container: str) -> dict[str, int]:
    bound: dict[str, Any] = docker.json("container", "inspect", container)[0]["NetworkSettings"]["Ports"]
    return {name: int(bound[f"{port}/tcp"][0]["HostPort"]) for name, port in PORTS.items()}


def configure(host: Host) -> None:
    """What docs/install.md has an operator do on their own machine."""
    home, ports = host.cluster.home, host.cluster.ports
    home.mkdir(exist_ok=True)
    (home / "ca.pem").write_text(host.read("/etc/lain/ca/ca.pem") + "\n")
    values = {
        "console": f"https://127.0.0.1:{ports['console']}",
        "ca": str(home / "ca.pem"),
        "token": host.read("/etc/lain/secrets/client/token"),
        "registry": f"127.0.0.1:{ports['registry']}",
        "registry_user": "push",
        "registry_password": host.read("/etc/lain/secrets/client/registry-password"),
        "router": "127.0.0.1",
        "router_http": str(ports["router_http"]),
    }
    for key, value in values.items():
        host.cluster.lain("config", "save", host.cluster.name, key, value)


def test_compose_runs_the_same_hello_and_every_part_is_exchanged_alone(host: Host, tmp_path: Path) -> None:
    host.compose("up", "--detach")
    wait_until(host.healthy, "every part is healthy", 90)
    configure(host)
    app = host.cluster.app("hello", tmp_path)
    app.ship()
    wait_until(lambda: app.get().status == 200, "hello answers")
    assert "Hello from LAIN! This is web-1" in app.get().text

    # again: nothing is made anew
    before = host.containers()
    host.compose("up", "--detach")
    assert host.containers() == before

    # each of the daemons stopped: what runs goes on, what routes routes on
    for part in ("console", "deployd", "agent", "watcher", "registry", "etcd"):
        with Traffic(app.get).running() as traffic:
            host.compose("stop", part)
            wait_until(lambda: traffic.answers > 20, "requests while it is away")
            host.compose("start", part)
        assert traffic.bad == [], part
    wait_until(host.healthy, "every part is healthy again", 90)

    # one upgraded, then rolled back; no other container is touched
    for part in ("console", "agent", "watcher"):
        image = next(one.tag for one in images.PLATFORM if one.name == ("deployd" if part == "agent" else part))
        host.docker("tag", image, f"lain/{part}:next")
        before = host.containers()
        with Traffic(app.get).running() as traffic:
            host.compose("up", "--detach", "--no-deps", part, **{f"LAIN_{part.upper()}_IMAGE": f"lain/{part}:next"})
            upgraded = host.containers()
            assert {name for name in before if before[name] != upgraded[name]} == {part}
            wait_until(host.healthy, f"the upgraded {part} is healthy", 60)
            host.compose("up", "--detach", "--no-deps", part)
            wait_until(host.healthy, f"the old {part} is healthy", 60)
        assert traffic.bad == [], part
    assert app.state()["healthy"]

    # a reboot: everything comes back by itself
    subprocess.run(
        ["docker", "restart", "--time", "20", host.cluster.container], check=True, capture_output=True, env=os.environ
    )
    host.cluster.ports = published(Docker(), host.cluster.container)
    wait_until(lambda: answers(host), "hello answers after the reboot", 90)
    wait_until(host.healthy, "every part is healthy after the reboot", 90)


def answers(host: Host) -> bool:
    try:
        return host.cluster.get("hello.lain.localhost").status == 200
    except OSError:
        return False
