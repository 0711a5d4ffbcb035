"""``lain explain``: each way an app can be unwell is named, with its evidence and a next step; a healthy one is said to be well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from lain_console.explain import Facts, explain
from lain_console.state import Scene
from lain_sdk.api_types import ExplainView, Finding, Severity
from lain_shared.model.app import (
    App,
    AppState,
    Failure,
    HistoryRecord,
    Operation,
    OperationHolder,
    OperationKind,
    OperationPhase,
    Outcome,
    Step,
)
from lain_shared.model.node import Alive, Condition, ConditionStatus, Node, NodeState, Switch
from lain_shared.model.pod import LIMITS_REFUSED, Desired, Evidence, Overrides, PodState, Probe, ProbeKind
from lain_shared.model.route import RouterState
from lain_shared.model.status import InstanceStatus, ProcPhase, ProcStatus
from lain_shared.records import Stored
from lain_shared.store import Entry
from tests.unit.console.builders import proc, web

NOW = 10_000.0


def stored(value: Any, revision: int = 5) -> Stored[Any]:
    return Stored(value, Entry("k", b"", revision, revision))


def pod(number: int = 1, **more: Any) -> InstanceStatus:
    given = {"state": PodState.RUNNING, "ready": True, **more}
    return InstanceStatus(number, 1, 1, given.pop("node", "n1"), given.pop("state"), given.pop("ready"), **given)


def status(desired: Desired, *pods: InstanceStatus, phase: ProcPhase = ProcPhase.STABLE, **more: Any) -> ProcStatus:
    ready = sum(each.ready for each in pods)
    wanted = desired.instances - len(desired.stopped)
    given = {"desired_revision": 5, "wanted": wanted, "updated": ready, "ready": ready, "progress_at": 0.0, **more}
    return ProcStatus(desired.app, desired.proc, release=1, phase=phase, instances=pods, **given)


def facts(*procs: tuple[Desired, ProcStatus | None], **more: Any) -> Facts:
    app = more.pop("app", App("hello", "ann", 0.0, state=AppState.DEPLOYED, release=1))
    scene = Scene(
        stored(app),
        stored(more.pop("operation")) if "operation" in more else None,
        stored(more.pop("holder")) if "holder" in more else None,
        {desired.proc: stored(desired) for desired, _ in procs},
        {desired.proc: told for desired, told in procs if told is not None},
    )
    given: Mapping[str, Any] = {
        "alive": {"n1": Alive("n1", "", "", "", 0.0)},
        "nodes": {"n1": Node("n1", "10.0.0.1")},
        "states": {"n1": NodeState("n1", 4, 1 << 30, 0, 100, 50, "20.10")},
        "routers": [RouterState("r1", 1, "b", 0.0)],
        **more,
    }
    return Facts(scene, NOW, **given)


def worst(view: ExplainView) -> Finding:
    return view.findings[0]


def test_a_healthy_app() -> None:
    view = explain(facts((web(1), status(web(1), pod())), urls=["http://hello.lain.localhost/"]))
    assert view.headline == "hello is well: release 1 runs as wanted, served at http://hello.lain.localhost/"
    assert [finding.severity for finding in view.findings] == [Severity.OK]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (AppState.REGISTERED, "is registered and not deployed"),
        (AppState.FAILED, "its first deploy failed, nothing runs"),
    ],
)
def test_an_app_that_does_not_run(state: AppState, said: str) -> None:
    assert said in explain(facts(app=App("hello", "ann", 0.0, state=state))).headline


def test_a_pod_that_keeps_crashing_shows_its_last_words() -> None:
    evidence = Evidence(NOW - 5, "exited", "exited with 3", 3, last_lines=("Traceback", "KeyError: 'DB'"))
    told = status(
        web(1), pod(state=PodState.BACKOFF, ready=False, restarts=4, evidence=evidence), phase=ProcPhase.FAILING
    )
    finding = worst(explain(facts((web(1), told))))
    assert (finding.severity, finding.what) == (Severity.ERROR, "web-1 keeps crashing (4 times)")
    assert finding.evidence == ("exited with 3", "exit code 3", "| Traceback", "| KeyError: 'DB'")
    assert (finding.proc, finding.instance, finding.node) == ("web", 1, "n1") and finding.next


def test_out_of_memory_says_how_to_give_more() -> None:
    evidence = Evidence(NOW - 5, "oom_killed", exit_code=137)
    told = status(web(1), pod(state=PodState.BACKOFF, ready=False, restarts=1, evidence=evidence))
    finding = worst(explain(facts((web(1), told))))
    assert finding.why == "it used more memory than its limit" and "lain scale hello web --memory" in finding.next


def test_a_ready_pod_that_crashed_is_a_warning() -> None:
    evidence = Evidence(NOW - 60, "exited", exit_code=1)
    view = explain(facts((web(1), status(web(1), pod(restarts=2, evidence=evidence)))))
    assert worst(view).severity is Severity.WARNING
    assert (
        worst(view).what
        == "web-1 is ready, and has crashed 2 times; last 1 min ago: the program ended with exit code 1"
    )


def test_an_image_that_is_not_there() -> None:
    evidence = Evidence(NOW, "image_missing", "hello@sha256:… not found")
    told = status(web(1), pod(state=PodState.FAILED, ready=False, evidence=evidence), phase=ProcPhase.FAILING)
    finding = worst(explain(facts((web(1), told))))
    assert finding.what == "web-1 cannot start" and finding.why == "its image is not in the registry"


def test_no_node_says_which_filter_ruled_out_how_many() -> None:
    told = status(web(1), phase=ProcPhase.WAITING, message="no node fits: …", reasons={"memory": 2, "cordoned": 1})
    finding = worst(explain(facts((web(1), told))))
    assert finding.what == "web: an instance has no node (0 of 1 ready)"
    assert finding.evidence == ("cordoned rules out 1 node", "memory rules out 2 nodes")


def test_a_paused_rollout_names_the_router() -> None:
    told = status(web(1), pod(), phase=ProcPhase.PAUSED, message="router r1 has not acknowledged")
    finding = worst(explain(facts((web(1), told))))
    assert finding.what == "web: its rollout is paused" and finding.why == "router r1 has not acknowledged"


def test_a_node_that_is_away() -> None:
    finding = worst(explain(facts((web(1), status(web(1), pod(node="n2", ready=True))))))
    assert finding.what == "web-1: its node n2 is away" and finding.severity is Severity.ERROR


def test_a_pod_that_is_not_ready_says_what_is_checked() -> None:
    desired = web(1)
    desired = replace(desired, template=replace(desired.template, readiness=Probe(ProbeKind.HTTP, 8000, "/ping")))
    finding = worst(explain(facts((desired, status(desired, pod(ready=False), phase=ProcPhase.ROLLING)))))
    assert finding.what == "web-1 runs and is not ready"
    assert finding.evidence == ("the check is GET /ping on port 8000",)


NEVER_READY = Evidence(
    NOW - 20,
    "probe_failed",
    text="not ready: readiness: GET http://172.20.0.9:8000/healthz took longer than 3 s",
    probe="readiness: GET http://172.20.0.9:8000/healthz took longer than 3 s",
    last_lines=("listening on 8000",),
)


def test_a_pod_that_never_gets_ready_shows_what_its_check_was_answered_and_its_output() -> None:
    desired = web(1)
    desired = replace(desired, template=replace(desired.template, readiness=Probe(ProbeKind.HTTP, 8000, "/healthz")))
    seen = status(desired, pod(ready=False, evidence=NEVER_READY), phase=ProcPhase.ROLLING)
    finding = worst(explain(facts((desired, seen), operation=operation(), holder=OperationHolder("c1", 0.0))))
    assert finding.what == "web-1 runs and is not ready"
    assert finding.why == "its check failed: are port and path in lain.yaml right?"
    assert finding.evidence == (NEVER_READY.text, "| listening on 8000", "the check is GET /healthz on port 8000")
    assert finding.next == "lain logs hello web 1"


@pytest.mark.parametrize("reason", ["exited", "oom_killed", LIMITS_REFUSED])
def test_what_happened_before_to_a_pod_that_is_not_ready_yet_is_not_taken_for_its_check(reason: str) -> None:
    desired = web(1)
    desired = replace(desired, template=replace(desired.template, readiness=Probe(ProbeKind.HTTP, 8000, "/ping")))
    told = status(desired, pod(ready=False, restarts=1, evidence=Evidence(NOW - 2, reason)), phase=ProcPhase.ROLLING)
    finding = worst(explain(facts((desired, told))))
    assert finding.what == "web-1 runs and is not ready"
    assert finding.why and "port" not in finding.why


@pytest.mark.parametrize("outcome", [Outcome.ROLLED_BACK, None], ids=["back", "on its way back"])
def test_a_release_that_never_got_ready_is_told_when_its_pods_are_gone(outcome: Outcome | None) -> None:
    failure = Failure("deadline", "web made no progress for 20 s", "web", 1, NEVER_READY, next="lain explain hello")
    fine = (web(1), status(web(1), pod()))
    if outcome is None:
        running = operation(OperationPhase.ROLLING_BACK, failure=failure)
        view = explain(facts(fine, operation=running, holder=OperationHolder("c1", 0.0)))
    else:
        view = explain(facts(fine, history=[replace(record(outcome), failure=failure)]))
    finding = worst(view)
    assert "web made no progress for 20 s" in finding.what and finding.why.startswith("its check failed; ")
    assert finding.evidence == (NEVER_READY.text, "| listening on 8000")
    command = "lain build && lain push && lain deploy hello"
    assert finding.next.endswith(f"then: {command}"), "no logs: the pod of that name is a good one again"


def test_after_a_failure_that_says_no_more_than_explain_its_history_is_next() -> None:
    fine = (web(1), status(web(1), pod()))
    for evidence in (None, Evidence(NOW, "unheard_of")):
        failure = Failure("deadline", "no progress", "web", 1, evidence, next="lain explain hello")
        view = explain(facts(fine, history=[replace(record(Outcome.ROLLED_BACK), failure=failure)]))
        assert worst(view).next == "lain history hello"
    failure = Failure("deadline", "no progress: no node", "web", 1, next="lainctl node list")
    view = explain(facts(fine, history=[replace(record(Outcome.ROLLED_BACK), failure=failure)]))
    assert worst(view).next == "lainctl node list"
    scaled = replace(
        record(Outcome.ROLLED_BACK), kind=OperationKind.SCALE, failure=replace(failure, evidence=NEVER_READY)
    )
    assert worst(explain(facts(fine, history=[scaled]))).next == "lain history hello"


def test_a_volume_that_is_gone_names_the_command_that_gives_it_up() -> None:
    lost = Evidence(NOW, "volume_missing", text="the data of hello.db-1 was on this node and is gone")
    desired = proc("db")
    seen = status(desired, pod(state=PodState.FAILED, ready=False, evidence=lost), phase=ProcPhase.ROLLING)
    finding = worst(explain(facts((desired, seen))))
    assert finding.what == "db-1 cannot start" and finding.why == "its volume is not on the node"
    assert finding.next.endswith("let it start empty: lainctl volume confirm-loss n1 hello.db-1")


def test_a_controller_that_says_nothing() -> None:
    view = explain(facts((web(1), None)))
    assert "has not taken notice" in worst(view).what and worst(view).severity is Severity.WARNING
    late = explain(facts((web(1), status(web(1), pod(), desired_revision=4))))
    assert "its status answers an older one" in worst(late).why


def test_what_operators_stopped_and_scaled_is_said() -> None:
    desired = replace(web(1), instances=2, stopped=(2,), overrides=Overrides(2, None, 64 << 20))
    texts = [finding.what for finding in explain(facts((desired, status(desired, pod())))).findings]
    assert texts == [
        "web: instance 2 is stopped",
        "web runs with 2 instances, memory 64 MiB set by lain scale",
    ]
    idle = replace(web(1), instances=0)
    assert worst(explain(facts((idle, status(idle))))).what == "web does not run"


def test_routers_that_are_absent_or_hold_on_to_the_last_good() -> None:
    fine = (web(1), status(web(1), pod()))
    assert "no router is present" in worst(explain(facts(fine, routers=[]))).what
    assert (
        explain(facts((proc("mail", 1), status(proc("mail", 1), pod())), routers=[])).findings[0].severity
        is Severity.OK
    )
    quarantined = RouterState("r1", 1, "b", 0.0, quarantined={"hello": "bad path"}, not_applied=("hello",))
    texts = [finding.what for finding in explain(facts(fine, routers=[quarantined])).findings]
    assert texts == [
        "router r1 serves hello by its last good routes and options",
        "router r1 could not apply the addresses of hello",
    ]


def test_trouble_of_the_node_below() -> None:
    state = NodeState("n1", 4, 1 << 30, 0, 1000, 10, "20.10", engine_reachable=False, problems=("clock is off",))
    texts = [f.what for f in explain(facts((web(1), status(web(1), pod())), states={"n1": state})).findings]
    assert texts == ["node n1: its Docker Engine does not answer", "node n1: clock is off"]


def test_what_a_node_says_of_itself_is_told_in_the_doctors_words() -> None:
    true = Condition("DiskPressure", ConditionStatus.TRUE, "Full", "volumes is 98 % full", NOW - 120)
    off = Condition("ClockJumped", ConditionStatus.TRUE, "Jumped", "set back by 60 s", NOW - 60)
    fine = Condition("ClockSkewed", ConditionStatus.FALSE, since=NOW - 60)
    state = NodeState("n1", 4, 1 << 30, 0, 1000, 10, "20.10", conditions=(true, off, fine), problems=("told already",))
    found = explain(facts((web(1), status(web(1), pod())), states={"n1": state})).findings
    assert [(one.severity, one.what, one.evidence) for one in found] == [
        (Severity.ERROR, "node n1: its disk is full", ("volumes is 98 % full (for 2 min)",)),
        (Severity.WARNING, "node n1: its clock was set by a jump", ("set back by 60 s (for 1 min)",)),
    ]
    assert all(one.why and one.next.startswith("on n1: ") for one in found)


def operation(phase: OperationPhase = OperationPhase.ROLLOUT, **more: Any) -> Operation:
    steps = (Step(NOW - 60, "deploy"), Step(NOW - 30, "rolling out"))
    return Operation(
        "id", "hello", OperationKind.DEPLOY, phase, "bob", NOW - 60, release=2, parent=1, steps=steps, **more
    )


def test_an_operation_under_way() -> None:
    held = OperationHolder("c1", 0.0)
    view = explain(facts((web(1), status(web(1), pod())), operation=operation(), holder=held))
    assert view.headline == "hello: a deploy is under way (rollout)"
    assert worst(view).what == "deploy to release 2 by bob has been under way for 1 min"
    assert (
        worst(view).evidence == ("1 min ago: deploy", "30 s ago: rolling out")
        and worst(view).next == "lain cancel hello"
    )
    orphan = explain(facts((web(1), status(web(1), pod())), operation=operation()))
    assert worst(orphan).what == "nobody drives this operation at the moment"


def test_an_operation_on_its_way_back_says_why() -> None:
    failure = Failure(
        "crashes_before_ready", "web exited 3 times", "web", 1, Evidence(NOW, "exited", last_lines=("boom",))
    )
    running = operation(OperationPhase.ROLLING_BACK, failure=failure)
    view = explain(facts((web(1), status(web(1), pod())), operation=running, holder=OperationHolder("c1", 0.0)))
    assert worst(view).what == "the deploy failed: web exited 3 times" and worst(view).evidence == ("| boom",)


def record(outcome: Outcome, **more: Any) -> HistoryRecord:
    failure = Failure("deadline", "web made no progress") if outcome in (Outcome.FAILED, Outcome.ROLLED_BACK) else None
    return HistoryRecord(
        "id",
        "hello",
        OperationKind.DEPLOY,
        outcome,
        "bob",
        0.0,
        NOW - 120,
        release=2,
        parent=1,
        failure=failure,
        **more,
    )


def test_the_last_failure_is_remembered_until_something_succeeds() -> None:
    fine = (web(1), status(web(1), pod()))
    failed = explain(facts(fine, history=[record(Outcome.REPLACED), record(Outcome.ROLLED_BACK)]))
    assert worst(failed).what == "the last deploy failed 2 min ago: web made no progress"
    assert worst(failed).why == "release 1 was put back and serves"
    later = explain(facts(fine, history=[record(Outcome.SUCCEEDED), record(Outcome.FAILED)]))
    assert worst(later).severity is Severity.OK


def test_switches_in_force() -> None:
    on = Switch("maintenance", True, "ops", NOW - 60, "moving racks")
    view = explain(facts((web(1), status(web(1), pod())), switches=[on, Switch("readonly", False)]))
    assert [(f.what, f.why, f.evidence) for f in view.findings] == [
        (
            "the cluster is in maintenance mode: nothing is created, moved or stopped",
            "moving racks",
            ("since 1 min",),
        )
    ]
    assert view.findings[0].next == "lainctl switch set maintenance off"


@pytest.mark.parametrize("on", [True, False])
def test_the_guard_is_told_when_it_is_off(on: bool) -> None:
    """It is on by default, and that is no news."""
    view = explain(facts((web(1), status(web(1), pod())), switches=[Switch("guard", on, "ops", NOW - 60)]))
    told = [finding.next for finding in view.findings if "guard" in finding.what]
    assert told == ([] if on else ["lainctl switch set guard on"])


def test_the_worst_comes_first_and_the_headline_counts() -> None:
    crash = Evidence(NOW, "exited", exit_code=1)
    told = status(
        replace(web(1), instances=2),
        pod(1, restarts=1, evidence=crash),
        pod(2, state=PodState.BACKOFF, ready=False, restarts=1, evidence=crash),
    )
    view = explain(facts((replace(web(1), instances=2), told)))
    assert [finding.severity for finding in view.findings] == [Severity.ERROR, Severity.WARNING]
    assert view.headline == "hello: web-2 has crashed (and 1 more)"
