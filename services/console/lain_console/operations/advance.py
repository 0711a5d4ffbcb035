"""The next step of a running operation: pure. ``advance(view)`` says what one transaction to make now, or how long to wait at most.

    oneshots --each exited 0--> rollout --all serve--> releasing --endpoints let go--> ended
        |failed, cancelled        |                        ^
        +------------------------>+--> rolling_back -------+          undeploy: removing --> releasing --> ended

Every step is one transaction that also moves the phase, so a console that dies anywhere leaves a state from which another goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from lain_console.operations import budget
from lain_console.operations.claims import ClaimPlan, routes_of, settle, surplus
from lain_console.operations.overrides import override_values, with_overrides
from lain_console.state import Claims, Scene
from lain_shared.model.app import (
    App,
    AppState,
    Failure,
    HistoryRecord,
    Operation,
    OperationKind,
    OperationPhase,
    Outcome,
    Release,
    Step,
)
from lain_shared.model.pod import LIMITS_REFUSED, Desired, PodState, ProcType
from lain_shared.model.route import Route
from lain_shared.model.status import InstanceStatus, ProcPhase, ProcStatus
from lain_shared.model.volume import VolumeDeletion

CRASHES_TO_FAIL = 3
MAX_STEPS = 200
LOOK_AGAIN_SECONDS = 5.0
FATAL_REASONS = frozenset({"image_missing"})
"""Evidence that waiting does not heal."""
WITH_RELEASE = frozenset({OperationKind.DEPLOY, OperationKind.ROLLBACK, OperationKind.ENV})
"""The kinds that move to a release of their own."""


@dataclass(frozen=True, slots=True)
class View:
    """All that the next step is decided on."""

    scene: Scene
    operation: Operation
    release: Release | None
    """The release the operation moves to; None: undeploy."""
    now: float
    counts_from: float = 0.0
    """Deadlines do not count time before this: etcd was away, or nobody drove the operation."""
    progress: Mapping[str, float] = field(default_factory=dict)
    """proc → when its driver saw it make progress last, by the same clock as ``now``: other machines' clocks decide nothing."""
    claims: Claims = field(default_factory=Claims)
    """Every claim there is; needed in ``releasing`` only."""
    volumes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """node → the app's volumes on it; needed in ``releasing`` only, to have them deleted."""

    @property
    def app(self) -> App:
        return self.scene.app.value


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do now; look again when something changes, or after this long."""

    seconds: float = LOOK_AGAIN_SECONDS


@dataclass(frozen=True, slots=True)
class Move:
    """One transaction. ``operation`` None: it ends, and ``history`` and ``app`` are what remains of it."""

    operation: Operation | None
    put: tuple[Desired, ...] = ()
    delete: tuple[str, ...] = ()
    """Procs whose ``desired`` goes."""
    app: App | None = None
    history: HistoryRecord | None = None
    claims: ClaimPlan = field(default_factory=ClaimPlan)
    """What becomes of the claims, and as what they were seen."""
    volume_deletions: tuple[VolumeDeletion, ...] = ()


Decision = Move | Wait


def advance(view: View) -> Decision:
    """What to do next."""
    match view.operation.phase:
        case OperationPhase.ONESHOTS:
            return _oneshots(view)
        case OperationPhase.ROLLOUT:
            return _rollout(view)
        case OperationPhase.ROLLING_BACK:
            return _rolling_back(view)
        case OperationPhase.REMOVING:
            return _removing(view)
        case OperationPhase.RELEASING:
            return _releasing(view)


# --- what a release makes of `desired` --------------------------------------------------------------------------------


def rolled_out(release: Release, app: App, before: Mapping[str, Desired]) -> tuple[Desired, ...]:
    """``desired`` of every long-running proc that ``release`` brings, overrides applied, what operators stopped still stopped.

    Routes the parent gave a proc and the release does not are kept until the operation ends; so are procs that only the parent has.
    """
    found = [
        replace(old, routes=(), kept_routes=old.routes)
        for proc, old in sorted(before.items())
        if old.routes and proc not in {wanted.proc for wanted in release.procs}
    ]
    for wanted in release.procs:
        if wanted.type is ProcType.ONESHOT or wanted.release != release.number:
            continue
        live = with_overrides(wanted, app.overrides.get(wanted.proc))
        old = before.get(wanted.proc)
        if old is not None:
            live = replace(
                live,
                stopped=tuple(number for number in old.stopped if number <= live.instances),
                restarts=old.restarts,
                kept_routes=_kept_routes(live, old),
            )
        found.append(live)
    return tuple(found)


def _kept_routes(new: Desired, old: Desired) -> tuple[Route, ...]:
    given = {(route.host, route.path) for route in new.routes}
    return tuple(route for route in old.routes if (route.host, route.path) not in given)


def oneshots_of(release: Release) -> tuple[Desired, ...]:
    """The oneshots that belong to this release and none before it."""
    return tuple(
        desired for desired in release.procs if desired.type is ProcType.ONESHOT and desired.release == release.number
    )


# --- phases -----------------------------------------------------------------------------------------------------------


def _oneshots(view: View) -> Decision:
    operation, release, desired = view.operation, view.release, view.scene.desired
    if operation.cancel_requested:
        return _go_back(view, _cancelled(operation))
    wanted = oneshots_of(release) if release is not None and operation.kind is not OperationKind.ROLLBACK else ()
    missing = tuple(each for each in wanted if each.proc not in desired or desired[each.proc].value != each)
    if missing:
        names = ", ".join(each.proc for each in missing)
        return Move(_step(view, f"running {names} once"), put=missing)
    done = []
    for each in wanted:
        status = _answer(view, each.proc)
        if status is not None and status.phase is ProcPhase.DONE:
            done.append(each.proc)
        elif (failure := _failure_of(view, each, status)) is not None:
            return _go_back(view, failure)
    if len(done) < len(wanted):
        return _note(view, [f"{proc} exited 0" for proc in done])
    assert release is not None  # noqa: S101 - an undeploy never enters this phase
    put = rolled_out(release, view.app, operation.before)
    names = ", ".join(each.proc for each in put) or "nothing"
    said = [f"{proc} exited 0" for proc in done]
    return Move(_enter(view, OperationPhase.ROLLOUT, *said, f"rolling out release {release.number}: {names}"), put=put)


def _rollout(view: View) -> Decision:
    operation = view.operation
    if operation.cancel_requested:
        return _go_back(view, _cancelled(operation))
    serving = []
    following = [stored.value for stored in view.scene.desired.values() if _is_followed(view, stored.value)]
    for desired in following:
        status = _answer(view, desired.proc)
        if status is not None and serves(status):
            serving.append(desired)
        elif (failure := _failure_of(view, desired, status)) is not None:
            return _go_back(view, failure)
    if len(serving) < len(following):
        return _note(view, [_serving_text(each) for each in serving])
    return _settle_desired(view, [_serving_text(each) for each in serving])


def _is_followed(view: View, desired: Desired) -> bool:
    if desired.type in (ProcType.ONESHOT, ProcType.PORTAL):
        return False
    if view.operation.procs and desired.proc not in view.operation.procs:
        return False
    return view.release is not None and any(each.proc == desired.proc for each in view.release.procs)


def _settle_desired(view: View, said: list[str]) -> Move:
    """Step 5 (a): the wanted set serves; what it lacks leaves ``desired``, and from here there is no way back."""
    names = {each.proc for each in view.release.procs} if view.release is not None else set()
    lacking = sorted(proc for proc in view.scene.desired if proc not in names)
    put = tuple(
        replace(stored.value, kept_routes=())
        for proc, stored in view.scene.desired.items()
        if proc in names and stored.value.kept_routes
    )
    if lacking:
        said.append(f"removing {', '.join(lacking)}")
    operation = replace(
        _enter(view, OperationPhase.RELEASING, *said), outcome=view.operation.outcome or Outcome.SUCCEEDED
    )
    return Move(operation, put=put, delete=tuple(lacking))


def _removing(view: View) -> Decision:
    """Undeploy: all of it leaves ``desired``."""
    operation = replace(_enter(view, OperationPhase.RELEASING, "removing every proc"), outcome=Outcome.SUCCEEDED)
    return Move(operation, delete=tuple(sorted(view.scene.desired)))


def restored(
    wanted: Mapping[str, Desired], current: Mapping[str, Desired]
) -> tuple[tuple[Desired, ...], tuple[str, ...]]:
    """What to put and which procs to delete so that ``current`` is ``wanted`` again. A oneshot never comes back: it would run again."""
    delete = tuple(
        proc
        for proc, stands in sorted(current.items())
        if (old := wanted.get(proc)) is None or (old.type is ProcType.ONESHOT and stands != old)
    )
    put = tuple(
        old for proc, old in sorted(wanted.items()) if old.type is not ProcType.ONESHOT and current.get(proc) != old
    )
    return put, delete


def _go_back(view: View, failure: Failure) -> Move:
    """One transaction: the parent's templates again, and away with what only the failed release had."""
    put, delete = restored(view.operation.before, view.scene.wanted)
    parent = view.operation.parent
    back = f"going back to release {parent}" if parent is not None else "removing what was started"
    operation = _enter(view, OperationPhase.ROLLING_BACK, f"{failure.message}; {back}")
    return Move(replace(operation, failure=failure), put=put, delete=delete)


