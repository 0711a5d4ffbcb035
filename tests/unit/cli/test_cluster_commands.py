"""What is asked of the console, and what a person is told: the acceptance list of the command line that needs no later part."""

from __future__ import annotations

from typing import Any

import pytest

from lain_cli.failures import Exit
from lain_sdk.api_types import (
    ClusterView,
    EnvView,
    RepoView,
    WhoamiView,
)
from lain_shared.errors import Conflict, NotFound, Unauthenticated, Unavailable
from lain_shared.model.app import OperationKind
from tests.fixtures.cli import TOKEN, FakeConsole, Lain
from tests.unit.cli import views
from tests.unit.cli.views import APP, REPO

# --- registration, versions ---


def test_registering_twice_is_fine_both_times(here: Lain, console: FakeConsole) -> None:
    console.answers["GET", REPO] = NotFound("no app 'hello'", code="app_not_found")
    console.answers["POST", "/api/v1/repos/"] = (201, RepoView("hello", "eve", 0.0))
    done = here("reposit", "local")
    assert (done.code, done.out) == (0, "hello registered in local\n")
    assert console.changes[0].body == {"name": "hello"} and console.changes[0].token == TOKEN
    console.answers["GET", REPO] = RepoView("hello", "eve", 0.0)
    done = here("register", "local")
    assert done.code == 0 and "already registered" in done.out and len(console.changes) == 1


def test_a_name_somebody_else_has_is_a_failure(here: Lain, console: FakeConsole) -> None:
    console.answers["GET", REPO] = NotFound("no app 'hello'", code="app_not_found")
    console.answers["POST", "/api/v1/repos/"] = Conflict("its host belongs to app 'other'", code="name_taken")
    done = here("reposit")
    assert done.code == Exit.FAILED and "belongs to app 'other'" in done.err


def test_versions_newest_first(here: Lain) -> None:
    for words in (("appversion", "local"), ("versions", "-p", "local"), ("versions", "hello")):
        lines = here(*words).out.splitlines()
        assert [line.split()[0] for line in lines] == ["VERSION", "5-a", "3-b"]
    assert [one["meta_version"] for one in here("versions", "-o", "json").json()["versions"]] == ["5-a", "3-b"]


def test_check_names_what_is_missing(here: Lain, console: FakeConsole) -> None:
    console.answers["GET", REPO + "versions/"] = views.versions(views.NEW, half=(views.NEW,))
    done = here("check", "local", "-v", views.NEW)
    assert done.code == 1 and done.out == "release-5-a: missing\nmeta-5-a: there\n"
    done = here("check")
    assert done.code == 1 and done.out.count("missing") == 2
    console.answers["GET", REPO + "versions/"] = views.versions(views.NEW)
    assert here("check", "-v", views.NEW).code == 0


# --- scale and the like ---


def scaling(console: FakeConsole) -> None:
    console.answers["PATCH", APP + "procs/web/"] = (202, views.accepted(OperationKind.SCALE))
    console.events("hello", [views.end(views.record(OperationKind.SCALE))])


def test_scale_sends_both_changes_at_once(here: Lain, console: FakeConsole) -> None:
    scaling(console)
    assert here("scale", "local", "web", "-n", "3", "-m", "64M").code == 0
    assert console.changes[0].body == {"instances": 3, "memory": 64 * 1024**2}
    assert here("scale", "hello", "web", "4").code == 0
    assert console.changes[1].body == {"instances": 4}
    assert here("scale", "web", "--reset").code == 0
    assert console.changes[2].body == {"reset": True}


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("-n", "0"),
        ("-c", "-1"),
        ("-c", "9"),
        ("-m", "5M"),
        ("-m", "abc"),
        ("-m", "0m"),
        ("-m", "64"),
        ("0",),
        ("3", "-n", "4"),
    ],
)
def test_a_bad_scale_is_refused_here(here: Lain, console: FakeConsole, words: tuple[str, ...]) -> None:
    done = here("scale", "local", "web", *words)
    assert done.code == Exit.USAGE and done.err and console.changes == []


def test_six_mebibytes_are_enough(here: Lain, console: FakeConsole) -> None:
    scaling(console)
    assert here("scale", "web", "-m", "6M").code == 0
    assert console.changes[0].body == {"memory": 6 * 1024**2}


def test_a_proc_the_console_does_not_know_must_be_deployed_first(here: Lain, console: FakeConsole) -> None:
    console.answers["PATCH", APP + "procs/nope/"] = NotFound("hello has no proc 'nope'", code="proc_not_found")
    done = here("scale", "local", "nope", "-n", "2")
    assert done.code == 1 and "deploy it first" in done.err


