"""``lain local`` itself: again is nothing, stop and start keep everything, down leaves nothing; the Engine it starts it also stops."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lain_cli.local.docker import Docker
from lain_cli.local.preflight import choose_ports, port_is_free
from tests.fixtures.cluster import LAIN, ROOT, LocalCluster, wait_until

AGAIN_SECONDS = 15.0
"""On two busy cores; about three when nothing else runs."""


def traces(cluster: LocalCluster, marks: tuple[str, ...]) -> list[str]:
    """Every line in which this machine still knows the cluster, by its name, its bridge or its addresses."""
    listings = (
        ("docker", "ps", "--all", "--format", "container {{.Names}}"),
        ("docker", "volume", "ls", "--format", "volume {{.Name}}"),
        ("docker", "network", "ls", "--format", "network {{.Name}}"),
        ("ip", "-o", "link"),
        ("ip", "route"),
        ("nft", "list", "ruleset"),
        ("ps", "-eo", "args"),
    )
    lines = [
        line
        for argv in listings
        for line in subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    ]
    return [line for line in lines if any(mark in line for mark in (cluster.name, *marks))]


def marks_of(cluster: LocalCluster) -> tuple[str, ...]:
    """Its bridge, and the beginning of its addresses."""
    (network,) = Docker().json("network", "inspect", f"lain-{cluster.name}")
    subnet = str(network["IPAM"]["Config"][0]["Subnet"])
    return (f"br-{network['Id'][:12]}", subnet.rpartition(".")[0] + ".")


@pytest.fixture
def second(cluster: LocalCluster, tmp_path: Path) -> Iterator[LocalCluster]:
    """A cluster beside the session's, for this test to stop and remove. Its images are made already."""
    made = LocalCluster(f"second-{secrets.token_hex(3)}", tmp_path / "home")
    yield made
    made.lain("local", "down", "--name", made.name, code=None)


def test_up_again_stop_start_and_down(second: LocalCluster, tmp_path: Path) -> None:
    name = ("--name", second.name)
    up = ("local", "up", *name, "--isolated", "--any-ports", "--no-build", "-o", "json")
    first = second.lain(*up).json()
    assert [part["name"] for part in first["parts"]] == [
        "etcd",
        "registry",
        "console",
        "deployd",
        "agent",
        "watcher",
        "nginx",
    ]
    assert all(part["ready"] for part in first["parts"])

    began = time.monotonic()
    again = second.lain(*up)
    assert "already up" in again.err and again.json() == first
    assert time.monotonic() - began < AGAIN_SECONDS

    second.ports = first["ports"]
    app = second.app("hello", tmp_path)
    app.ship()
    wait_until(lambda: app.get().status == 200, "hello answers")

    second.lain("local", "stop", *name)
    assert second.lain("local", "status", *name, code=1).out.count("exited") == 1
    second.lain("local", "start", *name)
    second.ports = second.lain("local", "status", *name, "-o", "json").json()["ports"]
    wait_until(lambda: app.get().status == 200, "hello answers after the node was booted", 60)
    assert app.state()["release"] == 1

    assert second.lain("local", "exec", *name, "--", "hostname").out == "n1\n"
    assert second.lain("local", "exec", *name, "--", "sh", "-c", "exit 7", code=7).out == ""
    assert "daemon_started" in second.lain("local", "logs", *name, "console").out

    marks = marks_of(second)
    assert len(traces(second, marks)) > 10
    assert "is gone" in second.lain("local", "down", *name).err
    assert traces(second, marks) == []
    assert second.lain("config", "show").out.strip() == "{}"
    assert not list((tmp_path / "home").rglob("*.pem"))
    assert "there was no cluster" in second.lain("local", "down", *name).err


def test_taken_ports_are_shifted_and_told(cluster: LocalCluster) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        chosen = choose_ports({"console": port}, port_is_free)
        assert chosen["console"] > port and port_is_free(chosen["console"])


def test_no_engine_is_told_with_its_fix_and_nothing_is_changed(tmp_path: Path) -> None:
    nowhere = LocalCluster("nowhere", tmp_path / "home")
    for argv in (("local", "up"), ("local", "exec"), ("local", "logs", "console")):
        told = nowhere.run(LAIN, *argv, code=None, environ={"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
        assert told.code in (3, 6) and "Traceback" not in told.err
        assert "Docker" in told.err and "next:" in told.err
    assert not (tmp_path / "home").exists()


def test_a_cluster_that_is_not_there(cluster: LocalCluster) -> None:
    assert "there is no local cluster" in cluster.lain("local", "stop", "--name", "nobody", code=1).err
    status = cluster.lain("local", "status", "--name", "nobody", "-o", "json", code=1)
    assert json.loads(status.out)["state"] == "absent"


OWN_ENGINE = """
import subprocess, sys
from pathlib import Path
from lain_cli.local.docker import Docker
from lain_cli.local.engine import OwnEngine

folder, docker = Path(sys.argv[1]), Docker()
own = OwnEngine(folder)
assert own.can_start() and own.started() is None
own.start(docker)
assert docker.run("info", "--format", "{{.DockerRootDir}}") == str(folder / "data")
record = own.started()
assert record is not None
docker.run("network", "create", "one")
docker.run("network", "rm", "one")
assert own.stop(docker) is None
assert own.started() is None and not Path(f"/proc/{record.pid}").exists()
print(subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout)
print(subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout)
print(Path("/proc/sys/net/ipv4/ip_forward").read_text())
"""


@pytest.mark.docker
def test_the_engine_it_starts_leaves_nothing_when_stopped(tmp_path: Path) -> None:
    """In network, mount and process namespaces of its own, so that it meets no other Engine."""
    inner = 'mount -t tmpfs tmpfs /run && mkdir -p /run/lock && echo 0 > /proc/sys/net/ipv4/ip_forward && exec "$@"'
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
         "tini", "-s", "--", "sh", "-c", inner, "-", sys.executable, "-c", OWN_ENGINE, str(tmp_path / "engine")],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "DOCKER_HOST"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() and "table" not in done.stdout and "docker0" not in done.stdout
    assert done.stdout.strip().endswith("0"), "ip_forward is as it was"