def _rolling_back(view: View) -> Decision:
    operation = view.operation
    late = ""
    waiting = False
    for stored in view.scene.desired.values():
        desired = stored.value
        if desired.type in (ProcType.ONESHOT, ProcType.PORTAL):
            continue
        status = _answer(view, desired.proc)
        if status is not None and serves(status):
            continue
        waiting = True
        if _failure_of(view, desired, status) is not None:
            late = f"{desired.proc} of the release before does not serve either: {_what_holds(status)}"
    if waiting and not late:
        return Wait(_until_late(view))
    failure = operation.failure
    assert failure is not None  # noqa: S101 - set on entering this phase
    if late:
        outcome = Outcome.FAILED
        failure = replace(failure, message=f"{failure.message}; {late}")
    elif failure.code == "cancelled":
        outcome = Outcome.CANCELLED
    else:
        outcome = Outcome.ROLLED_BACK if operation.before else Outcome.FAILED
    text = late or ("the release before serves" if operation.before else "removed")
    entered = _enter(view, OperationPhase.RELEASING, text)
    return Move(replace(entered, outcome=outcome, failure=failure))


def _releasing(view: View) -> Decision:
    """Step 5 (b): once ``endpoints`` name no route that is given back, the claims go and the operation becomes history."""
    operation = view.operation
    outcome = operation.outcome or Outcome.SUCCEEDED
    if outcome is Outcome.SUCCEEDED:
        procs: Iterable[Desired] = view.release.procs if view.release is not None else ()
    else:
        procs = operation.before.values()
    wanted = routes_of(procs)
    given_back = {(claim.host, claim.path) for claim in surplus(operation.app, wanted, view.claims)}
    named = sorted(
        str(route)
        for endpoints in view.scene.endpoints.values()
        for route in endpoints.routes
        if (route.host, route.path) in given_back and endpoints.addresses
    )
    if named:
        return _note(view, [f"waiting until no router serves {', '.join(named)} any more"])
    history = HistoryRecord(
        operation.id,
        operation.app,
        operation.kind,
        outcome,
        operation.who,
        operation.started_at,
        view.now,
        release=operation.release,
        parent=operation.parent,
        meta_version=view.release.meta_version if view.release is not None else "",
        failure=operation.failure,
        steps=operation.steps,
        step_seconds=_spent(view),
    )
    deletions = tuple(
        VolumeDeletion(node, operation.app, names, operation.who, view.now)
        for node, names in sorted(view.volumes.items())
        if operation.delete_volumes and outcome is Outcome.SUCCEEDED and names
    )
    claims = settle(operation.app, wanted, view.claims)
    return Move(None, app=_app_after(view, outcome), history=history, claims=claims, volume_deletions=deletions)


