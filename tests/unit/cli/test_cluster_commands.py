"""What is asked of the console, and what a person is told: the acceptance list of the command line that needs no later part."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

import pytest

from lain_cli.failures import Exit
from lain_sdk.api_types import (
    Accepted,
    ChangeAction,
    ClusterView,
    EnvView,
    ExplainView,
    FieldChange,
    Finding,
    Problem,
    ProcChange,
    RepoView,
    Severity,
    Verdict,
    VolumeView,
    WhoamiView,
)
from lain_shared.errors import Conflict, Denied, NotFound, Refused, Unauthenticated, Unavailable
from lain_shared.model.app import AppState, OperationKind, Outcome, Step
from lain_shared.model.pod import Overrides, ProcType
from lain_shared.model.status import ProcPhase
from tests.fixtures.cli import TOKEN, FakeConsole, Lain
from tests.unit.cli import views

APP = "/api/v1/apps/hello/"
REPO = "/api/v1/repos/hello/"
MANIFEST = "appname: hello\nbuild: {base: b, script: []}\nweb: {cmd: hello}\n"


@pytest.fixture
def here(lain: Lain, console: FakeConsole) -> Lain:
    """In hello's directory, with both of its versions in the registry."""
    lain.commit({"lain.yaml": MANIFEST})
    console.answers["GET", REPO + "versions/"] = views.versions(views.NEW, views.OLD, current=views.OLD)
    console.answers["GET", APP] = views.app()
    return lain


def deploying(console: FakeConsole, ended: Any = None, *events: Any) -> None:
    """A deploy is accepted and goes on like this."""
    console.answers["PUT", APP] = (202, views.accepted())
    console.events("hello", [*events, views.end(ended or views.record())])


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


# --- deploy ---


def test_deploy_says_done_last_this_and_how_to_go_back(here: Lain, console: FakeConsole) -> None:
    deploying(console, None, views.step("plan: web changes"), views.status(), views.step("web-1 is ready"))
    done = here("deploy", "local")
    assert done.code == 0
    assert done.out.startswith("Done in 4.2 s: hello is at release 2\n")
    assert "last       3-b\n" in done.out and "this       5-a\n" in done.out
    assert "roll back  lain rollback -p local --app hello 1  (3-b)\n" in done.out
    assert "http://hello.lain.localhost:8080/" in done.out
    assert "curl --resolve hello.lain.localhost:8080:127.0.0.1 http://hello.lain.localhost:8080/" in done.out
    assert "web-1 is ready" in done.err and "plan: web changes" in done.err
    (change,) = console.changes
    assert (change.method, change.path, change.body) == ("PUT", APP, {})


def test_an_unknown_version_changes_nothing_and_lists_what_there_is(here: Lain, console: FakeConsole) -> None:
    done = here("deploy", "local", "-v", "9-z")
    assert done.code == 1 and console.changes == []
    assert "    5-a\n    3-b\n" in done.err and done.out == ""


def test_a_given_version_is_deployed_even_the_first_time(here: Lain, console: FakeConsole) -> None:
    deploying(console)
    assert here("deploy", "local", "-v", "3-b").code == 0
    assert console.changes[0].body == {"meta_version": "3-b"}
    assert here("deploy", "-v", "3").code == 0
    assert console.changes[1].body == {"meta_version": "3-b"}


