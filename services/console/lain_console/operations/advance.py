"""The next step of a running operation: pure. ``advance(view)`` says what one transaction to make now, or how long to wait at most.

    oneshots --each exited 0--> rollout --all serve--> releasing --endpoints let go--> ended
        |failed, cancelled        |                        ^
        +------------------------>+--> rolling_back -------+          undeploy: removing --> releasing --> ended

Every step is one transaction that also moves the phase, so a console that dies anywhere leaves a state from which another goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from lain_console.operations import budget
from lain_console.operations.claims import routes_of, settle, surplus
from lain_console.operations.decision import Decision, Move, View, Wait
from lain_console.operations.desired import oneshots_of, restored, rolled_out
from lain_console.operations.judging import answer, failure_of, serves, until_late, what_holds
from lain_console.operations.overrides import override_values
from lain_shared.model.app import (
    App,
    AppState,
    Failure,
    HistoryRecord,
    Operation,
    OperationKind,
    OperationPhase,
    Outcome,
    Step,
)
from lain_shared.model.pod import Desired, ProcType
from lain_shared.model.status import ProcPhase
from lain_shared.model.volume import VolumeDeletion

MAX_STEPS = 200
WITH_RELEASE = frozenset({OperationKind.DEPLOY, OperationKind.ROLLBACK, OperationKind.ENV})
"""The kinds that move to a release of their own."""


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
        status = answer(view, each.proc)
        if status is not None and status.phase is ProcPhase.DONE:
            done.append(each.proc)
        elif (failure := failure_of(view, each, status)) is not None:
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
        status = answer(view, desired.proc)
        if status is not None and serves(status):
            serving.append(desired)
        elif (failure := failure_of(view, desired, status)) is not None:
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
        status = answer(view, desired.proc)
        if status is not None and serves(status):
            continue
        waiting = True
        if failure_of(view, desired, status) is not None:
            late = f"{desired.proc} of the release before does not serve either: {what_holds(status)}"
    if waiting and not late:
        return Wait(until_late(view))
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
        if (status := answer(view, proc)) is not None
        and (stored.value.type is ProcType.ONESHOT) is oneshots
        and stored.entry.mod_revision >= since
    ]
    return budget.after_phase(view.operation, view.now, statuses)


def _note(view: View, texts: Iterable[str]) -> Decision:
    """Say what is new, or wait."""
    steps = _append(view.operation.steps, view.now, texts)
    if steps == view.operation.steps:
        return Wait(until_late(view))
    return Move(replace(view.operation, steps=steps))