def _app_after(view: View, outcome: Outcome) -> App:
    app, operation, release = view.app, view.operation, view.release
    if operation.kind is OperationKind.UNDEPLOY:
        return replace(app, state=AppState.REGISTERED, release=None, giturl="")
    if outcome is not Outcome.SUCCEEDED:
        return app if app.release is not None else replace(app, state=AppState.FAILED)
    if release is not None and operation.kind in WITH_RELEASE:
        return replace(
            app, state=AppState.DEPLOYED, release=release.number, env=release.env, giturl=app.giturl or release.giturl
        )
    overrides = {proc: dict(values) for proc, values in app.overrides.items() if proc not in view.scene.desired}
    for proc, stored in view.scene.desired.items():
        values = override_values(stored.value.overrides)
        if values:
            overrides[proc] = values
    return replace(app, overrides=overrides)


# --- judging what runs ------------------------------------------------------------------------------------------------


def _answer(view: View, proc: str) -> ProcStatus | None:
    """What the controller says of the ``desired`` that stands now; None while it answers an older one."""
    status, stored = view.scene.status.get(proc), view.scene.desired.get(proc)
    if status is None or stored is None or status.desired_revision < stored.entry.mod_revision:
        return None
    return status


def serves(status: ProcStatus) -> bool:
    """Every wanted instance runs the wanted template and was ready for long enough, and the routers know. Old pods may still drain."""
    return status.phase is ProcPhase.STABLE


