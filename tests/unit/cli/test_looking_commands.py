"""``ps``, ``history``, ``dashboard``, ``explain``, ``open``, ``logs``: what a person is shown, in a terminal and in a pipe."""

from __future__ import annotations

import pytest

from lain_cli.failures import Exit
from lain_sdk.api_types import (
    ExplainView,
    Finding,
    Severity,
)
from lain_shared.errors import Denied, Unauthenticated
from lain_shared.model.app import AppState, Step
from lain_shared.model.pod import Overrides
from lain_shared.model.status import ProcPhase
from tests.fixtures.cli import FakeConsole, Lain
from tests.unit.cli import views
from tests.unit.cli.views import APP


def test_ps_shows_every_instance_with_node_and_address(here: Lain, console: FakeConsole) -> None:
    pods = (views.pod(1), views.pod(2), views.pod(3, ready=False, error="exited with code 1", restarts=4))
    web = views.proc(instances=3, ready=2, phase=ProcPhase.FAILING, pods=pods, message="web-3 cannot get ready")
    console.answers["GET", APP] = views.app(healthy=False, procs=(web,))
    done = here("ps", "local")
    assert done.code == 0 and "state     unhealthy" in done.out and "failing" in done.out and " 2/3 " in done.out
    for number in (1, 2, 3):
        assert f"web-{number}" in done.out and f"n{number}" in done.out and f"172.20.{number}.5:8000" in done.out
    assert "exited with code 1" in done.out
    assert here("ps", "-o", "json").json()["procs"][0]["pods"][2]["error"] == "exited with code 1"


def test_ps_shows_manifest_against_live(here: Lain, console: FakeConsole) -> None:
    web = views.proc(
        instances=3, overrides=Overrides(instances=3, memory_bytes=128 * 1024**2), manifest_instances=1,
        manifest_memory_bytes=64 * 1024**2, stopped=(2,),
    )  # fmt: skip
    console.answers["GET", APP] = views.app(procs=(web,))
    shown = here("ps").out
    assert (
        "scaled to 3 (manifest: 1)" in shown and "memory 128 MiB (manifest: 64 MiB)" in shown and "stopped: 2" in shown
    )


@pytest.mark.parametrize("width", [80, 160])
def test_pages_fit_their_terminal(here: Lain, console: FakeConsole, width: int) -> None:
    pods = tuple(views.pod(n, error="probe http GET /ping answered 503 three times in a row") for n in (1, 2, 3))
    long = views.app(
        "hello", procs=(views.proc(instances=3, pods=pods, message="the router n1 has not acknowledged for 12 s"),)
    )
    console.answers["GET", APP] = long
    console.answers["GET", "/api/v1/apps/"] = [long]
    console.answers["GET", APP + "history/"] = [views.record(failure=views.failure()), views.record()]
    for words in (("ps",), ("dashboard",), ("history",), ("versions",)):
        done = here(*words, width=width)
        plain = "".join(done.out.split("\x1b[0m"))
        lines = [line if "\x1b[" not in line else _plain(line) for line in plain.splitlines()]
        assert done.code == 0 and max(map(len, lines)) <= width, words


def test_history_of_a_release_shows_where_the_time_went(here: Lain, console: FakeConsole) -> None:
    spent = {"ready": 2.5, "plan": 0.125, "pull": 1.0, "start": 0.5, "route": 0.075, "drain": 0.0}
    steps = (Step(views.AT, "deploy of release 2"), Step(views.AT, "web serves: 1 ready at release 2"))
    deployed = views.record(step_seconds=spent, steps=steps)
    console.answers["GET", APP + "history/"] = [deployed, views.record(release=1, failure=views.failure())]
    shown = here("history", "2").out
    assert "web serves: 1 ready at release 2" in shown and "KeyError" not in shown
    rows = [
        line.split()[:2] for line in shown.splitlines() if line.split()[:1] and line.split()[0] in {*spent, "waited"}
    ]
    assert rows == [
        ["plan", "0.12"],
        ["pull", "1.00"],
        ["start", "0.50"],
        ["ready", "2.50"],
        ["route", "0.07"],
        ["waited", "4.20"],
    ]
    assert here("history", "hello", "2", "-o", "json").json()[0]["step_seconds"] == spent
    failed = here("history", "1").out
    assert "KeyError: 'DB'" in failed and "WHERE THE TIME WENT" not in failed
    missing = here("history", "9")
    assert missing.code == 1 and "nothing is known of release 9" in missing.err


