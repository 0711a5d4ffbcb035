"""A deploy says what it cost its visitors, by the router's own count: on a real cluster, under a light stream of requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.cluster import App, LocalCluster, Traffic, wait_until

BROKEN = "        self.send_response(500 if self.path == '/broken' else 200)\n"


@pytest.fixture
def hello(cluster: LocalCluster, tmp_path: Path) -> Iterator[App]:
    """``hello``, answering; what is asked of ``/broken`` it answers with 500."""
    app = cluster.app("hello", tmp_path, name="loss")
    app.edit("hello.py", lambda text: text.replace("        self.send_response(200)\n", BROKEN))
    app.commit("it can fail")
    try:
        app.ship()
        wait_until(lambda: app.get().status == 200, "loss answers")
        yield app
    finally:
        app.cluster.lain("undeploy", "--yes", app.name, code=None)


def records(app: App) -> list[dict[str, Any]]:
    """Newest first."""
    return list(app.lain("history", "-o", "json").json())


def loss_of(app: App, operation: str) -> dict[str, Any]:
    """The loss report of an operation; empty while no router has told."""
    return next((record["loss"] or {} for record in records(app) if record["id"] == operation), {})


def told(app: App, operation: str, what: str) -> bool:
    return bool(loss_of(app, operation).get(what))


def test_a_deploy_tells_what_it_cost(hello: App) -> None:
    with Traffic(hello.get).running() as traffic:
        wait_until(lambda: traffic.answers >= 20, "visitors came before the deploy")
        hello.commit("again")
        hello.ship()
        deployed = records(hello)[0]
        assert deployed["kind"] == "deploy"
        wait_until(lambda: told(hello, deployed["id"], "after"), "the router tells of the end")
        asked = traffic.answers
        wait_until(lambda: traffic.answers >= asked + 20, "visitors came after it")
    assert traffic.bad == []
    hello.lain("restart", "web")  # the next operation ends the minute after the one before
    wait_until(lambda: told(hello, deployed["id"], "final"), "the report is final")
    loss = loss_of(hello, deployed["id"])
    windows = [loss[name] for name in ("before", "during", "after")]
    assert all(window["requests"] > 0 for window in windows), loss
    assert [(window["errors"], window["app_errors"]) for window in windows] == [(0, 0)] * 3, loss
    assert all(0 <= window["p50_ms"] <= window["p99_ms"] for window in windows), loss
    assert windows[0]["requests"] + windows[1]["requests"] + windows[2]["requests"] <= traffic.answers + 50
    line = hello.lain("history").out
    assert "0 lost, p99 " in line, line
    whole = hello.lain("history", hello.name, str(deployed["release"])).out
    assert "before" in whole and "during" in whole and "after" in whole, whole


def test_what_the_app_itself_answers_badly_is_not_lost(hello: App) -> None:
    with Traffic(lambda: hello.get("/broken")).running() as traffic:
        hello.commit("again")
        hello.ship()
        deployed = records(hello)[0]
        wait_until(lambda: told(hello, deployed["id"], "after"), "the router tells of the end")
    assert traffic.bad and all(each.startswith("500 ") for each in traffic.bad)
    during = loss_of(hello, deployed["id"])["during"]
    assert during["app_errors"] > 0
    assert during["errors"] == 0
    assert during["app_errors"] <= during["requests"]
