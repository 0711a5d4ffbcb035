"""Documents the console would answer, with as little in them as a test needs to say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lain_sdk.api_types import (
    Accepted,
    AppView,
    OperationView,
    PlanView,
    ProcView,
    RouteView,
    Verdict,
    VersionsView,
    VersionView,
)
from lain_shared.model.app import (
    AppState,
    Failure,
    HistoryRecord,
    OperationKind,
    OperationPhase,
    Outcome,
    Step,
)
from lain_shared.model.pod import Evidence, PodState, ProcType
from lain_shared.model.status import InstanceStatus, ProcPhase, ProcStatus

APP = "/api/v1/apps/hello/"
REPO = "/api/v1/repos/hello/"
NEW, OLD = "5-a", "3-b"
AT = 1500000000.0


def pod(instance: int, *, ready: bool = True, **more: Any) -> InstanceStatus:
    known = {"generation": 7, "release": 2, "node": f"n{instance}", "address": f"172.20.{instance}.5", "started_at": AT}
    state = PodState.RUNNING if ready else PodState.BACKOFF
    return InstanceStatus(**{"instance": instance, "state": state, "ready": ready, **known, **more})


def proc(name: str = "web", **more: Any) -> ProcView:
    known = {"type": ProcType.WEB, "release": 2, "image": "hello@sha256:0", "instances": 1, "ready": 1, "updated": 1,
             "phase": ProcPhase.STABLE, "memory_bytes": 64 * 1024**2, "port": 8000}  # fmt: skip
    return ProcView(**{"name": name, **known, **more})


def app(name: str = "hello", **more: Any) -> AppView:
    known = {"owner": "eve", "state": AppState.DEPLOYED, "release": 2, "meta_version": NEW, "deployed_at": AT, "deployed_by": "eve",
             "procs": (proc(pods=(pod(1),)),),
             "routes": (RouteView(f"{name}.lain.localhost", "/", False, f"http://{name}.lain.localhost:8080/", True),)}  # fmt: skip
    return AppView(**{"name": name, **known, **more})


def versions(*names: str, current: str = "", half: tuple[str, ...] = ()) -> VersionsView:
    """``half``: versions whose release image is missing."""
    found = []
    for name in names:
        time, _, commit = name.partition("-")
        missing = "release" if name in half else ""
        found.append(VersionView(name, float(time), commit, not missing, name == current, missing))
    return VersionsView("hello", tuple(found))


def operation(kind: OperationKind = OperationKind.DEPLOY, **more: Any) -> OperationView:
    known = {
        "phase": OperationPhase.ROLLOUT,
        "who": "eve",
        "started_at": AT,
        "release": 2,
        "parent": 1,
        "meta_version": NEW,
    }
    return OperationView(**{"id": "op1", "app": "hello", "kind": kind, **known, **more})


def plan(verdict: Verdict = Verdict.GO, **more: Any) -> PlanView:
    known = {"release": 2, "parent": 1, "meta_version": NEW, "parent_meta_version": OLD}
    return PlanView(**{"app": "hello", "kind": OperationKind.DEPLOY, "verdict": verdict, **known, **more})


def accepted(kind: OperationKind = OperationKind.DEPLOY, **more: Any) -> Accepted:
    return Accepted(operation(kind), plan(), **more)


def record(
    kind: OperationKind = OperationKind.DEPLOY, outcome: Outcome = Outcome.SUCCEEDED, **more: Any
) -> HistoryRecord:
    known = {"who": "eve", "started_at": AT, "ended_at": AT + 4.2, "release": 2, "parent": 1, "meta_version": NEW}
    return HistoryRecord(**{"id": "op1", "app": "hello", "kind": kind, "outcome": outcome, **known, **more})


def failure(**more: Any) -> Failure:
    seen = Evidence(AT, "exited", exit_code=7, last_lines=("listening", "KeyError: 'DB'"))
    known = {"message": "exited with code 7 before it was ready", "proc": "web", "instance": 1, "evidence": seen}
    return Failure(**{"code": "exited", **known, "next": "lain logs hello web 1 --previous", **more})


def step(text: str) -> tuple[str, Step]:
    return "step", Step(AT, text)


def status(**more: Any) -> tuple[str, ProcStatus]:
    known = {
        "desired_revision": 5,
        "release": 2,
        "phase": ProcPhase.ROLLING,
        "wanted": 3,
        "updated": 1,
        "ready": 3,
        "progress_at": AT,
    }
    return "status", ProcStatus(**{"app": "hello", "proc": "web", **known, **more})


def end(ended: HistoryRecord) -> tuple[str, HistoryRecord]:
    return "end", ended


__all__ = [
    "AT",
    "NEW",
    "OLD",
    "accepted",
    "app",
    "end",
    "failure",
    "operation",
    "plan",
    "pod",
    "proc",
    "record",
    "replace",
    "status",
    "step",
    "versions",
]