def test_a_failed_deploy_tells_why_on_what_evidence_and_what_next(here: Lain, console: FakeConsole) -> None:
    deploying(console, views.record(outcome=Outcome.ROLLED_BACK, failure=views.failure()), views.step("rolling back"))
    done = here("deploy", "local")
    assert done.code == Exit.ROLLED_BACK and done.out == ""
    assert "was rolled back; release 1 serves" in done.err
    assert "web-1: exited with code 7" in done.err and "KeyError: 'DB'" in done.err
    assert "next: lain logs hello web 1 --previous" in done.err
    deploying(console, views.record(outcome=Outcome.FAILED, failure=views.failure(), parent=None))
    assert here("deploy").code == Exit.FAILED


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.SUCCEEDED, 0),
        (Outcome.FAILED, 1),
        (Outcome.ROLLED_BACK, 4),
        (Outcome.CANCELLED, 4),
        (Outcome.REPLACED, 1),
    ],
)
def test_every_end_has_its_exit_code(here: Lain, console: FakeConsole, outcome: Outcome, code: int) -> None:
    deploying(console, views.record(outcome=outcome))
    assert here("deploy").code == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("the plan is refused", code="plan_refused", evidence={"refusals": ["no node fits"]}), Exit.REFUSED),
        (Conflict("hello is busy: deploy of release 2 by eve, for 3 s, phase rollout", code="busy"), Exit.BUSY),
        (Conflict("changed meanwhile", code="conflict"), Exit.FAILED),
        (Unavailable("etcd is away", code="store_unavailable"), Exit.UNREACHABLE),
        (Unauthenticated("the token has expired", next="lain login"), Exit.FAILED),
        (Denied("eve may not deploy hello", next="ask its maintainers"), Exit.FAILED),
        (NotFound("app 'hello' does not exist", code="app_not_found"), Exit.FAILED),
    ],
)
def test_a_refusal_has_its_exit_code_and_its_words(here: Lain, console: FakeConsole, error: Any, code: int) -> None:
    console.answers["PUT", APP] = error
    done = here("deploy")
    assert done.code == code and done.out == "" and error.message in done.err
    if error.next:
        assert error.next in done.err
    document = json.loads(here("deploy", "-o", "json").out)
    assert document["error"]["code"] == error.error_code


def test_an_unregistered_app_is_told_how_to_register(here: Lain, console: FakeConsole) -> None:
    console.answers["PUT", APP] = NotFound("app 'hello' does not exist", code="app_not_found")
    assert "lain reposit -p local --app hello" in here("deploy").err


def test_a_console_that_is_down_is_unreachable(here: Lain) -> None:
    here.configure("down", console="http://127.0.0.1:1")
    done = here("ps", "down")
    assert done.code == Exit.UNREACHABLE and "127.0.0.1:1 cannot be reached" in done.err


def test_plan_changes_nothing_and_exits_by_its_verdict(here: Lain, console: FakeConsole) -> None:
    changes = (
        ProcChange(
            "web", ProcType.WEB, ChangeAction.CHANGE, (FieldChange("memory", "32 MiB", "64 MiB"),), in_place=True
        ),
        ProcChange("migrate", ProcType.ONESHOT, ChangeAction.RUN),
        ProcChange("old", ProcType.WORKER, ChangeAction.REMOVE),
    )
    console.answers["POST", APP + "plan/"] = views.plan(changes=changes, routes_added=("hello.lain.localhost/new",))
    done = here("deploy", "--plan")
    assert done.code == 0 and console.changes == []
    assert done.out.splitlines() == [
        "deploy of hello: release 1 (3-b) → release 2 (5-a)",
        "  ~ web (web): changes, in place",
        "      memory: 32 MiB → 64 MiB",
        "  > migrate (oneshot): runs once",
        "  - old (worker): removed",
        "  + route hello.lain.localhost/new",
        "verdict: it can start",
    ]
    problem = Problem("no_node", "no node fits web-1", "memory rules out 1 node", "lainctl node list")
    console.answers["POST", APP + "plan/"] = views.plan(Verdict.REFUSED, refusals=(problem,))
    done = here("deploy", "--plan")
    assert done.code == Exit.REFUSED
    assert "refused: no node fits web-1\n  why: memory rules out 1 node\n  next: lainctl node list\n" in done.out


def test_options_reach_the_console(here: Lain, console: FakeConsole) -> None:
    deploying(console)
    assert here("deploy", "--proc", "web", "--replace", "--detach").code == 0
    assert console.changes[0].body == {"proc": "web", "replace": True}
    assert not any("/events/" in one.path for one in console.asked)


def test_detached_json_is_what_was_accepted(here: Lain, console: FakeConsole) -> None:
    deploying(console)
    assert here("deploy", "--detach", "-o", "json").json()["operation"]["id"] == "op1"
    whole = here("deploy", "-o", "json").json()
    assert whole["this"] == "5-a" and whole["last"] == "3-b" and whole["operation"]["outcome"] == "succeeded"


