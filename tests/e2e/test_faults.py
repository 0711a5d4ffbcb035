"""One thing away at a time, on the node: what runs runs on, what is asked is refused in words, and all is well again afterwards."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.fixtures.cluster import App, Ended, LocalCluster, Traffic, wait_until

REFUSED, UNREACHABLE = 3, 6
DOCKERD = "/etc/lain-node/services/dockerd"


@pytest.fixture(scope="module")
def app(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    made = cluster.app("hello", tmp_path_factory.mktemp("faults"), name="steady")
    made.ship()
    wait_until(lambda: made.get().status == 200, "it answers")
    yield made
    cluster.lain("undeploy", "--yes", "--app", "steady", code=None)


@contextlib.contextmanager
def away(cluster: LocalCluster, part: str) -> Iterator[None]:
    """A part of the platform stopped for a while; afterwards every part is ready again."""
    cluster.on_node("docker", "stop", f"lain-{part}")
    try:
        yield
    finally:
        cluster.on_node("docker", "start", f"lain-{part}")
        wait_until(
            lambda: cluster.lain("local", "status", "--name", cluster.name, code=None).code == 0,
            "every part is ready",
            60,
        )


def said(ended: Ended, *words: str) -> None:
    """It is told in words, never as a stack trace."""
    assert "Traceback" not in ended.err and "error: " in ended.err, ended.err
    for word in words:
        assert word in ended.err, ended.err


def test_the_registry_away(app: App) -> None:
    app.commit("a version that cannot be pushed yet")
    app.lain("build")
    with away(app.cluster, "registry"), Traffic(app.get).running() as traffic:
        pushed = app.lain("push", code=None)
        assert pushed.code != 0
        said(pushed, "registry" if "registry" in pushed.err else "docker")
        said(app.lain("deploy", code=UNREACHABLE), "registry", "next:")
    assert traffic.bad == []
    app.ship()


def test_etcd_away(app: App) -> None:
    with away(app.cluster, "etcd"), Traffic(app.get).running() as traffic:
        for argv in (("deploy",), ("scale", "web", "-n", "2"), ("env", "set", "A=b")):
            said(app.lain(*argv, code=UNREACHABLE), "etcd")
        wait_until(lambda: traffic.answers > 100, "requests while etcd is away")
    assert traffic.bad == []
    wait_until(lambda: app.lain("ps", "-o", "json", code=None).code == 0, "the console answers again")
    assert app.state()["release"] is not None and app.proc("web")["ready"] == 1


@pytest.mark.parametrize("part", ["console", "deployd"])
def test_a_controller_away(app: App, part: str) -> None:
    with away(app.cluster, part), Traffic(app.get).running() as traffic:
        if part == "console":
            said(app.lain("ps", code=UNREACHABLE), "next:")
        else:
            assert app.lain("ps", code=0).out
        wait_until(lambda: traffic.answers > 50, "requests while it is away")
    assert traffic.bad == []
    app.lain("scale", "web", "-n", "2")
    app.lain("scale", "web", "--reset")


def test_the_agent_away_and_back(app: App) -> None:
    wait_until(lambda: len(app.proc("web")["pods"]) == 1, "what an earlier change replaced is gone")
    before = app.proc("web")["pods"]
    with away(app.cluster, "agent"), Traffic(app.get).running() as traffic:
        wait_until(
            lambda: "lost" in node_state(app.cluster) or "away" in node_state(app.cluster), "its node counts as lost"
        )
        said(app.lain("logs", "web", "1", code=None), "next:")
    assert traffic.bad == []
    wait_until(lambda: app.state()["healthy"], "it is healthy again")
    after = app.proc("web")["pods"]
    assert [pod["generation"] for pod in after] == [pod["generation"] for pod in before], "nothing was started anew"


def node_state(cluster: LocalCluster) -> str:
    return cluster.lainctl("node", "list").out.lower()


def test_docker_away_and_back(app: App) -> None:
    cluster = app.cluster
    cluster.on_node("sv", "stop", DOCKERD)
    try:
        with Traffic(app.get).running() as traffic:
            wait_until(lambda: "docker" in node_state(cluster), "the node's Engine is reported")
            said(app.lain("scale", "web", "-n", "2", code=REFUSED), "engine", "next:")
            told = app.lain("explain", code=None)
            assert "Docker Engine" in told.out and "Traceback" not in told.err
            wait_until(lambda: traffic.answers > 50, "requests while it is away")
        assert traffic.bad == []
    finally:
        cluster.on_node("sv", "start", DOCKERD)
    wait_until(lambda: "docker" not in node_state(cluster), "the node's Engine is back", 60)
    app.lain("scale", "web", "-n", "2")
    assert app.proc("web")["ready"] == 2
    app.lain("scale", "web", "--reset")


def test_a_full_disk_under_the_registry(app: App) -> None:
    """Its data on a file system of 2 MiB: the push ends, says so, and works once there is room."""
    cluster, data = app.cluster, "/var/lib/lain/registry"
    (app.folder / "big").write_bytes(os.urandom(8 * 1024 * 1024))
    app.commit("more than fits")
    app.lain("build")
    with away(cluster, "registry"):
        cluster.on_node("mount", "-t", "tmpfs", "-o", "size=2m,uid=5000,gid=5000,mode=700", "tmpfs", data)
    try:
        told = app.lain("push", code=None)
        assert told.code != 0
        said(told)
    finally:
        with away(cluster, "registry"):
            cluster.on_node("umount", data)
    app.lain("push")