def _failure_of(view: View, desired: Desired, status: ProcStatus | None) -> Failure | None:
    """Why the operation has failed by this proc; None while there is hope."""
    if status is not None:
        instance = _worst(status)
        if status.phase is ProcPhase.FAILED:
            return _failure(
                "oneshot_failed", f"{desired.proc} did not succeed{_exit_text(instance)}", desired, instance
            )
        crashed = _crashed(view, status)
        if crashed is not None:
            text = f"{desired.proc} exited {crashed.restarts} times before it was ready{_exit_text(crashed)}"
            return _failure("crashes_before_ready", text, desired, crashed)
        for each in status.instances:
            if (
                each.wanted
                and each.state is PodState.FAILED
                and each.evidence
                and each.evidence.reason in FATAL_REASONS
            ):
                text = f"{desired.proc} cannot start: {each.evidence.text or each.error or each.evidence.reason}"
                return _failure(each.evidence.reason, text, desired, each)
            if each.wanted and each.evidence and each.evidence.reason == LIMITS_REFUSED:
                failure = _failure(
                    LIMITS_REFUSED, f"{desired.proc}-{each.instance}: {each.evidence.text}", desired, each
                )
                return replace(
                    failure, next=f"ask for more than is in use: lain scale {desired.app} {desired.proc} --memory …"
                )
    if _is_late(view, desired):
        seconds = round(_deadline_seconds(view, desired))
        text = f"{desired.proc} made no progress for {seconds} s: {_what_holds(status)}"
        failure = _failure("deadline", text, desired, _worst(status) if status is not None else None)
        return replace(
            failure, next=NEXT_OF_PHASE.get(status.phase, failure.next) if status is not None else "lainctl doctor"
        )
    return None


def _crashed(view: View, status: ProcStatus) -> InstanceStatus | None:
    """The wanted pod that exited most often and was never ready; on the way there not one that did so before the operation began."""
    excused = () if view.operation.phase is OperationPhase.ROLLING_BACK else view.operation.broken
    crashed = [
        each
        for each in status.instances
        if each.wanted
        and not each.ready
        and each.ready_at is None
        and each.restarts >= CRASHES_TO_FAIL
        and pod_name(status.proc, each) not in excused
    ]
    return max(crashed, key=lambda each: each.restarts, default=None)


def pod_name(proc: str, pod: InstanceStatus) -> str:
    """Names a pod within its app, as ``Operation.broken`` does."""
    return f"{proc}-{pod.instance}.g{pod.generation}"


def broken_pods(status: Mapping[str, ProcStatus]) -> tuple[str, ...]:
    """The pods that are failing now: an operation that begins now is not to blame for them."""
    return tuple(
        pod_name(proc, pod)
        for proc, told in sorted(status.items())
        for pod in told.instances
        if not pod.ready and pod.restarts
    )


NEXT_OF_PHASE: Mapping[ProcPhase, str] = {
    ProcPhase.WAITING: "lainctl node list",
    ProcPhase.PAUSED: "lainctl router list",
}
"""Where to look when it is not the app that holds."""