def test_nothing_to_do_is_done(here: Lain, console: FakeConsole) -> None:
    console.answers["PUT", APP] = (202, Accepted(None, views.plan(Verdict.NOTHING)))
    done = here("deploy")
    assert done.code == 0 and "nothing has to be done" in done.out


def test_ctrl_c_leaves_the_deploy_alone(here: Lain, console: FakeConsole) -> None:
    console.answers["PUT", APP] = (202, views.accepted())
    console.events("hello", [views.step("web-1 starts")], endless=True)

    def interrupt(asked: Any) -> None:
        if asked.path.endswith("/events/"):
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    console.on_ask = interrupt
    done = here("deploy", "local")
    assert done.code == Exit.INTERRUPTED
    assert "continues in the cluster" in done.err and "lain cancel -p local" in done.err
    assert [one.method for one in console.changes] == ["PUT"]


def test_a_timeout_ends_the_watching_only(here: Lain, console: FakeConsole) -> None:
    console.answers["PUT", APP] = (202, views.accepted())
    console.events("hello", [], endless=True)
    done = here("deploy", "--timeout", "0.2")
    assert done.code == 1 and "is not over after 0.2 s; it continues" in done.err


# --- rollback, cancel, undeploy ---


def test_rollback_names_a_release_or_takes_the_one_before(here: Lain, console: FakeConsole) -> None:
    console.answers["POST", APP + "rollback/"] = (202, views.accepted(OperationKind.ROLLBACK))
    console.events("hello", [views.end(views.record(OperationKind.ROLLBACK, release=3, meta_version=views.OLD))])
    done = here("rollback")
    assert done.code == 0 and done.out == "Done: rollback of hello, release 3 (3-b) in 4.2 s\n"
    here("rollback", "1")
    here("rollback", "hello", "1")
    here("rollback", "local", "1")
    assert [one.body for one in console.changes] == [{}, {"release": 1}, {"release": 1}, {"release": 1}]
    assert here("rollback", "hello", "web").code == Exit.USAGE


def test_cancel_follows_to_the_end(here: Lain, console: FakeConsole) -> None:
    console.answers["DELETE", APP + "operation/"] = (202, views.operation())
    console.events("hello", [views.step("cancel was asked for"), views.end(views.record(outcome=Outcome.CANCELLED))])
    done = here("cancel", "hello")
    assert done.code == 0 and done.out == "Done: the deploy of hello was cancelled; release 1 serves\n"
    console.answers["DELETE", APP + "operation/"] = NotFound("nothing runs", code="no_operation")
    assert here("cancel").code == 1


def test_undeploy_lists_the_volumes_that_stay(here: Lain, console: FakeConsole) -> None:
    volumes = (VolumeView("n1", "hello.web-1"),)
    console.answers["DELETE", APP] = (
        202,
        Accepted(views.operation(OperationKind.UNDEPLOY, release=None), None, volumes),
    )
    console.events("hello", [views.end(views.record(OperationKind.UNDEPLOY, release=None, meta_version=""))])
    done = here("undeploy", "--yes")
    assert (done.code, done.out) == (0, "Done: undeploy of hello in 4.2 s\n")
    assert "hello.web-1 on n1" in done.err and console.changes[0].query == {}


def test_deleting_volumes_asks_for_the_name(here: Lain, console: FakeConsole) -> None:
    operation = views.operation(OperationKind.UNDEPLOY, release=None)
    console.answers["DELETE", APP] = (202, Accepted(operation, None, (VolumeView("n1", "hello.web-1"),)))
    console.events("hello", [views.end(views.record(OperationKind.UNDEPLOY, release=None, meta_version=""))])
    refused = here("undeploy", "--yes", "--delete-volumes", stdin="hell\n")
    assert refused.code == 1 and "nothing was done" in refused.err and console.changes == []
    done = here("undeploy", "--delete-volumes", stdin="hello\n")
    assert (done.code, done.out) == (0, "Done: undeploy of hello in 4.2 s\n")
    assert "being deleted" in done.err and console.changes[0].query == {"delete_volumes": "hello"}


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


# --- looking ---


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


# --- logs ---


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