def _plain(line: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", line)


def test_in_a_pipe_nothing_is_coloured_or_folded(here: Lain) -> None:
    assert "\x1b" not in here("ps").out and "\x1b" not in here("dashboard", "-p", "nope").err


def test_dashboard_sorts_and_shows_the_empty_cluster(here: Lain, console: FakeConsole) -> None:
    console.answers["GET", "/api/v1/apps/"] = []
    assert "no app yet" in here("dashboard").out
    console.answers["GET", "/api/v1/apps/"] = [
        views.app("b", procs=(), routes=()),
        views.app("a", state=AppState.REGISTERED, release=None, meta_version="", procs=(), routes=()),
    ]
    assert [line.split()[0] for line in here("dashboard").out.splitlines()[1:]] == ["a", "b"]
    assert [one["name"] for one in here("dashboard", "-s", "state", "-o", "json").json()] == ["b", "a"]


def test_an_expired_token_says_log_in(here: Lain, console: FakeConsole) -> None:
    console.answers["GET", APP] = Unauthenticated("the token has expired", next="lain login")
    done = here("ps", "local")
    assert done.code == 1 and "next: lain login" in done.err


def test_somebody_outside_is_told_whom_to_ask(here: Lain, console: FakeConsole) -> None:
    console.answers["GET", APP] = Denied("eve may not read hello", next="ask its maintainers")
    done = here("ps", "local")
    assert done.code == 1 and "ask its maintainers" in done.err


def test_explain_shows_the_worst_with_evidence_and_next(here: Lain, console: FakeConsole) -> None:
    finding = Finding(
        Severity.ERROR, "exits again and again", "KeyError", ("exit code 7",), "lain env set DB=…", "web", 1, "n1"
    )
    console.answers["GET", APP + "explain/"] = ExplainView("hello", "web-1 cannot start", (finding,))
    assert here("explain", "hello").out == (
        "hello: web-1 cannot start\n\nerror: web-1 on n1: exits again and again\n  why: KeyError\n"
        "    exit code 7\n  next: lain env set DB=…\n"
    )


def test_open_prints_an_address_that_works_without_dns(here: Lain) -> None:
    assert here("open").out == (
        "http://hello.lain.localhost:8080/\ncurl --resolve hello.lain.localhost:8080:127.0.0.1 http://hello.lain.localhost:8080/\n"
    )


def test_logs_keep_every_byte(here: Lain, console: FakeConsole) -> None:
    console.answers["GET", APP + "procs/web/instances/1/logs/"] = [b"one", "zwei ü".encode(), b"\x1b[1mraw"]
    assert here("logs", "web").out == "one\nzwei ü\n\x1b[1mraw\n"


def test_logs_ask_for_what_was_asked(here: Lain, console: FakeConsole) -> None:
    console.answers["GET", APP + "procs/web/instances/1/logs/"] = [b"one", b"two"]
    console.answers["GET", APP + "procs/web/instances/2/logs/"] = [b"three"]
    done = here("logs", "local", "web", "1", "--tail", "3", "--since", "100", "--previous")
    assert done.out == "one\ntwo\n"
    assert console.asked[-1].query == {"tail": "3", "since": "100.0", "previous": "true"}
    console.answers["GET", APP] = views.app(procs=(views.proc(instances=2),))
    assert here("logs").out == "web-1 | one\nweb-1 | two\nweb-2 | three\n"
    assert here("logs", "-f").out.splitlines() != []
    console.answers["GET", APP] = views.app(procs=(views.proc("a"), views.proc("b")))
    done = here("logs")
    assert done.code == 1 and "which proc?" in done.err
    assert here("logs", "c").code == 1
    assert here("logs", "web", "--since", "yesterday").code == Exit.USAGE