@pytest.mark.parametrize(
    ("words", "path", "body"),
    [
        (("restart",), "procs/", {"operation": "restart"}),
        (("restart", "web"), "procs/web/", {"operation": "restart"}),
        (("restart", "web", "2"), "procs/web/", {"operation": "restart", "instance": 2}),
        (("restart", "local", "web", "2"), "procs/web/", {"operation": "restart", "instance": 2}),
        (("stop", "hello", "web", "2"), "procs/web/", {"operation": "stop", "instance": 2}),
        (("stop", "--replace"), "procs/", {"operation": "stop", "replace": True}),
        (("start", "hello"), "procs/", {"operation": "start"}),
        (("start", "web"), "procs/web/", {"operation": "start"}),
    ],
)
def test_words_name_app_proc_and_instance(
    here: Lain, console: FakeConsole, words: tuple[str, ...], path: str, body: Any
) -> None:
    console.answers["PATCH", APP + path] = (202, views.accepted(OperationKind.RESTART))
    console.events("hello", [views.end(views.record(OperationKind.RESTART))])
    assert here(*words).code == 0
    assert console.changes[0].body == body


# --- environment ---


def test_env_show_set_unset_diff(here: Lain, console: FakeConsole) -> None:
    console.answers["GET", APP + "env/"] = EnvView(
        "hello", {"A": "1", "B": "2"}, {"A": "1", "C": "3"}, {"web": {"A": "0", "D": "4"}}
    )
    console.answers["PATCH", APP + "env/"] = (202, views.accepted(OperationKind.ENV))
    console.events("hello", [views.end(views.record(OperationKind.ENV))])
    shown = here("env", "show").out
    assert "A     1      lain env" in shown and "manifest, web (overridden)" in shown
    assert here("env", "diff").out == "+ B=2\n- C=3\n"
    assert here("env", "set", "A=x=y", "B=").code == 0
    assert here("env", "unset", "A", "-p", "local").code == 0
    assert [one.body for one in console.changes] == [
        {"set": {"A": "x=y", "B": ""}, "unset": []},
        {"set": {}, "unset": ["A"]},
    ]
    for word in ("A", "1A=x", "=x"):
        assert here("env", "set", word).code == Exit.USAGE


# --- session ---


def test_login_keeps_what_the_cluster_says_of_itself(lain: Lain, console: FakeConsole) -> None:
    console.answers["GET", "/api/v1/whoami/"] = WhoamiView("eve", "operator")
    console.answers["GET", "/api/v1/cluster/"] = ClusterView(
        "c", "example.org", router_http_port=80, registry_push="r:5000"
    )
    done = lain("login", "-p", "prod", "--console", console.url, "--token", "-", stdin="sesame\n")
    assert done.code == 0 and "logged in to prod as eve (operator)" in done.out
    assert console.asked[0].token == "sesame"
    shown = lain("config", "show").json()["prod"]
    assert shown == {
        "token": "***", "console": console.url, "domain": "example.org", "router_http": 80, "router_https": 443, "registry": "r:5000",
    }  # fmt: skip


def test_a_refused_token_is_not_kept(lain: Lain, console: FakeConsole) -> None:
    console.answers["GET", "/api/v1/whoami/"] = Unauthenticated("the signature is wrong")
    done = lain("login", "-p", "prod", "--console", console.url, "--token", "sesame")
    assert done.code == 1 and "prod" not in lain("config", "show").json()
    assert lain("login", "-p", "prod", stdin="").code == 1


def test_version_tells_both_sides(here: Lain, console: FakeConsole) -> None:
    console.answers["GET", "/api/v1/cluster/"] = ClusterView("c", "d", console_version="0.1.0")
    assert "console 0.1.0" in here("version").out
    assert here("version", "--client", "-o", "json").json()["cluster"] is None
    console.answers["GET", "/api/v1/cluster/"] = Unavailable("etcd is away")
    done = here("version")
    assert done.code == 0 and "etcd is away" in done.out


# --- never a stack trace ---


def test_what_should_not_happen_is_one_line_and_a_file(
    here: Lain, console: FakeConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lain_cli.commands import apps

    def explode(*_: object) -> None:
        raise ZeroDivisionError("token=sesame")

    monkeypatch.setattr(apps, "draw_app", explode)
    done = here("ps")
    assert done.code == 1 and done.err.count("\n") == 2 and "Traceback" not in done.err
    assert done.err.startswith("error: this should not have happened: ZeroDivisionError\n  next: details in ")
    (report,) = (here.home / "crash").iterdir()
    assert "ZeroDivisionError" in report.read_text() and report.stat().st_mode & 0o077 == 0


def test_an_answer_that_makes_no_sense_is_understood(here: Lain, console: FakeConsole) -> None:
    console.answers["GET", APP] = (200, {"name": 3})
    done = here("ps")
    assert done.code == Exit.UNREACHABLE and "lain version" in done.err
