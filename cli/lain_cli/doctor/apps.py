"""Apps in trouble, one line each: ``lain explain`` has the rest. Pure."""

from __future__ import annotations

from collections import defaultdict

from lain_cli.doctor.report import PROBLEM, WARNING, Check, ok, skipped
from lain_cli.doctor.sight import Sight
from lain_cli.render import count
from lain_shared.deployd_views import PodView
from lain_shared.errors import LainError
from lain_shared.model.pod import PodState
from lain_shared.model.status import ProcPhase

CRASHES = 3
PHASES = {
    ProcPhase.WAITING: ("app_waiting", "an instance has no node"),
    ProcPhase.PAUSED: ("app_paused", "its rollout is paused"),
    ProcPhase.FAILING: ("app_failing", "its wanted release does not get ready"),
    ProcPhase.FAILED: ("app_failed", "a oneshot did not succeed"),
}


def judge(sight: Sight) -> list[Check]:
    if isinstance(sight.pods, LainError | None) and isinstance(sight.apps, LainError | None):
        return [skipped("apps", "no API could be asked")]
    crashing = _crashing(sight)
    found = [*crashing.values()]
    if sight.apps is not None and not isinstance(sight.apps, LainError):
        for app in sight.apps:
            for proc in app.procs:
                if proc.phase not in PHASES or app.name in crashing:
                    continue
                code, what = PHASES[proc.phase]
                reasons = tuple(
                    f"{name} rules out {count(nodes, 'node')}" for name, nodes in sorted(proc.reasons.items())
                )
                urgent = proc.ready < proc.instances - len(proc.stopped)
                found.append(
                    Check(
                        f"app {app.name}", PROBLEM if urgent else WARNING, f"app {app.name}, {proc.name}: {what}", code,
                        f"{proc.ready} of {count(proc.instances, 'instance')} ready", (*([proc.message] if proc.message else []), *reasons),
                        f"lain explain --app {app.name}",
                    )
                )  # fmt: skip
    number = len(sight.apps) if sight.apps is not None and not isinstance(sight.apps, LainError) else 0
    return found or [ok("apps", f"{count(number, 'app')}, all as wanted" if number else "none is deployed")]


def _crashing(sight: Sight) -> dict[str, Check]:
    """App → the finding, of those with a wanted pod that ends again and again."""
    if sight.pods is None or isinstance(sight.pods, LainError):
        return {}
    loops: dict[str, list[PodView]] = defaultdict(list)
    for pod in sight.pods:
        if (
            pod.wanted
            and not pod.ready
            and pod.restarts >= CRASHES
            and pod.state in (PodState.BACKOFF, PodState.RUNNING, PodState.EXITED)
        ):
            loops[pod.app].append(pod)
    return {app: _loop(app, pods) for app, pods in sorted(loops.items())}


def _loop(app: str, pods: list[PodView]) -> Check:
    first = pods[0]
    evidence: list[str] = []
    for pod in pods[:3]:
        told = pod.evidence
        how = (
            f": {told.reason}" + (f", exit code {told.exit_code}" if told.exit_code is not None else "")
            if told is not None
            else ""
        )
        evidence.append(f"{pod.proc}-{pod.instance} on {pod.node} ended {pod.restarts} times{how}")
        evidence += [f"| {line}" for line in told.last_lines[-3:]] if told is not None else []
    return Check(
        f"app {app}", PROBLEM, f"app {app}: {first.proc}-{first.instance} keeps crashing", "pod_crash_loop",
        "it is started again after ever longer pauses, for ever", tuple(evidence), f"lain explain --app {app}",
        node=first.node,
    )  # fmt: skip
