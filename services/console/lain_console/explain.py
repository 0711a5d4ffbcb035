"""Why an app is as it is: what, why, on which evidence, and the next command. Pure.

From registration, ``desired``, status, the running operation, the last ones that ended, routers and nodes; the worst first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lain_console.operations.judging import CRASHES_TO_FAIL, explained
from lain_console.state import Scene
from lain_console.wording import age_text, size
from lain_sdk.api_types import ExplainView, Finding, Severity
from lain_shared import conditions
from lain_shared.model.app import AppState, Failure, HistoryRecord, Operation, OperationKind, OperationPhase, Outcome
from lain_shared.model.node import Alive, Condition, Node, NodeState, Switch
from lain_shared.model.pod import LIMITS_REFUSED, Desired, Evidence, PodState, ProcType
from lain_shared.model.route import RouterState
from lain_shared.model.status import InstanceStatus, ProcPhase, ProcStatus

ORDER = (Severity.ERROR, Severity.WARNING, Severity.INFO, Severity.OK)

REASONS: Mapping[str, tuple[str, str]] = {
    "image_missing": ("its image is not in the registry", "in its repository: lain push, then lain deploy {app}"),
    "registry_unreachable": (
        "the node could not reach the registry",
        "lainctl doctor says whether the registry runs; the node tries again by itself",
    ),
    "volume_missing": (
        "its volume is not on the node",
        "restore it from a backup, or let it start empty: lainctl volume confirm-loss {node} {app}.{proc}-{instance}",
    ),
    "engine_error": ("Docker refused", "read what it said; if it is the node's fault: lainctl node inspect {node}"),
    "exited": ("the program ended", "lain logs {app} {proc} {instance} --previous"),
    "disk_full": (
        "it wrote more beside its volumes than a pod may have of the node's disk",
        "let it write less, or into a volume it declares",
    ),
    "oom_killed": (
        "it used more memory than its limit",
        "give it more: lain scale {app} {proc} --memory 256m (or what it needs)",
    ),
    "probe_failed": ("its check failed", "lain logs {app} {proc} {instance}"),
    LIMITS_REFUSED: (
        "its limits could not be changed",
        "ask for more than is in use, or restart it with less: lain scale {app} {proc} --memory …",
    ),
    "start_timeout": ("it took too long to start", "give it a startup probe with more patience"),
}
ITS_OWN = frozenset({"exited", "probe_failed", "start_timeout"})
"""What the program itself did: with its pod gone, what is left of its output is the evidence, and the next step is to mend it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of an app and what carries it."""

    scene: Scene
    now: float
    history: Sequence[HistoryRecord] = ()
    """Newest first."""
    nodes: Mapping[str, Node] = field(default_factory=dict)
    alive: Mapping[str, Alive] = field(default_factory=dict)
    states: Mapping[str, NodeState] = field(default_factory=dict)
    routers: Sequence[RouterState] = ()
    switches: Sequence[Switch] = ()
    urls: Sequence[str] = ()


def explain(facts: Facts) -> ExplainView:
    """The findings, worst first, and one sentence that sums them up."""
    findings = [
        *_operation(facts),
        *_procs(facts),
        *_routers(facts),
        *_nodes(facts),
        *_switches(facts),
        *_last(facts),
    ]
    findings.sort(key=lambda finding: ORDER.index(finding.severity))
    headline = _headline(facts, findings)
    if not findings:
        findings = [
            Finding(Severity.OK, headline, next=f"lain open {facts.scene.app.value.name}" if facts.urls else "")
        ]
    return ExplainView(facts.scene.app.value.name, headline, tuple(findings))


def _headline(facts: Facts, findings: Sequence[Finding]) -> str:
    app = facts.scene.app.value
    worst = findings[0] if findings and findings[0].severity in (Severity.ERROR, Severity.WARNING) else None
    if facts.scene.operation is not None:
        running = facts.scene.operation.value
        text = f"a {running.kind.value} is under way ({running.phase.value.replace('_', ' ')})"
        return f"{app.name}: {text}" + (f"; {worst.what}" if worst is not None else "")
    if worst is not None:
        more = sum(finding.severity in (Severity.ERROR, Severity.WARNING) for finding in findings) - 1
        return f"{app.name}: {worst.what}" + (f" (and {more} more)" if more else "")
    match app.state:
        case AppState.REGISTERED:
            return f"{app.name} is registered and not deployed"
        case AppState.FAILED:
            return f"{app.name}: its first deploy failed, nothing runs"
        case AppState.DEPLOYED:
            served = f", served at {facts.urls[0]}" if facts.urls else ""
            return f"{app.name} is well: release {app.release} runs as wanted{served}"


# --- operation and history --------------------------------------------------------------------------------------------


def _operation(facts: Facts) -> list[Finding]:
    if facts.scene.operation is None:
        return []
    running = facts.scene.operation.value
    age = age_text(facts.now - running.started_at)
    holder = facts.scene.holder
    evidence = [f"{age_text(facts.now - step.at)} ago: {step.text}" for step in running.steps[-3:]]
    target = f" to release {running.release}" if running.release is not None else ""
    found = [
        Finding(
            Severity.INFO,
            f"{running.kind.value}{target} by {running.who} has been under way for {age}",
            why=_phase_text(running),
            evidence=tuple(evidence),
            next=f"lain cancel {running.app}"
            if running.phase in (OperationPhase.ONESHOTS, OperationPhase.ROLLOUT)
            else "",
        )
    ]
    if running.failure is not None:
        found.append(
            Finding(
                Severity.ERROR,
                f"the {running.kind.value} failed: {running.failure.message}",
                why=_because(running.failure, "it is going back to what ran before"),
                evidence=_evidence_lines(running.failure.evidence),
                next=_after(running.failure, running.app, running.kind, gone=True),
                proc=running.failure.proc,
                instance=running.failure.instance,
            )
        )
    if holder is None:
        found.append(
            Finding(
                Severity.WARNING,
                "nobody drives this operation at the moment",
                why="the console that did is gone; another one takes over within seconds",
                next="if it lasts: lainctl doctor",
            )
        )
    return found


def _phase_text(running: Operation) -> str:
    match running.phase:
        case OperationPhase.ONESHOTS:
            return "its oneshots run before anything else is changed"
        case OperationPhase.ROLLOUT:
            return "new pods start, become ready and take over from the old ones"
        case OperationPhase.REMOVING:
            return "what is no longer wanted is being removed"
        case OperationPhase.RELEASING:
            return "it serves; waiting until routers let go of what is given back"
        case OperationPhase.ROLLING_BACK:
            return "going back to what ran before"


def _last(facts: Facts) -> list[Finding]:
    """The last operation, if it failed and nothing has succeeded since."""
    last = next((record for record in facts.history if record.outcome is not Outcome.REPLACED), None)
    if last is None or last.outcome not in (Outcome.FAILED, Outcome.ROLLED_BACK) or last.failure is None:
        return []
    ended = age_text(facts.now - last.ended_at)
    back = {
        Outcome.ROLLED_BACK: f"release {last.parent} was put back and serves",
        Outcome.FAILED: "what it had started was removed" if last.parent is None else "going back did not help either",
    }[last.outcome]
    return [
        Finding(
            Severity.WARNING if last.outcome is Outcome.ROLLED_BACK else Severity.ERROR,
            f"the last {last.kind.value} failed {ended} ago: {last.failure.message}",
            why=_because(last.failure, back),
            evidence=_evidence_lines(last.failure.evidence),
            next=_after(
                last.failure, last.app, last.kind, gone=last.outcome is Outcome.ROLLED_BACK or last.parent is None
            ),
            proc=last.failure.proc,
            instance=last.failure.instance,
        )
    ]


# --- procs and their pods ---------------------------------------------------------------------------------------------


def _procs(facts: Facts) -> list[Finding]:
    found: list[Finding] = []
    for proc, stored in sorted(facts.scene.desired.items()):
        desired, status = stored.value, facts.scene.status.get(proc)
        if status is None or status.desired_revision < stored.entry.mod_revision:
            found.append(
                Finding(
                    Severity.WARNING if facts.scene.operation is None else Severity.INFO,
                    f"{proc}: the controller has not taken notice of the latest change yet",
                    why="its status answers an older one" if status is not None else "it has said nothing of it so far",
                    next="if it lasts: lainctl doctor says whether a controller leads",
                    proc=proc,
                )
            )
        if status is not None:
            found.extend(_proc(facts, desired, status))
        found.extend(_differences(desired))
    return found


def _proc(facts: Facts, desired: Desired, status: ProcStatus) -> list[Finding]:
    found = []
    if status.phase is ProcPhase.WAITING:
        found.append(
            Finding(
                Severity.ERROR if status.ready < status.wanted else Severity.WARNING,
                f"{desired.proc}: an instance has no node ({status.ready} of {status.wanted} ready)",
                why=status.message,
                evidence=tuple(
                    f"{name} rules out {count} node{'s' if count != 1 else ''}"
                    for name, count in sorted(status.reasons.items())
                ),
                next=f"lainctl node list shows what is free; or ask for less: lain scale {desired.app} {desired.proc} --memory …",
                proc=desired.proc,
            )
        )
    if status.phase is ProcPhase.PAUSED:
        found.append(
            Finding(
                Severity.WARNING,
                f"{desired.proc}: its rollout is paused",
                why=status.message or "a router has not acknowledged",
                next="lainctl router list; if that router is gone for good: lainctl router forget NAME",
                proc=desired.proc,
            )
        )
    if desired.type is ProcType.ONESHOT and status.phase is ProcPhase.FAILED:
        found.append(Finding(Severity.ERROR, f"{desired.proc} did not succeed", why=status.message, proc=desired.proc))
    for instance in status.instances:
        found.extend(_pod(facts, desired, instance))
    if desired.type is not ProcType.ONESHOT and not status.wanted:
        why = "all its instances were stopped" if desired.instances else "it is scaled to 0"
        next_ = (
            f"lain start {desired.app} {desired.proc}"
            if desired.instances
            else f"lain scale {desired.app} {desired.proc} 1"
        )
        found.append(Finding(Severity.WARNING, f"{desired.proc} does not run", why=why, next=next_, proc=desired.proc))
    elif desired.stopped:
        numbers = ", ".join(map(str, desired.stopped))
        found.append(
            Finding(
                Severity.INFO,
                f"{desired.proc}: instance {numbers} is stopped",
                why="an operator stopped it",
                next=f"lain start {desired.app} {desired.proc}",
                proc=desired.proc,
            )
        )
    return found


def _pod(facts: Facts, desired: Desired, pod: InstanceStatus) -> list[Finding]:
    finding = _judge_pod(facts, desired, pod) if pod.wanted else None
    if finding is None:
        return []
    return [replace(finding, proc=desired.proc, instance=pod.instance, node=pod.node)]


def _judge_pod(facts: Facts, desired: Desired, pod: InstanceStatus) -> Finding | None:
    """What is worth saying of one wanted pod."""
    name = f"{desired.proc}-{pod.instance}"
    evidence = _evidence_lines(pod.evidence)
    reason = REASONS.get(pod.evidence.reason, ("", ""))[0] if pod.evidence is not None else ""
    advice = _advice(pod.evidence, desired.app, desired.proc, pod.instance, pod.node)
    logs = f"lain logs {desired.app} {desired.proc} {pod.instance}"
    if pod.node and pod.node not in facts.alive:
        return Finding(
            Severity.ERROR,
            f"{name}: its node {pod.node} is away",
            why="its agent is not present; the pod may run on, it cannot be seen",
            next=f"lainctl node inspect {pod.node}",
        )
    if pod.ready:
        if pod.evidence is not None and pod.evidence.reason == LIMITS_REFUSED:
            text = f"{name} runs on with the limits it has"
            return Finding(Severity.WARNING, text, why=pod.evidence.text, evidence=evidence, next=advice)
        if not pod.restarts or pod.evidence is None:
            return None
        ago = age_text(facts.now - pod.evidence.at)
        text = f"{name} is ready, and has crashed {pod.restarts} times; last {ago} ago: {_reason_text(pod.evidence, reason)}"
        return Finding(Severity.WARNING, text, why=reason, evidence=evidence, next=advice or f"{logs} --previous")
    match pod.state:
        case PodState.BACKOFF | PodState.EXITED if desired.type is not ProcType.ONESHOT:
            many = pod.restarts >= CRASHES_TO_FAIL
            what = f"{name} keeps crashing ({pod.restarts} times)" if many else f"{name} has crashed"
            next_ = advice or f"{logs} --previous"
            return Finding(Severity.ERROR, what, why=reason or pod.error, evidence=evidence, next=next_)
        case PodState.FAILED:
            return Finding(
                Severity.ERROR, f"{name} cannot start", why=reason or pod.error, evidence=evidence, next=advice
            )
        case PodState.RUNNING if desired.type is not ProcType.ONESHOT:
            checked = _probe_text(desired)
            doubted = checked and pod.evidence is not None and pod.evidence.reason == "probe_failed"
            return Finding(
                Severity.WARNING,
                f"{name} runs and is not ready",
                why=f"{reason}: are port and path in lain.yaml right?"
                if doubted
                else reason or "its readiness check has not succeeded yet",
                evidence=(*evidence, *([checked] if checked else [])),
                next=advice or logs,
            )
        case PodState.PENDING | PodState.PULLING | PodState.CREATED:
            return Finding(Severity.INFO, f"{name} is starting on {pod.node}", why=pod.progress or pod.state.value)
    return None


def _reason_text(evidence: Evidence, reason: str) -> str:
    code = f" with exit code {evidence.exit_code}" if evidence.exit_code is not None else ""
    return (reason or evidence.reason) + code


def _probe_text(desired: Desired) -> str:
    probe = desired.template.readiness
    if probe is None:
        return ""
    what = {"http": f"GET {probe.path} on port {probe.port}", "tcp": f"a connection to port {probe.port}"}
    return "the check is " + what.get(probe.kind.value, "the command " + " ".join(probe.command))


def _differences(desired: Desired) -> list[Finding]:
    """What ``scale`` set: worth knowing when the manifest seems to be ignored."""
    overrides = desired.overrides
    if not overrides.any:
        return []
    texts = [
        f"{overrides.instances} instances" if overrides.instances is not None else "",
        f"cpu {overrides.cpu}" if overrides.cpu is not None else "",
        f"memory {size(overrides.memory_bytes)}" if overrides.memory_bytes is not None else "",
    ]
    return [
        Finding(
            Severity.INFO,
            f"{desired.proc} runs with {', '.join(text for text in texts if text)} set by lain scale",
            why="that wins over the manifest until it is reset",
            next=f"lain scale {desired.app} {desired.proc} --reset",
            proc=desired.proc,
        )
    ]


# --- what carries it --------------------------------------------------------------------------------------------------


def _routers(facts: Facts) -> list[Finding]:
    app = facts.scene.app.value.name
    found = []
    for router in facts.routers:
        if why := router.quarantined.get(app):
            found.append(
                Finding(
                    Severity.ERROR,
                    f"router {router.router} serves {app} by its last good routes and options",
                    why=why,
                    next="correct the mountpoints or router options in lain.yaml and deploy again",
                )
            )
        if app in router.not_applied:
            found.append(
                Finding(
                    Severity.ERROR,
                    f"router {router.router} could not apply the addresses of {app}",
                    why="rollouts of this app pause until it can",
                    next="lainctl router list; lainctl doctor",
                )
            )
    if not facts.routers and any(stored.value.routes for stored in facts.scene.desired.values()):
        found.append(
            Finding(
                Severity.ERROR,
                "no router is present: nobody reaches this app by its host names",
                why="no watcher holds its lease",
                next="lainctl doctor says whether the router's watcher runs",
            )
        )
    return found


def _nodes(facts: Facts) -> list[Finding]:
    used = {
        instance.node
        for status in facts.scene.status.values()
        for instance in status.instances
        if instance.wanted and instance.node
    }
    found: list[Finding] = []
    for name in sorted(used):
        state = facts.states.get(name)
        if state is None:
            continue
        found.extend(_condition(facts, name, state, condition) for condition in conditions.found(state.conditions))
        if state.conditions:
            continue
        if not state.engine_reachable:  # an agent that knows of no conditions
            told = conditions.ADVICE[conditions.ENGINE_UNREACHABLE]
            what, next_ = f"node {name}: {told.what}", f"lainctl node inspect {name}"
            found.append(Finding(Severity.ERROR, what, why=told.why, next=next_, node=name))
        found.extend(
            Finding(Severity.WARNING, f"node {name}: {problem}", next=f"lainctl node inspect {name}", node=name)
            for problem in state.problems
        )
    return found


def _condition(facts: Facts, name: str, state: NodeState, condition: Condition) -> Finding:
    """What the node says is wrong with itself, in the words of the doctor."""
    told = conditions.advice(condition)
    return Finding(
        Severity.ERROR if told.urgent else Severity.WARNING,
        f"node {name}: {told.what}",
        why=told.why,
        evidence=(f"{condition.message} (for {age_text(facts.now - condition.since)})",),
        next=conditions.step(condition, block=state.block).on(name),
        node=name,
    )


SWITCHES: Mapping[str, tuple[bool, str]] = {
    "readonly": (True, "the cluster is in readonly mode: nobody can change anything"),
    "maintenance": (True, "the cluster is in maintenance mode: nothing is created, moved or stopped"),
    "breaker": (True, "the breaker is on: pods of lost nodes are not replaced"),
    "guard": (False, "the guard is off: pods of lost nodes are not replaced"),
}
"""Switch → the position that is out of the ordinary, and what it means."""


def _switches(facts: Facts) -> Iterable[Finding]:
    return [
        Finding(
            Severity.WARNING,
            SWITCHES[switch.name][1],
            why=switch.why or (f"{switch.by} said so" if switch.by else "somebody said so"),
            evidence=(f"since {age_text(facts.now - switch.at)}",) if switch.at else (),
            next=f"lainctl switch set {switch.name} {'off' if switch.on else 'on'}",
        )
        for switch in facts.switches
        if switch.name in SWITCHES and switch.on is SWITCHES[switch.name][0]
    ]


def _evidence_lines(evidence: Evidence | None) -> tuple[str, ...]:
    if evidence is None:
        return ()
    found = []
    if evidence.text:
        found.append(evidence.text)
    if evidence.exit_code is not None:
        found.append(f"exit code {evidence.exit_code}")
    if evidence.probe and evidence.probe not in evidence.text:
        found.append(f"check: {evidence.probe}")
    found.extend(f"| {line}" for line in evidence.last_lines[-10:])
    return tuple(found)


def _because(failure: Failure, back: str) -> str:
    reason = REASONS.get(failure.evidence.reason, ("", ""))[0] if failure.evidence is not None else ""
    return f"{reason}; {back}" if reason else back


def _after(failure: Failure, app: str, kind: OperationKind, *, gone: bool) -> str:
    """The next command after a failure. ``gone``: so is the pod that failed, and its name is that of a good one again."""
    evidence = failure.evidence
    if gone and evidence is not None and evidence.reason in ITS_OWN:
        if kind is OperationKind.DEPLOY:
            return f"mend it in its repository and commit, then: lain build && lain push && lain deploy {app}"
        return f"lain history {app}"
    advice = _advice(evidence, app, failure.proc, failure.instance)
    itself = failure.next == explained(app)
    return advice or ("" if itself else failure.next) or f"lain history {app}"


def _advice(evidence: Evidence | None, app: str, proc: str = "", instance: int | None = None, node: str = "") -> str:
    """The next command, with the names it takes: it can be typed as it is."""
    text = REASONS.get(evidence.reason, ("", ""))[1] if evidence is not None else ""
    number = "" if instance is None else str(instance)
    filled = text.format(app=app, proc=proc, instance=number, node=node or "NODE")
    return " ".join(filled.split())