def explained(app: str) -> str:
    """The command that shows a failure with all its evidence."""
    return f"lain explain {app}"


def _failure(code: str, message: str, desired: Desired, instance: InstanceStatus | None) -> Failure:
    return Failure(
        code,
        message,
        proc=desired.proc,
        instance=instance.instance if instance is not None else None,
        evidence=instance.evidence if instance is not None else None,
        next=explained(desired.app),
    )


def _worst(status: ProcStatus) -> InstanceStatus | None:
    """The instance that shows best what is wrong."""
    wanted = [each for each in status.instances if each.wanted]
    with_evidence = [each for each in wanted if each.evidence is not None and not each.ready]
    if with_evidence:
        return max(with_evidence, key=lambda each: each.restarts)
    return next((each for each in wanted if not each.ready), None)


def _exit_text(instance: InstanceStatus | None) -> str:
    if instance is None or instance.evidence is None:
        return ""
    evidence = instance.evidence
    if evidence.reason == "oom_killed":
        return " (out of memory)"
    return f" (exit code {evidence.exit_code})" if evidence.exit_code is not None else f" ({evidence.reason})"


def _what_holds(status: ProcStatus | None) -> str:
    if status is None:
        return "the controller has not answered: is deployd running?"
    if status.message:
        return status.message
    if status.phase is ProcPhase.WAITING:
        return "an instance has no node"
    if status.phase is ProcPhase.PAUSED:
        return "a router has not acknowledged"
    return f"{status.updated} of {status.wanted} instances are ready"


def _deadline_seconds(view: View, desired: Desired) -> float:
    return desired.deploy_deadline_seconds or view.operation.deadline_seconds


def _progress_at(view: View, proc: str) -> float:
    return max(view.progress.get(proc, 0.0), view.operation.phase_at, view.counts_from)


def _is_late(view: View, desired: Desired) -> bool:
    return view.now - _progress_at(view, desired.proc) >= _deadline_seconds(view, desired)


def _until_late(view: View) -> float:
    left = [
        _progress_at(view, proc) + _deadline_seconds(view, stored.value) - view.now
        for proc, stored in view.scene.desired.items()
    ]
    return min([LOOK_AGAIN_SECONDS, *(max(seconds, 0.1) for seconds in left)])


# --- telling ----------------------------------------------------------------------------------------------------------


def _cancelled(operation: Operation) -> Failure:
    return Failure("cancelled", f"{operation.kind.value} was cancelled")


def _serving_text(desired: Desired) -> str:
    running = desired.instances - len(desired.stopped)
    if not running:
        return f"{desired.proc}: nothing to run"
    return f"{desired.proc} serves: {running} ready at release {desired.release}"


def _append(steps: tuple[Step, ...], now: float, texts: Iterable[str]) -> tuple[Step, ...]:
    said = {step.text for step in steps}
    new = tuple(Step(now, text) for text in texts if text not in said)
    return (steps + new)[:MAX_STEPS]


def _step(view: View, text: str) -> Operation:
    return replace(view.operation, steps=_append(view.operation.steps, view.now, [text]))


def _enter(view: View, phase: OperationPhase, *texts: str) -> Operation:
    steps = _append(view.operation.steps, view.now, texts)
    return replace(view.operation, phase=phase, phase_at=view.now, steps=steps, step_seconds=_spent(view))


def _spent(view: View) -> Mapping[str, float]:
    """Where the time went, up to the end of this phase."""
    running = view.scene.operation
    since = running.entry.create_revision if running is not None else 0
    oneshots = view.operation.phase is OperationPhase.ONESHOTS
    statuses = [
        status
        for proc, stored in view.scene.desired.items()
        if (status := _answer(view, proc)) is not None
        and (stored.value.type is ProcType.ONESHOT) is oneshots
        and stored.entry.mod_revision >= since
    ]
    return budget.after_phase(view.operation, view.now, statuses)


def _note(view: View, texts: Iterable[str]) -> Decision:
    """Say what is new, or wait."""
    steps = _append(view.operation.steps, view.now, texts)
    if steps == view.operation.steps:
        return Wait(_until_late(view))
    return Move(replace(view.operation, steps=steps))
