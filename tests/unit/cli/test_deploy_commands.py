"""``deploy``, ``rollback``, ``cancel``, ``undeploy``: what is asked of the console, what a person is told, with which exit code."""

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
    FieldChange,
    Problem,
    ProcChange,
    Verdict,
    VolumeView,
)
from lain_shared.errors import Conflict, Denied, NotFound, Refused, Unauthenticated, Unavailable
from lain_shared.model.app import OperationKind, Outcome
from lain_shared.model.pod import ProcType
from tests.fixtures.cli import FakeConsole, Lain
from tests.unit.cli import views
from tests.unit.cli.views import APP


def deploying(console: FakeConsole, ended: Any = None, *events: Any) -> None:
    """A deploy is accepted and goes on like this."""
    console.answers["PUT", APP] = (202, views.accepted())
    console.events("hello", [*events, views.end(ended or views.record())])


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
