"""Each example app through its whole life, by the command line: built, pushed, deployed, scaled, upgraded, rolled back, undeployed."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.cluster import LAIN, App, LocalCluster, Traffic, wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def started() -> Iterator[list[App]]:
    """Apps that a test deployed: undeployed at its end, however it ends."""
    apps: list[App] = []
    yield apps
    for app in apps:
        app.cluster.lain("undeploy", "--yes", app.name, code=None)


def life(app: App, proc: str, *, scale_to: int = 2) -> str:
    """Scale, upgrade, roll back; returns the first version. The proc is ready at every step."""
    first = str(app.state()["meta_version"])
    assert app.proc(proc)["ready"] == 1
    app.lain("scale", proc, "-n", str(scale_to))
    assert app.proc(proc)["ready"] == scale_to
    app.lain("scale", proc, "--reset")
    second = app.commit("second")
    assert second != first
    app.ship()
    assert app.state()["meta_version"] == second
    app.lain("rollback")
    assert app.state()["meta_version"] == first
    return first


def gone(app: App) -> bool:
    return app.get().status == 404


def test_hello_changes_without_losing_a_request(cluster: LocalCluster, folder: Path, started: list[App]) -> None:
    app = cluster.app("hello", folder)
    started.append(app)
    app.lain("build")
    app.lain("push")
    app.lain("reposit")
    app.lain("deploy")
    wait_until(lambda: app.get().status == 200, "hello answers")
    assert "Hello from LAIN! This is web-1" in app.get("/some/path").text
    with Traffic(app.get).running() as traffic:
        app.lain("scale", "web", "-n", "3")
        app.edit("hello.py", lambda text: text.replace("Hello from LAIN", "Good morning"))
        app.commit("another greeting")
        app.ship()
        assert "Good morning" in app.get().text
        app.lain("rollback")
        assert "Hello from LAIN" in app.get().text
        app.lain("restart", "web")
        app.lain("env", "set", "GREETING=Bonjour")
        assert "Bonjour" in app.get().text
    assert traffic.bad == [] and traffic.answers > 50
    app.undeploy()
    wait_until(lambda: gone(app), "the route is gone")
    kinds = [record["kind"] for record in app.lain("history", "-o", "json").json()]
    assert {"deploy", "scale", "rollback", "restart", "undeploy"} <= set(kinds)


def test_a_static_binary_on_an_empty_base(cluster: LocalCluster, folder: Path, started: list[App]) -> None:
    app = cluster.app("static", folder)
    started.append(app)
    busybox = shutil.which("busybox")
    assert busybox is not None, "apt-get install busybox-static"
    shutil.copy(busybox, app.folder / "server")
    app.commit("the binary")
    app.ship()
    wait_until(lambda: "nothing else" in app.get().text, "static answers")
    life(app, "web")
    assert "nothing else" in app.get("/index.html").text
    app.undeploy()
    wait_until(lambda: gone(app), "the route is gone")


def test_a_dockerfile_of_its_own(cluster: LocalCluster, folder: Path, started: list[App]) -> None:
    app = cluster.app("dockerfile", folder)
    started.append(app)
    app.ship()
    wait_until(lambda: "in green" in app.get().text, "dockerfile answers")
    life(app, "web")
    app.edit("lain.yaml", lambda text: text.replace("COLOUR=green", "COLOUR=blue"))
    app.commit("blue")
    app.ship()
    assert "in blue" in app.get().text
    app.undeploy()
    wait_until(lambda: gone(app), "the route is gone")


def test_an_image_without_a_build(cluster: LocalCluster, folder: Path, started: list[App]) -> None:
    app = cluster.app("image-only", folder)
    started.append(app)
    app.ship()
    wait_until(lambda: "Directory listing" in app.get().text, "image-only answers")
    life(app, "web")
    app.undeploy()
    wait_until(lambda: gone(app), "the route is gone")


def test_not_root_and_read_only(cluster: LocalCluster, folder: Path, started: list[App]) -> None:
    app = cluster.app("locked-down", folder)
    started.append(app)
    app.ship()
    wait_until(lambda: app.get().status == 200, "locked-down answers")
    assert json.loads(app.get().text) == {"uid": 1234, "gid": 2345, "app": False, "tmp": True}
    life(app, "web")
    app.undeploy()
    wait_until(lambda: gone(app), "the route is gone")


def test_two_procs_share_a_host(cluster: LocalCluster, folder: Path, started: list[App]) -> None:
    app = cluster.app("two-procs", folder)
    started.append(app)
    app.ship()
    wait_until(lambda: app.get("/x").text == "site /x\n", "site answers")
    assert app.get("/api/y?z=1").text == "api /y?z=1\n"
    assert app.get("/apiary").text == "site /apiary\n"
    assert app.get("/api").status in (301, 308)
    life(app, "api")
    assert app.get("/api/y").text == "api /y\n"
    app.undeploy()
    wait_until(lambda: gone(app), "the route is gone")


def test_a_worker_keeps_its_volume(cluster: LocalCluster, folder: Path, started: list[App]) -> None:
    app = cluster.app(
        "worker", folder, name=f"worker-{secrets.token_hex(3)}"
    )  # volumes outlive their app: a name of its own
    started.append(app)
    app.ship()
    assert "start number 1" in app.lain("logs", "worker", "1").out
    life(app, "worker")
    starts = int(app.lain("exec", "worker", "1", "--", "cat", "/lain/app/data/starts").out)
    assert starts == 3, "first deploy, upgrade, rollback: each a new container on the same volume"
    told = app.undeploy()
    assert f"{app.name}.worker-1" in told.out + told.err, "undeploy lists the volumes it keeps"
    app.ship()
    assert int(app.lain("exec", "worker", "1", "--", "cat", "/lain/app/data/starts").out) == starts + 1
    cluster.run(LAIN, "undeploy", "--delete-volumes", cwd=app.folder, stdin=f"{app.name}\n")
    folder_of_it = f"/var/lib/lain/volumes/{app.name}"
    wait_until(lambda: cluster.on_node("test", "-e", folder_of_it, code=None).code == 1, "its volumes are deleted")
    wait_until(lambda: app.ship(code=None).code == 0, "it may be deployed again once they are")
    assert int(app.lain("exec", "worker", "1", "--", "cat", "/lain/app/data/starts").out) == 1, "with no data"
    app.undeploy()


def test_a_migration_runs_before_and_stops_a_bad_release(
    cluster: LocalCluster, folder: Path, started: list[App]
) -> None:
    app = cluster.app("migration", folder)
    started.append(app)
    app.ship()
    wait_until(lambda: app.get().status == 200, "migration answers")
    first = life(app, "web")
    app.edit(
        "lain.yaml",
        lambda text: text.replace("  cmd: python3 -u migrate.py\n", "  cmd: python3 -u migrate.py\n  env: [FAIL=1]\n"),
    )
    app.commit("a migration that fails")
    with Traffic(app.get).running() as traffic:
        failed = app.ship(code=4)
    assert "FAIL is set" in failed.out + failed.err
    assert traffic.bad == []
    assert app.state()["meta_version"] == first
    app.undeploy()
    wait_until(lambda: gone(app), "the route is gone")
